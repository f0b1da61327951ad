"""What is done again and again for all open responses is done for some at a time: sizes, not speed."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from api.hub import Hub
from shared.settings import Settings
from shared.store.keys import ResponseKey
from shared.store.log import event_log
from shared.store.log.response_log import Closing, NewEntry
from shared.store.owning import lease
from shared.store.owning.lease import Lease
from shared.store.records import watchers
from shared.store.records.watchers import Watchers
from shared.store.redis.client import RedisClient
from shared.store.redis.joint_scripts import JointScript
from shared.store.redis.scripts import StoredScript
from tests.appending import append, begin
from tests.patience import PATIENCE_S, until
from tests.requests import accept
from worker import lease_beat
from worker.lease_beat import LeaseBeat

READERS, LEASES = 450, 100
CLOSING = Closing("completed", b"{}", 60)
_REST = re.compile(rb"\.\.\. \((\d+) more arguments\)")


Read = Callable[[], Awaitable[list[int]]]


@asynccontextmanager
async def noting(redis: RedisClient, script: StoredScript) -> AsyncIterator[Read]:
    """Yields what returns, for each run of the script within the block, for how many members it was."""
    kept = await redis.command("CONFIG", "GET", "slowlog-*")
    await redis.command("CONFIG", "SET", "slowlog-log-slower-than", 0, "slowlog-max-len", 10_000)
    await redis.command("SLOWLOG", "RESET")

    async def read() -> list[int]:
        entries = [entry[3] for entry in await redis.command("SLOWLOG", "GET", -1)]
        return [_members(script, words) for words in reversed(entries) if words[1:2] == [script.sha.encode()]]

    try:
        yield read
    finally:
        await redis.command("CONFIG", "SET", *kept)
        await redis.command("SLOWLOG", "RESET")


def _members(script: StoredScript, words: list[bytes]) -> int:
    if isinstance(script, JointScript):
        own = len(script.keys) - len(script.common_keys)
        return (int(words[2]) - len(script.common_keys)) // own
    left_out = _REST.fullmatch(words[-1])
    count = len(words) - 1 + int(left_out[1]) if left_out else len(words)
    return (count - 3 - len(script.args)) // 2


async def until_all(read: Read, count: int) -> list[int]:
    """Returns the sizes of the runs once all members together have had one."""

    async def have_had() -> bool:
        return sum(await read()) >= count

    await until(have_had)
    return await read()


async def test_readers_are_announced_some_at_a_time(redis: RedisClient, settings: Settings) -> None:
    async def nobody_reads(_key: ResponseKey) -> None:
        pass

    node, key = Watchers(redis, nobody_reads), await accept(redis, settings)
    async with AsyncExitStack() as readers:
        for _ in range(READERS):
            await readers.enter_async_context(node.present(key))
        async with noting(redis, watchers._ANNOUNCE) as read:
            announcing = asyncio.create_task(node.run())
            sizes = await until_all(read, READERS)
            announcing.cancel()
            await asyncio.gather(announcing, return_exceptions=True)
    await asyncio.gather(*node._leaving)
    full = watchers._ANNOUNCED_MAX
    assert sorted(sizes[:5], reverse=True) == [full] * 4 + [READERS - 4 * full]


async def test_logs_of_readers_that_hear_nothing_are_looked_at_some_at_a_time(
    redis: RedisClient, settings: Settings
) -> None:
    held = await begin(redis, settings)
    listener = RedisClient.connect_listener(settings.redis_url)
    node = Hub(redis, listener, settings)
    running = asyncio.create_task(node.run())

    async def read_all() -> int:
        return sum([len(some) async for some in node.follow(held.key, -1)])

    reading = [asyncio.create_task(read_all()) for _ in range(READERS)]
    async with noting(redis, event_log._LOOK) as read:
        sizes = await until_all(read, READERS)
    await append(redis, settings, held, 1, [NewEntry(b"event: end\ndata: 0\n\n")], CLOSING)
    async with asyncio.timeout(PATIENCE_S):
        assert len(set(await asyncio.gather(*reading))) == 1
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await listener.close()
    assert len(sizes) >= 5
    assert max(sizes) <= 100


async def test_leases_are_renewed_some_at_a_time(redis: RedisClient, settings: Settings) -> None:
    lost: list[Lease] = []
    beat = LeaseBeat(settings, lambda each, _loss: lost.append(each))
    for _ in range(LEASES):
        beat.add(await begin(redis, settings))
    async with noting(redis, lease._RENEW) as read:
        beat.start()
        sizes = await until_all(read, LEASES)
        await asyncio.to_thread(beat.stop)
    full = lease_beat._SHIFT_SIZE
    assert sorted(sizes[:4], reverse=True) == [full] * 3 + [LEASES - 3 * full]
    assert lost == []
