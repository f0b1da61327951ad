"""Counts the values of an answer from its bytes, before it is decoded. Pure.

Needed because the SDK validates an answer on the event loop, at 15 to 30 microseconds per value: an answer
limited in bytes alone can block all other calls for two minutes, and their claims lapse.
"""

import re

ANSWER_VALUES_MAX = 20_000
"""The limit for one message, which takes some tenths of a second. JSON within a text is one value."""
_TOKEN = re.compile(rb'[\[{,]|"|[\x00-\x1f]')
_REST_OF_STRING = re.compile(rb'(?:[^"\\\x00-\x1f]|\\[^\x00-\x1f])*+')


class ValueCount:
    """Counts commas and opening brackets outside strings. A string ends with its line at the latest."""

    def __init__(self) -> None:
        self._count = 0
        self._is_in_text = self._is_escaped = False

    def add(self, chunk: bytes) -> int:
        """Returns the count including this chunk; stops counting soon after the limit."""
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

    def forget(self, number: int) -> None:
        """Counts that many fewer."""
        self._count = max(0, self._count - number)

    def _pass_text(self, chunk: bytes, place: int) -> int:
        rest = _REST_OF_STRING.match(chunk, place)
        assert rest is not None  # it may be empty
        end = rest.end()
        if chunk[end : end + 1] == b"\\" and end + 1 == len(chunk):
            self._is_escaped = True
        elif end < len(chunk):
            self._is_in_text = False
        return end + 1
