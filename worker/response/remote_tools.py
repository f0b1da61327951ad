"""Tool calls as the worker sees them: a task goes out, a result comes back, whatever happens.

Owns waiting: the runner's message is a hint, the journal is the truth and is looked at again and again. When
a call is lost, `call_patience` says; who runs the call, and how, is the tool runner's business.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from shared.settings import Settings
from shared.store.owning.lease import Lease
from shared.store.redis.client import RedisClient
from shared.store.redis.insisting import insist
from shared.store.tools import tool_journal
from shared.store.tools.tool_journal import CallState
from shared.tool_calls import ToolResult, ToolTask
from worker.response.call_patience import Answered, CallPatience, GiveUp, KeepWaiting, MakeAgain
from worker.response.call_watch import CallWatch

_ANSWER_S = 0.1
"""A question to Redis takes this long at most, unless Redis is away."""

_T = TypeVar("_T")


@dataclass(slots=True)
class _Call:
    lease: Lease
    index: int
    task: ToolTask
    is_repeatable: bool
    heard: asyncio.Event = field(default_factory=asyncio.Event)
    """A runner says that something has happened."""

    @property
    def name(self) -> str:
        return f"{self.lease.key} {self.index}"


class RemoteTools:
    def __init__(self, redis: RedisClient, settings: Settings) -> None:
        self._redis = redis
        self._settings = settings
        self._waiting: dict[str, _Call] = {}
        self._watch = CallWatch(
            lambda calls: tool_journal.look(redis, settings, calls), settings.tool_claim_ttl_s
        )
        self._clock = asyncio.get_running_loop().time

    def hear(self, name: bytes) -> None:
        """A runner says that `<response> <call_index>` has its result, or is given back."""
        if waiting := self._waiting.get(name.decode()):
            waiting.heard.set()

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
                result = outcome.result if isinstance(outcome, Answered) else await self._end(call, outcome)
                if result is not None:
                    return result
        finally:
            if self._waiting.get(call.name) is call:  # else a later attempt of ours waits for it now
                del self._waiting[call.name]

    async def _wait(self, call: _Call) -> Answered | GiveUp:
        """Until there is a result, or nothing more to hope for."""
        timeout_s, claim_ttl_s = self._settings.tool_timeout_s, self._settings.tool_claim_ttl_s
        patience = CallPatience(timeout_s, claim_ttl_s, is_repeatable=call.is_repeatable, now_s=self._clock())
        while True:
            asked_s = self._clock()
            state = await self._insist(lambda: self._look(call))
            patience.excuse(max(0.0, self._clock() - asked_s - _ANSWER_S))
            match patience.judge(state, self._clock(), is_steady=self._watch.is_steady):
                case (Answered() | GiveUp()) as outcome:
                    return outcome
                case MakeAgain(lost_after_s):
                    await self._make_again(call, state, lost_after_s)
                case KeepWaiting():
                    pass
            await self._listen(call)

    async def _look(self, call: _Call) -> CallState:
        """With `durable_writes` a result is told when no failover can take it back any more."""
        state = await self._watch.look(call.lease.key, call.index)
        if state.result is not None and self._redis.is_confirming:
            await self._redis.confirm()
            state = await self._watch.look(call.lease.key, call.index)
        return state

    async def _listen(self, call: _Call) -> None:
        """Until the runner says something, or it is time to look again."""
        try:
            async with asyncio.timeout(self._watch.look_every_s):
                await call.heard.wait()
        except TimeoutError:
            pass
        call.heard.clear()

    async def _submit(self, call: _Call) -> None:
        await self._insist(
            lambda: tool_journal.submit(self._redis, self._settings, call.lease, call.index, call.task)
        )

    async def _make_again(self, call: _Call, state: CallState, lost_after_s: float) -> None:
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
                lost_after_s=lost_after_s,
            )
        )

    async def _end(self, call: _Call, verdict: GiveUp) -> ToolResult | None:
        """Journals the verdict. The result that stands; None if the call has moved on meanwhile."""
        return await self._insist(
            lambda: tool_journal.settle(
                self._redis,
                call.lease,
                call.index,
                verdict.failure,
                verdict.judged,
                lost_after_s=verdict.lost_after_s,
            )
        )

    async def _insist(self, ask: Callable[[], Awaitable[_T]]) -> _T:
        return await insist(ask, self._settings.redis_outage_max_s)
