"""Bounds what is read of an HTTP answer: its bytes, and the values of its JSON.

Owns the limits and the errors beyond them; `mcp_transports.py` decides what is read.
"""

from collections.abc import AsyncIterator

import httpx2

from tool_runner.value_count import ANSWER_VALUES_MAX, ValueCount

ANSWER_BYTES_MAX = 16 * 2**20
"""The most that is read of one HTTP answer; a longer one is refused, not cut."""


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
    def __init__(self, body: httpx2.AsyncByteStream) -> None:
        self._body = body
        self.renew()

    def renew(self) -> None:
        """Begins to count again: the next answer in a stream of many may be as large as the first."""
        self._left, self._values = ANSWER_BYTES_MAX, ValueCount()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._body:
            self._left -= len(chunk)
            if self._left < 0:
                raise TooLarge(f"the answer is longer than {ANSWER_BYTES_MAX} bytes")
            if self._values.add(chunk) > ANSWER_VALUES_MAX:
                raise TooLarge(f"the answer has more than {ANSWER_VALUES_MAX} values")
            yield chunk

    async def aclose(self) -> None:
        await self._body.aclose()


def bound(response: httpx2.Response) -> httpx2.Response:
    assert isinstance(response.stream, httpx2.AsyncByteStream)
    response.stream = BoundedBody(response.stream)
    response.headers.pop("content-encoding", None)
    return response
