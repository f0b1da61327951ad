"""What a client receives if Redis, or data in it, is at fault: a real Valkey, and real faults."""

import asyncio
import json
from functools import partial
from typing import Any

import pytest
from cryptography.fernet import Fernet
from pydantic import SecretStr

from api.app import create_app
from api.offload import Offload
from api.tenants import Tenants
from shared import lifecycle
from shared.responses import ResponseError
from shared.settings import Settings
from shared.store import keys
from shared.store.keys import ResponseKey
from shared.store.log import closing
from shared.store.records import token_count
from shared.store.redis.client import RedisClient
from shared.tenants_file import OPEN_TENANT
from tests.edges import HELLO, UNKNOWN_ID, error_of, serving
from tests.patience import PATIENCE_S, until
from tests.requests import accept, make_request

STATE = keys.state(ResponseKey(OPEN_TENANT, UNKNOWN_ID))


async def test_a_full_queue_is_a_rate_limit_error(redis: RedisClient, settings: Settings) -> None:
    async with serving(settings.model_copy(update={"queue_depth_max": 1})) as client:
        assert (await client.post("/v1/responses", json=HELLO | {"background": True})).status_code == 200
        answer = await client.post("/v1/responses", json=HELLO)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    error = error_of(answer)
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")


async def test_a_fault_of_ours_reveals_nothing_of_our_internals(
    redis: RedisClient, settings: Settings
) -> None:
    await redis.command("SET", STATE, "no hash", "EX", 60)
    async with serving(settings) as client:
        answers = [
            await client.get(f"/v1/responses/{UNKNOWN_ID}"),
            await client.get(f"/v1/responses/{UNKNOWN_ID}?stream=true"),
            await client.post(f"/v1/responses/{UNKNOWN_ID}/cancel"),
        ]
    for answer in answers:
        assert answer.status_code == 500
        error = error_of(answer)
        assert error["type"] == "server_error"
        assert not any(word in answer.text for word in ("WRONGTYPE", "redis", "Error("))


async def test_a_client_that_leaves_is_not_waited_for(redis: RedisClient, settings: Settings) -> None:
    app = create_app(settings, Tenants())
    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/responses",
        "headers": headers,
        "query_string": b"",
    }
    messages: list[Any] = [{"type": "http.request", "body": json.dumps(HELLO).encode(), "more_body": False}]

    async def receive() -> Any:
        if messages:
            return messages.pop()
        await until(lambda: redis.command("KEYS", "*:readers"))  # it reads the stream of its response by now
        return {"type": "http.disconnect"}

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async with app.router.lifespan_context(app):
        async with asyncio.timeout(PATIENCE_S):
            await app(scope, receive, send)
        assert sent[0]["status"] == 499


@pytest.mark.parametrize("refusing", ["min-replicas-to-write", "maxmemory"])
async def test_a_cancel_that_has_nothing_to_end_is_answered_while_redis_refuses_writes(
    redis: RedisClient, settings: Settings, refusing: str
) -> None:
    cancelled, failed = [await accept(redis, settings, make_request(store=True)) for _ in range(2)]
    assert await closing.cancel(redis, settings, cancelled, "another", Offload().run) == "ended"
    reason = ResponseError("server_error", "…")
    make_event = partial(lifecycle.fail, error=reason)
    assert await closing.end_at_once(redis, settings, failed, "another", make_event, Offload().run) == "ended"
    async with serving(settings) as client:
        await redis.command("CONFIG", "SET", refusing, 1)
        try:
            answers = [
                await client.post(f"/v1/responses/{response_id}/cancel")
                for response_id in (UNKNOWN_ID, failed.response_id, cancelled.response_id)
            ]
        finally:
            await redis.command("CONFIG", "SET", refusing, 0)
    assert [answer.status_code for answer in answers] == [404, 400, 200]
    assert answers[2].json()["status"] == "cancelled"


async def test_a_count_that_no_worker_makes_is_not_blamed_on_the_storage(
    redis: RedisClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_count, "ANSWER_WITHIN_S", 1)
    async with serving(settings) as client:
        answer = await client.post("/v1/responses/input_tokens", json=HELLO)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "No worker has counted" in error_of(answer)["message"]


async def test_a_count_whose_tools_no_runner_lists_says_so_and_leaves_no_secret(
    redis: RedisClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_count, "LISTED_WITHIN_S", 1)
    sealing = settings.model_copy(update={"secrets_key": SecretStr(Fernet.generate_key().decode())})
    tool = {"type": "mcp", "server_label": "wiki", "server_url": "https://h/mcp", "authorization": "s3cret"}
    async with serving(sealing) as client:
        asking = asyncio.create_task(
            client.post("/v1/responses/input_tokens", json=HELLO | {"tools": [tool]})
        )
        async with asyncio.timeout(PATIENCE_S):
            while not (jobs := await redis.command("KEYS", "arq:job:count/*")):
                await asyncio.sleep(0.01)
        job = await redis.command("GET", jobs[0])
        answer = await asking
    assert b"s3cret" not in job
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "No tool runner has listed the tools" in error_of(answer)["message"]
    async with asyncio.timeout(PATIENCE_S):
        while await redis.command("KEYS", "arq:job:count/*"):
            await asyncio.sleep(0.01)  # it expires


async def test_a_delete_does_not_read_what_it_deletes(redis: RedisClient, settings: Settings) -> None:
    key = await accept(redis, settings, make_request(store=True, instructions="x" * 1_000_000))
    assert await closing.cancel(redis, settings, key, "another", Offload().run) == "ended"
    async with serving(settings) as client:
        before = await _bytes_sent(redis)
        answer = await client.delete(f"/v1/responses/{key.response_id}")
        sent = await _bytes_sent(redis) - before
    assert answer.json()["deleted"] is True
    assert sent < 100_000


async def _bytes_sent(redis: RedisClient) -> int:
    """How much Redis has answered so far, to anybody."""
    return int((await redis.command("INFO", "stats"))["total_net_output_bytes"])
