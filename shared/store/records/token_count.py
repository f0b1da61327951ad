"""How many tokens a request has: only a worker can tell, so the question goes through the queue.

Owns question and answer; counting is the worker's. Nothing is kept beyond the waiting.
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
"""Of one node's questions, so many wait at the same moment, each with a connection to Redis of its own: a
quarter of them, so that other calls do not wait for counts."""
_TURN_S = 0.25
ANSWER_WITHIN_S = 60
"""The longest body is counted in seconds, beside whatever else its worker does."""


async def ask(
    redis: RedisClient, settings: Settings, tenant: str, record: bytes, turns: asyncio.Semaphore
) -> int:
    """Tokens of the rendered input of a ResponseRequest, given as JSON. `turns`: of all who ask on this node.

    Raises TimeoutError when no worker answers in time; QueueFull, TenantBusy, and nothing was written then.
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
    async with asyncio.timeout(ANSWER_WITHIN_S):
        while True:
            async with turns:
                wait_s = min(_TURN_S, settings.redis_timeout_s / 2)
                reply = await redis.command("BLPOP", keys.counts(name), wait_s)
            if reply is not None:
                return int(reply[1])


async def answer(redis: RedisClient, name: str, tokens: int) -> None:
    """Called by the worker; an answer that nobody waits for expires."""
    await redis.transaction(
        ("RPUSH", keys.counts(name), tokens), ("EXPIRE", keys.counts(name), ANSWER_WITHIN_S)
    )
