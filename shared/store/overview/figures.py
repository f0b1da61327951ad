"""The cluster in a few numbers, for metrics: what waits, what is open, who is present.

Only reads, in one round trip whose cost does not depend on how much there is.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from shared.store import keys
from shared.store.overview.processes import ROLES
from shared.store.redis.client import RedisClient
from shared.store.redis.scripts import LuaScript

_FIGURES = LuaScript("overview/figures")
_FLOWS_MAX = 200
REST = "other"
"""Stands for the tiers of what is not looked at one by one."""


@dataclass(frozen=True, slots=True)
class Waiting:
    jobs: int
    oldest_s: float
    """How long ago the oldest of them was accepted; 0 if it is not known."""


@dataclass(frozen=True, slots=True)
class ClusterFigures:
    waiting: Mapping[str, Waiting]
    """By tier."""
    open_responses: int
    present: Mapping[str, int]
    """Role -> processes."""


async def read_figures(redis: RedisClient) -> ClusterFigures:
    """Raises REDIS_AWAY."""
    queue = keys.RESPONSES_QUEUE
    opened, present, rest, waits = await redis.run(
        _FIGURES(
            *ROLES,
            queue=queue,
            turns=keys.turns(queue),
            active=keys.ACTIVE,
            flows_max=_FLOWS_MAX,
            state_pattern=keys.STATE_PATTERN,
            presence_pattern=keys.presence("%s"),
        )
    )
    waiting = {
        tier.decode(): Waiting(jobs, oldest_ms / 1000)
        for tier, jobs, oldest_ms in zip(waits[::3], waits[1::3], waits[2::3], strict=True)
    }
    return ClusterFigures(
        waiting | {REST: Waiting(rest, 0.0)}, opened, dict(zip(ROLES, present, strict=True))
    )
