"""Tool calls as the worker sees them: a task goes out, a result comes back, whatever happens.

Owns waiting, and the verdict on a call whose runner is lost: the runner's message is a hint, the journal is
the truth and is looked at again and again. Who runs the call, and how, is the tool runner's business.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from shared.responses import McpProtocolError
from shared.settings import Settings
from shared.store import tool_journal
from shared.store.lease import Lease
from shared.store.redis_client import REDIS_AWAY, RedisClient
from shared.store.tool_journal import CallState
from shared.tool_calls import ToolFailure, ToolResult, ToolTask
from worker.call_watch import CallWatch

_RETRY_S = 0.1
_GRACE_S = 5.0
"""A runner ends a call at `tool_timeout_s` itself; only past that and this is it given up here."""
TIMED_OUT, LOST = -32001, -32002

_T = TypeVar("_T")


@dataclass(slots=True)
class _Call:
    lease: Lease
    index: int
    task: ToolTask
    is_repeatable: bool
    told: asyncio.Event = field(default_factory=asyncio.Event)
    """A runner says that something has happened."""

    @property
    def name(self) -> str:
        return f"{self.lease.key} {self.index}"


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What the worker itself says of a call that never answered."""

    code: int
    message: str
    judged: str
    """See `tool_journal.settle`."""
    lost_after_s: float = 0.0


class RemoteTools:
    def __init__(self, redis: RedisClient, settings: Settings) -> None:
        self._redis = redis
        self._settings = settings
        self._waiting: dict[str, _Call] = {}
        self._watch = CallWatch(redis, settings)
        self._clock = asyncio.get_running_loop().time

    def hear(self, name: bytes) -> None:
        """A runner says that `<response> <call_index>` has its result, or is given back."""
        if waiting := self._waiting.get(name.decode()):
            waiting.told.set()

    async def call(self, lease: Lease, call_index: int, task: ToolTask, *, is_repeatable: bool) -> ToolResult:
        """Journals the task, waits for its result. Raises LeaseLost; a failure is a ToolFailure.

        `call_index` names the call within its response: the output_index of its item. A call that an
        earlier attempt made is not made again: its result is used, or waited for. One whose runner was
        lost is made again only if `is_repeatable`; otherwise its outcome is unknown, which is a failure.
        """
        call = _Call(lease, call_index, task, is_repeatable)
        self._waiting[call.name] = call
        try:
            await self._submit(call)
            while True:
                outcome = await self._wait(call)
                if not isinstance(outcome, _Verdict):
                    return outcome
                if (result := await self._settle(call, outcome)) is not None:
                    return result
        finally:
            if self._waiting.get(call.name) is call:  # else a later attempt of ours waits for it now
                del self._waiting[call.name]

    async def _wait(self, call: _Call) -> "ToolResult | _Verdict":
        """Until there is a result, or nothing more to hope for. A runner has all of `tool_timeout_s`."""
        patience_s = self._settings.tool_timeout_s + _GRACE_S
        runner, deadline_s = "", self._clock() + patience_s
        while True:
            asked_s = self._clock()
            state = await self._insist(lambda: self._look(call))
            deadline_s += max(0.0, self._clock() - asked_s - _RETRY_S)  # Redis's time is not the call's
            if state.result is not None:
                return state.result
            if state.runner != runner:
                runner, deadline_s = state.runner, self._clock() + patience_s
            if self._is_lost(state):
                if not call.is_repeatable and state.standing not in ("unbegun", "unqueued"):
                    message = "the tool runner was lost; whether the tool ran is unknown"
                    return _Verdict(LOST, message, state.claim, self._lost_after_s(state))
                await self._make_again(call, state)
            elif self._clock() > deadline_s:
                message = f"no result within {self._settings.tool_timeout_s:g} s"
                return _Verdict(TIMED_OUT, message, f"{runner} " if runner else "")
            await self._listen(call)

    async def _look(self, call: _Call) -> CallState:
        """With `durable_writes` a result is told when no failover can take it back any more."""
        state = await self._watch.look(call.lease.key, call.index)
        if state.result is not None and self._redis.is_confirming:
            await self._redis.confirm()
            state = await self._watch.look(call.lease.key, call.index)
        return state

    def _is_lost(self, state: CallState) -> bool:
        """Whether nobody is at the call any more, though it is not done.

        A claim can lapse, and an intent, a claim or a job vanish, because Redis was away or another primary
        has taken over: then the runner lives, and says so as soon as it can. It is lost when it does not,
        although Redis has been there for a whole claim.
        """
        match state.standing:
            case "returned" | "unbegun":
                return True
            case "lapsed" | "unknown" | "unqueued":
                return self._watch.is_steady and state.is_steady
            case "queued" | "running" | "answered":
                return False

    def _lost_after_s(self, state: CallState) -> float:
        """What a runner has given back is lost at once."""
        return 0.0 if state.standing in ("returned", "unbegun") else self._settings.tool_claim_ttl_s

    async def _listen(self, call: _Call) -> None:
        """Until the runner says something, or it is time to look again."""
        try:
            async with asyncio.timeout(self._watch.look_every_s):
                await call.told.wait()
        except TimeoutError:
            pass
        call.told.clear()

    async def _submit(self, call: _Call) -> None:
        await self._insist(
            lambda: tool_journal.submit(self._redis, self._settings, call.lease, call.index, call.task)
        )

    async def _make_again(self, call: _Call, state: CallState) -> None:
        if state.standing == "unknown":
            await self._submit(call)
            return
        await self._insist(
            lambda: tool_journal.retry(
                self._redis,
                self._settings,
                call.lease,
                call.index,
                state.claim,
                lost_after_s=self._lost_after_s(state),
            )
        )

    async def _settle(self, call: _Call, verdict: _Verdict) -> ToolResult | None:
        """The result that stands; None if the call has moved on meanwhile."""
        failure = ToolFailure(McpProtocolError(verdict.code, verdict.message))
        return await self._insist(
            lambda: tool_journal.settle(
                self._redis,
                call.lease,
                call.index,
                failure,
                verdict.judged,
                lost_after_s=verdict.lost_after_s,
            )
        )

    async def _insist(self, ask: Callable[[], Awaitable[_T]]) -> _T:
        """Asks until Redis answers, for `redis_outage_max_s`; what is asked here may be asked twice."""
        deadline_s = self._clock() + self._settings.redis_outage_max_s
        while True:
            try:
                return await ask()
            except REDIS_AWAY:
                if self._clock() > deadline_s:
                    raise
                await asyncio.sleep(_RETRY_S)
