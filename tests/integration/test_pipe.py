"""A worker's own connection for appends: what one response does to another, and what a dead server does."""

import asyncio
import os
import signal
from pathlib import Path

import pytest
from redis.exceptions import ResponseError

from local.valkey import Valkey
from shared.settings import Settings
from shared.store import keys
from shared.store.log.appender import Appender
from shared.store.log.response_log import LogLimits, NewEntry, ResponseLog
from shared.store.owning import lease
from shared.store.owning.lease import Lease, LeaseLost
from shared.store.redis.client import RedisClient
from shared.store.redis.connections import REDIS_AWAY
from tests.appending import append_through, begin
from tests.patience import PATIENCE_S

ENTRY = NewEntry(b"event: x\ndata: 1\n\n", (7,))


async def own(redis: RedisClient, settings: Settings, count: int) -> list[Lease]:
    return [await begin(redis, settings) for _ in range(count)]


async def length_of(redis: RedisClient, held: Lease) -> int:
    return int(await redis.command("XLEN", keys.log(held.key)))


async def append_to_all(appender: Appender, leases: list[Lease], first: int) -> list[BaseException | None]:
    appends = [append_through(appender, held, first, [ENTRY]) for held in leases]
    return await asyncio.gather(*appends, return_exceptions=True)


async def test_a_response_that_is_refused_or_broken_takes_no_other_with_it(
    redis: RedisClient, settings: Settings, appender: Appender
) -> None:
    leases = await own(redis, settings, 5)
    assert await append_to_all(appender, leases, 1) == [None] * 5
    await redis.command("HSET", keys.state(leases[1].key), "lease_until_ms", 0)
    await lease.acquire(redis, settings, leases[1].key, "b")
    await redis.command("SET", keys.log(leases[3].key), "no stream", "PX", 60_000)
    outcomes = await append_to_all(appender, leases, 2)
    assert [type(outcome) for outcome in outcomes] == [
        type(None),
        LeaseLost,
        type(None),
        ResponseError,
        type(None),
    ]
    assert [await length_of(redis, leases[place]) for place in (0, 2, 4)] == [3, 3, 3]


async def test_more_than_one_run_may_serve_is_served_by_several_in_one_write(
    redis: RedisClient, settings: Settings
) -> None:
    leases = await own(redis, settings, 3)
    calls = []
    for held in leases:
        log = ResponseLog(LogLimits.of(settings), held.key)
        calls.append(log.append(held.proof, 1, [ENTRY] * 600).call)
    assert await redis.run_many(calls) == [601] * 3
    assert [await length_of(redis, held) for held in leases] == [601] * 3


@pytest.mark.parametrize("end", ["hangs", "dies"])
async def test_a_server_that_hangs_or_dies_is_away_and_the_next_write_finds_it_again(
    tmp_path: Path, end: str
) -> None:
    with Valkey(tmp_path) as server:
        client = RedisClient.connect(server.url, timeout_s=2.0)
        settings = Settings(redis_url=server.url)
        (held,) = await own(client, settings, 1)
        pipe, log = client.open_pipe(), ResponseLog(LogLimits.of(settings), held.key)
        assert await pipe.run_many([log.append(held.proof, 1, [ENTRY]).call]) == [2]
        second = log.append(held.proof, 2, [ENTRY])
        os.kill(server.pid, signal.SIGSTOP)
        asking = asyncio.create_task(pipe.run_many([second.call]))
        if end == "dies":
            await asyncio.sleep(0)
            await pipe.close()
        with pytest.raises(REDIS_AWAY):
            await asyncio.wait_for(asking, PATIENCE_S)
        os.kill(server.pid, signal.SIGCONT)
        (reply,) = await pipe.run_many([second.call])
        assert second.failure(reply) is None  # also when it had been written by then
        assert await length_of(client, held) == 3
        await pipe.close()
        await client.close()
