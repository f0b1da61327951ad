"""Tool calls as the worker sees them: a task goes out, a result comes back, whatever happens.

Owns waiting: the runner's message is a hint, the journal is the truth and is looked at slowly.
Who runs the call, and how, is the tool runner's business.
"""

import asyncio

from shared.responses import McpProtocolError
from shared.settings import Settings
from shared.store import tool_journal
from shared.store.keys import ResponseKey
from shared.store.lease import Lease
from shared.store.redis_client import REDIS_AWAY, RedisClient
from shared.tool_calls import ToolFailure, ToolResult, ToolTask

_LOOK_EVERY_S = 1.0
_GRACE_S = 5.0
"""A runner ends a call at `tool_timeout_s` itself; only past that and this is it given up here."""
TIMED_OUT, LOST = -32001, -32002


class RemoteTools:
    def __init__(self, redis: RedisClient, settings: Settings) -> None:
        self._redis = redis
        self._settings = settings
        self._waiting: dict[str, asyncio.Event] = {}

    def hear(self, name: bytes) -> None:
        """A runner says that the result of `<response> <call_index>` is in."""
        if waiting := self._waiting.get(name.decode()):
            waiting.set()

    async def call(self, lease: Lease, call_index: int, task: ToolTask) -> ToolResult:
        """Journals the task, waits for its result. Raises LeaseLost; a failure is a ToolFailure.

        `call_index` names the call within its response: the output_index of its item.
        """
        arrived = self._waiting[f"{lease.key} {call_index}"] = asyncio.Event()
        try:
            await tool_journal.submit(self._redis, self._settings, lease, call_index, task)
            return await self._wait(lease.key, call_index, arrived)
        finally:
            del self._waiting[f"{lease.key} {call_index}"]

    async def _wait(self, key: ResponseKey, call_index: int, arrived: asyncio.Event) -> ToolResult:
        timeout_s = self._settings.tool_timeout_s
        deadline = asyncio.get_running_loop().time() + timeout_s + _GRACE_S
        while asyncio.get_running_loop().time() < deadline:
            try:
                await asyncio.wait_for(arrived.wait(), _LOOK_EVERY_S)
            except TimeoutError:
                pass
            arrived.clear()
            try:
                call = await tool_journal.look(self._redis, key, call_index)
            except REDIS_AWAY:
                continue
            if call.result is not None:
                return call.result
            if call.has_lapsed:
                return _failure(LOST, "the tool runner was lost; whether the tool ran is unknown")
        return _failure(TIMED_OUT, f"no result within {timeout_s:g} s")


def _failure(code: int, message: str) -> ToolFailure:
    return ToolFailure(McpProtocolError(code, message))
