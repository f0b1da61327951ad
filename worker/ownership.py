"""The responses that this worker owns: acquires their leases, runs their attempts, and decides what follows.

Owns the number in flight and what the outcome of an attempt means. An attempt itself runs in
`response/attempt.py`; `lease_beat.py` renews the leases, from its own thread.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Literal, TypeVar

from shared import logs, metrics
from shared.ids import new_owner
from shared.record_format import RECORD_FORMAT_OLDEST
from shared.responses import ResponseError
from shared.service_tiers import served_tier
from shared.store import keys
from shared.store.job_queue import Room, Taken, bytes_of_large, ring_again
from shared.store.keys import ResponseKey
from shared.store.log.response_log import TailLost
from shared.store.owning import lease
from shared.store.owning.claiming import Claimant
from shared.store.owning.lease import Acquired, Lease, LeaseLost, Loss
from shared.store.redis.connections import REDIS_AWAY
from shared.store.redis.insisting import insist
from worker.engines.protocol import EngineDead
from worker.failing import Failing
from worker.lease_beat import LeaseBeat
from worker.response.attempt import run_attempt
from worker.response.history import Diverged, Unloadable, history_before, load_record
from worker.response.hopeless import Hopeless
from worker.response.resources import Resources
from worker.response.spans import trace_id_of, traced_attempt
from worker.serving import capacity_of

_log = logging.getLogger(__name__)

_RETRY_S = 0.25

_T = TypeVar("_T")


class Ownership:
    def __init__(
        self,
        resources: Resources,
        owner: str | None = None,
        queues: Sequence[str] = (keys.RESPONSES_QUEUE,),
        waiting: Callable[[], int] = lambda: 0,
    ) -> None:
        """`queues`: those of the models that it serves; `waiting()`: how many of its responses wait for
        tools."""
        self.owner = owner or new_owner("worker")
        self.engine_died = asyncio.Event()
        self._resources = resources
        self._settings = resources.settings
        self._tasks: dict[Lease, asyncio.Task[None]] = {}
        self._leases: dict[ResponseKey, set[Lease]] = {}
        """Those of the tasks; two of one response if an attempt that lost its lease has not ended yet."""
        self._traces: dict[Lease, str] = {}
        """The ids of their traces, as far as they are known."""
        self._held: Counter[str] = Counter()
        """How many of the tasks each tenant has."""
        self.large_bytes = 0
        """Total size of the large records among the responses owned."""
        self._tokens: dict[ResponseKey, int] = {}
        """The last fencing token of each response, kept while a write with it may still be in flight."""
        self._taking: set[asyncio.Task[Any]] = set()
        self._endings: set[asyncio.Task[None]] = set()
        self._is_draining = False
        self._waiting = waiting
        self._failing = Failing(resources, self.owner)
        self._claimant = Claimant(resources.redis, self._settings, self.owner, queues)
        self._loop = asyncio.get_running_loop()
        self._beat = LeaseBeat(self._settings, self._on_loss)

    # --- taking work ----------------------------------------------------------------------------

    def room(self) -> int:
        """Returns the number of further responses that this worker may have now."""
        if self._is_draining:
            return 0
        return self._settings.responses_in_flight_max - len(self._tasks)

    @property
    def running(self) -> int:
        """The number of responses that it has."""
        return len(self._tasks)

    @property
    def in_flight(self) -> int:
        return len(self._tasks)

    async def claim(self, room: Room) -> Taken:
        """Claims waiting work (`claim.lua`); attempts at new responses begin at once.

        Returns the other jobs, for their handlers. Shielded as `start_response`.
        """
        if self._is_draining:
            return Taken([], has_begun=False, is_left=False)
        claiming = self._keep_taking(self._claim(room))
        return await asyncio.shield(claiming)

    async def _claim(self, room: Room) -> Taken:
        capacity = capacity_of(self._settings, self._resources.engine)
        claimed = await self._claimant.claim(room, self._held, capacity, self.running - self._waiting())
        for acquired in claimed.begun:
            key, token = acquired.lease.key, acquired.lease.fencing_token
            if token > self._tokens.get(key, 0):
                self._begin(acquired)
            else:  # a failover took back the lease that was granted with this token
                self._keep_taking(self._take_if_possible(key))
        for key in claimed.unheard:
            self._keep_taking(self._take_if_possible(key))
        return claimed.taken

    async def start_response(self, name: str) -> None:
        """Handles a job: acquires the response's lease and starts an attempt, unless another worker owns it.

        Shielded, because a queue that loses its connection cancels its handlers, and Redis may have granted
        the lease by then.
        """
        await asyncio.shield(self._keep_taking(self._take(ResponseKey.parse(name))))

    def _keep_taking(self, taking: Coroutine[Any, Any, _T]) -> "asyncio.Task[_T]":
        task = asyncio.create_task(taking)
        self._taking.add(task)
        task.add_done_callback(self._taking.discard)
        return task

    async def _take_if_possible(self, key: ResponseKey) -> None:
        try:
            await self._take(key)
        except REDIS_AWAY as away:
            with logs.about(*key):
                _log.warning("%s: not acquired again, Redis is unavailable: %s", key, away)

    async def _take(self, key: ResponseKey) -> None:
        acquired = await self._acquire(key)
        if isinstance(acquired, Acquired):
            self._begin(acquired)

    def _begin(self, acquired: Acquired) -> None:
        held = acquired.lease
        self._beat.add(held)
        self._tokens[held.key] = held.fencing_token
        task = self._tasks[held] = asyncio.create_task(self._own(acquired), name=str(held.key))
        self._leases.setdefault(held.key, set()).add(held)
        self._held[held.key.tenant] += 1
        large_bytes = bytes_of_large(acquired.record_bytes)
        self.large_bytes += large_bytes
        task.add_done_callback(lambda _: self._forget(held, large_bytes))

    async def _acquire(self, key: ResponseKey) -> Acquired | lease.NotAcquired:
        """Retries for `redis_outage_max_s`: Redis may have granted the lease although its reply was lost."""

        def ask() -> Awaitable[Acquired | lease.NotAcquired]:
            return lease.acquire(
                self._resources.redis,
                self._settings,
                key,
                self.owner,
                has_response=key in self._leases,
                token_used=self._tokens.get(key, 0),
            )

        return await insist(ask, self._settings.redis_outage_max_s, lambda: self._is_draining)

    def _forget(self, held: Lease, large_bytes: int) -> None:
        del self._tasks[held]
        self._traces.pop(held, None)
        self._held[held.key.tenant] -= 1
        if not self._held[held.key.tenant]:
            del self._held[held.key.tenant]
        self.large_bytes -= large_bytes
        leases = self._leases[held.key]
        leases.remove(held)
        if not leases:
            del self._leases[held.key]

    def start(self) -> None:
        self._beat.start()

    # --- one response ---------------------------------------------------------------------------

    async def _own(self, acquired: Acquired) -> None:
        """The top of an attempt: however it ends, the response is closed or its lease is given up."""
        held = acquired.lease
        logs.note_subject(*held.key, held.fencing_token)
        try:
            await self._drive(acquired)
        except LeaseLost as lost:
            metrics.LEASE_LOSSES.labels("fenced").inc()
            _log.info("%s: stopped, %s", held.key, lost)
        except REDIS_AWAY as away:
            metrics.ATTEMPT_FAILURES.labels("redis_away").inc()
            _log.warning("%s: given up, Redis is unavailable: %s", held.key, away)
            self._follow_up(self._hand_over_when_possible(held))
        except EngineDead as dead:
            metrics.ATTEMPT_FAILURES.labels("engine_died").inc()
            _log.error("%s: %s", held.key, dead)
            self.engine_died.set()
        except asyncio.CancelledError:
            raise
        except Exception:  # noqa: BLE001  a bug: it ends this attempt and no other
            metrics.ATTEMPT_FAILURES.labels("crashed").inc()
            _log.exception("%s: the attempt crashed", held.key)
            await self._failing.fail_if_possible(
                held, "The server had an error while generating the response."
            )
        finally:
            self._beat.discard(held)
            self._loop.call_later(2 * self._settings.redis_outage_max_s, self._forget_token, held)

    def _forget_token(self, held: Lease) -> None:
        if self._tokens.get(held.key) == held.fencing_token:
            del self._tokens[held.key]

    async def _drive(self, acquired: Acquired) -> None:
        held = acquired.lease
        if held.fencing_token > 1:
            metrics.TAKEOVERS.labels("lapsed" if acquired.has_lapsed else "handed_over").inc()
        if acquired.format < RECORD_FORMAT_OLDEST:
            metrics.ATTEMPT_FAILURES.labels("too_old").inc()
            reason = "The response was started by a version too old to be continued by this one."
            return await self._failing.fail(held, ResponseError("server_error", reason))
        if acquired.deaths >= self._settings.owners_lost_max:
            metrics.ATTEMPT_FAILURES.labels("owners_lost").inc()
            lost = f"{acquired.deaths} workers were lost while they had it, or could not load it"
            reason = f"The response was given up: {lost}."
            return await self._failing.fail(held, ResponseError("server_error", reason))
        try:
            record = await load_record(self._resources.redis, self._resources.stepper, acquired)
        except Unloadable as unloadable:
            metrics.ATTEMPT_FAILURES.labels("unloadable").inc()
            return await self._lose(held, unloadable)
        self._traces[held] = trace_id = trace_id_of(record)
        logs.note_subject(*held.key, held.fencing_token, trace_id)
        if held.fencing_token == 1:
            response = record.request.response
            waited = metrics.QUEUE_WAIT.labels(
                metrics.model_label(response.model), served_tier(response.service_tier)
            )
            waited.observe(acquired.age_ms / 1000)
        history = await history_before(self._resources.redis, self._resources.stepper, acquired)
        if history.frames:
            _log.info("%s: continues after %d events", held.key, history.first + len(history.frames))
        try:
            with traced_attempt(acquired, record):
                await run_attempt(self._resources, held, record, history)
        except Hopeless as hopeless:
            metrics.ATTEMPT_FAILURES.labels("refused").inc()
            await self._failing.fail(held, hopeless.error)
        except TailLost as lost:
            metrics.ATTEMPT_FAILURES.labels("tail_lost").inc()
            _log.error("%s: %s", held.key, lost)
            reason = "The end of the response was lost with the server that held it."
            await self._failing.fail(held, ResponseError("server_error", reason))
        except Diverged as diverged:
            metrics.ATTEMPT_FAILURES.labels("diverged").inc()
            _log.error("%s: %s", held.key, diverged)
            reason = "The response could not be continued exactly after its worker was lost."
            await self._failing.fail(held, ResponseError("server_error", reason))

    async def _lose(self, held: Lease, reason: Unloadable) -> None:
        """Gives the lease back, counted as a lost owner, so that another worker tries to load the record."""
        _log.error("%s: the record could not be loaded: %s", held.key, reason)
        await lease.lose(self._resources.redis, held)
        await ring_again(self._resources.redis, self._settings, held.key)

    # --- losing leases, ending ------------------------------------------------------------------

    def _on_loss(self, lost: Lease, loss: Loss) -> None:
        """Called in the beat's thread; continues on the event loop."""
        self._loop.call_soon_threadsafe(self._give_up, lost, loss)

    def _give_up(self, lost: Lease, loss: Loss | Literal["cancelled"]) -> None:
        task = self._tasks.get(lost)
        if task is None:
            return
        metrics.LEASE_LOSSES.labels(loss).inc()
        task.cancel()
        with logs.about(*lost.key, lost.fencing_token, self._traces.get(lost, "")):
            _log.info("%s: %s, stopping", lost.key, loss)
            if loss == "abandoned":
                self._follow_up(self._failing.cancel_abandoned(lost.key))

    def _follow_up(self, ending: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(ending)
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)

    def on_cancel(self, name: bytes) -> None:
        """Stops the attempt at the response of that name, which was cancelled; sooner than the beat would."""
        for held in self._leases.get(ResponseKey.parse(name.decode()), ()):
            self._give_up(held, "cancelled")

    async def drain(self) -> None:
        """Takes nothing more and hands over the running responses, so that other workers continue at once."""
        self._is_draining = True
        if self._taking:
            await self._claimant.hush()
        while self._taking:  # a claim may find what has to be acquired again
            await asyncio.gather(*self._taking, return_exceptions=True)
        tasks = dict(self._tasks)
        left = [held for held, task in tasks.items() if not task.done()]
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), *self._endings, return_exceptions=True)
        self._beat.stop()
        if left and not self.engine_died.is_set():  # a dead engine counts as a lost owner: its leases lapse
            await self._hand_over(left)
        await self._claimant.close()

    async def _hand_over_when_possible(self, held: Lease) -> None:
        """Retries until Redis answers: the worker is alive, so the lease must not count as a lost owner's."""
        while not (await self._hand_over([held]) or self._is_draining):  # noqa: ASYNC110  Redis sets no event
            await asyncio.sleep(_RETRY_S)

    async def _hand_over(self, leases: list[Lease]) -> bool:
        """Releases the leases and rings for their responses; returns False if Redis is unavailable."""
        redis = self._resources.redis
        try:
            await lease.release(redis, self._settings, *leases)
            await asyncio.gather(*(ring_again(redis, self._settings, held.key) for held in leases))
        except REDIS_AWAY as away:
            _log.warning("%d leases not handed over, Redis is unavailable (%s)", len(leases), away)
            return False
        return True
