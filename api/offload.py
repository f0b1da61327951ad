"""Work on large bodies and records, done where nobody else waits for it.

Owns the threshold and the one thread; what the work is, its callers say. The thread shares the interpreter
with the event loop, which takes over every few milliseconds: a streaming neighbour goes on.
"""

import asyncio
from collections.abc import Callable
from typing import TypeVar

INLINE_BYTES_MAX = 64 * 1024
"""What reads so much JSON at most is done at once: it takes a millisecond or two."""

T = TypeVar("T")


class Offload:
    """One piece of large work at a time for a node: it also bounds the memory that such work takes."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def run(self, size_bytes: int, work: Callable[[], T]) -> T:
        """What `work` returns or raises. `size_bytes`: of what it reads."""
        if size_bytes <= INLINE_BYTES_MAX:
            return work()
        async with self._turn:
            return await asyncio.to_thread(work)
