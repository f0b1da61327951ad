"""Finds open responses without an owner and rings for them; keeps those alive that wait.

Owns nothing: every worker and every API node sweeps, and the script that rings tolerates any number of
sweepers. While one of them lives, nothing that was accepted expires.
"""

import asyncio
import logging
import random

from shared.settings import Settings
from shared.store.job_queue import ring_again
from shared.store.lease import lapsed
from shared.store.redis_client import REDIS_AWAY, RedisClient

_log = logging.getLogger(__name__)

_AT_ONCE_MAX = 200


async def sweep(redis: RedisClient, settings: Settings, interval_s: float) -> None:
    """Looks again and again, a little out of step with other sweepers, until cancelled.

    At least six times in a lease, and in a claim: it is also Redis's pulse (`lapsed.lua`).
    """
    interval_s = min(interval_s, settings.lease_ttl_s / 6, settings.tool_claim_ttl_s / 6)
    while True:
        await asyncio.sleep(interval_s * random.uniform(0.8, 1.2))
        try:
            for key in await lapsed(redis, settings, _AT_ONCE_MAX):
                if await ring_again(redis, settings, key) == "rung":
                    _log.info("%s has no owner: rung", key)
        except REDIS_AWAY as away:
            _log.warning("sweeper: Redis is away (%s)", away)
            await asyncio.sleep(0.5)
