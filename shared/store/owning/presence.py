"""Announces which processes of a role are alive.

Used as a hint for readiness and fair shares, and by `renew.lua` to decide whether clients could reach any API
node.
"""

import asyncio

from shared import metrics
from shared.ids import is_owner_at
from shared.store import keys
from shared.store.owning.lease import now_ms
from shared.store.redis.client import RedisClient
from shared.store.redis.connections import REDIS_AWAY


async def maintain(redis: RedisClient, role: str, name: str) -> None:
    """Announces a process until cancelled, then withdraws it."""
    outage = _Outage()
    try:
        while True:
            try:
                await announce(redis, role, name)
            except REDIS_AWAY:
                outage.note(is_away=True)  # readiness reports it
            else:
                outage.note(is_away=False)
            await asyncio.sleep(keys.PRESENCE_TTL_S / 3)
    finally:
        try:
            await redis.command("ZREM", keys.presence(role), name)
        except REDIS_AWAY:
            pass  # the announcement expires


class _Outage:
    """Counts the outages of Redis, as far as announcements notice them."""

    def __init__(self) -> None:
        self._since_s: float | None = None
        """When the outage began, or was counted last (loop time); None: there is none."""

    def note(self, *, is_away: bool) -> None:
        now_s = asyncio.get_running_loop().time()
        metrics.REDIS_UP.set(not is_away)
        if self._since_s is not None:
            metrics.REDIS_AWAY_SECONDS.inc(now_s - self._since_s)
        elif is_away:
            metrics.REDIS_OUTAGES.inc()
        self._since_s = now_s if is_away else None


async def announce(redis: RedisClient, role: str, name: str) -> None:
    """Announces a process once, for `PRESENCE_TTL_S`."""
    key = keys.presence(role)
    until_ms = await now_ms(redis) + int(keys.PRESENCE_TTL_S * 1000)
    await redis.transaction(
        ("ZADD", key, until_ms, name),
        ("ZREMRANGEBYSCORE", key, "-inf", until_ms - 60_000),
        ("PEXPIRE", key, 60_000),
    )


async def is_present_at(redis: RedisClient, role: str, place: str) -> bool:
    """Returns True if a process of a role that runs in that place is present."""
    now = await now_ms(redis)
    names: list[bytes] = await redis.command("ZRANGEBYSCORE", keys.presence(role), now, "+inf")
    return any(is_owner_at(name.decode(), role, place) for name in names)


async def count(redis: RedisClient, role: str) -> int:
    """Returns the number of processes of a role that are present."""
    return int(await redis.command("ZCOUNT", keys.presence(role), await now_ms(redis), "+inf"))
