"""Announces the readers of foreground responses, and reports when they leave.

Owns the readers of this node. What happens to a response without readers is decided where its lease is
renewed (`shared/store/owning/renew.lua`), so that it also holds if this node dies.
"""

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

from shared.rota import Rota
from shared.store import keys
from shared.store.keys import ResponseKey
from shared.store.redis.client import RedisClient, ScriptPipe
from shared.store.redis.connections import REDIS_AWAY
from shared.store.redis.scripts import LuaScript, ScriptCall
from shared.store.redis.together import Together

_LEAVE = LuaScript("records/leave", allows_full=True)
_ANNOUNCE = LuaScript("records/announce", allows_full=True)
_log = logging.getLogger(__name__)

READER_TTL_S = keys.PRESENCE_TTL_S
"""A reader that has not been announced for this long is gone, as if its node had died."""
_ROUND_S, _SHIFTS = READER_TTL_S / 3, 10
"""How often each reader is announced, and in how many parts, so that many readers do not hold the loop."""
_ANNOUNCED_MAX = 100
"""The number of readers announced by one script, which limits how long it occupies Redis."""
_RETRY_S = 1.0


def name_reader() -> str:
    """Returns a new reader's name."""
    return secrets.token_hex(8)


class Watchers:
    def __init__(self, redis: RedisClient, on_last_left: Callable[[ResponseKey], Awaitable[None]]) -> None:
        """`on_last_left` is called when a response's last reader on any node has left."""
        self._redis = redis
        self._on_last_left = on_last_left
        self._present: dict[str, str] = {}
        """Reader -> the name of its response, as `announce.lua` takes it."""
        self._rota: Rota[str] = Rota(_ROUND_S, _SHIFTS, _ANNOUNCED_MAX)
        """The same readers, by when they are announced again."""
        self._arriving: Together[str, None] = Together(self._announce_arrivals, _ANNOUNCED_MAX)
        self._announcing: set[asyncio.Future[None]] = set()
        """Announcements on their way, which Redis may run after what is sent on another connection."""
        self._leaving: set[asyncio.Task[None]] = set()
        self._is_ending = False

    def end(self) -> None:
        """Stops reporting that readers leave, because this node is shutting down: the readers that it cuts
        come back elsewhere. Their announcements lapse, as if the node had been killed."""
        self._is_ending = True

    async def run(self) -> None:
        """Announces the readers of this node again and again, until cancelled."""
        pipe = self._redis.open_pipe()
        try:
            while True:
                await self._rota.wait()
                try:
                    await self._announce_due(pipe)
                except REDIS_AWAY as away:
                    _log.warning("readers not announced, Redis is unavailable (%s)", away)
                    await asyncio.sleep(_RETRY_S)
        finally:
            await pipe.close()

    async def _announce_due(self, pipe: ScriptPipe) -> None:
        names = self._rota.due()
        for first in range(0, len(names), _ANNOUNCED_MAX):
            await self._announce(pipe, names[first : first + _ANNOUNCED_MAX])

    async def _announce(self, pipe: ScriptPipe, names: list[str]) -> None:
        """Announces these readers, except those that have left meanwhile."""
        with self._under_way():
            await pipe.run(self._announcement(names))

    async def _announce_arrivals(self, names: Sequence[str]) -> list[None]:
        with self._under_way():
            await self._redis.run(self._announcement(names))
        return [None] * len(names)

    @contextmanager
    def _under_way(self) -> Iterator[None]:
        announcing = asyncio.get_running_loop().create_future()
        self._announcing.add(announcing)
        try:
            yield
        finally:
            self._announcing.discard(announcing)
            announcing.set_result(None)

    def _announcement(self, names: Sequence[str]) -> ScriptCall:
        announced: list[str] = []
        for reader in names:
            response = self._present.get(reader)
            if response is not None:
                announced += (response, reader)
        return _ANNOUNCE(
            *announced,
            readers_pattern=keys.READERS_PATTERN,
            state_pattern=keys.STATE_PATTERN,
            ttl_ms=int(READER_TTL_S * 1000),
        )

    @asynccontextmanager
    async def present(self, key: ResponseKey, announced: str = "") -> AsyncGenerator[None, None]:
        """Announces a reader of `key` for the duration of the context.

        `announced`: the name of one that was announced when the response was created.
        """
        reader = announced or name_reader()
        self._present[reader] = str(key)
        self._rota.add(reader)
        try:
            if not announced:
                await self._arriving.ask(reader)
            yield
        finally:
            del self._present[reader]
            self._rota.discard(reader)
            if not self._is_ending:
                # In a task of its own: a reader that leaves may be cancelled, and could not wait for Redis.
                leaving = asyncio.create_task(self._leave(key, reader))
                self._leaving.add(leaving)
                leaving.add_done_callback(self._leaving.discard)

    async def _leave(self, key: ResponseKey, reader: str) -> None:
        if self._announcing:  # else one of them might announce it again afterwards
            await asyncio.wait([*self._announcing])
        try:
            left = _LEAVE(readers=keys.readers(key), state=keys.state(key), reader=reader)
            if await self._redis.run(left) == 0:
                await self._on_last_left(key)
        except REDIS_AWAY:
            pass  # the announcement lapses
