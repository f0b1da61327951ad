"""How long a worker gathers the tokens of a response, so that two of them leave in one append.

Owns the policy and its one timer; the log writers own what is gathered. Reasons:
docs/adr/0033-a-step-is-a-function-call.md.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from typing import Protocol

STREAMS_FULL = 32
"""From so many generations on, the whole budget may be used; below, a part that grows from nothing."""


class Holder(Protocol):
    def let_go(self) -> None:
        """Sends what is held."""


class Gathering:
    """Decides for all responses of a worker.

    A token may wait for the one token that follows it, if that is due within the window: so a token waits for
    half the time between two, on average. What comes too late to be waited for is never waited for.
    """

    def __init__(self, budget_s: float) -> None:
        """`budget_s`: no token is held longer; 0: none is held."""
        self._budget_s = budget_s
        self._streams = 0
        self.window_s = 0.0
        """How long a token may be held now; nothing while there is only one generation."""
        self._held: dict[Holder, float] = {}
        """Who holds a token -> the time by which it leaves (loop time), the earliest first."""
        self._timer: asyncio.TimerHandle | None = None

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Counts a generation while it runs."""
        self._change(1)
        try:
            yield
        finally:
            self._change(-1)

    def hold(self, holder: Holder, now_s: float) -> None:
        """Has the holder let go at the end of the window, unless it is released before."""
        self._held[holder] = now_s + self.window_s
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self.window_s, self._let_go)

    def release(self, holder: Holder) -> None:
        """The holder has sent what it held."""
        self._held.pop(holder, None)

    def _change(self, streams: int) -> None:
        self._streams += streams
        share = (self._streams - 1) / (STREAMS_FULL - 1)
        self.window_s = self._budget_s * min(1.0, max(0.0, share))

    def _let_go(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        due = list(takewhile(lambda item: item[1] <= now_s, self._held.items()))
        for holder, _ in due:
            del self._held[holder]
            holder.let_go()
        if self._held:
            self._timer = loop.call_at(next(iter(self._held.values())), self._let_go)
