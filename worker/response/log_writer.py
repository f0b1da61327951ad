"""Writes one attempt's events to the log: numbers them, encodes each once, keeps one append in flight.

Owns the attempt's sequence numbers, and compares events that the log already has. The attempt decides what
the events are and when the log is closed.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sequence

from shared.events import StreamEvent
from shared.frames import decode, frame
from shared.record_format import RECORD_FORMAT
from shared.store.log.appender import Appender
from shared.store.log.response_log import Closing, NewEntry, TailLost, Write
from shared.store.owning.lease import Lease
from worker.response.gathering import Gathering
from worker.response.history import Diverged, History

_WAITING_MAX = 2_000
"""If more entries are waiting than this, the model is ahead of Redis, and `put` waits."""
_RECENT_MAX = 500
"""The number of entries kept after they were appended, because a failover can take the last of them back."""
_UNCOUNTED_MAX = 256
"""The usage is stored at least after so many deltas. Who closes the response without it counts these."""


class LogWriter:
    """Sends entries as soon as no append is in flight; entries put meanwhile, and in the same turn of the
    loop, are sent together. A delta may be held for the next one (`gathering.py`).

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
        count: Callable[[int], bytes] = lambda _: b"",
        gathering: Gathering | None = None,
    ) -> None:
        """`history`: its frames are compared, not written. `count` returns the usage so far, as it is
        stored (`shared/usage.py`), or b""; it is given the number of the log's entries that this covers.

        `gathering` decides how long a delta may wait for the next one; None: it never waits.
        """
        self._appender = appender
        self._is_older = record_format < RECORD_FORMAT
        """Compare events instead of bytes: an earlier version may have written the same event differently."""
        self._log = appender.log_of(lease.key)
        self._token = lease.proof
        self._count = count
        self._logged = history.frames
        self.next = history.first
        """The sequence number of the next event."""
        self.told_bytes = 0
        """The size of all events so far but the deltas, which others repeat."""
        self._waiting: list[NewEntry] = []
        self._usage, self._counted = b"", -_UNCOUNTED_MAX
        """What the next append stores, b"" for nothing, and how many entries the last count covered."""
        self._gathering = gathering or Gathering(0.0)
        self._is_holding = False
        """What is waiting is one delta, held for the next."""
        self._now_s = asyncio.get_running_loop().time
        self._last_delta_s = -math.inf
        """When the last event was queued, if it was a delta."""
        self._recent: deque[NewEntry] = deque(maxlen=_RECENT_MAX)
        """The last entries in the log."""
        self._is_sending = False
        """An append is in flight, or leaves before this turn of the loop is over."""
        self._closing: Closing | None = None
        """What closes the log with this append."""
        self._sent: tuple[int, list[NewEntry]] = 0, []
        """The append that was sent last: the number of its first entry, and the entries."""
        self._answered = asyncio.Event()
        """Set with each append's outcome, if `flush` waits for it."""
        self._is_awaited = False
        self._failure: Exception | None = None

    async def put(
        self, events: Sequence[StreamEvent], tokens: tuple[int, ...] = (), token_record: bytes = b""
    ) -> None:
        """As `queue`, but waits if the model is far ahead of Redis."""
        if self.queue(events, tokens, token_record):
            await self.flush()

    def queue(
        self, events: Sequence[StreamEvent], tokens: tuple[int, ...] = (), token_record: bytes = b""
    ) -> bool:
        """Queues events to be appended; `tokens` made them and are stored with the first.

        Returns True if the model is far ahead of Redis, and should wait for `flush`.
        """
        for event in events:
            self._add(NewEntry(frame(event, self.next), tokens, token_record))
            tokens, token_record = (), b""
        if not self._logged:
            self._note_usage()
        self._last_delta_s = -math.inf
        return self._leave()

    def queue_delta(self, made: bytes, token: int) -> bool:
        """As `queue`, for one delta with the frame `made`, whose number is `next`.

        It may wait for the next one, unless it is the first after other events.
        """
        if self._logged or self._failure is not None:
            self._add(NewEntry(made, (token,)))
            return self._leave()
        waiting, now_s = self._waiting, self._now_s()
        interval_s, self._last_delta_s = now_s - self._last_delta_s, now_s
        waiting.append(NewEntry(made, (token,)))
        self.next += 1
        if self.next - self._counted >= _UNCOUNTED_MAX:
            self._note_usage()
        if self._is_sending:
            return len(waiting) > _WAITING_MAX
        if len(waiting) == 1 and interval_s < self._gathering.window_s:
            self._gathering.hold(self, now_s)
            self._is_holding = True
        else:
            self._send()
        return False

    def let_go(self) -> None:
        """Sends a delta that was held for the next one."""
        self._is_holding = False
        if not self._is_sending:
            self._send()

    def _add(self, entry: NewEntry) -> None:
        """Takes the next entry: compares it with the log, as far as that reaches, or else queues it."""
        self.next += 1
        self.told_bytes += len(entry.frame) + len(entry.token_record)
        if not self._logged:
            self._waiting.append(entry)
            return
        logged = self._logged.popleft()
        self._compare(entry.frame, logged)
        self._recent.append(NewEntry(logged, entry.tokens, entry.token_record))

    def _note_usage(self) -> None:
        """Has the next append store the usage. A delta that follows others holds its tokens itself."""
        self._usage, self._counted = self._count(self.next), self.next

    def _leave(self) -> bool:
        if self._failure is not None:
            raise self._failure
        if not self._is_sending:
            self._send()
        return len(self._waiting) > _WAITING_MAX

    async def flush(self) -> None:
        """Returns when every event put so far is in the log."""
        if not self._is_sending:
            self._send()
        while self._is_sending:
            self._is_awaited = True
            self._answered.clear()
            await self._answered.wait()
        if self._failure is not None:
            raise self._failure

    async def note_answer(self, answered: bytes) -> None:
        """Stores, once all before it is in the log, what closes that if somebody else ends the response."""
        while True:
            await self.flush()
            try:
                return await self._appender.write(self._log.answer(self._token, self.next, answered))
            except TailLost as lost:
                self._waiting = self._take_back(lost, self.next)
                self._note_usage()

    async def close(self, last: bytes, closing: Closing) -> None:
        """Appends the terminal event, whose frame has the number `next`, and closes the log in the same
        script."""
        await self.flush()
        if self._logged:
            raise Diverged(f"the log has {len(self._logged)} entries beyond the end")
        self._waiting.append(NewEntry(last))
        self.next += 1
        self._send(closing)
        await self.flush()

    def _send(self, closing: Closing | None = None) -> None:
        if self._is_holding:
            self._is_holding = False
            self._gathering.release(self)
        if self._failure is None and self._waiting:
            self._is_sending, self._closing = True, closing
            self._appender.send(self._make_write, self._hear)

    def _make_write(self) -> Write:
        """Called when the append leaves, so that it has everything queued in the same turn of the loop."""
        entries, self._waiting = self._waiting, []
        first, closing = self.next - len(entries), self._closing
        self._sent = first, entries
        if closing is not None:
            return self._log.close(self._token, first, entries, closing)
        usage, self._usage = self._usage, b""
        return self._log.append(self._token, first, entries, usage)

    def _hear(self, failure: Exception | None) -> None:
        """Handles the outcome of an append, then sends what has been queued since."""
        first, entries = self._sent
        if isinstance(failure, TailLost) and failure.tail >= first - len(self._recent):
            self._waiting = [*self._take_back(failure, first), *entries, *self._waiting]
            self._note_usage()  # what was stored with them is lost, too
            self._appender.send(self._make_write, self._hear)
            return
        self._is_sending, self._failure = False, failure
        self._recent.extend(entries)
        if self._waiting:
            self._send()
        if self._is_awaited:
            self._is_awaited = False
            self._answered.set()

    def _take_back(self, failure: TailLost, first: int) -> list[NewEntry]:
        """Returns what Redis has lost of the entries before `first`. Raises `failure` if that is not kept."""
        if failure.tail < first - len(self._recent):
            raise failure
        lost = [self._recent.pop() for _ in range(first - failure.tail)]
        return lost[::-1]

    def _compare(self, made: bytes, logged: bytes) -> None:
        """Raises Diverged unless the replay made what is in the log."""
        if made == logged or (self._is_older and decode(logged) == decode(made)):
            return
        raise Diverged(f"the replay made {made!r}, the log has {logged!r}")
