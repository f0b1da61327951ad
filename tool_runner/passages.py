"""The base of streams that stand in the way of a connection's messages, and pass them on.

Owns how such a stream is closed and read; what it does to a message is its own business.
"""

import asyncio
from collections import deque
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


class JoinedPassage(IncomingPassage):
    """Passes on what another stream brings, and what is added here, until either ends."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._added: deque[tuple[Any, ...]] = deque()
        """Messages, each alone in a tuple; an empty tuple is the end."""
        self._noticed = asyncio.get_running_loop().create_future()
        self._reading: asyncio.Task[Any] | None = None

    def add(self, item: Any) -> None:
        self._put((item,))

    def end(self) -> None:
        """Ends the stream, behind what has been added."""
        self._put(())

    def _put(self, added: tuple[Any, ...]) -> None:
        self._added.append(added)
        if not self._noticed.done():
            self._noticed.set_result(None)

    async def receive(self) -> Any:
        if self._reading is None:
            self._reading = asyncio.create_task(self._stream.receive())
            self._reading.add_done_callback(_retrieve)
        if not self._added:
            await asyncio.wait((self._reading, self._noticed), return_when=asyncio.FIRST_COMPLETED)
        if not self._added:
            reading, self._reading = self._reading, None
            return reading.result()
        added = self._added.popleft()
        if not self._added:
            self._noticed = asyncio.get_running_loop().create_future()
        if not added:
            raise anyio.EndOfStream
        return added[0]

    async def aclose(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
        await super().aclose()


def _retrieve(task: asyncio.Task[Any]) -> None:
    """Marks the task's error as retrieved: nobody may ask for another message."""
    if not task.cancelled():
        task.exception()
