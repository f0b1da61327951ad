"""The cluster in a few numbers, for metrics: what waits, is open, is present, and is to be delivered.

Only reads, in one round trip whose cost does not depend on how much there is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from shared.store import keys
from shared.store.overview.processes import ROLES
from shared.store.redis.client import RedisClient
from shared.store.redis.scripts import LuaScript

_FIGURES = LuaScript("overview/figures")
_QUEUES_MAX, _FLOWS_MAX, _WEBHOOKS_MAX = 64, 200, 1_000
REST = "other"
"""Stands for the tiers of what is not looked at one by one."""
DEFAULT = "default"
"""The name of the default model's queue, whatever that model is."""


@dataclass(frozen=True, slots=True)
class Waiting:
    jobs: int
    oldest_s: float
    """How long ago the oldest of them was accepted; 0 if it is not known."""


@dataclass(frozen=True, slots=True)
class OutboxFigures:
    """What webhooks have to deliver, and have given up."""

    deliveries: int = 0
    late_s: float = 0.0
    """For how long the first of them has been due; 0 if none is."""
    given_up: int = 0
    """Ever since; from 0 again if nothing was given up for `dead_letter_retention_s`."""


@dataclass(frozen=True, slots=True)
class ClusterFigures:
    waiting: Mapping[str, Mapping[str, Waiting]]
    """Model -> tier -> what waits."""
    open_responses: int
    present: Mapping[str, int]
    """Role -> processes."""
    outbox: OutboxFigures = OutboxFigures()


async def read_figures(redis: RedisClient, pinned: Sequence[str] = ()) -> ClusterFigures:
    """`pinned`: the models for which responses wait even if nobody has served them yet. Raises REDIS_AWAY."""
    opened, present, queues, (deliveries, late_ms, given_up) = await redis.run(
        _FIGURES(
            *ROLES,
            queue=keys.RESPONSES_QUEUE,
            models=keys.MODELS,
            active=keys.ACTIVE,
            outboxes=keys.OUTBOXES,
            given_up=keys.GIVEN_UP,
            queues_max=_QUEUES_MAX,
            flows_max=_FLOWS_MAX,
            webhooks_max=_WEBHOOKS_MAX,
            state_pattern=keys.STATE_PATTERN,
            presence_pattern=keys.presence("%s"),
            pinned=msgspec.json.encode([[name, keys.queue_of(name)] for name in pinned]),
        )
    )
    waiting = dict(_read_queue(*queue) for queue in queues)
    outbox = OutboxFigures(deliveries, late_ms / 1000, given_up)
    return ClusterFigures(waiting, opened, dict(zip(ROLES, present, strict=True)), outbox)


def _read_queue(queue: bytes, rest: int, *tiers: Any) -> tuple[str, Mapping[str, Waiting]]:
    return keys.model_of(queue.decode()) or DEFAULT, _read_tiers(tiers) | {REST: Waiting(rest, 0.0)}


def _read_tiers(tiers: Sequence[Any]) -> dict[str, Waiting]:
    columns = zip(tiers[::3], tiers[1::3], tiers[2::3], strict=True)
    return {tier.decode(): Waiting(jobs, oldest_ms / 1000) for tier, jobs, oldest_ms in columns}
