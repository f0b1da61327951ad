"""The calls that this process runs: taken from the queue, claimed, kept alive, journaled.

Owns how many there are and how one ends early; what a call does is `run_tool`'s business, renewing is the
beat's.
"""

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TypeVar

import anyio

from shared.settings import Settings
from shared.store.keys import ResponseKey
from shared.store.records import response_store
from shared.store.redis.client import RedisClient
from shared.store.redis.connections import REDIS_AWAY
from shared.store.redis.insisting import insist
from shared.store.tools import tool_journal
from shared.store.tools.tool_journal import Claim, Claiming
from shared.tool_calls import ToolIntent
from tool_runner import answers, servers
from tool_runner.claim_beat import ClaimBeat
from tool_runner.run_tool import Outcome, Tools
from tool_runner.shares import Shares

_log = logging.getLogger(__name__)

_UNWIND_S = 2.0
_UNREADABLE = "what the request brought for its tool servers is sealed with a key that is not here"
"""Without it a call would go to another address than the request gave, or without its authorization."""

_T = TypeVar("_T")


@dataclass(eq=False, slots=True)
class _CallInFlight:
    key: ResponseKey
    index: int
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    """Cancelled when nobody wants the result any more."""
    has_begun: bool = False
    """Its server may have received it."""
    has_answer: bool = False
    """It only remains to be journaled."""

    def __str__(self) -> str:
        return f"{self.key} call {self.index}"


class CallsInFlight:
    """A call is claimed before it runs, and no call runs twice at once.

    A claim is kept from the moment it is asked for until it is refused, given back or done with: that Redis
    has it may be confirmed only after it would have lapsed.
    """

    def __init__(self, redis: RedisClient, settings: Settings, runner: str, tools: Tools) -> None:
        self._redis = redis
        self._settings = settings
        self._runner = runner
        self._tools = tools
        self._beat = ClaimBeat(settings, self._hear_of_loss)
        self._calls: dict[tuple[ResponseKey, int], _CallInFlight] = {}
        self._unsure: dict[tuple[ResponseKey, int], _CallInFlight] = {}
        """Redis did not say whether they were claimed: they are given back, should they be."""
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

    async def run(self) -> None:
        """Keeps the claims until cancelled; they are kept while calls are drained, too."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._beat.run())
            group.create_task(self._return_unsure())

    async def close(self) -> None:
        await self._beat.close()

    async def start(self, key: str, call_index: int) -> None:
        """The queue's handler: claims the call and returns; the call itself runs on.

        Raises REDIS_AWAY: the job stays the queue's then, so that it is not lost.
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

    def hear_of_cancel(self, name: bytes) -> None:
        """The response of that name was cancelled: its calls end at once, not at their next renewal."""
        for call in self._calls.values():
            if str(call.key) == name.decode():
                call.scope.cancel()

    async def drain(self, grace_s: float) -> None:
        """Gives the calls that run some time to end, then stops them and gives them back.

        What becomes of one is its worker's decision, who hears of it at once and need not wait for the claim
        to lapse. It is given back when its server has been told that it is cancelled: it can be made again
        then without running twice at once.
        """
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace_s)
        stopped = list(self._calls.values())
        for call in stopped:
            if not call.has_answer:
                _log.warning("%s: stopped and given back, this tool runner ends", call)
                call.scope.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_UNWIND_S)
        for call in self._calls.values():
            call.scope.cancel()
        await self._tools.close()
        await self._give_back([*stopped, *self._unsure.values()])

    async def _give_back(self, calls: list[_CallInFlight]) -> bool:
        """Whether Redis has heard of it. A call whose result is in is left alone."""
        claims = [(call.key, call.index, self._runner, call.has_begun) for call in calls]
        try:
            if claims:
                await tool_journal.release(self._redis, claims)
        except REDIS_AWAY as away:
            _log.warning("%d claims not given back, Redis is away (%s)", len(claims), away)
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
        self._beat.add(claim)
        try:
            with call.scope:
                outcome = await self._run(call, intent)
                call.has_answer = True
                await self._finish(claim, outcome)
        except REDIS_AWAY as away:
            _log.error("%s: its result is lost, Redis is away (%s)", call, away)
        finally:
            self._beat.discard(call.key, call.index)
            del self._calls[call.key, call.index]

    async def _run(self, call: _CallInFlight, intent: ToolIntent) -> Outcome:
        """In turn: one tenant's calls must not take all there is from the others."""
        shares = self._sandboxes if self._tools.runs_in_sandbox(intent.task) else self._calling
        async with shares.turn(call.key.tenant):
            return await self._run_now(call, intent)

    async def _run_now(self, call: _CallInFlight, intent: ToolIntent) -> Outcome:
        label = intent.task.server_label
        secrets, session = await insist(
            lambda: asyncio.gather(
                response_store.read_secrets(self._redis, self._settings, call.key),
                tool_journal.read_session(self._redis, call.key, label),
            ),
            self._settings.redis_outage_max_s,
        )
        if secrets is None and intent.task.server_url is not None:
            return Outcome(answers.make_failure(answers.INTERNAL_ERROR, _UNREADABLE))
        call.has_begun = True
        try:
            return await self._tools.run(intent.task, (secrets or {}).get(label), session)
        except Exception:  # noqa: BLE001  the top of one call: a bug of ours must not silence the stream
            _log.exception("%s: a bug in the tool runner", call)
            return Outcome(answers.make_failure(answers.INTERNAL_ERROR, "the tool runner failed"))

    async def _finish(self, claim: Claim, outcome: Outcome) -> None:
        label = claim.intent.task.server_label
        session = None if outcome.session is None else (label, outcome.session)
        is_wanted = await insist(
            lambda: tool_journal.finish(self._redis, claim, outcome.result, session),
            self._settings.redis_outage_max_s,
        )
        if not is_wanted:
            _log.info("%s call %d: nobody wants its result any more", claim.key, claim.call_index)

    def _hear_of_loss(self, claim: Claim) -> None:
        call = self._calls.get((claim.key, claim.call_index))
        if call is not None and call.has_answer:
            # What is there may be its own result, on a primary that is being replaced: telling it goes on
            # until that is confirmed or refused, and the claim with it.
            self._beat.add(claim)
        elif call is not None:
            _log.info("%s: cancelled, its response is closed or the claim is lost", call)
            call.scope.cancel()
