"""Reads the lines of a stdio server, each up to the limits of an answer over HTTP, in linear time.

Owns what is kept of a line that is too long: which request it answers, so that its call fails and no other. A
piece is worked on as it comes, so that no long line holds up the event loop.
"""

import re
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tool_runner.bounded_answers import ANSWER_BYTES_MAX
from tool_runner.mended_text import MendedText
from tool_runner.value_count import ANSWER_VALUES_MAX, ValueCount

_END_BYTES = 1024
_ID = rb'"id"\s*:\s*(?P<id>[0-9]{1,16}|"[^"\\]{1,64}")\s*'
_VERSION = rb'"jsonrpc"\s*:\s*"2\.0"\s*'
_FIRST = re.compile(rb"\s*\{\s*(?:" + _VERSION + rb",\s*)?" + _ID + rb',(?!\s*"method")')
_LAST = re.compile(rb",\s*(?:" + _VERSION + rb",\s*)?" + _ID + rb"(?:,\s*" + _VERSION + rb")?\}\s*\Z")
"""Where servers write the id of a request, beside its long result."""


@dataclass(frozen=True, slots=True)
class RefusedLine:
    """A line that is not read. `id`: of the request that it answers, as JSON, if that could be found."""

    reason: str
    id: bytes | None


class BoundedLines:
    """Lines of mended text. `receive` returns the next bytes, none of them at the end."""

    def __init__(self, receive: Callable[[], Awaitable[bytes]], bytes_max: int = ANSWER_BYTES_MAX) -> None:
        self._receive, self._bytes_max = receive, bytes_max
        self._text = MendedText()
        self._ready = deque[bytes | RefusedLine]()
        self._begin_line()

    async def next(self) -> bytes | RefusedLine | None:
        """Returns the next line that is not blank, without its end, or None if there are no more."""
        while not self._ready:
            if not (chunk := await self._receive()):
                return None
            *pieces, rest = self._text.add(chunk).split(b"\n")
            for piece in pieces:
                self._take(piece)
                self._end_line()
            self._take(rest)
        return self._ready.popleft()

    def _begin_line(self) -> None:
        self._line, self._values = bytearray(), ValueCount()
        self._begin, self._reason = b"", ""

    def _take(self, piece: bytes) -> None:
        self._line += piece
        if not self._reason:
            self._reason = self._reason_against(piece)
            self._begin = bytes(self._line[:_END_BYTES])
        if self._reason:
            del self._line[:-_END_BYTES]

    def _reason_against(self, piece: bytes) -> str:
        if len(self._line) > self._bytes_max:
            return f"the answer is longer than {self._bytes_max} bytes"
        if self._values.add(piece) > ANSWER_VALUES_MAX:
            return f"the answer has more than {ANSWER_VALUES_MAX} values"
        return ""

    def _end_line(self) -> None:
        if self._reason:
            self._ready.append(RefusedLine(self._reason, find_id(self._begin, bytes(self._line))))
        elif line := self._line.strip():
            self._ready.append(bytes(line))
        self._begin_line()


def find_id(begin: bytes, end: bytes) -> bytes | None:
    """Returns the id of the request that a line answers, as JSON, given both of its ends."""
    found = _FIRST.match(begin[:_END_BYTES]) or _LAST.search(end[-_END_BYTES:])
    return found["id"] if found else None
