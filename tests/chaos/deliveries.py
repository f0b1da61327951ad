"""The chaos cluster's receiver of webhooks: an unreliable server of a tenant's.

Owns the tenants file that registers it, and records every delivery. It represents the outside world, and is
never killed; now and then it refuses a delivery, loses its answer, or answers too late.
"""

import asyncio
import hashlib
import json
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from openai import InvalidWebhookSignatureError, OpenAI

from tests.chaos.history import Delivered, Recorder
from tests.webhook_receiver import SECRET, Arrival, receiving, status

KEY = "chaos"
TENANTS_FILE = "tenants.json"
TIMEOUT_S = 2.0
SETTINGS = {
    "ANTIPHON_WEBHOOK_TIMEOUT_S": str(TIMEOUT_S),
    "ANTIPHON_WEBHOOK_RETRY_FIRST_S": "0.2",
}
_REFUSED, _LOST, _LATE = 0.15, 0.1, 0.03
_TRIES_MAX = 3
"""From this one on, an event is taken."""


@asynccontextmanager
async def receiving_deliveries(recorder: Recorder, folder: Path, seed: int) -> AsyncIterator[None]:
    """Runs the receiver, and writes the tenants file into `folder`."""
    rng, tries = random.Random(f"{seed} webhooks"), Counter[str]()
    with OpenAI(api_key="any", base_url="http://127.0.0.1:1", webhook_secret=SECRET) as client:

        async def answer(arrival: Arrival) -> bytes:
            tries[arrival.response_id] += 1
            fate = rng.random() if tries[arrival.response_id] < _TRIES_MAX else 1.0
            is_taken = fate >= _REFUSED
            _record(recorder, client, arrival, is_taken=is_taken)
            if not is_taken:
                return status(500)
            if fate < _REFUSED + _LOST:
                return b""
            if fate < _REFUSED + _LOST + _LATE:
                await asyncio.sleep(1.5 * TIMEOUT_S)
            return status(200)

        async with receiving(answer) as receiver:
            hook = {"url": receiver.url(), "secrets": [SECRET]}
            tenant = {"keys": [hashlib.sha256(KEY.encode()).hexdigest()], "webhooks": {"main": hook}}
            (folder / TENANTS_FILE).write_text(json.dumps({"tenants": {"default": tenant}}))
            yield


def _record(recorder: Recorder, client: OpenAI, arrival: Arrival, *, is_taken: bool) -> None:
    try:
        client.webhooks.verify_signature(arrival.body, dict(arrival.headers))
        is_signed = arrival.event["id"] == arrival.headers["webhook-id"]
    except InvalidWebhookSignatureError:
        is_signed = False
    event = arrival.event
    recorder.note(
        Delivered(recorder.now_s(), event["data"]["id"], event["type"], event["id"], is_signed, is_taken)
    )
