"""Whether an engine that has requests still makes tokens. Pure but for the clock."""

import time


class Pulse:
    """Stops when requests have waited for `silence_max_s` without a single token for any of them."""

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
