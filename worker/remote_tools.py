"""Tool calls as the worker sees them: a task goes out, a result comes back, whatever happens.

Owns waiting: the runner's message is a hint, the journal is the truth and is looked at slowly.
Who runs the call, and how, is the tool runner's business.
"""

import asyncio
import logging

from shared.responses import McpProtocolError
from shared.settings import Settings
from shared.store import keys, tool_journal
from shared.store.keys import ResponseKey
from shared.store.lease import Lease
from shared.store.redis_client import REDIS_AWAY, RedisClient, Subscription
from shared.tool_calls import ToolFailure, ToolResult, ToolTask

_log = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0
_GRACE_S = 5.0
"""A runner ends a call at `tool_timeout_s` itself; only past that and this is it given up here."""
TIMED_OUT, LOST = -32001, -32002


class RemoteTools:
    def __init__(self, redis: RedisClient, listener: RedisClient, settings: Settings, owner: str) -> None:
        self._redis = redis
        self._settings = settings
        self._owner = owner
        self._results = Subscription(listener)
        self._waiting: dict[str, asyncio.Event] = {}

    async def run(self) -> None:
        """Listens for results until cancelled; a broken connection only makes waiting slower."""
        await self._results.add(keys.results(self._owner))
        while True:
            try:
                message = await self._results.next_message()
            except REDIS_AWAY as away:
                _log.warning("tool results: Redis is away (%s)", away)
                await asyncio.sleep(0.2)
                await self._reconnect()
                continue
            if message and (waiting := self._waiting.get(message[1].decode())):
                waiting.set()

    async def _reconnect(self) -> None:
        try:
            await self._results.reconnect()
        except REDIS_AWAY:
            pass  # the next look says so again

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
