"""Tells clients what is left of their limits a minute. Owns the headers and the refusal; pure.

Source of the names and forms: the public OpenAI API.
"""

import math
from itertools import chain

from api.errors import ClientError
from shared.store.records.admission import Allowance, Allowances, RateExceeded

RATE_HEADERS = tuple(
    f"x-ratelimit-{what}-{kind}"
    for kind in ("requests", "tokens")
    for what in ("limit", "remaining", "reset")
)


def rate_headers(allowances: Allowances) -> dict[str, str]:
    """Returns the headers of an answer; none of what has no limit."""
    values = (_describe(each) for each in (allowances.requests, allowances.tokens))
    named = zip(RATE_HEADERS, chain.from_iterable(values), strict=True)
    return {name: value for name, value in named if value}


def _describe(allowance: Allowance | None) -> tuple[str, str, str]:
    if allowance is None:
        return "", "", ""
    return str(allowance.limit), str(allowance.left), duration(allowance.whole_in_ms)


def duration(ms: int) -> str:
    """Returns a duration as the hosted API writes it: `17ms`, `8.64s`, `6m0s`, `1h0m0s`."""
    if ms < 1_000:
        return f"{ms}ms"
    if ms < 60_000:
        return f"{ms / 1_000:g}s"
    minutes, seconds = divmod(math.ceil(ms / 1_000), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{seconds}s" if hours else f"{minutes}m{seconds}s"


def rate_limited(exceeded: RateExceeded) -> ClientError:
    """Refuses a call until the limit has room for it."""
    limits = [
        f"{allowance.limit} {kind} ({allowance.left} left)"
        for kind, allowance in (
            ("requests", exceeded.allowances.requests),
            ("tokens", exceeded.allowances.tokens),
        )
        if allowance is not None
    ]
    message = (
        f"Rate limit reached: at most {' and '.join(limits)} a minute. "
        f"Please try again in {duration(exceeded.wait_ms)}."
    )
    waiting = {
        "retry-after": str(math.ceil(exceeded.wait_ms / 1_000)),
        "retry-after-ms": str(exceeded.wait_ms),
    }
    return ClientError(
        429, message, "rate_limit_exceeded", headers=rate_headers(exceeded.allowances) | waiting
    )
