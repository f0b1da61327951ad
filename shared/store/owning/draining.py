"""Asks one worker to hand over what it runs and to take nothing more, and tells the worker that it is asked.

Owns the request and how it is noticed; `worker/app.py` owns what a worker does then.
"""

import asyncio

from shared.store import keys
from shared.store.redis.client import RedisClient
from shared.store.redis.connections import REDIS_AWAY

_ASKED_S = 60
"""How long a request waits for its worker, which asks once a second unless Redis is away."""
_POLL_S = 1.0
DRAINED = "drained"
"""The role as which a worker is present that has handed over everything (`presence.py`)."""


async def ask(redis: RedisClient, worker: str) -> None:
    """Asks a worker to drain."""
    await redis.command("SET", keys.drain(worker), 1, "EX", _ASKED_S)


async def watch(redis: RedisClient, worker: str, drained: asyncio.Event) -> None:
    """Sets the event once the worker has been asked to drain."""
    while not drained.is_set():
        try:
            if await redis.command("EXISTS", keys.drain(worker)):
                drained.set()
        except REDIS_AWAY:
            pass  # whoever asks needs Redis as well
        await asyncio.sleep(_POLL_S)
