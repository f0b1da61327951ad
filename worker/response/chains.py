"""What the deltas of an item brought, newest first: one more costs the same however many there are. Pure.

Owns nothing of what the pieces mean.
"""

from typing import TypeVar

T = TypeVar("T")
Chain = tuple["Chain[T]", T] | None


def join(pieces: Chain[str]) -> str:
    return "".join(in_order(pieces))


def in_order(pieces: Chain[T]) -> list[T]:
    """Oldest first."""
    found: list[T] = []
    while pieces is not None:
        pieces, piece = pieces
        found.append(piece)
    found.reverse()
    return found
