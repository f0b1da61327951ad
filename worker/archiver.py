"""Finds closed logs that are due for archiving, and archives them.

Owns the loop and its limits. Every worker runs one; a claim on each log keeps them from doing the same work.
"""

import asyncio
import logging
import random

from shared import logs
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
            _log.warning("archiving: Redis is unavailable (%s)", away)
        await _archive_claimed(redis, due)
        if len(due) < _CLAIMED_AT_ONCE_MAX:
            await asyncio.sleep(random.uniform(0.5, 1.5))


async def _archive_claimed(redis: RedisClient, claimed: list[ResponseKey]) -> None:
    """Archives logs until half their claim time is over; the claims on the rest lapse, and any worker may
    take those logs."""
    clock = asyncio.get_running_loop().time
    ends_at_s = clock() + archiving.CLAIM_S / 2
    for key in claimed:
        if clock() > ends_at_s:
            return
        with logs.about(*key):
            await _archive(redis, key)


async def _archive(redis: RedisClient, key: ResponseKey) -> None:
    try:
        await archiving.archive_log(redis, key)
    except REDIS_AWAY as away:
        _log.warning("%s: not archived, Redis is unavailable (%s)", key, away)
    except Exception:  # noqa: BLE001  the top of one log: its failure must not stop the others
        _log.exception("%s: could not be archived, left as it is", key)
