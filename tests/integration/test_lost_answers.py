"""Redis has executed a command, but its reply was lost."""

import asyncio
from dataclasses import replace
from typing import Any

from shared.settings import Settings
from shared.store import keys
from shared.store.keys import ResponseKey
from shared.store.owning import lease
from shared.store.owning.lease import Acquired
from shared.store.redis.client import RedisClient
from shared.store.redis.joint_scripts import StoreCall
from tests.requests import accept, make_request
from tests.working import finish, working


class Deaf(RedisClient):
    """The first answer to an acquiring comes late, or is lost."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.has_acquired, self.heard = asyncio.Event(), asyncio.Event()
        self.is_lost = False

    async def run(self, call: StoreCall) -> Any:
        reply = await super().run(call)
        if call.script.name == "owning/acquire" and not self.has_acquired.is_set():
            self.has_acquired.set()
            if self.is_lost:
                raise ConnectionError("the answer was lost")
            await self.heard.wait()
        return reply


def make_deaf(settings: Settings) -> Deaf:
    return Deaf.connect(settings.redis_url, timeout_s=5.0)


async def deaths_of(redis: RedisClient, key: ResponseKey) -> int:
    return int(await redis.command("HGET", keys.state(key), "deaths"))


async def test_a_lease_whose_grant_was_lost_is_requested_again_and_kept(
    redis: RedisClient, settings: Settings
) -> None:
    deaf = make_deaf(settings)
    deaf.is_lost = True
    key = await accept(redis, settings, make_request("Hello"))
    async with working(deaf, settings) as worker:
        assert await finish(redis, worker, key)
    await deaf.close()
    assert await redis.command("HGET", keys.state(key), "closed") == b"completed"
    assert await deaths_of(redis, key) == 0


async def test_a_worker_stopped_while_it_takes_a_response_hands_it_over(
    redis: RedisClient, settings: Settings
) -> None:
    deaf = make_deaf(settings)
    key = await accept(redis, settings, make_request("Count slowly from 1 to 1000"))
    async with working(deaf, settings) as worker:
        starting = asyncio.create_task(worker.ownership.start_response(str(key)))
        await deaf.has_acquired.wait()
        starting.cancel()
        await asyncio.wait([starting])
        deaf.heard.set()
        await worker.ownership.drain()
        assert isinstance(await lease.acquire(redis, settings, key, "next"), Acquired)
    await deaf.close()
    assert await deaths_of(redis, key) == 0


async def test_only_who_has_a_response_not_in_hand_takes_its_own_lease_again(
    redis: RedisClient, settings: Settings
) -> None:
    key = await accept(redis, settings)
    first = await lease.acquire(redis, settings, key, "a")
    assert isinstance(first, Acquired)
    assert await lease.acquire(redis, settings, key, "a") == "held"
    assert await lease.acquire(redis, settings, key, "b", has_response=False) == "held"
    again = await lease.acquire(redis, settings, key, "a", has_response=False)
    assert isinstance(again, Acquired)
    assert again.lease.fencing_token > first.lease.fencing_token
    assert await deaths_of(redis, key) == 0


async def test_a_loss_that_is_reported_twice_counts_once(redis: RedisClient, settings: Settings) -> None:
    key = await accept(redis, settings)
    acquired = await lease.acquire(redis, settings, key, "a")
    assert isinstance(acquired, Acquired)
    await lease.lose(redis, replace(acquired.lease, owner="one before the failover, with the same token"))
    assert await deaths_of(redis, key) == 0
    assert await lease.acquire(redis, settings, key, "b") == "held"
    for _ in range(2):
        await lease.lose(redis, acquired.lease)
    assert await deaths_of(redis, key) == 1
