"""A role whose event loop is watched: `python -m tests.watched REPORT ROLE …` runs `python -m ROLE …`.

Owns what it measures: the longest time for which the loop's thread had the processor without a turn for
anybody else, the longest for which other threads of the process had it while the loop had no turn (they held
the interpreter's lock), and what the Harmony library was asked to encode. Both are times of the processor,
which no other load of the machine lengthens.
When REPORT.ask appears, REPORT is written and everything begins at zero. The role ends with its parent.
"""

import asyncio
import json
import os
import re
import runpy
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvloop

_BEAT_S = 0.001
_BEATS_BETWEEN_LOOKS = 20
_COUNTED = re.compile(r"(, )?\d+(, \d+)*")
"""What the neighbour's script encodes: the more of it the longer a row takes, so that it is not measured."""


class Watch:
    def __init__(self, report: Path) -> None:
        self._report = report
        self._ask = report.with_suffix(".ask")
        self._parent = os.getppid()
        self._beats = 0
        self._begin()

    def _begin(self) -> None:
        self.encodes = self.chars = self.chars_at_once = 0
        self._held_s = self._kept_out_s = 0.0
        self._note()

    def _note(self) -> None:
        self._now_s, self._all_s, self._had_s = time.monotonic(), time.process_time(), time.thread_time()

    @property
    def longest_s(self) -> float:
        """For how long the loop had no turn at most."""
        return max(self._held_s, self._kept_out_s)

    def beat(self, loop: asyncio.AbstractEventLoop) -> None:
        """Records a beat: what other threads computed since the last one, they did while this one waited."""
        own_s = time.thread_time() - self._had_s
        others_s = time.process_time() - self._all_s - own_s
        without_s = time.monotonic() - self._now_s - own_s  # several threads may have run at once
        self._held_s = max(self._held_s, own_s)
        self._kept_out_s = max(self._kept_out_s, min(others_s, without_s))
        self._beats += 1
        if self._beats % _BEATS_BETWEEN_LOOKS == 0:
            if os.getppid() != self._parent:
                os._exit(1)
            if self._ask.exists():
                self._tell()
        self._note()
        loop.call_later(_BEAT_S, self.beat, loop)

    def _tell(self) -> None:
        told = {
            "held_s": self._held_s,
            "kept_out_s": self._kept_out_s,
            "encodes": self.encodes,
            "chars": self.chars,
            "chars_at_once": self.chars_at_once,
        }
        self._ask.unlink()
        being_written = self._report.with_suffix(".new")
        being_written.write_text(json.dumps(told))
        being_written.rename(self._report)
        self._begin()

    def counting(self, encode: Callable[..., Any]) -> Callable[..., Any]:
        def counted(encoding: Any, first: Any, *args: Any, **options: Any) -> Any:
            # Of a message only the library knows the length.
            length = len(first) if isinstance(first, str) else 0
            if length and _COUNTED.fullmatch(first):
                return encode(encoding, first, *args, **options)
            self.encodes += 1
            self.chars += length
            self.chars_at_once = max(self.chars_at_once, length)
            return encode(encoding, first, *args, **options)

        return counted


def main(report: str, role: str) -> None:
    watch, new_event_loop = Watch(Path(report)), uvloop.new_event_loop

    def watched_loop() -> asyncio.AbstractEventLoop:
        loop = new_event_loop()
        loop.call_soon(watch.beat, loop)
        return loop

    uvloop.new_event_loop = watched_loop  # type: ignore[assignment]
    if role == "worker":
        from openai_harmony import HarmonyEncoding

        for name in ("encode", "render"):
            setattr(HarmonyEncoding, name, watch.counting(getattr(HarmonyEncoding, name)))
    sys.argv = [role, *sys.argv[3:]]
    runpy.run_module(role, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
