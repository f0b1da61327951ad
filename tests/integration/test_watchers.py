"""Readers come, are announced and leave, on a real Valkey."""

import asyncio
from typing import Any

from shared.settings import Settings
from shared.store import keys
from shared.store.keys import ResponseKey
from shared.store.records import watchers
from shared.store.records.watchers import Watchers
from shared.store.redis.client import RedisClient
from tests.patience import PATIENCE_S, until
from tests.requests import accept


class SlowClient(RedisClient):
    """Holds announcements back."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.may_announce, self.is_announced = asyncio.Event(), asyncio.Event()
        self.held = 0

    async def run(self, call: Any) -> Any:
        if call.script is not watchers._ANNOUNCE:
            return await super().run(call)
        self.held += 1
        await self.may_announce.wait()
        reply = await super().run(call)
        self.is_announced.set()
        return reply


async def test_a_reader_that_leaves_while_it_is_announced_stays_gone(
    redis: RedisClient, settings: Settings
) -> None:
    """Announced afterwards, it would count as lost with its node, and keep its response for a minute."""
    key = await accept(redis, settings)
    client = SlowClient.connect(settings.redis_url, timeout_s=PATIENCE_S)
    assert isinstance(client, SlowClient)
    left: list[ResponseKey] = []

    async def note(key: ResponseKey) -> None:
        left.append(key)

    node = Watchers(client, note)

    async def read() -> None:
        async with node.present(key):
            await asyncio.Event().wait()

    reading = asyncio.create_task(read())
    await until(lambda: client.held)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    leaving = [*node._leaving]
    await asyncio.wait(leaving, timeout=0.2)  # time for what must not overtake
    client.may_announce.set()
    await client.is_announced.wait()
    await asyncio.gather(*leaving)
    assert await redis.command("ZCARD", keys.readers(key)) == 0
    assert left == [key]
    await client.close()
