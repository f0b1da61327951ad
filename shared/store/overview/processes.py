"""Which processes are present, and how many responses each worker has, for operators. Only reads."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from shared.store import keys
from shared.store.overview.open_responses import ResponseView
from shared.store.owning import fleet
from shared.store.owning.draining import DRAINED
from shared.store.owning.fleet import AboutWorker
from shared.store.owning.lease import now_ms
from shared.store.redis.client import RedisClient

ROLES = ("api", "worker", DRAINED, "tool_runner", "webhooks")
"""As which processes announce themselves (`presence.py`)."""
_PROCESSES_MAX = 1_000
"""The number of processes of one role that are listed."""


@dataclass(frozen=True, slots=True)
class ProcessView:
    role: str
    name: str
    is_present: bool
    """False if it has announced itself within a minute, but not in the last seconds, and did not withdraw."""
    responses: int | None
    """Those that a worker has, as it says, or else owns of the open responses that were looked at; None for
    other roles."""
    about: AboutWorker | None = None
    """What a worker announces; None for other roles, and for a worker of an earlier version."""


async def read_processes(redis: RedisClient, open_responses: Sequence[ResponseView]) -> list[ProcessView]:
    """Returns the processes of all roles. `open_responses`: those whose owners are counted."""
    owned = Counter(view.owner for view in open_responses if view.standing == "owned")
    now = await now_ms(redis)
    replies = await redis.transaction(
        *(("ZRANGE", keys.presence(role), 0, _PROCESSES_MAX - 1, "WITHSCORES") for role in ROLES)
    )
    told = await fleet.read_workers(redis)
    views = []
    for role, reply in zip(ROLES, replies, strict=True):
        for name, until in _pairs(reply):
            about = told.get(name) if role == "worker" else None
            counted = owned[name] if role in ("worker", DRAINED) else None
            responses = about.responses if about else counted
            views.append(ProcessView(role, name, until >= now, responses, about))
    return views


def _pairs(reply: Sequence[bytes]) -> list[tuple[str, float]]:
    return sorted((name.decode(), float(until)) for name, until in zip(reply[::2], reply[1::2], strict=True))


async def is_present(redis: RedisClient, role: str, name: str) -> bool:
    """Returns True if a process of that name and role is present."""
    until = await redis.command("ZSCORE", keys.presence(role), name)
    return until is not None and float(until) >= await now_ms(redis)
