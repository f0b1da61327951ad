"""Reads a whole Redis at the end of a run: every log, every journal, and everything that should be gone.

Owns the raw reading, which does not use the product's; archives are opened according to their format.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import redis
import redis.asyncio

from shared.store import keys
from shared.store.log import archive
from tests.chaos.history import Log, Store

_OF_RESPONSE = re.compile(r"antiphon:\{([^}]+)/(resp_[^}/]+)\}:(\w+)\Z")
_KEPT = frozenset({"state", "log", "tools", "archive", "readers"})
"""The keys that a closed response may have."""
_HINTS = re.compile(
    r"antiphon:\{queue\}:(closed|pulse|[\w@]+:(doorbell|loads|health-check|home:\S+)|bell:[\w-]+|held:\w+|held_bytes:\w+)\Z"
    r"|antiphon:\{[^}]+\}:(conversation|items|order)\Z"
    r"|antiphon:\{presence\}:[\w:-]+\Z|antiphon:\{[^}]+\}:(idempotency|packing:\w+)\Z"
    r"|antiphon:\{queue\}:(delivering:webhooks-\w+|listed:\S+)\Z"
    r"|antiphon:\{confirmed\}\Z|antiphon:\{session/[0-9a-f]+\}:user\Z"
    r"|antiphon:\{[\w-]+/[0-9a-f]{64}\}:(approval|asked)\Z"
)
_POLL_INTERVAL_S = 0.5
_JOURNALS_EVERY_S = 5.0


async def until_quiet(redis_url: str, within_s: float) -> None:
    """Waits until nothing is open or queued, for at most `within_s`; the checker reports what is left
    then."""
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        try:
            async with asyncio.timeout(within_s):
                while await _find_leftovers(client, await _scan(client)):
                    await asyncio.sleep(_POLL_INTERVAL_S)
        except TimeoutError:
            pass


class Journals:
    """Reads the journals of closed logs before archiving removes them."""

    def __init__(self, redis_url: Callable[[], str]) -> None:
        self._redis_url = redis_url
        self.seen: dict[str, frozenset[str]] = {}

    @asynccontextmanager
    async def watching(self, open_ids: Callable[[], Iterable[tuple[str, str]]]) -> AsyncGenerator[None, None]:
        """Reads them periodically, while Redis answers. `open_ids`: tenant and id of each response."""

        async def look() -> None:
            while True:
                await asyncio.sleep(_JOURNALS_EVERY_S)
                with suppress(redis.RedisError, OSError):
                    await self._look(list(open_ids()))

        task = asyncio.create_task(look())
        try:
            yield
        finally:
            task.cancel()

    async def _look(self, open_ids: Iterable[tuple[str, str]]) -> None:
        async with redis.asyncio.Redis.from_url(self._redis_url(), socket_timeout=2.0) as client:
            for tenant, response_id in open_ids:
                if response_id in self.seen:
                    continue
                key = keys.ResponseKey(tenant, response_id)
                pipeline = (
                    client.pipeline()
                )  # a transaction, so that both are from before the archiving or after it
                pipeline.hmget(keys.state(key), ["closed", "compacted"])
                pipeline.hkeys(keys.tools(key))
                (closed, compacted), fields = await pipeline.execute()
                if closed and compacted is None:
                    self.seen[response_id] = frozenset(name.decode() for name in fields)


async def read_store(redis_url: str, journals: Mapping[str, frozenset[str]]) -> Store:
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        names = await _scan(client)
        logs = {}
        for name in names:
            match = _OF_RESPONSE.match(name)
            if match is not None and match[3] == "state":
                log = await _read_log(client, keys.ResponseKey(match[1], match[2]))
                if log is not None:
                    logs[match[2]] = replace(log, journal=log.journal or journals.get(match[2]))
        without_ttl = [name for name in names if await client.pttl(name) == -1]
        leftovers = await _find_leftovers(client, names)
    return Store(logs, tuple(leftovers), tuple(without_ttl))


async def _scan(client: "redis.asyncio.Redis") -> list[str]:
    return sorted([name.decode() async for name in client.scan_iter(count=1000)])


async def _read_log(client: "redis.asyncio.Redis", key: keys.ResponseKey) -> Log | None:
    """Returns None if it has expired since its name was read, as unstored responses soon do."""
    state = await client.hgetall(keys.state(key))  # type: ignore[misc]
    if not state:
        return None
    is_archived = b"compacted" in state
    if is_archived:
        entries = await _read_archive(client, key)
    else:
        raw = await client.xrange(keys.log(key))
        entries = [(int(entry_id.partition(b"-")[0]) - 1, fields[b"e"]) for entry_id, fields in raw]
    journal = None if is_archived else await client.hkeys(keys.tools(key))  # type: ignore[misc]
    return Log(
        key.response_id,
        tuple(number for number, _ in entries),
        tuple(frame for _, frame in entries),
        # Who writes without a right may leave a state of a few fields.
        state.get(b"closed", b"").decode(),
        int(state.get(b"attempt", 0)),
        int(state.get(b"deaths", 0)),
        is_archived,
        None if journal is None else frozenset(name.decode() for name in journal),
    )


async def _read_archive(client: "redis.asyncio.Redis", key: keys.ResponseKey) -> list[tuple[int, bytes]]:
    return archive.open_all(await client.hgetall(keys.archive(key)))  # type: ignore[misc]


async def _find_leftovers(client: "redis.asyncio.Redis", names: Iterable[str]) -> list[str]:
    """Returns the keys of open responses, waiting jobs and secrets, and all unknown keys."""
    left = []
    for name in names:
        match = _OF_RESPONSE.match(name)
        if match is None:
            if not _HINTS.match(name):
                left.append(f"{name} ({await _show(client, name)})")
        elif match[3] not in _KEPT:
            left.append(f"{name} of a response that has ended")
        elif match[3] == "state":
            closed, lease_until_ms = await client.hmget(name, ["closed", "lease_until_ms"])  # type: ignore[misc]
            if closed is None:
                continue  # an unstored one, which has expired since it was listed
            if not closed:
                left.append(f"{name} is open")
            elif int(lease_until_ms or 0) > 0:
                left.append(f"{name} is closed, and still leased")
    return left


async def _show(client: "redis.asyncio.Redis", name: str) -> str:
    match (await client.type(name)).decode():
        case "zset":
            return f"holds {await client.zrange(name, 0, 2)}"
        case "set":
            return f"holds {await client.srandmember(name, 3)}"  # type: ignore[misc]
        case kind:
            return f"a {kind}"
