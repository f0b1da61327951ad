"""A worker claims new responses with their leases, in one script; nothing that it claims is lost with it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from shared.settings import Settings
from shared.store import job_queue, keys
from shared.store.job_queue import BytesRoom, Room
from shared.store.keys import ResponseKey
from shared.store.owning import lease
from shared.store.owning.claiming import Claimant
from shared.store.owning.lease import Acquired
from shared.store.owning.sweeper import sweep
from shared.store.redis.client import RedisClient
from tests.patience import until
from tests.requests import accept, make_request
from tests.working import Worker, working

ROOM = Room(64, 2**20, 2**20, rings_on=False)
FULL = Room(0, 2**20, 2**20, rings_on=False)


@asynccontextmanager
async def serving(settings: Settings, worker: Worker) -> AsyncIterator[None]:
    """The worker's queue, as `worker/app.py` serves it."""
    queue = asyncio.create_task(
        job_queue.serve(
            settings.redis_url,
            keys.RESPONSES_QUEUE,
            {"start_response": worker.ownership.start_response},
            worker.ownership.room,
            BytesRoom(2**20, lambda: 2**20),
            worker.ownership.claim,
        )
    )
    try:
        yield
    finally:
        queue.cancel()
        await asyncio.wait([queue])


async def field(redis: RedisClient, key: ResponseKey, name: str) -> Any:
    return await redis.command("HGET", keys.state(key), name)


async def test_a_claim_brings_a_new_response_with_its_lease_and_its_request_and_takes_its_job_away(
    redis: RedisClient, settings: Settings
) -> None:
    request = make_request("Hello", background=True)
    key = await accept(redis, settings, request)
    claimant = Claimant(redis, settings, "a")
    claimed = await claimant.claim(ROOM)
    (acquired,) = claimed.begun
    assert (acquired.lease.key, acquired.lease.fencing_token, acquired.lease.owner) == (key, 1, "a")
    assert acquired.next_sequence_number == await redis.command("XLEN", keys.log(key))
    assert acquired.request == await field(redis, key, "request")
    assert (claimed.taken.jobs, claimed.unheard) == ([], [])
    assert await redis.command("ZCARD", keys.RESPONSES_QUEUE) == 0
    assert await redis.command("KEYS", "arq:*") == []
    assert await lease.acquire(redis, settings, key, "b") == "held"
    await claimant.close()


async def test_what_is_not_for_a_first_owner_is_left_to_its_handler(
    redis: RedisClient, settings: Settings
) -> None:
    owned, newer = [await accept(redis, settings) for _ in range(2)]
    large = await accept(redis, settings, make_request("word " * 20_000))
    new = await accept(redis, settings)
    acquired = await lease.acquire(redis, settings, owned, "dead")
    assert isinstance(acquired, Acquired)
    await redis.command("HSET", keys.state(newer), "format", 1_000)
    claimant = Claimant(redis, settings, "a")
    claimed = await claimant.claim(ROOM)
    assert [each.lease.key for each in claimed.begun] == [new]
    assert [job.id.decode() for job in claimed.taken.jobs] == [f"{key}:0" for key in (owned, newer, large)]
    assert [bool(job.large_bytes) for job in claimed.taken.jobs] == [False, False, True]
    again = await claimant.claim(ROOM)
    assert (again.begun, again.taken.jobs) == ([], []), "they are locked"
    await claimant.close()


async def test_no_more_is_claimed_than_there_is_room_for(redis: RedisClient, settings: Settings) -> None:
    accepted = [await accept(redis, settings) for _ in range(3)]
    claimant = Claimant(redis, settings, "a")
    assert (await claimant.claim(FULL)).begun == []
    two = await claimant.claim(Room(2, 2**20, 2**20, rings_on=False))
    assert [each.lease.key for each in two.begun] == accepted[:2]
    await claimant.close()


async def test_a_response_whose_claimant_dies_is_rung_for_and_taken_by_another(
    redis: RedisClient, settings: Settings
) -> None:
    key = await accept(redis, settings, make_request("Hello", background=True))
    dead = Claimant(redis, settings, "dead")
    assert (await dead.claim(ROOM)).begun
    await dead.close()
    sweeping = asyncio.create_task(sweep(redis, settings, settings.sweep_interval_s))
    async with working(redis, settings) as worker, serving(settings, worker):
        await until(lambda: field(redis, key, "closed"))
    sweeping.cancel()
    await asyncio.wait([sweeping])
    assert await field(redis, key, "closed") == b"completed"
    assert await field(redis, key, "deaths") == b"1"


