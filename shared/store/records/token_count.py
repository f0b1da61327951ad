"""Requests token counts from a worker, through the queue.

Owns the exchange; `worker/counting.py` does the counting. Nothing is kept after the caller stops waiting.
"""

import asyncio
import secrets

from shared.settings import Settings
from shared.store import job_queue, keys
from shared.store.records.response_store import QueueFull, TenantBusy
from shared.store.redis.client import RedisClient
from shared.store.redis.scripts import LuaScript

_COUNT = LuaScript("records/count")

ASKING_MAX = 16
"""The number of counts of one node that wait in Redis at the same time. Each occupies a connection: together
a quarter of the pool, so that other calls need not wait for counts."""
_TURN_S = 0.25
ANSWER_WITHIN_S = 60
"""Long enough for the longest body, which takes a busy worker some seconds."""


class CountUnanswered(Exception):
    """No worker has counted in time."""


async def ask(
    redis: RedisClient, settings: Settings, tenant: str, record: bytes, turns: asyncio.Semaphore
) -> int:
    """Returns the number of tokens in the rendered input of a ResponseRequest, given as JSON.

    `turns`: shared by all callers on this node, with `ASKING_MAX` places. Raises CountUnanswered; QueueFull
    or TenantBusy, having written nothing; REDIS_AWAY.
    """
    name = secrets.token_hex(8)
    job_id = f"count/{name}"
    job = job_queue.count_job(name, record.decode())
    outcome = await redis.run(
        _COUNT(
            queue=keys.RESPONSES_QUEUE,
            doorbell=keys.doorbell(keys.RESPONSES_QUEUE),
            job_key=keys.job(job_id),
            held=keys.held(tenant),
            held_bytes=keys.held_bytes(tenant),
            job_id=job_id,
            job=job,
            ttl_ms=ANSWER_WITHIN_S * 1000,
            queue_depth_max=settings.queue_depth_max,
            bytes_max=settings.tenant_bytes_max,
        )
    )
    match outcome:
        case b"ok":
            pass
        case b"full":
            raise QueueFull("the queue is full")
        case b"heavy":
            raise TenantBusy("its requests have more bytes than may be kept")
        case _:
            raise RuntimeError(f"count answered {outcome!r}")
    try:
        async with asyncio.timeout(ANSWER_WITHIN_S) as limit:
            while True:
                async with turns:
                    wait_s = min(_TURN_S, settings.redis_timeout_s / 2)
                    reply = await redis.command("BLPOP", keys.counts(name), wait_s)
                if reply is not None:
                    return int(reply[1])
    except TimeoutError:
        if limit.expired():
            raise CountUnanswered(f"no worker has answered within {ANSWER_WITHIN_S} s") from None
        raise


async def answer(redis: RedisClient, name: str, tokens: int) -> None:
    """Answers a count; called by the worker. An answer that is not collected expires."""
    await redis.transaction(
        ("RPUSH", keys.counts(name), tokens), ("EXPIRE", keys.counts(name), ANSWER_WITHIN_S)
    )
