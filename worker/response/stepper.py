"""Runs long work off the event loop, in short steps that take turns with those of other work.

Owns when a step runs; the caller owns what it does. Encoding holds the interpreter's lock, so a thread alone
would not help: the steps must also be short (docs/adr/0015-encode-in-pieces.md).
"""

import asyncio
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

_T = TypeVar("_T")

Steps = Generator[None, None, _T]
"""Yields after each step and returns the result of all of them."""

_SLICE_S = 0.004
"""How long one piece of work runs before the next has its turn; a step once begun is finished."""
SHORT_BYTES_MAX = 16 * 1024
"""Work on no more input than this runs at once: handing it to a thread would take longer."""


class Stepper:
    """Runs all the long work of a process in one thread. Callers waiting in `run` may be cancelled."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "steps")

    async def run(self, steps: Steps[_T], size: int) -> _T:
        """Runs the steps; returns or raises what they do. Once cancelled, it starts no further slice.

        `size`: bytes or characters of the work's input.
        """
        ended = None
        if size <= SHORT_BYTES_MAX:
            ended = _advance(steps, _SLICE_S)
        while ended is None:
            # The thread's queue is the order: each piece of work runs for a slice, then queues up again.
            ended = await self._in_thread(lambda: _advance(steps, _SLICE_S))
        return ended.value

    async def call(self, work: Callable[[], _T], size: int) -> _T:
        """Runs work that is a single step, such as one call of a decoder. `size`: as for `run`."""
        return work() if size <= SHORT_BYTES_MAX else await self._in_thread(work)

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def close(self) -> None:
        """Waits for the running step, and drops the rest."""
        self._thread.shutdown(cancel_futures=True)


@dataclass(frozen=True, slots=True)
class _Ended(Generic[_T]):
    value: _T


def _advance(steps: Steps[_T], slice_s: float) -> _Ended[_T] | None:
    """Runs steps until the slice is over; returns None if there are more."""
    ends_at_s = time.monotonic() + slice_s
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return _Ended(end.value)
        if time.monotonic() >= ends_at_s:
            return None
