"""Requests token counts from a worker, and the listings that they need from a tool runner, through queues.

Owns the exchange; `worker/counting.py` does the counting, `tool_runner/listing_requests.py` the listing.
Nothing is kept after the caller stops waiting.
"""

import asyncio
import secrets
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import msgspec

from shared.responses import McpTool, ServerSecrets
from shared.service_tiers import COUNT, turn_cost
from shared.settings import Settings
from shared.store import job_queue, keys
from shared.store.records.admission import QueueFull, TenantBusy
from shared.store.records.server_secrets import seal_secrets
from shared.store.redis.client import RedisClient
from shared.store.redis.scripts import LuaScript
from shared.tool_calls import ToolFailure, ToolListing, ToolsListed

_COUNT = LuaScript("records/count")

ASKING_MAX = 16
"""The number of counts of one node that wait in Redis at the same time. Each occupies a connection: together
a quarter of the pool, so that other calls need not wait for counts."""
_TURN_S = 0.25
ANSWER_WITHIN_S = 60
"""Long enough for the longest body, which takes a busy worker some seconds."""


LISTED_WITHIN_S = 5


class CountUnanswered(Exception):
    """No worker has counted in time."""


class ListingUnanswered(CountUnanswered):
    """No tool runner has listed the tools in time."""


class ListingRequest(msgspec.Struct, frozen=True):
    """The servers whose tools a count needs; their secrets are sealed, as in a response's record."""

    servers: list[ToolListing]
    secrets: bytes = b""


async def list_tools(
    redis: RedisClient,
    settings: Settings,
    tenant: str,
    servers: Sequence[ToolListing],
    secrets_of: Mapping[str, ServerSecrets],
    turns: asyncio.Semaphore,
) -> list[ToolsListed | ToolFailure]:
    """Returns the listing of each server. Raises ListingUnanswered, and what `ask` raises."""
    request = ListingRequest(list(servers), seal_secrets(settings, secrets_of))
    encoded = msgspec.json.encode(request).decode()

    def make_job(name: str) -> bytes:
        return job_queue.listing_job(name, tenant, encoded)

    question = (keys.TOOLS_QUEUE, make_job, LISTED_WITHIN_S)
    try:
        answer = await _exchange(redis, settings, tenant, question, turns)
    except CountUnanswered as unanswered:
        raise ListingUnanswered(str(unanswered)) from None
    return msgspec.json.decode(answer, type=list[ToolsListed | ToolFailure])


async def ask(
    redis: RedisClient,
    settings: Settings,
    tenant: str,
    record: bytes,
    turns: asyncio.Semaphore,
    listed: Mapping[str, Sequence[McpTool]] = MappingProxyType({}),
    queue: str = keys.RESPONSES_QUEUE,
) -> int:
    """Returns the number of tokens in the rendered input of a ResponseRequest, given as JSON.

    `turns`: shared by all callers on this node, with `ASKING_MAX` places. `listed`: the tools of servers that
    its context has no listing of. `queue`: that of its model. Raises CountUnanswered; QueueFull
    or TenantBusy, having written nothing; REDIS_AWAY.
    """
    tools = msgspec.json.encode(listed).decode() if listed else None

    def make_job(name: str) -> bytes:
        return job_queue.count_job(name, record.decode(), tools)

    answer = await _exchange(redis, settings, tenant, (queue, make_job, ANSWER_WITHIN_S), turns)
    return int(answer)


_Inquiry = tuple[str, Callable[[str], bytes], int]
"""The queue, what makes the job of a name, and how many seconds the answer may take."""


async def _exchange(
    redis: RedisClient, settings: Settings, tenant: str, question: _Inquiry, turns: asyncio.Semaphore
) -> bytes:
    queue, make_job, within_s = question
    name = secrets.token_hex(8)
    job_id = f"count/{name}"
    job = make_job(name)
    outcome = await redis.run(
        _COUNT(
            queue=queue,
            doorbell=keys.doorbell(queue),
            job_key=keys.job(job_id),
            held=keys.held(tenant),
            held_bytes=keys.held_bytes(tenant),
            job_id=job_id,
            job=job,
            ttl_ms=within_s * 1000,
            queue_depth_max=settings.queue_depth_max,
            bytes_max=settings.tenant_bytes_max,
            flow=keys.flow(tenant, COUNT),
            turn_cost=turn_cost("priority", settings.tenant_weight),
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
        async with asyncio.timeout(within_s) as limit:
            while True:
                async with turns:
                    wait_s = min(_TURN_S, settings.redis_timeout_s / 2)
                    reply = await redis.command("BLPOP", keys.counts(name), wait_s)
                if reply is not None:
                    return bytes(reply[1])
    except TimeoutError:
        if limit.expired():
            raise CountUnanswered(f"{queue}: nobody has answered within {within_s} s") from None
        raise


async def answer(redis: RedisClient, name: str, tokens: int) -> None:
    """Answers a count; called by the worker. An answer that is not collected expires."""
    await _answer(redis, name, tokens, ANSWER_WITHIN_S)


async def answer_listing(redis: RedisClient, name: str, results: Sequence[ToolsListed | ToolFailure]) -> None:
    """Answers `list_tools`; called by the tool runner."""
    await _answer(redis, name, msgspec.json.encode(results), LISTED_WITHIN_S)


async def _answer(redis: RedisClient, name: str, answer: int | bytes, ttl_s: int) -> None:
    await redis.transaction(("RPUSH", keys.counts(name), answer), ("EXPIRE", keys.counts(name), ttl_s))
