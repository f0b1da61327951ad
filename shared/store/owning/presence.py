"""Which processes of a role are alive.

A hint for readiness and for fair shares; and it tells whether clients could reach any API node (`renew.lua`).
"""

import asyncio

from shared.store import keys
from shared.store.owning.lease import now_ms
from shared.store.redis.client import RedisClient
from shared.store.redis.connections import REDIS_AWAY


async def stay(redis: RedisClient, role: str, name: str) -> None:
    """Announces a process until cancelled, and takes its name away at the end."""
    try:
        while True:
            try:
                await announce(redis, role, name)
            except REDIS_AWAY:
                pass  # readiness tells of it
            await asyncio.sleep(keys.PRESENCE_TTL_S / 3)
    finally:
        try:
            await redis.command("ZREM", keys.presence(role), name)
        except REDIS_AWAY:
            pass  # the announcement expires


async def announce(redis: RedisClient, role: str, name: str) -> None:
    key = keys.presence(role)
    until_ms = await now_ms(redis) + int(keys.PRESENCE_TTL_S * 1000)
    await redis.transaction(
        ("ZADD", key, until_ms, name),
        ("ZREMRANGEBYSCORE", key, "-inf", until_ms - 60_000),
        ("PEXPIRE", key, 60_000),
    )


async def count(redis: RedisClient, role: str) -> int:
    """How many processes of a role announced themselves lately."""
    return int(await redis.command("ZCOUNT", keys.presence(role), await now_ms(redis), "+inf"))
