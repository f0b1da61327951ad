"""A primary that was replaced goes on as if it were one: everybody leaves it, and the next one judges late.

No cluster runs here: its workers would take what a test holds.
"""

import asyncio
import contextlib
import random

import pytest
from redis.exceptions import RedisError

from shared.settings import Settings
from shared.store import keys
from shared.store.keys import ResponseKey
from shared.store.owning import lease
from shared.store.owning.lease import Acquired
from shared.store.redis.client import RedisClient
from shared.store.redis.connections import REDIS_AWAY
from shared.store.redis.insisting import insist
from shared.store.redis.subscription import Subscription
from tests.failover import WatchedValkeys, connect
from tests.patience import PATIENCE_S, until, wait_until
from tests.requests import accept

_WRITERS = 40
_SWITCHES = 3
pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def fail_over(valkeys: WatchedValkeys) -> None:
    """Another server is the primary afterwards; the earlier one goes on for some seconds as if it were."""
    primary = valkeys.primary()

    def is_begun() -> bool:
        try:
            valkeys.begin_failover()
        except RedisError:  # it is at one already, or has just ended one
            pass
        return valkeys.primary() != primary

    wait_until(is_begun)


async def test_who_only_asks_and_listens_leaves_a_primary_that_was_replaced_too(
    valkeys: WatchedValkeys,
) -> None:
    """The earlier primary is one still for itself, for as long as this takes."""
    primary = valkeys.primary()
    client = RedisClient.connect(valkeys.url, timeout_s=5.0)
    listener = RedisClient.connect_listener(valkeys.url)
    subscription, has_missed = Subscription(listener), asyncio.Event()
    listening = asyncio.create_task(subscription.listen(lambda *_: None, has_missed.set))
    try:
        await subscription.add("news")
        assert await port_of(client) == primary
        has_missed.clear()
        with connect(primary) as server:
            server.acl_setuser("default", enabled=True, commands=["-replicaof", "-slaveof"])
        await asyncio.to_thread(fail_over, valkeys)

        async def has_moved() -> bool:
            return await port_of(client) == valkeys.primary()

        await until(has_moved)
        async with asyncio.timeout(PATIENCE_S):
            await has_missed.wait()
        with connect(primary) as server:
            assert server.role()[0] == b"master"
    finally:
        with connect(primary) as server:
            server.acl_setuser("default", enabled=True, commands=["+replicaof", "+slaveof"])
        listening.cancel()
        await asyncio.wait([listening])
        await subscription.close()
        await listener.close()
        await client.close()


async def port_of(client: RedisClient) -> int:
    """Of the server that answers this client now."""
    try:
        return int((await client.command("CONFIG", "GET", "port"))[1])
    except REDIS_AWAY:
        return 0


async def test_nothing_counts_as_lost_until_the_new_primary_has_been_one_for_long_enough(
    valkeys: WatchedValkeys,
) -> None:
    """However soon it takes over: what was renewed on the other one meanwhile is not known there."""
    settings = Settings(redis_url=valkeys.url)
    client = RedisClient.connect(valkeys.url, timeout_s=5.0, durability="replica")
    try:
        # A server that an earlier test has struck may count as alive again before it has caught up.
        key = await insist(lambda: accept(client, settings), PATIENCE_S)
        held = await lease.acquire(client, settings, key, "a")
        assert isinstance(held, Acquired)
        await lease.lapsed(client, settings, 10)
        await client.command("HSET", keys.state(key), "lease_until_ms", 1)
        await client.command("ZADD", keys.ACTIVE, 1, str(key))
        await be_steady(client)
        await client.confirm()
        await asyncio.to_thread(fail_over, valkeys)

        async def writes() -> bool:
            try:
                await be_steady(client)
                return await port_of(client) == valkeys.primary()
            except REDIS_AWAY:
                return False

        await until(writes)
        assert await lease.acquire(client, settings, key, "b") == "held"
        assert key not in await lease.lapsed(client, settings, 10)
        since_ms = int(await client.command("HGET", keys.PULSE, "since_ms"))
        assert since_ms > await lease.now_ms(client)  # some have not noticed it yet
        await be_steady(client)
        assert key in await lease.lapsed(client, settings, 10)  # beside what other tests have left
    finally:
        await client.close()


async def be_steady(client: RedisClient) -> None:
    """As if sweepers had been answered for a minute, and just now."""
    now_ms = await lease.now_ms(client)
    await client.command("HSET", keys.PULSE, "since_ms", now_ms - 60_000, "heard_ms", now_ms)


async def test_a_primary_that_becomes_one_again_has_what_counted_meanwhile(valkeys: WatchedValkeys) -> None:
    """It is promoted as soon as it is a replica, by Sentinels of which some have not heard of that yet.

    Each client writes so rarely that it has not noticed the returned server by itself.
    """
    clients = [RedisClient.connect(valkeys.url, timeout_s=2.0, durability="replica") for _ in range(_WRITERS)]
    settings = Settings(redis_url=valkeys.url, tenant_responses_max=100_000, queue_depth_max=100_000)
    accepted: list[ResponseKey] = []
    is_over = asyncio.Event()

    async def write(client: RedisClient) -> None:
        while not is_over.is_set():
            with contextlib.suppress(*REDIS_AWAY):
                accepted.append(await accept(client, settings, tenant="of-this-test"))
            await asyncio.sleep(random.uniform(0.1, 0.8))

    def has_both_replicas() -> bool:
        try:
            with connect(valkeys.primary()) as server:
                return len(server.role()[2]) == len(valkeys.servers) - 1
        except RedisError:
            return False

    await until(has_both_replicas)
    writing = [asyncio.create_task(write(client)) for client in clients]
    try:
        for _ in range(_SWITCHES):
            await asyncio.to_thread(fail_over, valkeys)
            await until(has_both_replicas)
    finally:
        is_over.set()
        await asyncio.gather(*writing)
    await asyncio.to_thread(valkeys.wait_until_watched)
    with connect(valkeys.primary()) as server:
        assert [key for key in accepted if not server.exists(keys.state(key))] == []
    assert len(accepted) > _WRITERS
    for client in clients:
        await client.close()
