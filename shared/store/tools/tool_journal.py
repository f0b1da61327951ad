"""The tool journal: a call's intent before it, a claim while it runs, its result after it; and its queueing.

Owns what a worker and a tool runner must agree on about one call. A call is claimed by one runner. The worker
decides when a runner counts as lost, and whether its call may be made again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from shared.service_tiers import TURN_COST
from shared.settings import Settings
from shared.store import job_queue, keys
from shared.store.keys import ResponseKey
from shared.store.owning.lease import Lease, LeaseLost
from shared.store.redis.client import RedisClient
from shared.store.redis.scripts import LuaScript
from shared.store.tools.tool_sessions import state_field
from shared.tool_calls import ToolIntent, ToolResult, ToolTask
from shared.tracer import NO_CONTEXT, TraceContext

_SUBMIT, _RESULT = (
    LuaScript("tools/submit", is_confirmed=True),
    LuaScript("tools/result", is_confirmed=True),
)
_CLAIM, _RESOLVE = (
    LuaScript("tools/claim", is_confirmed=True),
    LuaScript("tools/resolve", is_confirmed=True),
)
# Confirmed: a replaced primary still answers for some seconds, and a claim renewed there is not kept.
_RENEW = LuaScript("tools/renew", is_confirmed=True, allows_full=True)
_HAND_OVER = LuaScript("tools/hand_over", is_confirmed=True)
# Confirmed: a claim given back to such a primary would have to lapse on the new one.
_RELEASE = LuaScript("tools/release", is_confirmed=True, allows_full=True)
_READ, _RETRY = LuaScript("tools/read"), LuaScript("tools/retry")

_decode_result: msgspec.json.Decoder[ToolResult] = msgspec.json.Decoder(ToolResult)


async def submit(
    redis: RedisClient,
    settings: Settings,
    lease: Lease,
    call_index: int,
    task: ToolTask,
    trace: TraceContext = NO_CONTEXT,
) -> None:
    """Journals the intent and queues the call, in one step, unless that was done before. Raises LeaseLost."""
    job_id = f"{lease.key}:tool:{call_index}"
    intent = ToolIntent(task, lease.fencing_token, trace.parent, trace.state)
    reply = await redis.run(
        _SUBMIT(
            state=keys.state(lease.key),
            tools=keys.tools(lease.key),
            queue=keys.TOOLS_QUEUE,
            doorbell=keys.doorbell(keys.TOOLS_QUEUE),
            job_key=keys.job(job_id),
            proof=lease.proof,
            index=call_index,
            intent=msgspec.json.encode(intent),
            ttl_ms=settings.live_ttl_s * 1000,
            job_id=job_id,
            job=job_queue.tool_job(lease.key, call_index),
            flow=keys.flow(lease.key.tenant, "default"),
            turn_cost=TURN_COST,
        )
    )
    match reply:
        case [b"queued"] | [b"known", _]:
            return
        case [b"fenced"]:
            raise LeaseLost(f"{lease}: tool call {call_index} refused")
        case _:
            raise RuntimeError(f"submit answered {reply!r}")


Standing = Literal["unknown", "queued", "unqueued", "running", "lapsed", "returned", "unbegun", "answered"]
"""Where a call stands: the journal has no intent for it; it waits for a runner; its job was lost; a runner
has it; its runner has not renewed the claim in time; its runner gave it back after it began, or before; it
has a result."""


@dataclass(frozen=True, slots=True)
class CallState:
    """The state of a call at one moment, by Redis's clock.

    `lapsed` alone does not mean that the runner is lost: no claim can be renewed during an outage or a
    failover of Redis.
    """

    standing: Standing
    result: ToolResult | None = None
    claim: str = ""
    """`<runner> <until>`, or empty if there is none; changes with each renewal."""
    is_steady: bool = True
    """False if this server has not been available, as the primary, for as long as a claim lasts."""

    @property
    def runner(self) -> str:
        return self.claim.partition(" ")[0]


async def read_states(
    redis: RedisClient, settings: Settings, calls: Sequence[tuple[ResponseKey, int]]
) -> list[CallState]:
    """Returns the states of calls (response, call_index), in one round trip."""
    replies = await redis.run_many(
        [
            _READ(
                tools=keys.tools(key),
                queue=keys.TOOLS_QUEUE,
                pulse=keys.PULSE,
                index=index,
                claim_ttl_ms=_claim_ttl_ms(settings),
            )
            for key, index in calls
        ]
    )
    return [_read_state(reply) for reply in replies]


def _read_state(reply: list[Any] | Exception) -> CallState:
    match reply:
        case [b"result", result]:
            return CallState("answered", _decode_result.decode(result))
        case [standing, claim, is_steady]:
            return CallState(standing.decode(), claim=claim.decode(), is_steady=bool(is_steady))
        case Exception():
            raise reply
        case _:
            raise RuntimeError(f"read answered {reply!r}")


def _claim_ttl_ms(settings: Settings) -> int:
    return int(settings.tool_claim_ttl_s * 1000)


async def claim(
    redis: RedisClient, settings: Settings, key: ResponseKey, call_index: int, runner: str
) -> ToolIntent | None:
    """Claims a call for a runner; returns its intent, or None if it is not the runner's to run."""
    reply = await redis.run(
        _CLAIM(
            state=keys.state(key),
            tools=keys.tools(key),
            index=call_index,
            runner=runner,
            claim_ttl_ms=_claim_ttl_ms(settings),
        )
    )
    match reply:
        case [b"claimed", intent]:
            return msgspec.json.decode(intent, type=ToolIntent)
        case [b"taken" | b"done" | b"gone"]:
            return None
        case _:
            raise RuntimeError(f"claim answered {reply!r}")


