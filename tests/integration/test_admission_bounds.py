"""What one create call may make an API node read, keep and write, over a real Valkey."""

import asyncio
import gc
import threading
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from api.offload import INLINE_BYTES_MAX, Offload
from shared import lifecycle
from shared.responses import ResponseError
from shared.settings import Settings
from shared.store import keys
from shared.store.keys import ResponseKey
from shared.store.log import archiving, closing
from shared.store.redis.client import RedisClient
from tests.conversing import Client, error_of, say, serving
from tests.kept import count_kept, kept_keys
from tests.patience import until
from tests.requests import accept, make_request


async def leave_behind(client: Client, *items: dict[str, Any]) -> tuple[str, list[str]]:
    """A closed response and the ids of its input items."""
    body = {"input": list(items), "background": True}
    made = (await client.post("/responses", json=body)).json()["id"]
    assert (await client.post(f"/responses/{made}/cancel")).status_code == 200
    listed = await client.get(f"/responses/{made}/input_items", params={"order": "asc"})
    return made, [item["id"] for item in listed.json()["data"]]


def refer(*item_ids: str) -> list[dict[str, Any]]:
    return [{"type": "item_reference", "id": item_id} for item_id in item_ids]


async def keys_of(redis: RedisClient) -> set[str]:
    return await kept_keys(redis)


async def calls_of(redis: RedisClient, command: str) -> int:
    stats = await redis.command("INFO", "commandstats")
    return int(stats.get(f"cmdstat_{command}", {"calls": 0})["calls"])


async def test_references_that_multiply_an_item_are_refused_before_anything_is_written(
    redis: RedisClient, settings: Settings, tmp_path: Path
) -> None:
    async with serving(settings, tmp_path) as client:
        _, (large,) = await leave_behind(client, say("x" * 2**20))
        _, (small,) = await leave_behind(client, say("y"))
        before = await keys_of(redis)
        answer = await client.post("/responses", json={"input": refer(*[large] * 200, small)})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "input"
        assert await keys_of(redis) == before


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/responses", {"input": [[]] * 300}, "input"),
        ("/responses", {"input": "Hello", "tools": [{"a": 1}] * 300}, "tools"),
        ("/responses", {"input": "Hello", "unknown": [[]] * 300}, None),
        ("/responses/input_tokens", {"input": [{}] * 300}, "input"),
        ("/conversations", {"items": [[1]] * 300}, "items"),
    ],
)
async def test_a_body_of_too_many_values_is_refused_before_it_is_taken_apart(
    redis: RedisClient, settings: Settings, tmp_path: Path, path: str, body: dict[str, Any], param: str | None
) -> None:
    few = settings.model_copy(update={"json_values_max": 200})
    async with serving(few, tmp_path) as client:
        before = await keys_of(redis)
        answer = await client.post(path, json=body)
        assert error_of(answer) == (400, param, "too_many_values")
        assert await keys_of(redis) == before


async def test_the_content_of_a_string_is_one_value(
    redis: RedisClient, settings: Settings, tmp_path: Path
) -> None:
    few = settings.model_copy(update={"json_values_max": 200})
    async with serving(few, tmp_path) as client:
        body = {"input": '[{"a", ' * 1_000, "background": True}
        assert (await client.post("/responses", json=body)).status_code == 200


async def test_the_values_of_what_comes_before_the_input_count_as_well(
    redis: RedisClient, settings: Settings, tmp_path: Path
) -> None:
    few = settings.model_copy(update={"json_values_max": 200})
    wordy = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}] * 50}
    async with serving(few, tmp_path) as client:
        made = await client.post("/conversations", json={"items": [wordy]})
        conversation = made.json()["id"]
        added = await client.post(f"/conversations/{conversation}/items", json={"items": [wordy]})
        assert added.status_code == 200
        answer = await client.post("/responses", json={"input": "Hello", "conversation": conversation})
        assert error_of(answer) == (400, "conversation", "context_too_large")
        _, (item,) = await leave_behind(client, wordy)
        before = await keys_of(redis)
        answer = await client.post("/responses", json={"input": [wordy, *refer(item)]})
        assert error_of(answer) == (400, "input", "context_too_large")
        assert await keys_of(redis) == before


