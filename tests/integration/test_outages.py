"""After an outage of Redis, leases count as lapsed only once they could have been renewed; a slow Redis is
used well."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from local.valkey import Valkey
from shared.settings import Settings
from shared.store import job_queue, keys
from shared.store.keys import ResponseKey
from shared.store.owning import lease, presence
from shared.store.owning.lease import Acquired, Lease, Renewal
from shared.store.records.watchers import Watchers
from shared.store.redis.client import RedisClient
from shared.store.redis.connections import REDIS_AWAY
from shared.store.redis.joint_scripts import StoreCall
from shared.store.redis.scripts import LuaScript
from tests.patience import PATIENCE_S, outlast, until
from tests.proxy import proxying
from tests.requests import accept, make_request
from tests.working import working

LONG_AGO_MS = 60_000


async def rewind(redis: RedisClient, key: str, *fields: str) -> None:
    """As if what these fields say had been so a minute ago."""
    now_ms = await lease.now_ms(redis)
    for field in fields:
        await redis.command("HSET", key, field, now_ms - LONG_AGO_MS)


async def own(redis: RedisClient, settings: Settings, owner: str = "a", **response: Any) -> Lease:
    key = await accept(redis, settings, make_request(**response))
    acquired = await lease.acquire(redis, settings, key, owner)
    assert isinstance(acquired, Acquired)
    return acquired.lease


async def be_away(redis: RedisClient) -> None:
    """Redis was steady until a minute ago, and is there again."""
    await rewind(redis, keys.PULSE, "since_ms", "heard_ms")


async def be_steady(redis: RedisClient) -> None:
    """Sweepers have been answered for a minute, and just now."""
    await rewind(redis, keys.PULSE, "since_ms")
    await redis.command("HSET", keys.PULSE, "heard_ms", await lease.now_ms(redis))


@pytest_asyncio.fixture
async def swept(redis: RedisClient, settings: Settings) -> AsyncIterator[RedisClient]:
    """A Redis that sweepers have looked at."""
    assert await lease.lapsed(redis, settings, 10) == []
    yield redis


async def lapse(redis: RedisClient, held: Lease) -> None:
    await rewind(redis, keys.state(held.key), "lease_until_ms")
    await redis.command("ZADD", keys.ACTIVE, 1, str(held.key))


async def test_a_lease_that_lapsed_while_redis_was_away_is_its_owners_still(
    swept: RedisClient, settings: Settings
) -> None:
    held = await own(swept, settings)
    await lapse(swept, held)
    await be_away(swept)
    assert await lease.acquire(swept, settings, held.key, "b") == "held"  # also before any sweeper has looked
    assert await lease.lapsed(swept, settings, 10) == []
    assert await lease.acquire(swept, settings, held.key, "b") == "held"
    assert await lease.renew_all(swept, [Renewal.of(settings, held)]) == []
    await be_steady(swept)
    assert await lease.acquire(swept, settings, held.key, "b") == "held"
    assert await swept.command("HGET", keys.state(held.key), "deaths") == b"0"


async def test_an_owner_that_does_not_come_back_after_an_outage_is_missed(
    swept: RedisClient, settings: Settings
) -> None:
    held = await own(swept, settings)
    await lapse(swept, held)
    await be_away(swept)
    assert await lease.lapsed(swept, settings, 10) == []
    await be_steady(swept)
    assert await lease.lapsed(swept, settings, 10) == [held.key]
    acquired = await lease.acquire(swept, settings, held.key, "b")
    assert isinstance(acquired, Acquired)
    assert acquired.deaths == 1


async def test_a_released_lease_needs_no_steady_redis_and_a_late_renewal_takes_it_not_back(
    swept: RedisClient, settings: Settings
) -> None:
    held = await own(swept, settings)
    await lease.release(swept, settings, held)
    await be_away(swept)
    assert await lease.renew_all(swept, [Renewal.of(settings, held)]) == [(held, "lost")]
    acquired = await lease.acquire(swept, settings, held.key, "b")
    assert isinstance(acquired, Acquired)
    assert acquired.deaths == 0


async def test_outages_one_after_another_are_no_deaths_of_owners_that_live(tmp_path: Path) -> None:
    """Each of them longer than a lease; more of them than a response may cost owners."""
    with Valkey(tmp_path) as valkey:
        settings = Settings(redis_url=valkey.url, lease_ttl_s=0.6, drain_grace_s=0.1, owners_lost_max=2)
        redis = RedisClient.connect(valkey.url, timeout_s=PATIENCE_S)
        async with working(redis, settings) as first, working(redis, settings) as second:
            sweeping = [asyncio.create_task(sweep_for(redis, settings, (first, second))) for _ in range(2)]
            key = await accept(redis, settings, make_request("Count slowly from 1 to 1000"))
            await first.ownership.start_response(str(key))
            await until_longer(redis, key, 0)
            for _ in range(3):
                grown = await redis.command("XLEN", keys.log(key))
                valkey.stop()
                await outlast(2 * settings.lease_ttl_s)
                valkey.start()
                await until_longer(redis, key, grown)
            state = await redis.command("HMGET", keys.state(key), "owner", "attempt", "deaths", "closed")
            for task in sweeping:
                task.cancel()
            await asyncio.wait(sweeping)
        await redis.close()
    assert state == [first.ownership.owner.encode(), b"1", b"0", b""]


async def sweep_for(redis: RedisClient, settings: Settings, workers: Any) -> None:
    """Acts as sweeper and queue: offers whatever has no owner to every worker at once."""
    while True:
        await asyncio.sleep(settings.lease_ttl_s / 6)
        try:
            for key in await lease.lapsed(redis, settings, 10):
                for worker in reversed(workers):
                    await worker.ownership.start_response(str(key))
        except REDIS_AWAY:
            pass


async def until_longer(redis: RedisClient, key: ResponseKey, entries: int) -> None:
    async def is_longer() -> bool:
        return bool(await redis.command("XLEN", keys.log(key)) > entries + 5)

    await until(is_longer)


# --- no readers ----------------------------------------------------------------------------------


@pytest_asyncio.fixture
async def alone(swept: RedisClient, settings: Settings) -> AsyncIterator[Lease]:
    """A foreground response whose last reader has been gone for a minute."""
    held = await own(swept, settings)
    await rewind(swept, keys.state(held.key), "alone_since_ms")
    await be_steady(swept)
    yield held


async def test_who_does_not_come_back_though_a_node_is_there_has_abandoned_his_response(
    swept: RedisClient, settings: Settings, alone: Lease
) -> None:
    await presence.announce(swept, "api", "node")
    assert await lease.renew_all(swept, [Renewal.of(settings, alone)]) == [(alone, "abandoned")]


@pytest.mark.parametrize("grace_s", [0.0, 5.0])
async def test_while_no_node_is_there_nobody_has_abandoned_anything_nor_right_after(
    swept: RedisClient, settings: Settings, alone: Lease, grace_s: float
) -> None:
    settings = settings.model_copy(update={"disconnect_grace_s": grace_s})
    for _ in range(2):
        assert await lease.renew_all(swept, [Renewal.of(settings, alone)]) == []
    await presence.announce(swept, "api", "node")
    # Readers have not had time to come back.
    assert await lease.renew_all(swept, [Renewal.of(settings, alone)]) == []
    await rewind(swept, keys.state(alone.key), "alone_since_ms")
    assert await lease.renew_all(swept, [Renewal.of(settings, alone)]) == [(alone, "abandoned")]


async def test_a_node_that_died_before_its_reader_lapsed_proves_no_absence(
    swept: RedisClient, settings: Settings, alone: Lease
) -> None:
    """Its presence may outlast its reader by a moment."""
    settings = settings.model_copy(update={"disconnect_grace_s": 0.0})
    await presence.announce(swept, "api", "node")
    now_ms = await lease.now_ms(swept)
    await swept.command("HSET", keys.state(alone.key), "alone_since_ms", now_ms)
    await swept.command("ZADD", keys.presence("api"), now_ms + 1_000, "node")  # announced two seconds ago
    assert await lease.renew_all(swept, [Renewal.of(settings, alone)]) == []


@pytest.mark.parametrize("has_another_left", [False, True])
@pytest.mark.parametrize("lost_for_ms", [1, 19_000, 21_000])
async def test_readers_that_were_lost_with_their_node_have_longer_to_come_back(
    swept: RedisClient, settings: Settings, has_another_left: bool, lost_for_ms: int
) -> None:
    hasty = settings.model_copy(update={"disconnect_grace_s": 1.0, "reader_return_s": 21.0})
    held = await own(swept, hasty)
    readers, state = keys.readers(held.key), keys.state(held.key)
    await be_steady(swept)
    await presence.announce(swept, "api", "node")
    now_ms = await lease.now_ms(swept)
    await swept.command("HSET", state, "alone_since_ms", "")
    await swept.command("ZADD", readers, now_ms - lost_for_ms, "lost")
    await swept.command("PEXPIRE", readers, 60_000)
    if has_another_left:
        async with Watchers(swept, fail).present(held.key):
            pass
        await until(lambda: _is_alone(swept, readers))
    assert await lease.renew_all(swept, [Renewal.of(hasty, held)]) == []
    alone_since_ms = int(await swept.command("HGET", state, "alone_since_ms"))
    if lost_for_ms < 20_000:
        assert alone_since_ms == now_ms - lost_for_ms + 20_000
    else:
        assert now_ms <= alone_since_ms <= await lease.now_ms(swept)


async def _is_alone(redis: RedisClient, readers: str) -> bool:
    return bool(await redis.command("ZCARD", readers) == 1)


async def fail(key: ResponseKey) -> None:
    pytest.fail(f"{key} was taken for abandoned")


async def test_while_redis_was_away_nobody_has_abandoned_anything(
    swept: RedisClient, settings: Settings, alone: Lease
) -> None:
    await presence.announce(swept, "api", "node")
    await be_away(swept)
    assert await lease.renew_all(swept, [Renewal.of(settings, alone)]) == []
    await be_steady(swept)
    # Readers have not had time to come back.
    assert await lease.renew_all(swept, [Renewal.of(settings, alone)]) == []


# --- taking jobs ---------------------------------------------------------------------------------

_TAKE = LuaScript("take")


async def take(redis: RedisClient, room: int) -> list[bytes]:
    _, *taken = await redis.run(
        _TAKE(
            queue=keys.RESPONSES_QUEUE,
            doorbell=keys.doorbell(keys.RESPONSES_QUEUE),
            takers=keys.takers(keys.RESPONSES_QUEUE),
            count_max=room,
            lock_ms=60_000,
            scan_max=1_000,
            bytes_max=0,
            bytes_left=0,
            large_bytes=0,
            state_pattern="",
            rings_on=0,
        )
    )
    jobs: list[bytes] = taken[::3]
    return jobs


async def test_jobs_are_taken_together_in_order_once_and_no_more_than_there_is_room_for(
    redis: RedisClient, settings: Settings
) -> None:
    waiting = [f"{await accept(redis, settings)}:0".encode() for _ in range(9)]
    assert await take(redis, 4) == waiting[:4]
    assert await take(redis, 0) == []
    assert await take(redis, 100) == waiting[4:]
    assert await take(redis, 100) == []


async def test_a_burst_is_shared_among_those_who_serve_the_queue(
    redis: RedisClient, settings: Settings
) -> None:
    for name in ("w1", "w2", "w3"):
        await presence.announce(redis, "worker", name)
    for _ in range(9):
        await accept(redis, settings)
    assert [len(await take(redis, 100)) for _ in range(5)] == [3, 2, 2, 1, 1]
    assert await redis.command("LLEN", keys.doorbell(keys.RESPONSES_QUEUE)) == 9 - (2 + 1 + 1)


class Gathering(RedisClient):
    """Holds acquiring and reading records until `count` responses have come to it: a response that waits for
    another, as it would in a slow Redis, never gets through."""

    def gather(self, count: int) -> None:
        self._steps = {step: asyncio.Barrier(count) for step in ("owning/acquire", "HGET")}

    async def run(self, call: StoreCall) -> Any:
        if call.script.name in self._steps:
            await self._steps[call.script.name].wait()
        return await super().run(call)

    async def command(self, *command: str | bytes | int | float) -> Any:
        if command[0] in self._steps and command[-1] == "request":
            await self._steps[str(command[0])].wait()
        return await super().command(*command)


async def test_nine_responses_begin_in_a_slow_redis_as_soon_as_one(
    redis: RedisClient, settings: Settings
) -> None:
    gathering = Gathering.connect(settings.redis_url, timeout_s=PATIENCE_S)
    gathering.gather(9)
    accepted = [await accept(redis, settings, make_request("Hello")) for _ in range(9)]
    async with working(gathering, settings) as worker:
        serving = asyncio.create_task(
            job_queue.serve(
                settings.redis_url,
                keys.RESPONSES_QUEUE,
                {"start_response": worker.ownership.start_response},
                worker.ownership.room,
            )
        )

        async def have_begun() -> bool:
            lengths = [int(await redis.command("XLEN", keys.log(key))) for key in accepted]
            return min(lengths) >= 2

        try:
            await until(have_begun)
        finally:
            serving.cancel()
            await asyncio.wait([serving])
    await gathering.close()


async def test_a_job_whose_lock_lapses_while_it_is_taken_is_not_taken_twice_at_once(
    redis: RedisClient, settings: Settings
) -> None:
    """With a slow Redis taking one outlasts the lock. A second beginning in the same process would make the
    first one's end fail: a job that was to be tried again counted as done."""
    key = await accept(redis, settings)
    job = (await redis.command("HGET", keys.state(key), "job")).decode()
    begun = 0
    may_fail = asyncio.Event()

    async def start(_name: str) -> None:
        nonlocal begun
        begun += 1
        if begun == 1:
            await may_fail.wait()
            raise ConnectionError("away")

    serving = asyncio.create_task(
        job_queue.serve(settings.redis_url, keys.RESPONSES_QUEUE, {"start_response": start}, lambda: 2)
    )

    async def is_locked() -> bool:
        await redis.command("RPUSH", keys.doorbell(keys.RESPONSES_QUEUE), 1)
        return bool(await redis.command("EXISTS", f"arq:in-progress:{job}"))

    async def is_done() -> bool:
        return await redis.command("ZSCORE", keys.RESPONSES_QUEUE, job) is None

    try:
        await until(lambda: begun)
        for _ in range(2):
            await redis.command("DEL", f"arq:in-progress:{job}")
            await until(is_locked)
        assert begun == 1
        may_fail.set()
        await until(is_done)
        assert begun == 2
    finally:
        serving.cancel()
        await asyncio.wait([serving])


