"""Completes the usage of an open response, which its owner stores for whoever closes it in its place. Pure.

Owns what is stored; `worker/response/usage.py` does the counting.
"""

import sys

import msgspec
from msgspec.structs import replace

from shared.responses import Usage


class UsageSoFar(Usage, frozen=True):
    """The usage up to some entry of the log.

    It is not stored with each token: the entries after that one do nothing but continue one text, and hold
    their tokens themselves.
    """

    entries: int | None = None
    """The number of entries that are counted (`acquire.lua` reads it, too). None: all, as earlier versions
    stored it with every append."""
    is_reasoning: bool = False
    """That text is reasoning."""


def counted_entries(stored: bytes) -> int:
    """Returns the number of entries that stored usage covers, `sys.maxsize` for all."""
    entries = msgspec.json.decode(stored, type=UsageSoFar).entries if stored else None
    return sys.maxsize if entries is None else entries


def complete_usage(stored: bytes, uncounted_tokens: int) -> Usage | None:
    """Returns stored usage with the tokens in the entries that it does not cover; None if there is none."""
    if not stored:
        return None
    so_far = msgspec.json.decode(stored, type=UsageSoFar)
    details, more = so_far.output_tokens_details, uncounted_tokens
    turns = details.output_tokens_per_turn
    return Usage(
        so_far.input_tokens,
        so_far.input_tokens_details,
        so_far.output_tokens + more,
        replace(
            details,
            reasoning_tokens=details.reasoning_tokens + (more if so_far.is_reasoning else 0),
            output_tokens_per_turn=(*turns[:-1], turns[-1] + more) if isinstance(turns, tuple) else turns,
        ),
        so_far.total_tokens + more,
    )
