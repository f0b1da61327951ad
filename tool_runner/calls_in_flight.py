"""The calls that this process runs: takes them from the queue, claims them, runs them, journals their
results.

Owns how many there are and how one ends early; `run_tool.py` makes the call, `claim_beat.py` renews the
claims.
"""

import asyncio
import hashlib
import logging
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TypeVar

import anyio

from shared import logs, metrics, traces
from shared.settings import Settings
from shared.shares import Shares
from shared.store.keys import ResponseKey
from shared.store.records import server_secrets
from shared.store.redis.client import RedisClient
from shared.store.redis.connections import REDIS_AWAY
from shared.store.redis.insisting import insist
from shared.store.tools import tool_journal, tool_sessions
from shared.store.tools.tool_journal import Claim, Claiming
from shared.tool_calls import ToolCall, ToolIntent
from shared.tracer import Span, TraceContext
from tool_runner import answers, servers
from tool_runner.claim_beat import ClaimBeat
from tool_runner.run_tool import Outcome, Tools

_log = logging.getLogger(__name__)

_UNWIND_S = 2.0
_UNREADABLE = "the request's secrets for its tool servers are sealed with a key that is not here"
"""Without them, a call would go to another address than the request gave, or without its authorization."""

_T = TypeVar("_T")


@dataclass(eq=False, slots=True)
class _CallInFlight:
    key: ResponseKey
    index: int
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    """Cancelled when the result is no longer needed."""
    has_begun: bool = False
    """Its server may have received it."""
    has_answer: bool = False
    """Its result has only to be journaled."""
    attempt: int = 0
    trace_id: str = ""
    """Those that made the call; known once it is claimed."""

    def __str__(self) -> str:
        return f"{self.key} call {self.index}"

    def about(self) -> AbstractContextManager[None]:
        """Says that a block is about this call, within a task that serves many."""
        return logs.about(*self.key, self.attempt, self.trace_id)

    @property
    def name(self) -> str:
        """What its server knows it by, which reveals nothing of the response."""
        return hashlib.sha256(str(self).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class _JournaledSession:
    """The MCP session of a response with one server, in the journal (`kept_session.SessionStore`)."""

    redis: RedisClient
    outage_max_s: float
    response: ResponseKey
    server_label: str
    session: bytes

    async def keep(self, expected: bytes, session: bytes) -> bytes:
        """Waits while Redis is unavailable, since the next call would begin anew without a word, and keeps
        nothing after a long outage: the call can do without."""
        try:
            return await insist(
                lambda: tool_sessions.keep_session(
                    self.redis, self.response, self.server_label, expected, session
                ),
                self.outage_max_s,
            )
        except REDIS_AWAY as away:
            _log.warning("%s: a session is not kept, Redis is unavailable (%s)", self.response, away)
            return b""


def _traced(intent: ToolIntent) -> AbstractContextManager[Span]:
    """Makes a span of a call, in the trace of its response."""
    task = intent.task
    name = f"run_tool {task.name}" if isinstance(task, ToolCall) else "run_tool (list)"
    about: dict[str, str | int] = {
        "antiphon.server": task.server_label,
        "antiphon.attempt": intent.fencing_token,
    }
    return traces.span(name, about, kind="consumer", parent=TraceContext(intent.trace, intent.trace_state))


class CallsInFlight:
    """Claims each call before running it, so that no call runs twice at once.

    A claim is renewed from the moment it is requested until it is refused, given back or finished, since
    Redis may confirm it only after it would have lapsed.
    """

    def __init__(self, redis: RedisClient, settings: Settings, runner: str, tools: Tools) -> None:
        self._redis = redis
        self._settings = settings
        self._runner = runner
        self._tools = tools
        self._beat = ClaimBeat(settings, self._on_loss)
        self._calls: dict[tuple[ResponseKey, int], _CallInFlight] = {}
        self._unsure: dict[tuple[ResponseKey, int], _CallInFlight] = {}
        """Calls that may have been claimed, as Redis's reply was lost; they are given back."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._calling = Shares(settings.tool_calls_in_flight_max, settings.tenant_share_max)
        self._sandboxes = Shares(servers.count_sandboxes(settings), settings.tenant_share_max)

    def room(self) -> int:
        """Returns the number of further calls that may be taken now. Neither waiting calls nor those in a
        sandbox count against `tool_calls_in_flight_max`."""
        waiting = self._calling.waiting + self._sandboxes.waiting
        calling = len(self._calls) - waiting - self._sandboxes.taken
        return min(
            self._settings.tool_calls_in_flight_max - calling, self._settings.tool_calls_waiting_max - waiting
        )

    async def refresh_metrics(self) -> None:
        waiting = self._calling.waiting + self._sandboxes.waiting
        metrics.TOOL_CALLS_IN_FLIGHT.labels("waiting").set(waiting)
        metrics.TOOL_CALLS_IN_FLIGHT.labels("running").set(len(self._calls) - waiting)

    async def run(self) -> None:
        """Renews the claims until cancelled, also while calls are drained."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._beat.run())
            group.create_task(self._return_unsure())

    async def close(self) -> None:
        await self._beat.close()

    async def start(self, key: str, call_index: int) -> None:
        """Handles a job: claims the call and starts it in the background.

        Raises REDIS_AWAY, so that the job stays queued and is not lost.
        """
        call = _CallInFlight(ResponseKey.parse(key), call_index)
        name = (call.key, call.index)
        if name in self._calls or name in self._unsure:
            return
        self._calls[name] = call
        self._beat.add(Claiming(call.key, call.index, self._runner))
        intent: ToolIntent | None = None
        try:
            intent = await tool_journal.claim(self._redis, self._settings, call.key, call.index, self._runner)
        except (asyncio.CancelledError, *REDIS_AWAY):
            self._unsure[name] = call
            raise
        finally:
            if intent is None:
                del self._calls[name]
                if name not in self._unsure:
                    self._beat.discard(*name)
        if intent is not None:
            task = asyncio.create_task(self._serve(call, intent))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def on_handed_over(self, name: bytes) -> None:
        """Takes the call `<response> <call_index>`, which another tool runner hands over to this one."""
        key, _, index = name.decode().rpartition(" ")
        taking = asyncio.create_task(self._take(key, int(index)))
        self._tasks.add(taking)
        taking.add_done_callback(self._tasks.discard)

    async def _take(self, key: str, index: int) -> None:
        try:
            await self.start(key, index)
        except REDIS_AWAY as away:  # its worker will have it made
            with logs.about(*ResponseKey.parse(key)):
                _log.warning("%s call %d: not taken over, Redis is unavailable (%s)", key, index, away)

    def on_cancel(self, name: bytes) -> None:
        """Cancels the calls of the response of that name, which was cancelled, before their next renewal."""
        for call in self._calls.values():
            if str(call.key) == name.decode():
                call.scope.cancel()

    async def drain(self, grace_s: float) -> None:
        """Gives the running calls `grace_s` to end, then cancels them and gives them back.

        Their workers are notified and decide what to do, without waiting for the claims to lapse. A call is
        given back only after its server was notified of the cancellation, so that it can be made again
        without running twice at once.
        """
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace_s)
        stopped = list(self._calls.values())
        for call in stopped:
            if not call.has_answer:
                with call.about():
                    _log.warning("%s: cancelled and given back, this tool runner is shutting down", call)
                call.scope.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_UNWIND_S)
        for call in self._calls.values():
            call.scope.cancel()
        await self._tools.settle()
        await self._give_back([*stopped, *self._unsure.values()])

    async def _give_back(self, calls: list[_CallInFlight]) -> bool:
        """Gives calls back, except those with a result; returns False if Redis is unavailable."""
        claims = [(call.key, call.index, self._runner, call.has_begun) for call in calls]
        try:
            if claims:
                await tool_journal.release(self._redis, claims)
        except REDIS_AWAY as away:
            _log.warning("%d claims not given back, Redis is unavailable (%s)", len(claims), away)
            return False
        return True

    async def _return_unsure(self) -> None:
        while True:
            await asyncio.sleep(self._settings.tool_claim_ttl_s / 3)
            unsure = dict(self._unsure)
            if unsure and await self._give_back(list(unsure.values())):
                for name in unsure:
                    del self._unsure[name]
                    self._beat.discard(*name)

    async def _serve(self, call: _CallInFlight, intent: ToolIntent) -> None:
        claim = Claim(call.key, call.index, self._runner, intent)
        call.attempt, call.trace_id = intent.fencing_token, traces.trace_id_of(intent.trace)
        logs.note_subject(*call.key, call.attempt, call.trace_id)
        self._beat.add(claim)
        try:
            with _traced(intent), call.scope:
                outcome = await self._run(call, claim)
                if outcome is not None:
                    call.has_answer = True
                    await self._finish(claim, outcome)
        except REDIS_AWAY as away:
            _log.error("%s: its result is lost, Redis is unavailable (%s)", call, away)
        finally:
            self._beat.discard(call.key, call.index)
            del self._calls[call.key, call.index]

    async def _run(self, call: _CallInFlight, claim: Claim) -> Outcome | None:
        """Runs a call in its tenant's turn, so that one tenant cannot take all places.

        Returns None if the call was handed over: its session is a connection of another tool runner.
        """
        shares = self._sandboxes if self._tools.runs_in_sandbox(claim.intent.task) else self._calling
        async with shares.turn(call.key.tenant):
            return await self._run_now(call, claim)

    async def _run_now(self, call: _CallInFlight, claim: Claim) -> Outcome | None:
        intent = claim.intent
        label = intent.task.server_label
        secrets, (session, mcp_session) = await insist(
            lambda: asyncio.gather(
                server_secrets.read_secrets(self._redis, self._settings, call.key),
                tool_sessions.read_sessions(self._redis, call.key, label),
            ),
            self._settings.redis_outage_max_s,
        )
        if secrets is None and intent.task.server_url is not None:
            return Outcome(answers.make_failure(answers.INTERNAL_ERROR, _UNREADABLE))
        owner = self._tools.sessions.owner_of(mcp_session)
        if owner not in ("", self._runner) and await self._hand_over(claim, owner):
            return None
        call.has_begun = True
        outage_max_s = self._settings.redis_outage_max_s
        store = _JournaledSession(self._redis, outage_max_s, call.key, label, mcp_session)
        try:
            mine = (secrets or {}).get(label)
            return await self._tools.run(intent.task, mine, session, store, call.key.tenant, call.name)
        except Exception:  # noqa: BLE001  the top of one call: a bug of ours must not leave it unanswered
            _log.exception("%s: the tool runner failed", call)
            return Outcome(answers.make_failure(answers.INTERNAL_ERROR, "the tool runner failed"))

    async def _hand_over(self, claim: Claim, owner: str) -> bool:
        return await insist(
            lambda: tool_journal.hand_over(self._redis, claim, owner), self._settings.redis_outage_max_s
        )

    async def _finish(self, claim: Claim, outcome: Outcome) -> None:
        label = claim.intent.task.server_label
        session = None if outcome.session is None else (label, outcome.session)
        is_wanted = await insist(
            lambda: tool_journal.finish(self._redis, claim, outcome.result, session),
            self._settings.redis_outage_max_s,
        )
        if not is_wanted:
            _log.info("%s call %d: its result is no longer needed", claim.key, claim.call_index)

    def _on_loss(self, claim: Claim) -> None:
        call = self._calls.get((claim.key, claim.call_index))
        if call is not None and call.has_answer:
            # The result in the journal may be this call's own, on a primary that is being replaced: keep the
            # claim until journaling the result is confirmed or refused.
            self._beat.add(claim)
        elif call is not None:
            with call.about():
                _log.info("%s: cancelled, its response is closed or the claim is lost", call)
            call.scope.cancel()
