"""Spreads periodic work on many members evenly over time.

Owns when which member is due; the caller does the work. Work on all members at once would keep everything
else on the loop, and in Redis, waiting.
"""

import asyncio
from typing import Generic, TypeVar

T = TypeVar("T")

_STRIDE = 7
"""How far apart, as they are filled, two shifts are that follow each other in time: those filled first are
spread over the round."""


class Rota(Generic[T]):
    """Divides its members into shifts, each of which comes once in a round, at equal intervals.

    A member stays in its shift; a new one is due within a round, and then once in each. A shift is filled up
    to `size` members before another one gets any, so that few members make few shifts; if all are full, the
    members are shared out evenly.
    """

    def __init__(self, round_s: float, shifts: int, size: int) -> None:
        """`shifts`: not a multiple of 7."""
        self._round_s = round_s
        self._size = size
        self._shifts: list[dict[T, None]] = [{} for _ in range(shifts)]
        """In the order in which they are filled."""
        self._shift_of: dict[T, dict[T, None]] = {}
        self._current = 0
        self._due_s: float | None = None
        """When the current shift was due (loop time)."""

    def __len__(self) -> int:
        return len(self._shift_of)

    def add(self, member: T) -> None:
        unfilled = (shift for shift in self._shifts if len(shift) < self._size)
        shift = self._shift_of[member] = next(unfilled, min(self._shifts, key=len))
        shift[member] = None

    def discard(self, member: T) -> None:
        shift = self._shift_of.pop(member, None)
        if shift is not None:
            del shift[member]

    async def wait(self) -> None:
        """Returns when the next shift is due. Late ones follow at once, but no more than a round of them."""
        clock = asyncio.get_running_loop().time
        now_s = clock()
        last_s = now_s if self._due_s is None else self._due_s
        self._due_s = max(last_s + self._round_s / len(self._shifts), now_s - self._round_s)
        await asyncio.sleep(max(0.0, self._due_s - now_s))
        self._current = (self._current + _STRIDE) % len(self._shifts)

    def due(self) -> list[T]:
        """Returns the members of the current shift."""
        return list(self._shifts[self._current])
