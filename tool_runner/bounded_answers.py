"""Bounds what is read of an HTTP answer: its bytes, and the values of its JSON.

Owns the limits and the errors beyond them; `mcp_transports.py` decides what is read, and `mended_text.py`
what becomes of text that is none.
"""

import time
from collections.abc import AsyncIterator, Callable

import httpx2

from tool_runner.mended_text import MendedText
from tool_runner.value_count import ANSWER_VALUES_MAX, ValueCount

ANSWER_BYTES_MAX = 16 * 2**20
"""The most that is read of one message; a longer one is refused, not cut."""
_BYTES_PER_S = 2**20
_VALUES_PER_S = 1_000
"""What a stream may bring besides, for each second that it has lasted. A call that runs for minutes may
report its progress a hundred times a second, which takes some hundredths of the event loop's time to read."""
_EVENT_ENDS = (b"\n\n", b"\r\n\r\n")
_END_LENGTH = max(map(len, _EVENT_ENDS))


class JudgedBody(httpx2.AsyncByteStream):
    """Chunks made of another body, which is closed with this one."""

    def __init__(self, chunks: AsyncIterator[bytes], body: httpx2.AsyncByteStream) -> None:
        self._chunks, self._body = chunks, body

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._chunks

    async def aclose(self) -> None:
        await self._body.aclose()


class TooLarge(httpx2.SSEError, httpx2.StreamError):
    """Has two bases because the SDK catches one in event streams, the other in JSON bodies."""

    def __init__(self, reason: str) -> None:
        Exception.__init__(self, reason)


class BoundedBody(httpx2.AsyncByteStream):
    """A body whose text is mended, up to the limits. `is_stream`: of events, each of which may be as large as
    an answer; between two of them, the time that has passed counts."""

    def __init__(
        self,
        body: httpx2.AsyncByteStream,
        *,
        is_stream: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._body, self._is_stream, self._clock = body, is_stream, clock
        self._text, self._tail = MendedText(), b""
        self.renew()

    def renew(self) -> None:
        """Begins to count again: the next answer in a stream of many may be as large as the first."""
        self._left, self._values, self._counted_s = ANSWER_BYTES_MAX, ValueCount(), self._clock()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._body:
            self._left -= len(chunk)
            if self._left < 0:
                raise TooLarge(f"the answer is longer than {ANSWER_BYTES_MAX} bytes")
            if self._values.add(chunk) > ANSWER_VALUES_MAX:
                raise TooLarge(f"the answer has more than {ANSWER_VALUES_MAX} values")
            self._tail = (self._tail + chunk[-_END_LENGTH:])[-_END_LENGTH:]
            if self._is_stream and self._tail.endswith(_EVENT_ENDS):
                self._allow_for_time()
            if mended := self._text.add(chunk):
                yield mended
        if rest := self._text.end():
            yield rest

    def _allow_for_time(self) -> None:
        values = int((self._clock() - self._counted_s) * _VALUES_PER_S)
        lasted_s = values / _VALUES_PER_S
        self._counted_s += lasted_s
        self._values.forget(values)
        self._left = min(ANSWER_BYTES_MAX, self._left + int(lasted_s * _BYTES_PER_S))

    async def aclose(self) -> None:
        await self._body.aclose()


def bound(response: httpx2.Response) -> httpx2.Response:
    assert isinstance(response.stream, httpx2.AsyncByteStream)
    is_stream = response.headers.get("content-type", "").lower().startswith("text/event-stream")
    response.stream = BoundedBody(response.stream, is_stream=is_stream)
    response.headers.pop("content-encoding", None)
    return response
