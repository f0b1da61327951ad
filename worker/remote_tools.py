"""Tool calls as the worker sees them: a task goes out, a result comes back, whatever happens.

Owns waiting: the runner's message is a hint, the journal is the truth and is looked at slowly.
Who runs the call, and how, is the tool runner's business.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from shared.responses import McpProtocolError
from shared.settings import Settings
from shared.store import tool_journal
from shared.store.lease import Lease
from shared.store.redis_client import REDIS_AWAY, RedisClient
from shared.tool_calls import ToolFailure, ToolResult, ToolTask

_LOOK_EVERY_S = 1.0
_RETRY_S = 0.1
_GRACE_S = 5.0
"""A runner ends a call at `tool_timeout_s` itself; only past that and this is it given up here."""
TIMED_OUT, LOST = -32001, -32002

_T = TypeVar("_T")


class RemoteTools:
    def __init__(self, redis: RedisClient, settings: Settings) -> None:
        self._redis = redis
        self._settings = settings
        self._waiting: dict[str, asyncio.Event] = {}

    def hear(self, name: bytes) -> None:
        """A runner says that the result of `<response> <call_index>` is in."""
        if waiting := self._waiting.get(name.decode()):
            waiting.set()

    async def call(self, lease: Lease, call_index: int, task: ToolTask, *, is_repeatable: bool) -> ToolResult:
        """Journals the task, waits for its result. Raises LeaseLost; a failure is a ToolFailure.

        `call_index` names the call within its response: the output_index of its item. A call that an
        earlier attempt made is not made again: its result is used, or waited for. One whose runner was
        lost is made again only if `is_repeatable`; otherwise its outcome is unknown, which is a failure.
        """
        name = f"{lease.key} {call_index}"
        arrived = self._waiting[name] = asyncio.Event()
        try:
            await self._insist(
                lambda: tool_journal.submit(self._redis, self._settings, lease, call_index, task)
            )
            result = await self._wait(lease, call_index, arrived, is_repeatable)
            if isinstance(result, _Verdict):
                failure = ToolFailure(McpProtocolError(result.code, result.message))
                return await self._insist(
                    lambda: tool_journal.settle(self._redis, lease, call_index, failure)
                )
            return result
        finally:
            if self._waiting.get(name) is arrived:  # else a later attempt of ours waits for it now
                del self._waiting[name]

    async def _wait(
        self, lease: Lease, call_index: int, arrived: asyncio.Event, is_repeatable: bool
    ) -> "ToolResult | _Verdict":
        timeout_s = self._settings.tool_timeout_s
        deadline = asyncio.get_running_loop().time() + timeout_s + _GRACE_S
        while asyncio.get_running_loop().time() < deadline:
            call = await self._insist(lambda: tool_journal.look(self._redis, lease.key, call_index))
            if call.result is not None:
                return call.result
            if call.lost_claim is not None:
                if not is_repeatable:
                    return _Verdict(LOST, "the tool runner was lost; whether the tool ran is unknown")
                await self._retry(lease, call_index, call.lost_claim)
            try:
                async with asyncio.timeout(_LOOK_EVERY_S):
                    await arrived.wait()
            except TimeoutError:
                pass
            arrived.clear()
        return _Verdict(TIMED_OUT, f"no result within {timeout_s:g} s")

    async def _retry(self, lease: Lease, call_index: int, lost_claim: str) -> None:
        await self._insist(
            lambda: tool_journal.retry(self._redis, self._settings, lease, call_index, lost_claim)
        )

    async def _insist(self, ask: Callable[[], Awaitable[_T]]) -> _T:
        """Asks until Redis answers, for `redis_outage_max_s`; what is asked here may be asked twice."""
        deadline = asyncio.get_running_loop().time() + self._settings.redis_outage_max_s
        while True:
            try:
                return await ask()
            except REDIS_AWAY:
                if asyncio.get_running_loop().time() > deadline:
                    raise
                await asyncio.sleep(_RETRY_S)


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What the worker itself says of a call that never answered."""

    code: int
    message: str
