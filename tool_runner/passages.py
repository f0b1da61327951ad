"""The base of streams that stand in the way of a connection's messages, and pass them on.

Owns how such a stream is closed and read; what it does to a message is its own business.
"""

from types import TracebackType
from typing import Any, Self

import anyio


class Passage:
    """Passes on to or from another stream, which it closes with itself."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class IncomingPassage(Passage):
    """Messages of a server; they can be received one by one, or iterated to their end."""

    async def receive(self) -> Any:
        """Returns the next message. Raises anyio.EndOfStream."""
        return await self._stream.receive()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        try:
            return await self.receive()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None
