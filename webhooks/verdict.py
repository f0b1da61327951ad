"""What the outcome of a delivery means: it is done, is tried again, or is given up. Pure.

Owns the backoff. `post.py` makes deliveries, `sender.py` carries out the verdict.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus

from shared.retry_after import read_retry_after_s
from shared.settings import Settings
from shared.store.webhooks.outbox import DeliveryClaim, OutboxEntry

_WAIT_MAX_S = 6 * 3_600.0
_JITTER = (0.75, 1.25)
_DOUBLINGS_MAX = 30
_BUSY = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)


@dataclass(frozen=True, slots=True)
class Delivered:
    """The receiver has taken it: its status was 2xx."""


@dataclass(frozen=True, slots=True)
class Undelivered:
    reason: str
    is_final: bool = False
    """The receiver has said that it wants no more of this (410)."""
    wait_s: float = 0.0
    """For how long the receiver wants to be left alone (429, 503 with `retry-after`); at most six hours."""


@dataclass(frozen=True, slots=True)
class TryAgain:
    entry: OutboxEntry
    in_s: float


@dataclass(frozen=True, slots=True)
class GivenUp:
    reason: str


def read_answer(status: int, retry_after: str, now: datetime) -> Delivered | Undelivered:
    """Returns what an answer says. A redirect is not followed, so it is no success. `retry_after`: the
    header's value, or ''."""
    if 200 <= status < 300:
        return Delivered()
    asked_s = read_retry_after_s(retry_after, now) if status in _BUSY else None
    return Undelivered(f"HTTP {status}", status == HTTPStatus.GONE, min(asked_s or 0.0, _WAIT_MAX_S))


def judge(
    claim: DeliveryClaim, failure: Undelivered, settings: Settings, uniform: Callable[[float, float], float]
) -> TryAgain | GivenUp:
    """Returns what follows a failure: waits that double, none shorter than the receiver asks for, and a last
    try at `webhook_retry_max_s`."""
    failed = claim.entry.failed()
    left_s = (failed.closed_ms - claim.claimed_ms) / 1000 + settings.webhook_retry_max_s
    if failure.is_final or left_s <= 0:
        times = "once" if failed.failures == 1 else f"{failed.failures} times"
        return GivenUp(f"{failure.reason}; tried {times}")
    wait_s = settings.webhook_retry_first_s * 2 ** min(claim.entry.failures, _DOUBLINGS_MAX)
    wait_s = max(min(wait_s, _WAIT_MAX_S) * uniform(*_JITTER), failure.wait_s)
    return TryAgain(failed, min(wait_s, left_s))