async def test_a_queue_that_stops_still_removes_the_jobs_that_were_taken_over(
    valkey: Valkey, redis: RedisClient, settings: Settings
) -> None:
    """Otherwise the removal goes on without an owner, and connects again behind a closed pool."""
    key = await accept(redis, settings)
    job = await redis.command("HGET", keys.state(key), "job")
    taken = asyncio.Event()

    async def start(_name: str) -> None:
        taken.set()

    async with proxying(valkey.port, delay_s=0.1) as proxy:
        serving = asyncio.create_task(
            job_queue.serve(proxy.url, keys.RESPONSES_QUEUE, {"start_response": start}, lambda: 1)
        )
        async with asyncio.timeout(PATIENCE_S):
            await taken.wait()
        for _ in range(50):  # until the removal waits for its reply, which takes a while
            await asyncio.sleep(0)
        serving.cancel()
        await asyncio.wait([serving])
        assert await redis.command("ZSCORE", keys.RESPONSES_QUEUE, job) is None


async def test_a_job_stays_queued_when_redis_goes_away_while_it_is_taken(
    redis: RedisClient, settings: Settings
) -> None:
    await accept(redis, settings)
    tries = 0
    taken = asyncio.Event()

    async def start(_name: str) -> None:
        nonlocal tries
        tries += 1
        if tries < 12:
            await redis.command("RPUSH", keys.doorbell(keys.RESPONSES_QUEUE), 1)
            raise ConnectionError("away")
        taken.set()

    serving = asyncio.create_task(
        job_queue.serve(settings.redis_url, keys.RESPONSES_QUEUE, {"start_response": start}, lambda: 1)
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            await taken.wait()
        assert tries == 12
    finally:
        serving.cancel()
        await asyncio.wait([serving])
