"""How long a call is waited for: a time that each report of progress gives anew, up to a limit.

Owns the time and the log of reports; `run_tool.py` ends a call whose time is over.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from shared.settings import Settings

_log = logging.getLogger(__name__)

_LOGGED_EVERY_S = 1.0
_SAID_MAX = 200
"""How much is logged of what a server says."""


@dataclass(slots=True)
class Patience:
    """The time of one call, from when it is made. A report that says nothing new does not extend it."""

    timeout_s: float
    most_s: float
    clock: Callable[[], float]
    begun_s: float
    until_s: float
    reached: float | None = None
    logged_s: float | None = None

    @classmethod
    def of(cls, settings: Settings, clock: Callable[[], float] = time.monotonic) -> Self:
        now_s = clock()
        timeout_s = settings.tool_timeout_s
        return cls(timeout_s, settings.tool_run_max_s, clock, now_s, now_s + timeout_s)

    def left_s(self) -> float:
        return self.until_s - self.clock()

    def waited_s(self) -> float:
        """Returns the time that the call had in all."""
        return self.until_s - self.begun_s

    def listen(self, call: str) -> Callable[[float, float | None, str | None], None]:
        """Returns what is to be told of each report. `call`: its name in the log."""

        def report(progress: float, total: float | None, message: str | None) -> None:
            now_s = self.clock()
            if self.reached is None or progress > self.reached:  # MCP: it increases with each report
                self.reached = progress
                self.until_s = max(self.until_s, min(now_s + self.timeout_s, self.begun_s + self.most_s))
            if self.logged_s is None or now_s - self.logged_s >= _LOGGED_EVERY_S:
                self.logged_s = now_s
                of_total = "" if total is None else f" of {total:g}"
                said = f": {message[:_SAID_MAX]!r}" if message else ""
                _log.info("%s: progress %g%s%s", call, progress, of_total, said)

        return report
