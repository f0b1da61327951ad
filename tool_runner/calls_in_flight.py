"""The calls that this process runs: taken from the queue, claimed, kept alive, journaled.

Owns how many there are and how one ends early; what a call does is `run_tool`'s business.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

import anyio

from shared.settings import Settings
from shared.store import response_store, tool_journal
from shared.store.keys import ResponseKey
from shared.store.redis_client import REDIS_AWAY, RedisClient
from shared.store.tool_journal import CLAIM_TTL_S
from shared.tool_calls import ToolIntent
from tool_runner import answers, servers
from tool_runner.run_tool import Outcome, Tools
from tool_runner.shares import Shares

_log = logging.getLogger(__name__)

_RETRY_S = 0.05
_UNWIND_S = 2.0
_UNREADABLE = "what the request brought for its tool servers is sealed with a key that is not here"
"""Without it a call would go to another address than the request gave, or without its authorization."""

_T = TypeVar("_T")


@dataclass(eq=False, slots=True)
class _Call:
    key: ResponseKey
    index: int
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    """Cancelled when nobody wants the result any more."""
    is_over: asyncio.Event = field(default_factory=asyncio.Event)

    def __str__(self) -> str:
        return f"{self.key} call {self.index}"


class CallsInFlight:
    """A call is claimed before it runs, and no call runs twice at once."""

    def __init__(self, redis: RedisClient, settings: Settings, runner: str, tools: Tools) -> None:
        self._redis = redis
        self._settings = settings
        self._runner = runner
        self._tools = tools
        self._calls: dict[tuple[ResponseKey, int], _Call] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._calling = Shares(settings.tool_calls_in_flight_max, settings.tenant_share_max)
        self._sandboxes = Shares(servers.count_sandboxes(settings), settings.tenant_share_max)

    def room(self) -> int:
        """How many more calls may be taken now: waiting ones have taken none of the room, nor have cells."""
        waiting = self._calling.waiting + self._sandboxes.waiting
        calling = len(self._calls) - waiting - self._sandboxes.taken
        return min(
            self._settings.tool_calls_in_flight_max - calling, self._settings.tool_calls_waiting_max - waiting
        )

    async def start(self, key: str, call_index: int) -> None:
        """The queue's handler: claims the call and returns; the call itself runs on.

        While Redis is away the job stays the queue's, so that it is not lost.
        """
        call = _Call(ResponseKey.parse(key), call_index)
        name = (call.key, call.index)
        if name in self._calls:
            return
        self._calls[name] = call
        intent: ToolIntent | None = None
        try:
            intent = await _until_redis_answers(lambda: self._claim(call), None)
        finally:
            if intent is None:
                del self._calls[name]
        if intent is not None:
            task = asyncio.create_task(self._serve(call, intent))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def hear_of_cancel(self, name: bytes) -> None:
        """The response of that name was cancelled: its calls end at once, not at their next renewal."""
        for call in self._calls.values():
            if str(call.key) == name.decode():
                call.scope.cancel()

    async def drain(self, grace_s: float) -> None:
        """Gives the calls that run some time to end, then abandons them.

        An abandoned call's claim lapses: whether to try it again is its worker's decision.
        """
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace_s)
        for call in self._calls.values():
            _log.warning("%s: abandoned, this tool runner stops", call)
            call.scope.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_UNWIND_S)

    async def _claim(self, call: _Call) -> ToolIntent | None:
        return await tool_journal.claim(self._redis, call.key, call.index, self._runner)

    async def _serve(self, call: _Call, intent: ToolIntent) -> None:
        keeper = asyncio.create_task(self._keep_claim(call))
        try:
            with call.scope:
                outcome = await self._run(call, intent)
                await self._finish(call, intent, outcome)
        except REDIS_AWAY as away:
            _log.error("%s: its result is lost, Redis is away (%s)", call, away)
        finally:
            call.is_over.set()
            await keeper
            del self._calls[call.key, call.index]

    async def _run(self, call: _Call, intent: ToolIntent) -> Outcome:
        """In turn: one tenant's calls must not take all there is from the others."""
        shares = self._sandboxes if self._tools.runs_in_sandbox(intent.task) else self._calling
        async with shares.turn(call.key.tenant):
            return await self._run_now(call, intent)

    async def _run_now(self, call: _Call, intent: ToolIntent) -> Outcome:
        label = intent.task.server_label
        outage_max_s = self._settings.redis_outage_max_s
        secrets = await _until_redis_answers(
            lambda: response_store.read_secrets(self._redis, self._settings, call.key), outage_max_s
        )
        session = await _until_redis_answers(
            lambda: tool_journal.read_session(self._redis, call.key, label), outage_max_s
        )
        if secrets is None and intent.task.server_url is not None:
            return Outcome(answers.make_failure(answers.INTERNAL_ERROR, _UNREADABLE))
        try:
            return await self._tools.run(intent.task, (secrets or {}).get(label), session)
        except Exception:  # noqa: BLE001  the top of one call: a bug of ours must not silence the stream
            _log.exception("%s: a bug in the tool runner", call)
            return Outcome(answers.make_failure(answers.INTERNAL_ERROR, "the tool runner failed"))

    async def _finish(self, call: _Call, intent: ToolIntent, outcome: Outcome) -> None:
        session = None if outcome.session is None else (intent.task.server_label, outcome.session)
        is_wanted = await _until_redis_answers(
            lambda: tool_journal.finish(
                self._redis, call.key, call.index, self._runner, outcome.result, session
            ),
            self._settings.redis_outage_max_s,
        )
        if not is_wanted:
            _log.info("%s: nobody wants its result any more", call)

    async def _keep_claim(self, call: _Call) -> None:
        """Renews the claim until the call is over; cancels the call when the claim is lost."""
        while True:
            try:
                async with asyncio.timeout(CLAIM_TTL_S / 3):
                    await call.is_over.wait()
                return
            except TimeoutError:
                pass
            try:
                if await self._claim(call) is None and not call.is_over.is_set():
                    _log.info("%s: cancelled, its response is closed or the claim is lost", call)
                    call.scope.cancel()
                    return
            except REDIS_AWAY as away:
                _log.warning("%s: claim not renewed, Redis is away (%s)", call, away)


async def _until_redis_answers(ask: Callable[[], Awaitable[_T]], outage_max_s: float | None) -> _T:
    """Asks again while Redis is away; raises REDIS_AWAY after `outage_max_s` (None: never)."""
    loop = asyncio.get_running_loop()
    deadline = None if outage_max_s is None else loop.time() + outage_max_s
    while True:
        try:
            return await ask()
        except REDIS_AWAY:
            if deadline is not None and loop.time() > deadline:
                raise
        await asyncio.sleep(_RETRY_S)
