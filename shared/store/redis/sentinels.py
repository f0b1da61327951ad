"""Asks each Sentinel what it sees, one by one, for operators. Only reads."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redis.exceptions import ResponseError

from shared.store.redis.client import RedisClient
from shared.store.redis.connections import REDIS_AWAY, SENTINEL_TIMEOUT_S, SentinelPool, address_of_pool

_ASKED_MAX_S = 4 * SENTINEL_TIMEOUT_S


@dataclass(frozen=True, slots=True)
class SentinelView:
    """What one Sentinel of the URL sees. All but `address` is empty if it does not answer."""

    address: str
    does_answer: bool = False
    primary: str = ""
    """`host:port`; empty if it does not know the primary's name."""
    is_primary_down: bool = False
    replicas_up: int = 0
    replicas_down: int = 0
    others: int = 0
    """The number of other Sentinels that it knows."""
    quorum: int = 0
    """How many Sentinels must agree that the primary is down."""
    objection: str = ""
    """Why no failover could be authorised now, as it says; empty if one could."""


async def read_sentinels(redis: RedisClient) -> list[SentinelView]:
    """Returns the view of each Sentinel that the URL names; none if it names a server itself."""
    pool: Any = redis.raw.connection_pool
    if not isinstance(pool, SentinelPool):
        return []
    asked = list(pool.sentinel_manager.sentinels)
    views = await asyncio.gather(*(_ask(sentinel, pool.service_name) for sentinel in asked))
    return sorted(views, key=lambda view: view.address)


async def _ask(sentinel: Any, name: str) -> SentinelView:
    address = address_of_pool(sentinel.connection_pool)
    try:
        async with asyncio.timeout(_ASKED_MAX_S):
            try:
                primary = await sentinel.sentinel_master(name)
            except ResponseError:  # it watches no primary of that name
                return SentinelView(address, does_answer=True)
            replicas = await sentinel.sentinel_slaves(name)
            return _view(address, primary, replicas, await _objection(sentinel, name))
    except REDIS_AWAY:
        return SentinelView(address)


async def _objection(sentinel: Any, name: str) -> str:
    try:
        await sentinel.execute_command("SENTINEL", "CKQUORUM", name)
    except ResponseError as objection:
        return str(objection)
    return ""


def _view(
    address: str, primary: dict[str, Any], replicas: Sequence[dict[str, Any]], objection: str
) -> SentinelView:
    down = sum(each["is_sdown"] or each["is_odown"] for each in replicas)
    return SentinelView(
        address,
        True,
        f"{primary['ip']}:{primary['port']}",
        primary["is_sdown"] or primary["is_odown"],
        len(replicas) - down,
        down,
        int(primary["num-other-sentinels"]),
        int(primary["quorum"]),
        objection,
    )
