"""The tool journal: intent before a call, claim while it runs, result after it; and the queueing.

Owns what a worker and a tool runner must agree on about one call. A call is claimed by one runner;
whether one that lost its runner may be made again is the worker's decision, not made here.
"""

from dataclasses import dataclass

import msgspec

from shared.settings import Settings
from shared.store import job_queue, keys
from shared.store.keys import ResponseKey
from shared.store.lease import Lease, LeaseLost, now_ms
from shared.store.redis_client import RedisClient, Script
from shared.tool_calls import ToolIntent, ToolResult, ToolTask

_SUBMIT, _RESULT = Script("tool_submit", is_confirmed=True), Script("tool_result", is_confirmed=True)
_CLAIM = Script("tool_claim")
_SETTLE, _RETRY = Script("tool_settle"), Script("tool_retry")

CLAIM_TTL_S = 1.5
"""A runner renews its claims three times as often; a claim that lapsed has lost its runner."""

_decode_result: msgspec.json.Decoder[ToolResult] = msgspec.json.Decoder(ToolResult)


async def submit(
    redis: RedisClient, settings: Settings, lease: Lease, call_index: int, task: ToolTask
) -> None:
    """Journals the intent and queues the call, both or neither. Raises LeaseLost if fenced."""
    job_id = f"{lease.key}:tool:{call_index}"
    intent = ToolIntent(task, lease.fencing_token)
    reply = await redis.run(
        _SUBMIT,
        _queue_keys(lease, job_id),
        [
            lease.fencing_token,
            call_index,
            msgspec.json.encode(intent),
            settings.live_ttl_s * 1000,
            job_id,
            job_queue.tool_job(lease.key, call_index),
        ],
    )
    if reply[0] == b"fenced":
        raise LeaseLost(f"{lease}: tool call {call_index} refused")


def _queue_keys(lease: Lease, job_id: str) -> list[str]:
    """Of the scripts that put a call into the queue."""
    return [
        keys.state(lease.key),
        keys.tools(lease.key),
        keys.TOOLS_QUEUE,
        keys.doorbell(keys.TOOLS_QUEUE),
        keys.job(job_id),
    ]


@dataclass(frozen=True, slots=True)
class CallState:
    """How far a call is: its result, or whether a runner lives that works on it."""

    result: ToolResult | None
    lost_claim: str | None
    """The claim of a runner that is gone; None while there is a result, a runner or none yet."""


async def look(redis: RedisClient, key: ResponseKey, call_index: int) -> CallState:
    result, claim = await redis.command(
        "HMGET", keys.tools(key), f"{call_index}:result", f"{call_index}:claim"
    )
    if result is not None:
        return CallState(_decode_result.decode(result), None)
    if claim is None:
        return CallState(None, None)
    left_ms = int(claim.split(b" ")[1]) - await now_ms(redis)
    # More than a claim lasts was written by another clock, before a failover.
    if 0 <= left_ms <= 2 * CLAIM_TTL_S * 1000:
        return CallState(None, None)
    return CallState(None, claim.decode())


async def claim(redis: RedisClient, key: ResponseKey, call_index: int, runner: str) -> ToolIntent | None:
    """Takes a call, or keeps one taken before. None: it is not ours to run (any more)."""
    reply = await redis.run(
        _CLAIM,
        [keys.state(key), keys.tools(key)],
        [call_index, runner, int(CLAIM_TTL_S * 1000)],
    )
    if reply[0] != b"claimed":
        return None
    return msgspec.json.decode(reply[1], type=ToolIntent)


async def finish(
    redis: RedisClient,
    key: ResponseKey,
    call_index: int,
    runner: str,
    result: ToolResult,
    session: tuple[str, str] | None,
) -> bool:
    """Journals the result once and tells who owns the response now; False if nobody wants it any more.

    `session` is (server_label, state) to keep for the next call to the same server.
    """
    reply = await redis.run(
        _RESULT,
        [keys.state(key), keys.tools(key)],
        [
            call_index,
            runner,
            msgspec.json.encode(result),
            keys.results(""),
            f"{key} {call_index}",
            f"session:{session[0]}" if session else "",
            session[1] if session else "",
        ],
    )
    return bool(reply == b"ok")


async def settle(redis: RedisClient, lease: Lease, call_index: int, verdict: ToolResult) -> ToolResult:
    """Journals the worker's own verdict on a call that never answered; returns the result that stands.

    A result that came first stays. Raises LeaseLost if fenced.
    """
    reply = await redis.run(
        _SETTLE,
        [keys.state(lease.key), keys.tools(lease.key)],
        [lease.fencing_token, call_index, msgspec.json.encode(verdict)],
    )
    if reply[0] == b"fenced":
        raise LeaseLost(f"{lease}: verdict on tool call {call_index} refused")
    return _decode_result.decode(reply[1])


async def retry(
    redis: RedisClient, settings: Settings, lease: Lease, call_index: int, lost_claim: str
) -> None:
    """Queues a call again whose runner was lost, unless it has moved on. Raises LeaseLost if fenced."""
    job_id = f"{lease.key}:tool:{call_index}:{lost_claim.replace(' ', '-')}"
    reply = await redis.run(
        _RETRY,
        _queue_keys(lease, job_id),
        [
            lease.fencing_token,
            call_index,
            lost_claim,
            settings.live_ttl_s * 1000,
            job_id,
            job_queue.tool_job(lease.key, call_index),
        ],
    )
    if reply == b"fenced":
        raise LeaseLost(f"{lease}: retry of tool call {call_index} refused")


async def read_session(redis: RedisClient, key: ResponseKey, server_label: str) -> str | None:
    """What the server's last result asked to be given back (see `tool_calls.SESSION_META_KEY`)."""
    raw = await redis.command("HGET", keys.tools(key), f"session:{server_label}")
    return raw.decode() if raw is not None else None