@dataclass(frozen=True, slots=True)
class Claiming:
    """A call that a runner is claiming: Redis has not answered yet, and may do so later than a claim
    lasts."""

    key: ResponseKey
    call_index: int
    runner: str


@dataclass(frozen=True, slots=True)
class Claim(Claiming):
    """A call that a runner has claimed, with the intent in case Redis loses it."""

    intent: ToolIntent


async def renew(redis: RedisClient, settings: Settings, claims: Sequence[Claiming]) -> list[Claim]:
    """Renews claims in one round trip, or two after a failover; returns those that are lost.

    A `Claiming` is never reported lost: another runner that has the call may give it back before our claim
    arrives.
    """
    replies = await _renew(redis, settings, [(claim, b"") for claim in claims])
    sure = [(claim, reply) for claim, reply in zip(claims, replies, strict=True) if isinstance(claim, Claim)]
    forgotten = [claim for claim, reply in sure if reply == b"unknown"]
    lost = [claim for claim, reply in sure if reply in _LOST]
    if forgotten:  # a failover lost their intents
        with_intents = [(claim, msgspec.json.encode(claim.intent)) for claim in forgotten]
        again = await _renew(redis, settings, with_intents)
        lost += [claim for claim, reply in zip(forgotten, again, strict=True) if reply in _LOST]
    return lost


_LOST = (b"taken", b"done", b"gone")


async def _renew(
    redis: RedisClient, settings: Settings, claims: Sequence[tuple[Claiming, bytes]]
) -> list[object]:
    """Renews claims, each sent with its intent or with b""; returns the replies."""
    ttl_ms = _claim_ttl_ms(settings)
    return await redis.run_many(
        [
            _RENEW(
                state=keys.state(held.key),
                tools=keys.tools(held.key),
                index=held.call_index,
                runner=held.runner,
                claim_ttl_ms=ttl_ms,
                intent=intent,
                is_sure=int(isinstance(held, Claim)),
            )
            for held, intent in claims
        ]
    )


async def release(redis: RedisClient, claims: Sequence[tuple[ResponseKey, int, str, bool]]) -> None:
    """Gives back calls (response, call_index, runner, has_begun); notifies the workers that wait."""
    await redis.run_many(
        [
            _RELEASE(
                state=keys.state(key),
                tools=keys.tools(key),
                index=index,
                runner=runner,
                begun=int(has_begun),
                channel_prefix=keys.results(""),
                message=f"{key} {index}",
            )
            for key, index, runner, has_begun in claims
        ]
    )


