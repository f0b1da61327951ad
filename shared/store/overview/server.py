"""What the Redis server says about itself, its clock, and keys that would stay for ever. Only reads."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shared.store.owning.lease import now_ms
from shared.store.redis.client import RedisClient

_STEP = 250
"""The number of keys looked at in one step, which limits how long it occupies Redis."""
_SHOWN_MAX = 10


@dataclass(frozen=True, slots=True)
class ServerView:
    version: str
    role: str
    is_append_only: bool
    """Every write goes to the append-only file."""
    last_append_failed: bool
    last_save_failed: bool
    replicas: int
    replica_lags_bytes: list[int]
    used_bytes: int
    memory_bytes_max: int
    """0: no limit."""
    eviction: str
    """The policy; anything but `noeviction` lets Redis forget responses."""
    is_cluster: bool
    does_need_replicas: bool
    """It takes writes only while enough replicas follow (`min-replicas-to-write`)."""
    clock_ahead_ms: int
    """How far the server's clock is ahead of this machine's, within `clock_error_ms`."""
    clock_error_ms: int


async def read_server(redis: RedisClient) -> ServerView:
    """Returns what INFO says, and how the clocks compare."""
    info: dict[str, Any] = await redis.command("INFO")
    before = time.time() * 1000
    server = await now_ms(redis)
    after = time.time() * 1000
    offset = int(info.get("master_repl_offset", 0))
    replicas = [info.get(f"slave{i}") for i in range(int(info.get("connected_slaves", 0)))]
    return ServerView(
        str(info.get("valkey_version") or info.get("redis_version", "unknown")),
        str(info.get("role", "unknown")),
        info.get("aof_enabled") == 1,
        info.get("aof_last_write_status", "ok") != "ok",
        info.get("rdb_last_bgsave_status", "ok") != "ok",
        int(info.get("connected_slaves", 0)),
        [offset - int(each.get("offset", 0)) for each in replicas if isinstance(each, dict)],
        int(info.get("used_memory", 0)),
        int(info.get("maxmemory", 0)),
        str(info.get("maxmemory_policy", "unknown")),
        info.get("cluster_enabled") == 1,
        "min_slaves_good_slaves" in info,  # INFO has it only then
        round(server - (before + after) / 2),
        round((after - before) / 2) + 1,
    )


@dataclass(frozen=True, slots=True)
class KeysView:
    total: int
    looked_at: int
    lasting: int
    """Keys without a TTL among those that were looked at."""
    lasting_names: list[str]
    """Some of them."""


async def find_lasting_keys(redis: RedisClient, count_max: int) -> KeysView:
    """Looks at about `count_max` keys, in small steps, for those that have no TTL."""
    total = int(await redis.command("DBSIZE"))
    cursor, looked_at, lasting = 0, 0, set[str]()
    while looked_at < count_max:
        cursor, names = await redis.command("SCAN", cursor, "COUNT", _STEP)
        cursor = int(cursor)
        looked_at += len(names)
        lasting |= await _without_ttl(redis, names)
        if cursor == 0:
            break
    return KeysView(total, looked_at, len(lasting), sorted(lasting)[:_SHOWN_MAX])


async def _without_ttl(redis: RedisClient, names: Sequence[bytes]) -> set[str]:
    if not names:
        return set()
    ttls = await redis.transaction(*(("PTTL", name) for name in names))
    return {name.decode("utf-8", "replace") for name, ttl in zip(names, ttls, strict=True) if ttl == -1}
