"""Webhooks of a real cluster, as OpenAI's packages unwrap them."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio
from openai import AsyncOpenAI

from tests.clients.conftest import Ask
from tests.patience import until
from tests.running import start_cluster
from tests.webhook_receiver import SECRET, Arrival, receiving

KEY = "sk-clients"


@pytest_asyncio.fixture
async def arrival(tmp_path: Path) -> AsyncIterator[Arrival]:
    """What a receiver gets from a cluster when a response in the background has ended."""
    async with receiving() as receiver:
        hook = {"url": receiver.url(), "secrets": [SECRET]}
        tenant = {"keys": [hashlib.sha256(KEY.encode()).hexdigest()], "webhooks": {"main": hook}}
        path = tmp_path / "tenants.json"
        path.write_text(json.dumps({"tenants": {"acme": tenant}}))
        data, environment = tmp_path / "cluster" / "data", {"ANTIPHON_API_KEYS": str(path)}
        data.parent.mkdir()
        cluster = await asyncio.to_thread(start_cluster, data, **environment)
        try:
            async with AsyncOpenAI(api_key=KEY, base_url=f"{cluster.urls[0]}/v1") as client:
                made = await client.responses.create(model="default", input="Hello", background=True)
            await until(lambda: receiver.ids() == [made.id])
            yield receiver.arrivals[0]
        finally:
            await asyncio.to_thread(cluster.stop)


OTHER_SECRET = "whsec_" + "b3RoZXJvdGhlcm90aGVyb3RoZXJvdGhlcm8="


async def test_both_packages_accept_what_is_delivered_and_only_with_its_secret(
    arrival: Arrival, node: Ask
) -> None:
    known = {"body": arrival.body.decode(), "delivered": dict(arrival.headers)}
    expected = {"type": "response.completed", "id": arrival.response_id}
    cases = [{**known, "secret": secret} for secret in (SECRET, OTHER_SECRET)]
    reports = await asyncio.to_thread(node.each, "openai_node", "unwrapped", cases)
    assert reports == [expected, {"error": "InvalidWebhookSignatureError"}]
    async with AsyncOpenAI(api_key=KEY, webhook_secret=SECRET) as client:
        event = client.webhooks.unwrap(arrival.body, dict(arrival.headers))
    assert {"type": event.type, "id": event.data.id} == expected  # type: ignore[union-attr]
