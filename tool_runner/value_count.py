"""Counts the values of an answer from its bytes, before it is decoded. Pure.

The SDK checks an answer on the event loop, in 15 to 30 microseconds a value: what is bounded in bytes alone
held everybody else's calls for two minutes, and their claims lapsed.
"""

import re

ANSWER_VALUES_MAX = 20_000
"""More of one HTTP answer are refused: some tenths of a second. The JSON within a text is one value."""
_TOKEN = re.compile(rb'[\[{,]|"|[\x00-\x1f]')
_REST_OF_STRING = re.compile(rb'(?:[^"\\\x00-\x1f]|\\[^\x00-\x1f])*+')


class ValueCount:
    """Counts what opens or parts values outside of texts. No text goes beyond the end of a line."""

    def __init__(self) -> None:
        self._count = 0
        self._is_in_text = self._is_escaped = False

    def add(self, chunk: bytes) -> int:
        """The count with this chunk; it stops soon after the maximum."""
        place = 1 if self._is_escaped else 0
        self._is_escaped = False
        while place < len(chunk) and self._count <= ANSWER_VALUES_MAX:
            if self._is_in_text:
                place = self._pass_text(chunk, place)
                continue
            found = _TOKEN.search(chunk, place)
            if found is None:
                break
            place = found.end()
            if found[0] == b'"':
                self._is_in_text = True
            elif found[0] in b"[{,":
                self._count += 1
        return self._count

    def _pass_text(self, chunk: bytes, place: int) -> int:
        rest = _REST_OF_STRING.match(chunk, place)
        assert rest is not None  # it may be empty
        end = rest.end()
        if chunk[end : end + 1] == b"\\" and end + 1 == len(chunk):
            self._is_escaped = True
        elif end < len(chunk):
            self._is_in_text = False
        return end + 1
