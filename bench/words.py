"""Tells the time in words: each moment within six seconds has a word, which is one token. Pure.

A model that says the time lets a reader see how old an event is, with an event of the usual form.
"""

from functools import cache

from worker.harmony.tokens import CONTROL_TOKENS, bytes_of

MOMENTS = 32_768
"""The number of words, after which they begin again."""
MOMENTS_PER_MS = 5


@cache
def all_tokens() -> tuple[int, ...]:
    """Returns the token of each moment: ordinary words of ASCII letters, no two the same."""
    plain = (token for token in range(CONTROL_TOKENS.start) if _is_plain(bytes_of(token)))
    return tuple(token for token, _ in zip(plain, range(MOMENTS), strict=False))


@cache
def all_moments() -> dict[bytes, int]:
    """Returns the moment of each word."""
    return {bytes_of(token): moment for moment, token in enumerate(all_tokens())}


def moment_of(time_ms: int) -> int:
    return time_ms * MOMENTS_PER_MS % MOMENTS


def age_of(moment: int, now: int) -> int:
    """Returns how long before the moment `now` another one was, in moments, if less than MOMENTS."""
    return (now - moment) % MOMENTS


def _is_plain(word: bytes) -> bool:
    return word.isascii() and word.isalpha()