async def hand_over(redis: RedisClient, claim: Claim, to: str) -> bool:
    """Hands a call that has not begun over to the tool runner `to`; returns False if that one is gone."""
    reply = await redis.run(
        _HAND_OVER(
            tools=keys.tools(claim.key),
            index=claim.call_index,
            runner=claim.runner,
            to=to,
            channel=keys.handed_over(to),
            message=f"{claim.key} {claim.call_index}",
        )
    )
    match reply:
        case b"ok" | b"gone":
            return True
        case b"absent":
            return False
        case _:
            raise RuntimeError(f"hand_over answered {reply!r}")


async def finish(
    redis: RedisClient, claim: Claim, result: ToolResult, session: tuple[str, str] | None
) -> bool:
    """Journals the result, once, and notifies the response's current owner.

    Returns False if the call already has a result, is another runner's, or its response is closed. `session`:
    (server_label, state) to be kept for the next call to the same server.
    """
    reply = await redis.run(
        _RESULT(
            state=keys.state(claim.key),
            tools=keys.tools(claim.key),
            index=claim.call_index,
            runner=claim.runner,
            result=msgspec.json.encode(result),
            channel_prefix=keys.results(""),
            message=f"{claim.key} {claim.call_index}",
            session_field=state_field(session[0]) if session else "",
            session=session[1] if session else "",
            intent=msgspec.json.encode(claim.intent),
        )
    )
    match reply:
        case b"ok":
            return True
        case b"done" | b"gone":
            return False
        case _:
            raise RuntimeError(f"result answered {reply!r}")


async def resolve(
    redis: RedisClient,
    lease: Lease,
    call_index: int,
    verdict: ToolResult,
    judged: str,
    *,
    lost_after_s: float = 0.0,
) -> ToolResult | None:
    """Journals the worker's own verdict on a call without a result; returns the result that the journal then
    has.

    A result that came first is kept. `judged`: the claim that the verdict is about; `<runner> ` for any claim
    of that runner, "" for none. `lost_after_s`: if set, the verdict is that the claim was not renewed, which
    holds only on a server that has been available for so long. Returns None if the claim has changed, or if
    it is too early. Raises LeaseLost if fenced.
    """
    reply = await redis.run(
        _RESOLVE(
            state=keys.state(lease.key),
            tools=keys.tools(lease.key),
            pulse=keys.PULSE,
            proof=lease.proof,
            index=call_index,
            result=msgspec.json.encode(verdict),
            judged=judged,
            lost_after_ms=int(lost_after_s * 1000),
        )
    )
    match reply:
        case [b"stands", result]:
            return _decode_result.decode(result)
        case [b"moved"]:
            return None
        case [b"fenced"]:
            raise LeaseLost(f"{lease}: verdict on tool call {call_index} refused")
        case _:
            raise RuntimeError(f"resolve answered {reply!r}")


async def retry(
    redis: RedisClient,
    settings: Settings,
    lease: Lease,
    call_index: int,
    lost_claim: str,
    *,
    lost_after_s: float = 0.0,
) -> None:
    """Queues a call again whose runner was lost, or whose job was lost (then `lost_claim` is "").

    Does nothing if the claim has changed, there is a result, or it is too early (`lost_after_s`: as for
    `resolve`). Raises LeaseLost if fenced.
    """
    job_id = f"{lease.key}:tool:{call_index}:{lost_claim.replace(' ', '-')}"
    reply = await redis.run(
        _RETRY(
            state=keys.state(lease.key),
            tools=keys.tools(lease.key),
            queue=keys.TOOLS_QUEUE,
            doorbell=keys.doorbell(keys.TOOLS_QUEUE),
            job_key=keys.job(job_id),
            pulse=keys.PULSE,
            proof=lease.proof,
            index=call_index,
            lost_claim=lost_claim,
            ttl_ms=settings.live_ttl_s * 1000,
            job_id=job_id,
            job=job_queue.tool_job(lease.key, call_index),
            lost_after_ms=int(lost_after_s * 1000),
        )
    )
    match reply:
        case b"queued" | b"moved":
            return
        case b"fenced":
            raise LeaseLost(f"{lease}: retry of tool call {call_index} refused")
        case _:
            raise RuntimeError(f"retry answered {reply!r}")
