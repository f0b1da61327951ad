"""An event loop with a virtual clock: when nothing is left to do, it jumps to the next timer.

A minute's wait takes no time, and each thing happens at the second that was said. Only for what waits for
timers: a thread or another process would never be waited for.
"""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


class _Jumping(selectors.DefaultSelector):
    now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(timeout and 0)  # None means for ever: nothing will ever happen
        if timeout and not ready:
            self.now_s += timeout
        return ready


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._clock = _Jumping()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now_s


def run_in_virtual_time(begin: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    """Runs the coroutine with a clock that starts at 0 s; returns its result."""
    with asyncio.Runner(loop_factory=_VirtualLoop) as runner:
        return runner.run(begin())
