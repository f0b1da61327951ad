"""Writes the appends of all responses of a process, those of one moment in one pipeline.

Owns gathering and trying again while Redis is away; what an append means is `event_log`'s.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from shared.settings import Settings
from shared.store.log.event_log import APPEND, Closing, NewEntry, append_call, check_appended
from shared.store.owning.lease import Lease
from shared.store.redis.client import RedisClient
from shared.store.redis.connections import REDIS_AWAY
from shared.store.redis.scripts import Argument

_RETRY_S = 0.05


@dataclass(slots=True)
class _Append:
    lease: Lease
    first: int
    count: int
    call: tuple[list[str], list[Argument]]
    done: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def settle(self, reply: object) -> None:
        if self.done.done():
            return
        try:
            check_appended(reply, self.lease, self.first, self.count)
        except Exception as error:  # noqa: BLE001  whatever it is, it is the appending attempt's to handle
            self.done.set_exception(error)
        else:
            self.done.set_result(None)


class Appender:
    """While one write is under way the next ones gather: 256 responses cost one round trip, not 256."""

    def __init__(self, redis: RedisClient, settings: Settings) -> None:
        self._redis = redis
        self._settings = settings
        self._pending: list[_Append] = []
        self._wake = asyncio.Event()

    def append(
        self,
        lease: Lease,
        first: int,
        entries: Sequence[NewEntry],
        closing: Closing | None = None,
        usage: bytes = b"",
    ) -> asyncio.Future[None]:
        """As `event_log.append`; one response has one append under way at a time."""
        call = append_call(self._settings, lease, first, entries, closing, usage)
        append = _Append(lease, first, len(entries), call)
        self._pending.append(append)
        self._wake.set()
        return append.done

    async def run(self) -> None:
        """Serves `append` until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            batch, self._pending = self._pending, []
            replies = await self._write(batch)
            for append, reply in zip(batch, replies, strict=True):
                append.settle(reply)

    async def _write(self, batch: list[_Append]) -> list[object]:
        """Tries for `redis_outage_max_s`: the script recognises an append whose reply was lost."""
        deadline = asyncio.get_running_loop().time() + self._settings.redis_outage_max_s
        while True:
            try:
                replies = await self._redis.run_many(APPEND, [append.call for append in batch])
                if not any(isinstance(reply, REDIS_AWAY) for reply in replies):
                    return replies
                raise next(reply for reply in replies if isinstance(reply, REDIS_AWAY))
            except REDIS_AWAY as away:
                if asyncio.get_running_loop().time() > deadline:
                    return [away] * len(batch)
                await asyncio.sleep(_RETRY_S)
