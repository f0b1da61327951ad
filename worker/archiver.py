"""Finds closed logs that are due, and archives them.

Owns nothing: every worker looks, and each takes others than the rest for a while.
"""

import asyncio
import logging
import random

from shared.settings import Settings
from shared.store.keys import ResponseKey
from shared.store.log import archiving
from shared.store.redis.client import RedisClient
from shared.store.redis.connections import REDIS_AWAY

_log = logging.getLogger(__name__)

_CLAIMED_AT_ONCE_MAX = 20


async def archive_due(redis: RedisClient, settings: Settings) -> None:
    """Archives closed logs as they fall due, one after the other, until cancelled."""
    while True:
        due: list[ResponseKey] = []
        try:
            due = await archiving.claim_due(redis, _CLAIMED_AT_ONCE_MAX)
        except REDIS_AWAY as away:
            _log.warning("archiving: Redis is away (%s)", away)
        await _archive_claimed(redis, due)
        if len(due) < _CLAIMED_AT_ONCE_MAX:
            await asyncio.sleep(random.uniform(0.5, 1.5))


async def _archive_claimed(redis: RedisClient, claimed: list[ResponseKey]) -> None:
    """What it does not come to while its claim holds falls due again, for whoever has time."""
    clock = asyncio.get_running_loop().time
    ends_at_s = clock() + archiving.CLAIM_S / 2
    for key in claimed:
        if clock() > ends_at_s:
            return
        try:
            await archiving.archive_log(redis, key)
        except REDIS_AWAY as away:
            _log.warning("%s was not archived, Redis is away (%s)", key, away)
        except Exception:  # noqa: BLE001  the top of one log: whatever is wrong with it stops no other
            _log.exception("%s cannot be archived: it stays as it is", key)
