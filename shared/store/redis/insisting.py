"""Retries until Redis answers, for as long as an outage may last."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from shared.store.redis.connections import REDIS_AWAY

_PAUSE_S = 0.05

T = TypeVar("T")


async def insist(
    ask: Callable[[], Awaitable[T]], outage_max_s: float, should_stop: Callable[[], bool] = lambda: False
) -> T:
    """Returns what `ask` returns, retrying it while Redis is unavailable.

    Raises REDIS_AWAY after `outage_max_s`, or as soon as `should_stop()`, and whatever else `ask` raises.
    `ask` must be safe to repeat, since a lost reply looks like an outage.
    """
    clock = asyncio.get_running_loop().time
    deadline_s = clock() + outage_max_s
    while True:
        try:
            return await ask()
        except REDIS_AWAY:
            if should_stop() or clock() > deadline_s:
                raise
        await asyncio.sleep(_PAUSE_S)
