"""Finds open responses without an owner and rings for them; finds closed logs and compacts them.

Owns nothing: every worker sweeps, and the scripts tolerate any number of sweepers.
"""

import asyncio
import logging
import random

from shared.settings import Settings
from shared.store import archive
from shared.store.job_queue import ring_again
from shared.store.lease import lapsed, now_ms
from shared.store.redis_client import REDIS_AWAY, RedisClient

_log = logging.getLogger(__name__)

_AT_ONCE_MAX = 200
_COMPACTED_AT_ONCE_MAX = 20


async def sweep(redis: RedisClient, settings: Settings) -> None:
    """Looks every `sweep_interval_s`, a little out of step with other sweepers, until cancelled."""
    while True:
        await asyncio.sleep(settings.sweep_interval_s * random.uniform(0.8, 1.2))
        try:
            for key in await lapsed(redis, _AT_ONCE_MAX):
                if await ring_again(redis, settings, key) == "rung":
                    _log.info("%s has no owner: rung", key)
        except REDIS_AWAY as away:
            _log.warning("sweeper: Redis is away (%s)", away)
            await asyncio.sleep(0.5)


async def compact_due(redis: RedisClient, settings: Settings) -> None:
    """Compacts closed logs as they fall due, a few at a time, until cancelled."""
    while True:
        try:
            due = await archive.due(redis, await now_ms(redis), _COMPACTED_AT_ONCE_MAX)
            for key in due:
                await archive.compact(redis, key)
        except REDIS_AWAY as away:
            _log.warning("compaction: Redis is away (%s)", away)
            due = []
        if len(due) < _COMPACTED_AT_ONCE_MAX:
            await asyncio.sleep(random.uniform(0.5, 1.5))
