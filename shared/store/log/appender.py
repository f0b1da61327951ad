"""Sends the writes of all responses of a process, those of one moment together.

Owns the batching, and the retries during an outage of Redis; `response_log.py` defines what a write is.
"""

import asyncio
import logging
from collections.abc import Callable

from shared import logs, metrics
from shared.settings import Settings
from shared.store.keys import ResponseKey
from shared.store.log.response_log import LogLimits, ResponseLog, Write
from shared.store.redis.client import RedisClient
from shared.store.redis.connections import REDIS_AWAY
from shared.store.redis.insisting import insist

_log = logging.getLogger(__name__)

MakeWrite = Callable[[], Write]
"""Makes a write when it leaves, so that it can have what was added until then."""
OnOutcome = Callable[[Exception | None], None]
"""Called with the outcome of a write: `Write.failure`, or REDIS_AWAY after a long outage. Must not raise."""


class Appender:
    """Collects writes while others are in flight: the appends of 256 responses are one run of a script."""

    def __init__(self, redis: RedisClient, settings: Settings) -> None:
        self._pipe = redis.open_pipe()
        self._outage_max_s = settings.redis_outage_max_s
        self._limits = LogLimits.of(settings)
        self._waiting: list[tuple[MakeWrite, OnOutcome]] = []
        self._wake = asyncio.Event()

    def log_of(self, key: ResponseKey) -> ResponseLog:
        """Returns the response's log, for making writes."""
        return ResponseLog(self._limits, key)

    def send(self, make: MakeWrite, on_outcome: OnOutcome) -> None:
        """Queues a write and returns at once; it leaves in the loop's next turn, unless others are in flight.
        A response may have one write in flight at a time."""
        if not self._waiting:
            self._wake.set()
        self._waiting.append((make, on_outcome))

    async def write(self, write: Write) -> None:
        """Returns when the write is in the log; raises its failure otherwise."""
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def on_outcome(failure: Exception | None) -> None:
            if written.done():  # the caller was cancelled
                return
            written.set_exception(failure) if failure is not None else written.set_result(None)

        self.send(lambda: write, on_outcome)
        await written

    async def run(self) -> None:
        """Sends queued writes until cancelled."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                batch = self._take_waiting()
                replies = await self._send_all([write for write, _ in batch])
                metrics.APPEND_BATCHES.value += 1
                metrics.APPENDS.value += len(batch)
                metrics.ENTRIES.value += sum([write.count for write, _ in batch])
                metrics.APPENDED_BYTES.value = self._pipe.sent_bytes
                for (write, on_outcome), reply in zip(batch, replies, strict=True):
                    try:
                        on_outcome(write.failure(reply))
                    except Exception:  # noqa: BLE001  a bug in one response's writer must not end all others
                        with logs.about(*write.key):
                            _log.exception("%s: handling the outcome of a write failed", write.key)
        finally:
            await self._pipe.close()

    def _take_waiting(self) -> list[tuple[Write, OnOutcome]]:
        waiting, self._waiting = self._waiting, []
        batch: list[tuple[Write, OnOutcome]] = []
        for make, on_outcome in waiting:
            try:
                batch.append((make(), on_outcome))
            except Exception as bug:  # noqa: BLE001  in one response's writer, which is notified
                on_outcome(bug)
        return batch

    async def _send_all(self, writes: list[Write]) -> list[object]:
        """Returns the replies. Sends everything again after an outage: scripts recognise a repeated write."""

        async def ask() -> list[object]:
            replies = await self._pipe.run_many([write.call for write in writes])
            away = next((reply for reply in replies if isinstance(reply, REDIS_AWAY)), None)
            if away is not None:
                raise away
            return replies

        try:
            return await insist(ask, self._outage_max_s)
        except REDIS_AWAY as away:
            return [away] * len(writes)