class Deaf:
    """Stands before a claimant's connection: the first reply is lost, or comes late."""

    wait_max_s = 1.0

    def __init__(self, claimant: Any) -> None:
        self._pipe, claimant._pipe = claimant._pipe, self
        self.has_claimed, self.may_hear = asyncio.Event(), asyncio.Event()
        self.is_lost = True

    async def run_after(self, commands: Any, call: Any) -> Any:
        return await self._hear(await self._pipe.run_after(commands, call))

    async def _hear(self, reply: Any) -> Any:
        if reply[3] and not self.has_claimed.is_set():
            self.has_claimed.set()
            if self.is_lost:
                raise ConnectionError("the reply was lost")
            await self.may_hear.wait()
        return reply

    async def close(self) -> None:
        await self._pipe.close()


async def test_a_claim_whose_reply_was_lost_is_made_good_by_the_next_and_counts_as_no_loss(
    redis: RedisClient, settings: Settings
) -> None:
    key = await accept(redis, settings, make_request("Hello", background=True))
    async with working(redis, settings) as worker:
        deaf = Deaf(worker.ownership._claimant)
        async with serving(settings, worker):
            await until(lambda: field(redis, key, "closed"))
    assert deaf.has_claimed.is_set()
    assert await field(redis, key, "closed") == b"completed"
    assert (await field(redis, key, "deaths"), await field(redis, key, "owner")) == (
        b"0",
        worker.ownership.owner.encode(),
    )


async def test_a_worker_stopped_while_it_claims_hands_over_what_it_got(
    redis: RedisClient, settings: Settings
) -> None:
    key = await accept(redis, settings, make_request("Count slowly from 1 to 1000", background=True))
    async with working(redis, settings) as worker:
        deaf = Deaf(worker.ownership._claimant)
        deaf.is_lost = False
        async with serving(settings, worker):
            await deaf.has_claimed.wait()
        deaf.may_hear.set()
        await worker.ownership.drain()
        assert isinstance(await lease.acquire(redis, settings, key, "next"), Acquired)
        await accept(redis, settings)
        assert not (await worker.ownership.claim(ROOM)).has_begun, "it takes nothing more"
    assert await field(redis, key, "deaths") == b"0"


async def test_a_worker_that_stops_while_it_waits_for_the_doorbell_takes_nothing_and_is_not_waited_for(
    redis: RedisClient, settings: Settings
) -> None:
    async with working(redis, settings) as worker:
        waiting = asyncio.create_task(
            worker.ownership.claim(Room(64, 2**20, 2**20, rings_on=False, wait_s=50))
        )
        await until(lambda: is_blocked(redis))
        waiting.cancel()
        async with asyncio.timeout(40):  # less than it would have waited
            await worker.ownership.drain()
        key = await accept(redis, settings)
        assert isinstance(await lease.acquire(redis, settings, key, "next"), Acquired)
    claimant = Claimant(redis, settings, worker.ownership.owner)
    await accept(redis, settings)
    assert (await claimant.claim(ROOM)).begun == [], "not even by a claim that was already on its way"
    await claimant.close()


async def is_blocked(redis: RedisClient) -> bool:
    return int((await redis.command("INFO", "clients"))["blocked_clients"]) > 0


@pytest.mark.parametrize("is_running", [True, False])
async def test_a_failover_that_takes_a_claim_back_gives_no_owner_its_token_twice(
    redis: RedisClient, settings: Settings, is_running: bool
) -> None:
    text = "Count slowly from 1 to 1000" if is_running else "Hello"
    key = await accept(redis, settings, make_request(text, background=True))
    before = await redis.command("DUMP", keys.state(key))
    log = await redis.command("DUMP", keys.log(key))
    async with working(redis, settings) as worker:
        assert (await worker.ownership.claim(ROOM)).has_begun

        async def is_there() -> bool:
            entries = int(await redis.command("XLEN", keys.log(key)))
            return entries > 5 if is_running else bool(await field(redis, key, "closed"))

        await until(is_there)
        if not is_running:
            await redis.command("RESTORE", keys.log(key), 60_000, log, "REPLACE")
        await redis.command("RESTORE", keys.state(key), 60_000, before, "REPLACE")
        assert await job_queue.ring_again(redis, settings, key) == "rung"
        await worker.ownership.claim(ROOM)
        if is_running:  # its attempt has the lease again, and goes on
            entries = int(await redis.command("XLEN", keys.log(key)))
            await until(lambda: has_grown(redis, key, entries))
            assert await field(redis, key, "attempt") == b"1"
        else:
            await until(lambda: field(redis, key, "closed"))
            assert await field(redis, key, "attempt") == b"2"


async def has_grown(redis: RedisClient, key: ResponseKey, entries: int) -> bool:
    return int(await redis.command("XLEN", keys.log(key))) > entries
