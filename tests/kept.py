"""Lists what Redis holds of requests: all keys except those that announce processes."""

from shared.store import keys
from shared.store.redis.client import RedisClient


async def kept_keys(redis: RedisClient) -> set[str]:
    names = {name.decode() for name in await redis.command("KEYS", "*")}
    return {name for name in names if name != keys.PULSE and not name.startswith("antiphon:{presence}:")}


async def count_kept(redis: RedisClient) -> int:
    return len(await kept_keys(redis))
