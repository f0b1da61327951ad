"""Chooses the order in which cells are asked to create what names none of them. Pure.

By weight, at random, or always in the same order for the same key. Source: weighted rendezvous hashing, and
Efraimidis and Spirakis, "Weighted random sampling with a reservoir", whose keys are the same.
"""

import hashlib
import math
from collections.abc import Callable, Mapping


def in_turn(weights: Mapping[str, float], chance: Callable[[], float]) -> list[str]:
    """Returns the cells in a random order; each is first as often as its weight says. `chance`: of [0, 1)."""
    return _ordered(weights, lambda _: chance())


def by_key(weights: Mapping[str, float], key: str) -> str | None:
    """Returns the cell of a key, the same in every process; None if no cell has a weight.

    If a cell is added, only keys that move to it change their cell.
    """
    return next(iter(_ordered(weights, lambda cell: _fraction(f"{cell} {key}"))), None)


def _ordered(weights: Mapping[str, float], chance_of: Callable[[str], float]) -> list[str]:
    taking = {cell: weight for cell, weight in weights.items() if weight > 0}
    waits = {cell: -math.log(1.0 - chance_of(cell)) / weight for cell, weight in taking.items()}
    return sorted(taking, key=lambda cell: (waits[cell], cell))


def _fraction(text: str) -> float:
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:6]) / 2**48
