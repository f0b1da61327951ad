"""The promises of the client beyond Redis's own: a cancelled task ends, and no command waits for ever."""

import asyncio
import socket

import pytest

from shared.store.redis_client import REDIS_AWAY, RedisClient


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
        ended, _ = await asyncio.wait([asking], timeout=5)
        assert ended, f"it goes on after a cancellation at step {steps % 40}"
        assert asking.cancelled()


async def test_a_redis_that_accepts_but_does_not_answer_is_away_after_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = RedisClient.connect(f"redis://127.0.0.1:{silent.getsockname()[1]}/0", timeout_s=0.2)
        for ask in (client.command("TIME"), client.transaction(("TIME",))):
            with pytest.raises(REDIS_AWAY):
                await asyncio.wait_for(ask, timeout=5)
        await client.close()
