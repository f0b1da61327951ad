"""Limits the request bodies that this node holds, counting their bytes as they arrive.

Owns the count and its limit; callers read the bodies and decide how long they are held. What a connection has
received but its request has not read yet is not counted, and is at most 64 KiB.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from api.offload import INLINE_BYTES_MAX

SMALL_BYTES_MAX = INLINE_BYTES_MAX
"""A body of up to this many bytes is small."""
_SMALL_SHARE = 8
"""This fraction of the bound (one part in N) is reserved for small bodies."""


class BodiesFull(Exception):
    """This node holds as many bytes as it may; part of the body may not have been read."""


class Bodies:
    """Counts the bodies held. `bytes_max`: the limit on all bodies together."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._large_bytes_max = bytes_max - bytes_max // _SMALL_SHARE
        self.held_bytes = self._large_bytes = 0

    @contextmanager
    def hold(self) -> Iterator["HeldBody"]:
        """Yields a body of size 0; releases its bytes at the end of the context."""
        held = HeldBody(self)
        try:
            yield held
        finally:
            self._move(held.size_bytes, 0)

    def has_room(self, before: int, after: int) -> bool:
        """Returns True if a body of `before` bytes may grow to `after`."""
        large_bytes = self._large_bytes + _large(after) - _large(before)
        is_large_within = not _large(after) or large_bytes <= self._large_bytes_max
        return is_large_within and self.held_bytes + after - before <= self._bytes_max

    def _move(self, before: int, after: int) -> None:
        self.held_bytes += after - before
        self._large_bytes += _large(after) - _large(before)

    def grow(self, before: int, after: int) -> None:
        """Counts a body that grows from `before` to `after` bytes. Raises BodiesFull, counting nothing."""
        if not self.has_room(before, after):
            raise BodiesFull
        self._move(before, after)


class HeldBody:
    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self.size_bytes = 0

    def expect(self, stated_bytes: int) -> None:
        """Raises BodiesFull if there is no room now for a body of the stated size.

        Reserves nothing, since a client could then block others by announcing large bodies and sending
        nothing.
        """
        if not self._bodies.has_room(self.size_bytes, stated_bytes):
            raise BodiesFull

    def grow_to(self, size_bytes: int) -> None:
        """Counts the body's new size. Raises BodiesFull."""
        self._bodies.grow(self.size_bytes, size_bytes)
        self.size_bytes = size_bytes


def _large(size_bytes: int) -> int:
    return size_bytes if size_bytes > SMALL_BYTES_MAX else 0
