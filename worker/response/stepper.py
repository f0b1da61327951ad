"""Long work beside an event loop: in short steps, off the loop, and in turn with everybody else's.

Owns when a step is taken; what the steps do is their maker's. Encoding holds the interpreter's lock, so that
a thread alone would not help: that each step is short does (docs/adr/0015-encode-in-pieces.md).
"""

import asyncio
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

_T = TypeVar("_T")

Steps = Generator[None, None, _T]
"""Yields after each step, returns what comes of all of them."""

_SLICE_S = 0.004
"""What one work has before it is another's turn; a step that was begun is ended."""
SHORT_BYTES_MAX = 16 * 1024
"""What takes so much to read is done at once: handing it to a thread would take longer."""


class Stepper:
    """One thread for all the long work of a process; whoever waits in `run` may be cancelled."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "steps")

    async def run(self, steps: Steps[_T], size: int) -> _T:
        """What the steps return, or raise. Cancelled: no other slice is begun. `size`: bytes or characters
        that the work begins with."""
        ended = None
        if size <= SHORT_BYTES_MAX:
            ended = _advance(steps, _SLICE_S)
        while ended is None:
            # The queue of the one thread is the order: everybody has a slice, then comes the next one's turn.
            ended = await self._in_thread(lambda: _advance(steps, _SLICE_S))
        return ended.value

    async def call(self, work: Callable[[], _T], size: int) -> _T:
        """What is one step, such as a decoder's call. `size` as in `run`."""
        return work() if size <= SHORT_BYTES_MAX else await self._in_thread(work)

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def close(self) -> None:
        """Waits for the step that is under way."""
        self._thread.shutdown(cancel_futures=True)


@dataclass(frozen=True, slots=True)
class _Ended(Generic[_T]):
    value: _T


def _advance(steps: Steps[_T], slice_s: float) -> _Ended[_T] | None:
    """Takes steps until the slice is over; None: there are more."""
    ends_at_s = time.monotonic() + slice_s
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return _Ended(end.value)
        if time.monotonic() >= ends_at_s:
            return None
