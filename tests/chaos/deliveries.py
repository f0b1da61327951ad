"""The chaos cluster's receiver of webhooks: an unreliable server of a tenant's.

Owns the tenants file, where every tenant registers it, and records every delivery, with what an API node says
then of the response. It represents the outside world, and is never killed; now and then it refuses a
delivery, also for a time that it names, loses its answer, or answers too late.
"""

import asyncio
import hashlib
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import msgspec
from openai import InvalidWebhookSignatureError, OpenAI

from tests.chaos.fleet import MIXED, key_of
from tests.chaos.history import Delivered, Recorder
from tests.chaos.world import authorization_of
from tests.webhook_receiver import SECRET, Arrival, receiving, status

TENANTS_FILE = "tenants.json"
TIMEOUT_S = 2.0
SETTINGS = {
    "ANTIPHON_WEBHOOK_TIMEOUT_S": str(TIMEOUT_S),
    "ANTIPHON_WEBHOOK_RETRY_FIRST_S": "0.2",
}
_BUSY, _REFUSED, _LOST, _LATE = 0.03, 0.12, 0.1, 0.03
_ASKING_S = 5.0
_TRIES_MAX = 3
"""From this one on, an event is taken."""


class StatusReader:
    """Reads the status of responses from API nodes, once there are any."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http
        self.urls: Sequence[str] = ()

    async def read(self, tenant: str, response_id: str) -> str:
        """Returns it as any node reports it, or '' if none does soon, or the response is deleted."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_ASKING_S):
                for url in self.urls:
                    with suppress(httpx.HTTPError):
                        where = f"{url}/v1/responses/{response_id}"
                        answer = await self._http.get(where, headers=authorization_of(tenant))
                        if answer.status_code == 200:
                            return str(answer.json()["status"])
        return ""


@asynccontextmanager
async def receiving_deliveries(
    recorder: Recorder, folder: Path, seed: int, read_status: Callable[[str, str], Awaitable[str]]
) -> AsyncIterator[None]:
    """Runs the receiver, and writes the tenants file into `folder`."""
    rng, tries = random.Random(f"{seed} webhooks"), Counter[str]()
    with OpenAI(api_key="any", base_url="http://127.0.0.1:1", webhook_secret=SECRET) as client:

        async def note(tenant: str, seen: Delivered) -> None:
            status_then = await read_status(tenant, seen.response_id)
            recorder.note(msgspec.structs.replace(seen, status_then=status_then))

        async def answer(arrival: Arrival) -> bytes:
            tries[arrival.response_id] += 1
            fate = rng.random() if tries[arrival.response_id] < _TRIES_MAX else 1.0
            is_taken = fate >= _BUSY + _REFUSED
            seen = _read(client, arrival, recorder.now_s(), is_taken=is_taken)
            asking.create_task(note(arrival.path.removeprefix("/"), seen))
            if fate < _BUSY:
                return status(503, "retry-after: 1")
            if not is_taken:
                return status(500)
            if fate < _BUSY + _REFUSED + _LOST:
                return b""
            if fate < _BUSY + _REFUSED + _LOST + _LATE:
                await asyncio.sleep(1.5 * TIMEOUT_S)
            return status(200)

        async with asyncio.TaskGroup() as asking, receiving(answer) as receiver:
            tenants = {
                name: {
                    "keys": [hashlib.sha256(key_of(name).encode()).hexdigest()],
                    "limits": {"weight": weight},
                    "webhooks": {"main": {"url": receiver.url(f"/{name}"), "secrets": [SECRET]}},
                }
                for name, weight in MIXED.tenants.items()
            }
            (folder / TENANTS_FILE).write_text(json.dumps({"tenants": tenants}))
            yield


def _read(client: OpenAI, arrival: Arrival, at_s: float, *, is_taken: bool) -> Delivered:
    try:
        client.webhooks.verify_signature(arrival.body, dict(arrival.headers))
        is_signed = arrival.event["id"] == arrival.headers["webhook-id"]
    except InvalidWebhookSignatureError:
        is_signed = False
    event = arrival.event
    return Delivered(at_s, event["data"]["id"], event["type"], event["id"], is_signed, is_taken)
