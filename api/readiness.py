"""Checks what a node depends on: whether Redis answers, and how many workers and tool runners are present.

Owns the check; `routes/health.py` answers probes.
"""

import asyncio
from dataclasses import dataclass

from shared.store.owning import presence
from shared.store.redis.client import RedisClient
from shared.store.redis.connections import REDIS_AWAY


@dataclass(frozen=True, slots=True)
class Readiness:
    is_redis_reachable: bool
    workers: int
    tool_runners: int

    @property
    def is_ready(self) -> bool:
        return self.is_redis_reachable and self.workers > 0


async def check_readiness(redis: RedisClient, timeout_s: float) -> Readiness:
    """Returns whether Redis answers within `timeout_s`, and how many workers and tool runners are present."""
    try:
        async with asyncio.timeout(timeout_s):
            workers = await presence.count(redis, "worker")
            tool_runners = await presence.count(redis, "tool_runner")
    except REDIS_AWAY:
        return Readiness(False, 0, 0)
    return Readiness(True, workers, tool_runners)