@pytest.mark.parametrize("is_archived", [False, True])
async def test_the_records_behind_references_are_limited_in_bytes(
    redis: RedisClient, settings: Settings, tmp_path: Path, is_archived: bool
) -> None:
    """Also where an archive holds them, and packed they are small."""
    small = settings.model_copy(update={"references_bytes_max": 500_000})
    async with serving(small, tmp_path) as client:
        named: list[str] = []
        for _ in range(3):
            response, (_, short) = await leave_behind(client, say("x" * 200_000), say("short"))
            named.append(short)
            if is_archived:
                assert await archiving.archive_log(redis, ResponseKey("one", response)) == "archived"
        accepted = await client.post("/responses", json={"input": refer(*named[:2]), "background": True})
        assert accepted.status_code == 200
        before = await keys_of(redis)
        refused = await client.post("/responses", json={"input": refer(*named), "background": True})
        assert error_of(refused) == (400, "input", "context_too_large")
        assert await keys_of(redis) == before


async def test_references_to_items_of_one_response_read_it_once(
    redis: RedisClient, settings: Settings, tmp_path: Path
) -> None:
    async with serving(settings, tmp_path) as client:
        _, item_ids = await leave_behind(client, *(say(str(number)) for number in range(20)))
        before = await calls_of(redis, "hmget")
        body = {"input": refer(*item_ids), "background": True}
        assert (await client.post("/responses", json=body)).status_code == 200
        assert await calls_of(redis, "hmget") - before <= 4


async def test_items_before_the_input_count_as_well(
    redis: RedisClient, settings: Settings, tmp_path: Path
) -> None:
    few = settings.model_copy(update={"items_max": 10})
    async with serving(few, tmp_path) as client:
        parent, _ = await leave_behind(client, *(say(str(number)) for number in range(8)))
        body = {"previous_response_id": parent, "background": True}
        assert (await client.post("/responses", json=body | {"input": [say("a")] * 2})).status_code == 200
        refused = await client.post("/responses", json=body | {"input": [say("a")] * 3})
        assert error_of(refused) == (400, "previous_response_id", "invalid_value")


async def test_work_on_a_large_body_is_done_in_another_thread() -> None:
    offload, here = Offload(), threading.get_ident()
    assert await offload.run(INLINE_BYTES_MAX, threading.get_ident) == here
    assert await offload.run(INLINE_BYTES_MAX + 1, threading.get_ident) != here


async def test_of_large_bodies_a_few_are_in_hand_at_a_time() -> None:
    offload, most = Offload(), 0
    held: set[object] = set()

    async def hold(size_bytes: int) -> None:
        nonlocal most
        async with offload.in_hand(size_bytes):
            held.add(me := object())
            most = max(most, len(held))
            for _ in range(3):
                await asyncio.sleep(0)
            held.discard(me)

    await asyncio.gather(*(hold(INLINE_BYTES_MAX + 1) for _ in range(50)))
    assert most == 4
    await asyncio.gather(*(hold(INLINE_BYTES_MAX) for _ in range(50)))
    assert most == 50


async def test_a_body_is_let_go_when_its_response_is_accepted(
    redis: RedisClient, settings: Settings, tmp_path: Path
) -> None:
    """Not when the response has ended: nothing of what a node has in hand grows with how long models take."""
    number, size_bytes = 20, 1_000_000

    async def body() -> AsyncIterator[bytes]:
        yield b'{"input": "'
        yield b"a" * size_bytes + b'"}'

    async with serving(settings, tmp_path) as client:
        await client.get("/models")
        gc.collect()
        tracemalloc.start()
        try:
            waiting = [asyncio.create_task(client.post("/responses", content=body())) for _ in range(number)]
            await until(lambda: are_queued(redis, number))
            await until(lambda: kept_bytes() < number * size_bytes / 2)
            assert not [task for task in waiting if task.done()]
        finally:
            tracemalloc.stop()
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)


def kept_bytes() -> int:
    """What is still held of all that was allocated since the tracing began."""
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


async def are_queued(redis: RedisClient, number: int) -> bool:
    return bool(await redis.command("ZCARD", keys.RESPONSES_QUEUE) == number)


async def test_callers_waiting_for_a_count_leave_connections_to_others(
    redis: RedisClient, settings: Settings, tmp_path: Path
) -> None:
    """No worker is there: more questions than a node has connections to Redis wait for their answers."""
    number = 300
    async with serving(settings, tmp_path) as client:
        ask = {"input": "a"}
        asking = [
            asyncio.create_task(client.post("/responses/input_tokens", json=ask)) for _ in range(number)
        ]
        try:
            await until(lambda: are_queued(redis, number))
            for _ in range(20):
                assert (await client.post("/conversations", json={})).status_code == 200
            assert not [task for task in asking if task.done()]
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)


