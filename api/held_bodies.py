"""Request bodies that this node holds, counted together as they come.

Owns the count and its bound; who reads a body, and for how long it is held, its callers say. What a
connection has received and its request has not taken yet is not counted: beyond 64 KiB nothing more is read.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from api.offload import INLINE_BYTES_MAX

SMALL_BYTES_MAX = INLINE_BYTES_MAX
"""A body of up to this many bytes is small."""
_SMALL_SHARE = 8
"""This fraction of the bound (one part in N) is reserved for small bodies."""


class BodiesFull(Exception):
    """This node holds as much as it may; a part of the body may still be on its way."""


class Bodies:
    """`bytes_max`: of all bodies together."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._large_bytes_max = bytes_max - bytes_max // _SMALL_SHARE
        self.held_bytes = self._large_bytes = 0

    @contextmanager
    def hold(self) -> Iterator["HeldBody"]:
        """A body that is held within: what it has grown to is given back at the end, whatever that is."""
        held = HeldBody(self)
        try:
            yield held
        finally:
            self._move(held.size_bytes, 0)

    def has_room(self, before: int, after: int) -> bool:
        """Whether a body of `before` bytes may become one of `after`."""
        large_bytes = self._large_bytes + _large(after) - _large(before)
        is_large_within = not _large(after) or large_bytes <= self._large_bytes_max
        return is_large_within and self.held_bytes + after - before <= self._bytes_max

    def _move(self, before: int, after: int) -> None:
        self.held_bytes += after - before
        self._large_bytes += _large(after) - _large(before)

    def grow(self, before: int, after: int) -> None:
        """Raises BodiesFull, and counts nothing then."""
        if not self.has_room(before, after):
            raise BodiesFull
        self._move(before, after)


class HeldBody:
    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self.size_bytes = 0

    def expect(self, stated_bytes: int) -> None:
        """Raises BodiesFull where there is no room now for what the body says it will be. Reserves nothing:
        else who says much and sends nothing would keep others out."""
        if not self._bodies.has_room(self.size_bytes, stated_bytes):
            raise BodiesFull

    def grow_to(self, size_bytes: int) -> None:
        """Raises BodiesFull."""
        self._bodies.grow(self.size_bytes, size_bytes)
        self.size_bytes = size_bytes


def _large(size_bytes: int) -> int:
    return size_bytes if size_bytes > SMALL_BYTES_MAX else 0
