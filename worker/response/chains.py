"""A linked list of an item's deltas, newest first, so that adding one takes constant time. Pure.

Knows nothing of what the pieces mean.
"""

from typing import TypeVar

T = TypeVar("T")
Chain = tuple["Chain[T]", T] | None


def join(pieces: Chain[str]) -> str:
    return "".join(in_order(pieces))


def in_order(pieces: Chain[T]) -> list[T]:
    """Returns the pieces, oldest first."""
    found: list[T] = []
    while pieces is not None:
        pieces, piece = pieces
        found.append(piece)
    found.reverse()
    return found
