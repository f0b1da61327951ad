"""Finds open responses without an owner and rings for them; extends the TTL of those still waiting.

Owns the loop and its interval. Every worker and every API node sweeps, and the script that rings tolerates
any number of sweepers. While one of them is alive, nothing that was accepted expires.
"""

import asyncio
import logging
import random

from shared import logs
from shared.settings import Settings
from shared.store.job_queue import ring_again
from shared.store.owning.lease import lapsed
from shared.store.redis.client import RedisClient
from shared.store.redis.connections import REDIS_AWAY

_log = logging.getLogger(__name__)

_AT_ONCE_MAX = 200


async def sweep(redis: RedisClient, settings: Settings, interval_s: float) -> None:
    """Sweeps until cancelled, at intervals that vary so that sweepers do not coincide.

    Sweeps at least six times within the length of a lease, and of a claim: sweeps are also how an outage of
    Redis is noticed (`lapsed.lua`).
    """
    interval_s = min(interval_s, settings.lease_ttl_s / 6, settings.tool_claim_ttl_s / 6)
    while True:
        await asyncio.sleep(interval_s * random.uniform(0.8, 1.2))
        try:
            for key in await lapsed(redis, settings, _AT_ONCE_MAX):
                if await ring_again(redis, settings, key) == "rung":
                    with logs.about(*key):
                        _log.info("%s: no owner, queued again", key)
        except REDIS_AWAY as away:
            _log.warning("sweeper: Redis is unavailable (%s)", away)
            await asyncio.sleep(0.5)
