"""Runs work on large bodies and records off the event loop.

Owns the threshold, and that only one piece of work runs at a time; callers own the work. The thread shares
the interpreter with the event loop, which takes over every few milliseconds, so that other streams continue.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

INLINE_BYTES_MAX = 64 * 1024
"""Work on no more JSON than this runs at once: it takes a millisecond or two."""

_IN_HAND_MAX = 4
"""The number of large requests processed at a time. One of 8 MB may take 100 MB of memory until it is
accepted."""

T = TypeVar("T")


class Offload:
    """Allows one piece of large work at a time in a node, and a few large requests."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._in_hand = asyncio.Semaphore(_IN_HAND_MAX)

    @asynccontextmanager
    async def in_hand(self, size_bytes: int) -> AsyncIterator[None]:
        """Surrounds the processing of a body, to limit the memory that large ones take together.

        Waits for a place if the body is large. Within, nothing but large work and Redis may be waited for.
        """
        if size_bytes <= INLINE_BYTES_MAX:
            yield
            return
        async with self._in_hand:
            yield

    async def run(self, size_bytes: int, work: Callable[[], T]) -> T:
        """Runs work; returns or raises what it does. `size_bytes`: the size of what it reads."""
        if size_bytes <= INLINE_BYTES_MAX:
            return work()
        async with self._turn:
            return await asyncio.to_thread(work)
