"""Brings what the whole cluster has into a node's metrics, when Prometheus asks for them.

Every node tells the same, as Redis has it; rules take the greatest of their answers.
"""

from collections.abc import Sequence

from shared import metrics
from shared.service_tiers import COUNT, served_tier
from shared.store.overview import figures
from shared.store.overview.figures import ClusterFigures
from shared.store.redis.client import RedisClient
from shared.store.redis.connections import REDIS_AWAY

_TIERS = ("priority", served_tier(""), "flex", COUNT, figures.REST)
_GAUGES = (metrics.QUEUE_DEPTH, metrics.QUEUE_AGE, metrics.PRESENT)
_PLAIN = (metrics.OPEN_RESPONSES, metrics.OUTBOX_DEPTH, metrics.OUTBOX_AGE)


async def refresh(redis: RedisClient, pinned: Sequence[str] = ()) -> None:
    """Sets the gauges of the cluster; while Redis is unavailable, there are none. A model that is forgotten
    has none any more. `pinned`: as in `read_figures`."""
    try:
        found = await figures.read_figures(redis, pinned)
    except REDIS_AWAY:
        _clear()
        for gauge in _PLAIN:
            gauge.set(float("nan"))
        metrics.DEAD_LETTERS.tell(None)
        return
    show(found)


def _clear() -> None:
    for gauge in _GAUGES:
        gauge.clear()


def show(found: ClusterFigures) -> None:
    """Sets the gauges, and forgets what they had."""
    _clear()
    metrics.OPEN_RESPONSES.set(found.open_responses)
    metrics.OUTBOX_DEPTH.set(found.outbox.deliveries)
    metrics.OUTBOX_AGE.set(found.outbox.late_s)
    metrics.DEAD_LETTERS.tell(found.outbox.given_up)
    for role, count in found.present.items():
        metrics.PRESENT.labels(role).set(count)
    label_of = metrics.Bounded()  # of these: the models of last month must not make today's `other`
    for model, tiers in found.waiting.items():
        label = label_of(model)
        for tier in _TIERS:
            waiting = tiers.get(tier)
            metrics.QUEUE_DEPTH.labels(label, tier).set(0 if waiting is None else waiting.jobs)
            metrics.QUEUE_AGE.labels(label, tier).set(0 if waiting is None else waiting.oldest_s)
