"""The number of round trips to Redis that a client's call costs."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest_asyncio

from api.app import build
from api.hub import Hub
from api.offload import Offload
from api.services import Services
from api.tenants import Tenants
from shared.settings import Settings
from shared.store.keys import ResponseKey
from shared.store.log import archiving, closing
from shared.store.redis.client import RedisClient
from shared.store.redis.joint_scripts import StoreCall
from tests.patience import PATIENCE_S
from tests.requests import accept, make_request


class Counting(RedisClient):
    """Counts what it waits for."""

    trips = 0

    async def command(self, *command: Any) -> Any:
        self.trips += 1
        return await super().command(*command)

    async def transaction(self, *commands: Any) -> list[Any]:
        self.trips += 1
        return await super().transaction(*commands)

    async def run(self, call: StoreCall) -> Any:
        await RedisClient.command(
            self, "SCRIPT", "LOAD", call.script.text
        )  # a server's first use is another's
        return await super().run(call)


class Edge:
    def __init__(self, client: httpx.AsyncClient, redis: Counting) -> None:
        self._client = client
        self._redis = redis

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any, int]:
        """Status, body, and the number of round trips."""
        before = self._redis.trips
        answer = await self._client.request(method, path, json=body)
        return answer.status_code, answer.json(), self._redis.trips - before


@pytest_asyncio.fixture
async def edge(redis: RedisClient, settings: Settings) -> AsyncIterator[Edge]:
    counting = Counting.connect(settings.redis_url, timeout_s=PATIENCE_S)
    listener = RedisClient.connect_listener(settings.redis_url)
    app = build(settings, Tenants())
    hub = Hub(counting, listener, settings)
    app.state.services = Services(counting, hub, settings, lambda: 1_763_769_600.0, Tenants())
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield Edge(client, counting)
    await listener.close()
    await counting.close()


async def test_a_background_create_is_one_and_answers_as_a_poll_does(edge: Edge) -> None:
    body = {"model": "default", "input": "Hello", "background": True}
    status, created, trips = await edge.ask("POST", "/v1/responses", body)
    assert (status, created["status"], trips) == (200, "queued", 1)
    assert (await edge.ask("GET", f"/v1/responses/{created['id']}"))[1] == created


async def test_a_poll_of_a_closed_response_is_one_before_and_after_it_is_archived(
    edge: Edge, redis: RedisClient, settings: Settings
) -> None:
    key = await accept(redis, settings, make_request(store=True))
    assert await closing.cancel(redis, settings, key, "another", Offload().run) == "ended"
    kept = await edge.ask("GET", f"/v1/responses/{key.response_id}")
    assert (kept[0], kept[1]["status"], kept[2]) == (200, "cancelled", 1)
    assert await archiving.archive_log(redis, key) == "archived"
    assert await edge.ask("GET", f"/v1/responses/{key.response_id}") == kept


async def test_a_poll_of_an_open_response_is_two(edge: Edge, redis: RedisClient, settings: Settings) -> None:
    key = await accept(redis, settings, make_request(store=True))
    status, told, trips = await edge.ask("GET", f"/v1/responses/{key.response_id}")
    assert (status, told["id"], trips) == (200, key.response_id, 2)


async def test_a_cancel_is_two_the_first_time_and_when_it_is_repeated(
    edge: Edge, redis: RedisClient, settings: Settings
) -> None:
    key = await accept(redis, settings, make_request(store=True, background=True))
    cancelled = await edge.ask("POST", f"/v1/responses/{key.response_id}/cancel")
    assert (cancelled[0], cancelled[1]["status"], cancelled[2]) == (200, "cancelled", 2)
    assert await edge.ask("POST", f"/v1/responses/{key.response_id}/cancel") == cancelled
    assert (await edge.ask("GET", f"/v1/responses/{key.response_id}"))[1] == cancelled[1]


async def test_a_cancel_of_what_is_not_kept_finds_nothing_and_ends_nothing(
    edge: Edge, redis: RedisClient, settings: Settings
) -> None:
    key = await accept(redis, settings, make_request(store=False))
    status, told, _ = await edge.ask("POST", f"/v1/responses/{key.response_id}/cancel")
    assert (status, told["error"]["code"]) == (404, "response_not_found")
    assert await redis.command("HGET", f"antiphon:{{{key}}}:state", "closed") == b""
    assert await redis.command("HGET", f"antiphon:{{{key}}}:state", "attempt") == b"0"


async def test_cancels_of_one_response_at_once_all_answer_the_same(
    edge: Edge, redis: RedisClient, settings: Settings
) -> None:
    key: ResponseKey = await accept(redis, settings, make_request(store=True, background=True))
    path = f"/v1/responses/{key.response_id}/cancel"
    answers = await asyncio.gather(*(edge.ask("POST", path) for _ in range(8)))
    assert {status for status, _, _ in answers} == {200}
    assert all(body == answers[0][1] for _, body, _ in answers)
