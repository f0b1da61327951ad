"""What the outcome of a delivery means: it is done, is tried again, or is given up. Pure.

Owns the backoff. `post.py` makes deliveries, `sender.py` carries out the verdict.
"""

from collections.abc import Callable
from dataclasses import dataclass

from shared.settings import Settings
from shared.store.webhooks.outbox import DeliveryClaim, OutboxEntry

_WAIT_MAX_S = 6 * 3_600.0
_JITTER = (0.75, 1.25)
_DOUBLINGS_MAX = 30
GONE = 410


@dataclass(frozen=True, slots=True)
class Delivered:
    """The receiver has taken it: its status was 2xx."""


@dataclass(frozen=True, slots=True)
class Undelivered:
    reason: str
    is_final: bool = False
    """The receiver has said that it wants no more of this (410)."""


@dataclass(frozen=True, slots=True)
class TryAgain:
    entry: OutboxEntry
    in_s: float


@dataclass(frozen=True, slots=True)
class GivenUp:
    reason: str


def read_status(status: int) -> Delivered | Undelivered:
    """Returns what an HTTP status says. A redirect is not followed, so it is no success."""
    if 200 <= status < 300:
        return Delivered()
    return Undelivered(f"HTTP {status}", is_final=status == GONE)


def judge(
    claim: DeliveryClaim, failure: Undelivered, settings: Settings, uniform: Callable[[float, float], float]
) -> TryAgain | GivenUp:
    """Returns what follows a failure: waits that double, and one last time at `webhook_retry_max_s`."""
    failed = claim.entry.failed()
    left_s = (failed.closed_ms - claim.claimed_ms) / 1000 + settings.webhook_retry_max_s
    if failure.is_final or left_s <= 0:
        times = "once" if failed.failures == 1 else f"{failed.failures} times"
        return GivenUp(f"{failure.reason}; tried {times}")
    wait_s = settings.webhook_retry_first_s * 2 ** min(claim.entry.failures, _DOUBLINGS_MAX)
    return TryAgain(failed, min(min(wait_s, _WAIT_MAX_S) * uniform(*_JITTER), left_s))