# --- a tenant's bytes -----------------------------------------------------------------------------


async def held(redis: RedisClient) -> int:
    return int(await redis.command("HGET", keys.held_bytes("one"), "total") or 0)


async def test_a_tenants_bytes_are_limited_until_its_logs_are_archived(
    redis: RedisClient, settings: Settings, tmp_path: Path
) -> None:
    small = settings.model_copy(update={"tenant_bytes_max": 500_000})
    body = {"input": "x" * 200_000, "background": True}
    async with serving(small, tmp_path) as client:
        made = [(await client.post("/responses", json=body)).json()["id"] for _ in range(2)]
        before = await keys_of(redis)
        refused = await client.post("/responses", json=body)
        assert error_of(refused) == (429, None, "rate_limit_exceeded")
        assert refused.headers["retry-after"]
        assert await keys_of(redis) == before
        other = {"authorization": "Bearer other"}
        assert (await client.post("/responses", json=body, headers=other)).status_code == 200
        assert (await client.post(f"/responses/{made[0]}/cancel")).status_code == 200
        assert (await client.post("/responses", json=body)).status_code == 429  # closed, but not packed
        assert await archiving.archive_log(redis, ResponseKey("one", made[0])) == "archived"
        assert (await client.post("/responses", json=body)).status_code == 200


async def test_what_is_echoed_counts_as_often_as_it_is_kept(
    redis: RedisClient, settings: Settings, tmp_path: Path
) -> None:
    async with serving(settings, tmp_path) as client:
        body = {"input": "x", "instructions": "y" * 100_000, "background": True}
        made = (await client.post("/responses", json=body)).json()["id"]
        assert (await client.post(f"/responses/{made}/cancel")).status_code == 200
        key, kept_bytes = ResponseKey("one", made), 0
        for name in (keys.state(key), keys.log(key)):
            kept_bytes += await redis.command("MEMORY", "USAGE", name, "SAMPLES", 0)
        assert 0.7 * kept_bytes < await held(redis) < 1.5 * kept_bytes


@pytest.mark.parametrize("way", ["deleted", "archived"])
async def test_nothing_is_held_of_what_is_gone(
    redis: RedisClient, settings: Settings, tmp_path: Path, way: str
) -> None:
    async with serving(settings, tmp_path) as client:
        made, _ = await leave_behind(client, say("x"))
        assert await held(redis) > 0
        if way == "deleted":
            assert (await client.delete(f"/responses/{made}")).status_code == 200
        else:
            assert await archiving.archive_log(redis, ResponseKey("one", made)) == "archived"
        assert await held(redis) == 0


async def test_what_lapses_unpacked_is_let_go_of_by_the_next_request(
    redis: RedisClient, settings: Settings
) -> None:
    for _ in range(3):
        await accept(redis, settings, tenant="one")
    three = await held(redis)
    (oldest,) = await redis.command("ZRANGE", keys.held("one"), 0, 0)
    await redis.command("ZADD", keys.held("one"), "XX", 1, oldest)
    await accept(redis, settings, tenant="one")
    assert await held(redis) == three
    assert await redis.command("ZSCORE", keys.held("one"), oldest) is None


async def test_an_unstored_response_counts_no_longer_than_its_log_is_kept(
    redis: RedisClient, settings: Settings
) -> None:
    key = await accept(redis, settings, make_request(store=False), "one")
    assert await closing.cancel(redis, settings, key, "api", Offload().run) == "ended"
    lapses_ms = float(await redis.command("ZSCORE", keys.held("one"), key.response_id))
    seconds, _ = await redis.command("TIME")
    assert lapses_ms / 1000 - int(seconds) <= settings.unstored_grace_s + 1


async def test_a_failed_response_is_due_to_be_packed_at_once(redis: RedisClient, settings: Settings) -> None:
    key = await accept(redis, settings, tenant="one")
    error = ResponseError("server_error", "no")
    await closing.end_at_once(
        redis, settings, key, "api", lambda born: lifecycle.fail(born, error), Offload().run
    )
    assert await archiving.claim_due(redis, 10) == [key]


async def test_a_question_for_a_count_is_held_to_the_same_bounds(
    redis: RedisClient, settings: Settings, tmp_path: Path
) -> None:
    small = settings.model_copy(update={"tenant_bytes_max": 100_000})
    async with serving(small, tmp_path) as client:
        refused = await client.post("/responses/input_tokens", json={"input": "x" * 200_000})
        assert error_of(refused) == (429, None, "rate_limit_exceeded")
        assert await count_kept(redis) == 0
