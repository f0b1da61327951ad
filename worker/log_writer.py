"""One response's way into its log: numbers events, encodes them once, keeps one append under way.

Owns the sequence number of an attempt; what the events are, and when the log is closed, is the
attempt's business.
"""

import asyncio
from collections.abc import Sequence

from shared.events import StreamEvent, frame
from shared.store.event_log import Appender, Closing, Draft
from shared.store.lease import Lease

_DRAFTS_MAX = 2_000
"""More than these wait: the model is ahead of Redis, and `add` waits too."""


class LogWriter:
    """Events go in as they are made; those made during an append leave together in the next one.

    Every method raises what a failed append raised: LeaseLost, or REDIS_AWAY after a long outage.
    """

    def __init__(self, appender: Appender, lease: Lease, next_sequence_number: int) -> None:
        self._appender = appender
        self._lease = lease
        self._next = next_sequence_number
        """Number of the next event to be encoded."""
        self._drafts: list[Draft] = []
        self._under_way: asyncio.Future[None] | None = None

    def put(self, events: Sequence[StreamEvent], tokens: tuple[int, ...] = ()) -> None:
        """`tokens` made these events; they stand in the log with the first of them."""
        for event in events:
            self._drafts.append(Draft(frame(event, self._next), tokens))
            self._next += 1
            tokens = ()

    async def push(self) -> None:
        """Sends what was put, unless an append is under way: then it goes with the next push."""
        if self._under_way is not None and (self._under_way.done() or len(self._drafts) > _DRAFTS_MAX):
            await self._under_way
            self._under_way = None
        if self._under_way is None and self._drafts:
            self._under_way = self._send(None)

    async def settle(self) -> None:
        """Returns when everything that was put is in the log."""
        while self._under_way is not None or self._drafts:
            if self._under_way is not None:
                await self._under_way
                self._under_way = None
            await self.push()

    async def close(self, event: StreamEvent, closing: Closing) -> None:
        """Appends what waits, and the terminal event last, and closes the log, in one script."""
        if self._under_way is not None:
            await self._under_way
        self.put([event])
        await self._send(closing)

    def _send(self, closing: Closing | None) -> asyncio.Future[None]:
        drafts, self._drafts = self._drafts, []
        return self._appender.append(self._lease, self._next - len(drafts), drafts, closing)
