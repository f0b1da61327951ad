"""A subscription on a real Valkey: what is heard, from when on, and what is left when it ends."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from shared.settings import Settings
from shared.store.redis.client import RedisClient
from shared.store.redis.connections import REDIS_AWAY
from shared.store.redis.subscription import Subscription
from tests.patience import PATIENCE_S, until


@pytest_asyncio.fixture
async def subscription(settings: Settings) -> AsyncIterator[Subscription]:
    listener = RedisClient.connect_listener(settings.redis_url)
    yield Subscription(listener)
    await listener.close()


async def listeners_of(redis: RedisClient, channel: str) -> int:
    return int((await redis.command("PUBSUB", "NUMSUB", channel))[1])


async def test_a_channel_is_heard_from_the_moment_that_it_was_added_however_many_are(
    redis: RedisClient, subscription: Subscription
) -> None:
    heard: list[tuple[str, bytes]] = []
    listening = asyncio.create_task(subscription.listen(lambda *message: heard.append(message), heard.clear))

    async def add_and_publish(number: int) -> None:
        channel = f"channel {number % 100}"  # each is wanted twice
        await subscription.add(channel)
        assert await redis.command("PUBLISH", channel, f"message {number}") == 1

    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*map(add_and_publish, range(200)))
    await until(lambda: len(heard) == 200)
    assert sorted(heard) == sorted((f"channel {i % 100}", f"message {i}".encode()) for i in range(200))
    listening.cancel()
    await asyncio.wait([listening])


async def test_a_channel_that_was_removed_and_added_again_is_heard_at_once(
    redis: RedisClient, subscription: Subscription
) -> None:
    heard: list[bytes] = []
    listening = asyncio.create_task(
        subscription.listen(lambda _, payload: heard.append(payload), heard.clear)
    )
    async with asyncio.timeout(PATIENCE_S):
        for number in range(50):
            leaving = asyncio.create_task(subscription.add("news"))
            await asyncio.sleep(0)
            subscription.remove("news")
            await subscription.add("news")
            await redis.command("PUBLISH", "news", number)
            await leaving
    await until(lambda: heard == [b"%d" % number for number in range(50)])
    subscription.remove("news")
    async with asyncio.timeout(PATIENCE_S):
        while await listeners_of(redis, "news"):
            await asyncio.sleep(0.01)
    listening.cancel()
    await asyncio.wait([listening])


async def test_what_came_before_anybody_listened_counts_as_missed(
    redis: RedisClient, subscription: Subscription
) -> None:
    missed = asyncio.Event()
    await subscription.add("news")
    await redis.command("PUBLISH", "news", "too early")
    await until(lambda: subscription._has_missed)
    listening = asyncio.create_task(subscription.listen(lambda *_: None, missed.set))
    async with asyncio.timeout(PATIENCE_S):
        await missed.wait()
    listening.cancel()
    await asyncio.wait([listening])


async def test_who_no_longer_listens_leaves_no_connection(
    redis: RedisClient, subscription: Subscription
) -> None:
    listening = asyncio.create_task(subscription.listen(lambda *_: None, lambda: None))
    await subscription.add("news")
    assert await listeners_of(redis, "news") == 1
    listening.cancel()
    await asyncio.wait([listening])
    async with asyncio.timeout(PATIENCE_S):
        while await listeners_of(redis, "news"):
            await asyncio.sleep(0.01)


async def test_a_fault_of_the_hearer_ends_the_listening_and_is_not_taken_for_an_outage(
    redis: RedisClient, subscription: Subscription
) -> None:
    def hear(_channel: str, _payload: bytes) -> None:
        raise RuntimeError("a fault of ours")

    listening = asyncio.create_task(subscription.listen(hear, lambda: None))
    await subscription.add("news")
    await redis.command("PUBLISH", "news", "anything")
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(RuntimeError, match="a fault of ours"):
            await listening


async def test_a_connection_that_is_being_closed_is_not_taken_over(settings: Settings) -> None:
    """Whoever closes it would wait for an end of which redis-py's streams are no longer notified."""
    listener = RedisClient.connect_listener(settings.redis_url)
    raw = await listener.raw.connection_pool.get_connection()
    closing = asyncio.create_task(raw.disconnect())
    await asyncio.sleep(0)
    for _ in range(2):
        with pytest.raises(REDIS_AWAY, match="is closed"):
            raw.hand_over(asyncio.Protocol())
        await closing
    await listener.close()
