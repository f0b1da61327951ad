"""The promises of the client beyond Redis's own: a cancelled task ends, and no command waits for ever."""

import asyncio
import os
import signal
import socket
from pathlib import Path

import pytest

from local.valkey import Valkey
from shared.settings import Settings
from shared.store.owning import lease
from shared.store.owning.lease import Acquired
from shared.store.redis.client import RedisClient
from shared.store.redis.connections import REDIS_AWAY
from shared.store.redis.subscription import Subscription
from tests.patience import PATIENCE_S, until
from tests.requests import accept


async def test_a_task_that_is_cancelled_at_any_step_of_a_command_ends(redis: RedisClient) -> None:
    async def ask_for_ever() -> None:
        while True:
            await redis.command("TIME")
            await redis.transaction(("TIME",), ("TIME",))

    for steps in range(400):
        asking = asyncio.create_task(ask_for_ever())
        for _ in range(steps % 40):
            await asyncio.sleep(0)
        asking.cancel()
        ended, _ = await asyncio.wait([asking], timeout=PATIENCE_S)
        assert ended, f"it goes on after a cancellation at step {steps % 40}"
        assert asking.cancelled()


async def test_a_redis_that_accepts_but_does_not_answer_is_away_after_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = RedisClient.connect(f"redis://127.0.0.1:{silent.getsockname()[1]}/0", timeout_s=0.2)
        for ask in (client.command("TIME"), client.transaction(("TIME",))):
            with pytest.raises(REDIS_AWAY):
                await asyncio.wait_for(ask, timeout=PATIENCE_S)
        await client.close()


REFUSING = {
    "it lacks its replicas": (("CONFIG", "SET", "min-replicas-to-write", 1),),
    "it is a replica now": (("REPLICAOF", "127.0.0.1", 1),),
    "it lost its primary": (
        ("CONFIG", "SET", "replica-serve-stale-data", "no"),
        ("REPLICAOF", "127.0.0.1", 1),
    ),
    "it is full": (("CONFIG", "SET", "maxmemory", 1),),
}
READY_AGAIN = (
    ("REPLICAOF", "NO", "ONE"),
    ("CONFIG", "SET", "replica-serve-stale-data", "yes"),
    ("CONFIG", "SET", "min-replicas-to-write", 0),
    ("CONFIG", "SET", "maxmemory", 0),
)


@pytest.mark.parametrize("reason", REFUSING)
async def test_a_server_that_refuses_for_now_is_away_and_comes_back(
    redis: RedisClient, settings: Settings, reason: str
) -> None:
    key = await accept(redis, settings)
    held = await lease.acquire(redis, settings, key, "a")
    assert isinstance(held, Acquired)
    try:
        for command in REFUSING[reason]:
            await redis.command(*command)
        with pytest.raises(REDIS_AWAY):
            await accept(redis, settings)
        try:
            assert await lease.renew_all(redis, settings, [held.lease]) == []
        except REDIS_AWAY:
            pass  # what the beat knows, and tries again
    finally:
        for command in READY_AGAIN:
            await redis.command(*command)
    await accept(redis, settings)
    assert await lease.renew_all(redis, settings, [held.lease]) == []


async def test_a_subscription_notices_a_server_that_hangs_and_listens_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    missed = asyncio.Event()
    with Valkey(tmp_path) as server:
        client = RedisClient.connect(server.url, timeout_s=PATIENCE_S)
        listener = RedisClient.connect_listener(server.url)
        subscription = Subscription(listener)
        await subscription.add("news")
        listening = asyncio.create_task(
            subscription.listen(lambda _, payload: heard.put_nowait(payload), missed.set)
        )
        async with asyncio.timeout(PATIENCE_S):
            await client.command("PUBLISH", "news", "before")
            assert await heard.get() == b"before"
            os.kill(server.pid, signal.SIGSTOP)
            try:
                await until(lambda: "is silent" in caplog.text)
            finally:
                os.kill(server.pid, signal.SIGCONT)
            await missed.wait()
            await client.command("PUBLISH", "news", "after")
            assert await heard.get() == b"after"
        listening.cancel()
        await asyncio.wait([listening])
        await subscription.close()
        await listener.close()
        await client.close()


async def test_a_channel_whose_first_reader_left_at_once_reaches_the_second(
    redis: RedisClient, settings: Settings
) -> None:
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    listener = RedisClient.connect_listener(settings.redis_url)
    subscription = Subscription(listener)
    async with subscription._changing:  # another change is in progress
        first = asyncio.create_task(subscription.add("news"))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first])
    listening = asyncio.create_task(
        subscription.listen(lambda _, payload: heard.put_nowait(payload), lambda: None)
    )
    async with asyncio.timeout(PATIENCE_S):
        await until(lambda: redis.command("PUBLISH", "news", "here"))
        assert await heard.get() == b"here"
    listening.cancel()
    await asyncio.wait([listening])
    await subscription.close()
    await listener.close()


async def test_who_is_cancelled_while_idle_connections_are_left_takes_nobody_with_him(
    tmp_path: Path,
) -> None:
    """A connection whose server does not read is closed only after a while."""
    with Valkey(tmp_path) as valkey:
        client = RedisClient.connect(valkey.url, timeout_s=PATIENCE_S)
        pool = client.raw.connection_pool
        await client.command("PING")
        (idle,) = pool._available_connections
        os.kill(valkey.pid, signal.SIGSTOP)
        assert idle._writer is not None
        idle._writer.write(b"PING\r\n" * 4_000_000)
        other = asyncio.create_task(idle.disconnect())
        leaving = asyncio.create_task(pool.disconnect(inuse_connections=False))
        for _ in range(5):
            await asyncio.sleep(0)
        leaving.cancel()
        os.kill(valkey.pid, signal.SIGCONT)
        await asyncio.wait([leaving, other])
        assert not other.cancelled()
        assert await client.command("PING")
        await client.close()
