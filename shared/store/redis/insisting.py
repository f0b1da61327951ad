"""Asking until Redis answers, for as long as an outage is sat out."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from shared.store.redis.connections import REDIS_AWAY

_PAUSE_S = 0.05

T = TypeVar("T")


async def insist(
    ask: Callable[[], Awaitable[T]], outage_max_s: float, is_needless: Callable[[], bool] = lambda: False
) -> T:
    """What `ask` returns, asked again while Redis is away.

    Raises REDIS_AWAY when it has been away for `outage_max_s`, or at once when `is_needless()`; and whatever
    else `ask` raises. What is asked must bear to be asked twice: a lost reply looks like an outage.
    """
    clock = asyncio.get_running_loop().time
    deadline_s = clock() + outage_max_s
    while True:
        try:
            return await ask()
        except REDIS_AWAY:
            if is_needless() or clock() > deadline_s:
                raise
        await asyncio.sleep(_PAUSE_S)
