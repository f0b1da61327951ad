"""Tool calls from the worker's side: submits a task and waits for its result.

Owns the waiting: a runner's notification is a hint, the journal is the truth and is polled.
`call_patience.py` decides when a call is lost; the tool runner owns how it runs.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from shared import traces
from shared.responses import McpProtocolError
from shared.settings import Settings
from shared.store.owning.lease import Lease
from shared.store.redis.client import RedisClient
from shared.store.redis.insisting import insist
from shared.store.tools import tool_journal
from shared.store.tools.approvals import use_approval
from shared.store.tools.tool_journal import CallState
from shared.tool_calls import ToolCall, ToolFailure, ToolResult, ToolTask
from worker.response.call_patience import Answered, CallPatience, GiveUp, KeepWaiting, MakeAgain
from worker.response.call_watch import CallWatch
from worker.response.spans import note_result, traced_call

_ANSWER_S = 0.1
"""A round trip that takes longer counts as an outage of Redis."""

_USED = ToolFailure(McpProtocolError(-32000, "another response has used the approval of this call"))

_T = TypeVar("_T")


@dataclass(slots=True)
class _Call:
    lease: Lease
    index: int
    task: ToolTask
    is_repeatable: bool
    notified: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by a runner's notification."""

    @property
    def name(self) -> str:
        return f"{self.lease.key} {self.index}"


class RemoteTools:
    def __init__(self, redis: RedisClient, settings: Settings) -> None:
        self._redis = redis
        self._settings = settings
        self._waiting: dict[str, _Call] = {}
        self._watch = CallWatch(
            lambda calls: tool_journal.read_states(redis, settings, calls), settings.tool_claim_ttl_s
        )
        self._clock = asyncio.get_running_loop().time

    def on_result(self, name: bytes) -> None:
        """Handles a notification that the call `<response> <call_index>` has a result or was given back."""
        if waiting := self._waiting.get(name.decode()):
            waiting.notified.set()

    @property
    def responses(self) -> int:
        """The number of responses that wait for a call."""
        return len({call.lease.key for call in self._waiting.values()})

    async def call(self, lease: Lease, call_index: int, task: ToolTask, *, is_repeatable: bool) -> ToolResult:
        """Journals the task and waits for its result; a failure is a ToolFailure.

        `call_index` identifies the call within its response: its item's output_index. A call made by an
        earlier attempt is not made again: its result is used, or waited for. A call whose runner was lost is
        made again only if `is_repeatable`, or if no runner began it; otherwise its outcome is unknown, which
        is a failure. Raises LeaseLost, REDIS_AWAY after a long outage.
        """
        call = _Call(lease, call_index, task, is_repeatable)
        with traced_call(task) as span:
            result = await self._call(call)
            note_result(span, result)
            return result

    async def _call(self, call: _Call) -> ToolResult:
        self._waiting[call.name] = call
        try:
            if not await self._may_use_approval(call):
                return _USED
            await self._submit(call)
            while True:
                outcome = await self._wait(call)
                result = outcome.result if isinstance(outcome, Answered) else await self._end(call, outcome)
                if result is not None:
                    return result
        finally:
            if self._waiting.get(call.name) is call:  # otherwise a later attempt of ours is waiting for it
                del self._waiting[call.name]

    async def _may_use_approval(self, call: _Call) -> bool:
        """Returns False if another response has made the call that the client approved."""
        approval = call.task.approval_request_id if isinstance(call.task, ToolCall) else None
        if approval is None:
            return True
        key = call.lease.key
        return await self._insist(lambda: use_approval(self._redis, self._settings, key, approval))

    async def close(self) -> None:
        """Ends what is in flight, once no call is waited for any more."""
        await self._watch.close()

    async def _wait(self, call: _Call) -> Answered | GiveUp:
        """Waits until there is a result or the call must be given up; makes it again if necessary."""
        settings = self._settings
        patience = CallPatience(
            settings.tool_timeout_s,
            settings.tool_run_max_s,
            settings.tool_claim_ttl_s,
            is_repeatable=call.is_repeatable,
            now_s=self._clock(),
        )
        while True:
            asked_s = self._clock()
            state = await self._insist(lambda: self._read_state(call))
            patience.excuse(max(0.0, self._clock() - asked_s - _ANSWER_S))
            match patience.judge(state, self._clock(), is_steady=self._watch.is_steady):
                case (Answered() | GiveUp()) as outcome:
                    return outcome
                case MakeAgain(lost_after_s):
                    await self._make_again(call, state, lost_after_s)
                case KeepWaiting():
                    pass
            await self._wait_for_notification(call)

    async def _read_state(self, call: _Call) -> CallState:
        """Reads the call's state; with `durable_writes`, a result only once no failover can take it back."""
        state = await self._watch.read(call.lease.key, call.index)
        if state.result is not None and self._redis.is_confirming:
            await self._redis.confirm()
            state = await self._watch.read(call.lease.key, call.index)
        return state

    async def _wait_for_notification(self, call: _Call) -> None:
        """Returns when a runner notifies us, or when it is time to poll again."""
        try:
            async with asyncio.timeout(self._watch.poll_interval_s):
                await call.notified.wait()
        except TimeoutError:
            pass
        call.notified.clear()

    async def _submit(self, call: _Call) -> None:
        await self._insist(
            lambda: tool_journal.submit(
                self._redis, self._settings, call.lease, call.index, call.task, traces.base()
            )
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
        """Journals the verdict.

        Returns the result that the journal then has, or None if the call's state has changed meanwhile.
        """
        return await self._insist(
            lambda: tool_journal.resolve(
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
