"""Work on large bodies and records, done where nobody else waits for it.

Owns the threshold and the one thread; what the work is, its callers say. The thread shares the interpreter
with the event loop, which takes over every few milliseconds: a streaming neighbour goes on.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

INLINE_BYTES_MAX = 64 * 1024
"""What reads so much JSON at most is done at once: it takes a millisecond or two."""

_IN_HAND_MAX = 4
"""Large requests that are taken apart at a time. One of 8 MB may take 100 MB so, until it is accepted."""

T = TypeVar("T")


class Offload:
    """One piece of large work at a time for a node, and a few large requests."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._in_hand = asyncio.Semaphore(_IN_HAND_MAX)

    @asynccontextmanager
    async def in_hand(self, size_bytes: int) -> AsyncIterator[None]:
        """For as long as what was made of a body is held: this bounds the memory that all of them take.

        Waits for its turn where the body is large, and never for anything but Redis beside that.
        """
        if size_bytes <= INLINE_BYTES_MAX:
            yield
            return
        async with self._in_hand:
            yield

    async def run(self, size_bytes: int, work: Callable[[], T]) -> T:
        """What `work` returns or raises. `size_bytes`: of what it reads."""
        if size_bytes <= INLINE_BYTES_MAX:
            return work()
        async with self._turn:
            return await asyncio.to_thread(work)
