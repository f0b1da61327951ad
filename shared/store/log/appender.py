"""Sends the writes of all responses of a process, those of one moment in one pipeline.

Owns gathering, and trying again while Redis is away; what a write means is `response_log`'s.
"""

import asyncio
import logging
from collections.abc import Callable

from shared.settings import Settings
from shared.store.keys import ResponseKey
from shared.store.log.response_log import LogLimits, ResponseLog, Write
from shared.store.redis.client import RedisClient
from shared.store.redis.connections import REDIS_AWAY
from shared.store.redis.insisting import insist

_log = logging.getLogger(__name__)

Hear = Callable[[Exception | None], None]
"""Is told the outcome of a write: `Write.failure`, or REDIS_AWAY after a long outage. Must not raise."""


class Appender:
    """While one pipeline is under way the next writes gather: those of 256 responses cost one round trip."""

    def __init__(self, redis: RedisClient, settings: Settings) -> None:
        self._redis = redis
        self._outage_max_s = settings.redis_outage_max_s
        self._limits = LogLimits.of(settings)
        self._waiting: list[tuple[Write, Hear]] = []
        self._wake = asyncio.Event()

    def log_of(self, key: ResponseKey) -> ResponseLog:
        return ResponseLog(self._limits, key)

    def send(self, write: Write, hear: Hear) -> None:
        """Returns at once. A response has one write under way at a time."""
        self._waiting.append((write, hear))
        self._wake.set()

    async def write(self, write: Write) -> None:
        """Returns when it is in the log. Raises what `send` would tell."""
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def hear(failure: Exception | None) -> None:
            if written.done():  # nobody waits for it any more
                return
            written.set_exception(failure) if failure is not None else written.set_result(None)

        self.send(write, hear)
        await written

    async def run(self) -> None:
        """Serves `send` until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            batch, self._waiting = self._waiting, []
            replies = await self._send_all([write for write, _ in batch])
            for (write, hear), reply in zip(batch, replies, strict=True):
                try:
                    hear(write.failure(reply))
                except Exception:  # noqa: BLE001  a bug in one response's writer must not end all others
                    _log.exception("%s: the outcome of a write was not taken", write.key)

    async def _send_all(self, writes: list[Write]) -> list[object]:
        """The scripts recognise a write whose reply was lost, so that all may be sent again."""

        async def ask() -> list[object]:
            replies = await self._redis.run_many([write.call for write in writes])
            away = next((reply for reply in replies if isinstance(reply, REDIS_AWAY)), None)
            if away is not None:
                raise away
            return replies

        try:
            return await insist(ask, self._outage_max_s)
        except REDIS_AWAY as away:
            return [away] * len(writes)
