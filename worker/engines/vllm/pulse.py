"""Detects an engine that has requests but no longer generates tokens. Pure except for the clock."""

import time


class Pulse:
    """Counts as stopped once there have been requests, but not a single token, for `silence_max_s`."""

    def __init__(self, silence_max_s: float) -> None:
        self.silence_max_s = silence_max_s
        self._waiting: set[str] = set()
        self._last_s = 0.0

    def begin(self, request_id: str) -> None:
        if not self._waiting:
            self._last_s = time.monotonic()
        self._waiting.add(request_id)

    def beat(self) -> None:
        self._last_s = time.monotonic()

    def end(self, request_id: str) -> None:
        self._waiting.discard(request_id)

    @property
    def has_stopped(self) -> bool:
        return bool(self._waiting) and time.monotonic() > self._last_s + self.silence_max_s
