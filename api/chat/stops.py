"""Finds where a text ends that is written piece by piece: before the first stop sequence in it.

Pure. Owns the search. The text is the same however it comes in pieces: it ends before the sequence that is
complete first.
"""

from collections.abc import Sequence


class StopSearch:
    """Passes on a text up to a stop sequence, and holds back what may be the beginning of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""
        self.has_stopped = False

    @property
    def is_holding(self) -> bool:
        return bool(self._held)

    def take(self, piece: str) -> str:
        """Returns what may be shown once `piece` has been added to the text."""
        if self.has_stopped:
            return ""
        text = self._held + piece
        ends = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if ends:
            self.has_stopped, self._held = True, ""
            return text[: min(ends)[1]]
        shown = len(text) - max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[shown:]
        return text[:shown]

    def take_rest(self) -> str:
        """Returns what was held back, at the end of the text."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Returns the length of the longest end of `text` that begins `stop`."""
    start = max(0, len(text) - len(stop) + 1)
    while (start := text.find(stop[0], start)) >= 0:
        if stop.startswith(text[start:]):
            return len(text) - start
        start += 1
    return 0
