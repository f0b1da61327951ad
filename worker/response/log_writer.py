"""Writes one attempt's events to the log: numbers them, encodes each once, keeps one append in flight.

Owns the attempt's sequence numbers, and compares events that the log already has. The attempt decides what
the events are and when the log is closed.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from shared.events import StreamEvent, decode, frame
from shared.record_format import RECORD_FORMAT
from shared.store.log.appender import Appender
from shared.store.log.response_log import Closing, NewEntry, TailLost
from shared.store.owning.lease import Lease
from worker.response.history import Diverged, History

_WAITING_MAX = 2_000
"""If more entries are waiting than this, the model is ahead of Redis, and `put` waits."""
_RECENT_MAX = 500
"""The number of entries kept after they were appended, because a failover can take the last of them back."""


class LogWriter:
    """Sends entries as soon as no append is in flight; entries put meanwhile are sent together.

    Entries that Redis has lost are appended again, the same bytes under the same numbers, as far back as they
    are kept. Every method raises what a failed append raised: LeaseLost, REDIS_AWAY after a long outage,
    TailLost if Redis has lost more of the log than is kept here; `put` and `close` also raise Diverged.
    """

    def __init__(
        self,
        appender: Appender,
        lease: Lease,
        history: History,
        record_format: int = RECORD_FORMAT,
        count: Callable[[], bytes] = bytes,
    ) -> None:
        """`history`: its frames are compared, not written. `count`: returns the usage so far as JSON."""
        self._appender = appender
        self._is_older = record_format < RECORD_FORMAT
        """Compare events instead of bytes: an earlier version may have written the same event differently."""
        self._log = appender.log_of(lease.key)
        self._token = lease.proof
        self._count = count
        self._logged = history.frames
        self._next = history.first
        """The sequence number of the next event."""
        self._waiting: list[NewEntry] = []
        self._recent: deque[NewEntry] = deque(maxlen=_RECENT_MAX)
        """The last entries in the log."""
        self._is_idle = asyncio.Event()
        """Set while no append is in flight."""
        self._is_idle.set()
        self._failure: Exception | None = None

    async def put(
        self, events: Sequence[StreamEvent], tokens: tuple[int, ...] = (), token_record: bytes = b""
    ) -> None:
        """Queues events to be appended; `tokens` made them and are stored with the first.

        Waits only if the model is far ahead of Redis.
        """
        for event in events:
            entry = NewEntry(frame(event, self._next), tokens, token_record)
            if self._logged:
                logged = self._logged.popleft()
                self._compare(event, entry.frame, logged)
                self._recent.append(NewEntry(logged, tokens, token_record))
            else:
                self._waiting.append(entry)
            self._next += 1
            tokens, token_record = (), b""
        if len(self._waiting) > _WAITING_MAX:
            await self.flush()
        elif self._is_idle.is_set():
            self._send()
        self._raise_failure()

    async def flush(self) -> None:
        """Returns when every event put so far is in the log."""
        while not self._is_idle.is_set():
            await self._is_idle.wait()
        self._raise_failure()

    async def close(self, event: StreamEvent, closing: Closing) -> None:
        """Appends the terminal event as the last entry and closes the log in the same script."""
        await self.flush()
        if self._logged:
            raise Diverged(f"the log has {len(self._logged)} entries beyond the end")
        self._waiting.append(NewEntry(frame(event, self._next)))
        self._next += 1
        self._send(closing)
        await self.flush()

    def _send(self, closing: Closing | None = None) -> None:
        if self._failure is not None or not self._waiting:
            return
        entries, self._waiting = self._waiting, []
        self._append(self._next - len(entries), entries, closing)

    def _append(self, first: int, entries: list[NewEntry], closing: Closing | None) -> None:
        if closing is None:
            write = self._log.append(self._token, first, entries, self._count())
        else:
            write = self._log.close(self._token, first, entries, closing)
        self._is_idle.clear()
        self._appender.send(write, lambda failure: self._go_on(failure, first, entries, closing))

    def _go_on(
        self, failure: Exception | None, first: int, entries: list[NewEntry], closing: Closing | None
    ) -> None:
        """Handles the outcome of an append, then sends what has been put since."""
        if isinstance(failure, TailLost) and failure.tail >= first - len(self._recent):
            lost = [self._recent.pop() for _ in range(first - failure.tail)]
            self._append(failure.tail, [*reversed(lost), *entries], closing)
            return
        self._is_idle.set()
        self._failure = failure
        self._recent.extend(entries)
        self._send()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _compare(self, event: StreamEvent, made: bytes, logged: bytes) -> None:
        """Raises Diverged unless the replay made what is in the log."""
        if made == logged or (self._is_older and decode(logged) == event):
            return
        raise Diverged(f"the replay made {made!r}, the log has {logged!r}")
