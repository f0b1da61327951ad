"""Delivers what webhooks have to deliver: claims it, sends it, and ends the claim.

`places.py` owns how many deliveries of whom are in flight. Any number of processes may do this side by
side. docs/adr/0052-an-outbox-written-by-the-close.md.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager

from shared import logs, metrics, traces
from shared.settings import Settings
from shared.store.redis.connections import REDIS_AWAY
from shared.store.redis.insisting import insist
from shared.store.webhooks.outbox import DeliveryClaim, Outbox
from shared.tenants_file import Roster
from shared.tracer import NO_CONTEXT, Span, TraceContext
from webhooks.message import event_type
from webhooks.places import SWIFT_S, Places
from webhooks.post import Post
from webhooks.verdict import Delivered, GivenUp, TryAgain, Undelivered, judge

_log = logging.getLogger(__name__)

_POLL_INTERVAL_S = 0.25
_SKEW_MAX_S = 60.0
"""Receivers allow for five minutes."""


class Sender:
    """Delivers for as long as `run` runs. `roster`: the tenants file, of which `take` takes a new version;
    `clock`: seconds since the epoch."""

    def __init__(
        self,
        outbox: Outbox,
        post: Post,
        settings: Settings,
        roster: Roster,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._outbox = outbox
        self._post = post
        self._settings = settings
        self._roster = roster
        self._clock = clock
        self._is_clock_wrong = False
        self._places = Places(settings)
        self._tasks: dict[asyncio.Task[None], DeliveryClaim] = {}
        self._freed = asyncio.Event()

    def take(self, roster: Roster) -> None:
        """Takes a new version of the tenants file. Who wanted to be left alone may be somebody else now."""
        self._roster = roster
        self._places.forget_waits()

    async def refresh_metrics(self) -> None:
        metrics.WEBHOOKS_IN_FLIGHT.set(len(self._tasks))

    async def run(self) -> None:
        """Delivers what is due, until cancelled."""
        while True:
            self._freed.clear()
            claims: Sequence[DeliveryClaim] = []
            try:
                places = self._places
                claims = await self._outbox.claim(places.free, places.rooms(self._roster.webhooks))
            except REDIS_AWAY as away:
                _log.warning("nothing delivered, Redis is unavailable (%s)", away)
            for claim in claims:
                self._start(claim)
            if claims:
                self._compare_clocks(claims[0])
            else:
                await self._wait()

    def _compare_clocks(self, claim: DeliveryClaim) -> None:
        """Logs that this machine's clock, which receivers compare with theirs, differs from Redis's."""
        skew_s = self._clock() - claim.claimed_ms / 1000
        was_wrong, self._is_clock_wrong = self._is_clock_wrong, abs(skew_s) > _SKEW_MAX_S
        if self._is_clock_wrong and not was_wrong:
            _log.error("the clocks of this machine and of Redis differ by %.0f s", skew_s)

    async def _wait(self) -> None:
        """Returns when a place has become free, or soon."""
        try:
            async with asyncio.timeout(_POLL_INTERVAL_S):
                await self._freed.wait()
        except TimeoutError:
            pass

    def _start(self, claim: DeliveryClaim) -> None:
        self._places.take(claim.name)
        task = asyncio.create_task(self._deliver(claim), name=f"{claim.name} {claim.entry.response_id}")
        self._tasks[task] = claim
        task.add_done_callback(self._forget)

    def _forget(self, task: "asyncio.Task[None]") -> None:
        self._places.leave(self._tasks.pop(task).name)
        self._freed.set()

    async def _deliver(self, claim: DeliveryClaim) -> None:
        trace = await self._read_trace(claim)
        logs.note_subject(claim.tenant, claim.entry.response_id, trace_id=traces.trace_id_of(trace.parent))
        try:
            outcome = await self._send(claim, trace)
        except Exception:  # noqa: BLE001  the top of one delivery: a bug must not end the others
            _log.exception("%s: the delivery of %s crashed", claim.name, claim.entry.response_id)
            outcome = Undelivered("a fault of the server's")
        settle = self._settling(claim, outcome)
        try:
            await insist(settle, self._settings.redis_outage_max_s)
        except REDIS_AWAY as away:
            _log.warning("%s: delivered again later, Redis is unavailable (%s)", claim.name, away)

    async def _read_trace(self, claim: DeliveryClaim) -> TraceContext:
        if traces.is_on():
            try:
                return await self._outbox.read_trace(claim)
            except REDIS_AWAY:
                pass  # it is delivered all the same, with a trace of its own
        return NO_CONTEXT

    async def _send(self, claim: DeliveryClaim, trace: TraceContext) -> Delivered | Undelivered:
        webhook = self._roster.webhooks.get(claim.tenant, {}).get(claim.webhook)
        if webhook is None:  # its entries wait, in case it comes back
            self._places.note(claim.name, "swift")
            return Undelivered("not in the tenants file")
        if event_type(claim.entry) not in webhook.event_types:
            return Delivered()
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        waiting = loop.call_later(SWIFT_S, self._places.note_waiting, claim.name)
        try:
            with _traced(claim, trace) as span:
                outcome = await self._post.deliver(claim.tenant, webhook, claim.entry)
                if isinstance(outcome, Undelivered):
                    span.fail(outcome.reason)
        finally:
            waiting.cancel()
        self._note(claim.name, outcome, loop.time() - began_s)
        return outcome

    def _note(self, name: str, outcome: Delivered | Undelivered, took_s: float) -> None:
        match outcome:
            case Delivered():
                metrics.WEBHOOK_DELIVERIES.labels("delivered").inc()
                self._places.note(name, "swift" if took_s <= SWIFT_S else "slow")
            case Undelivered(wait_s=wait_s):
                self._places.note(name, "failing")
                self._places.leave_alone(name, wait_s)

    def _settling(
        self, claim: DeliveryClaim, outcome: Delivered | Undelivered
    ) -> Callable[[], Awaitable[None]]:
        """Judges an outcome, once; returns what writes the verdict, which may have to be repeated."""
        match outcome:
            case Delivered():
                return lambda: self._outbox.note_delivered(claim)
            case Undelivered(reason):
                pass
        match judge(claim, outcome, self._settings, random.uniform):
            case TryAgain(entry, in_s):
                metrics.WEBHOOK_DELIVERIES.labels("failed").inc()
                said = "%s: %s, %s is tried again in %.0f s"
                _log.info(said, claim.name, reason, entry.response_id, in_s)
                return lambda: self._outbox.try_again(claim, entry, in_s)
            case GivenUp(why):
                metrics.WEBHOOK_DELIVERIES.labels("given_up").inc()
                _log.warning("%s: %s is given up: %s", claim.name, claim.entry.response_id, why)
                return lambda: self._outbox.give_up(claim, why)

    async def drain(self) -> None:
        """Lets deliveries end for `drain_grace_s`, then gives the rest back; other processes make them."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._settings.drain_grace_s)
        left = dict(self._tasks)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        try:
            async with asyncio.timeout(self._settings.drain_grace_s):
                for claim in (*left.values(), *await self._outbox.claim_unanswered()):
                    await self._outbox.try_again(claim, claim.entry, 0.0)
        except (TimeoutError, *REDIS_AWAY):
            pass  # their claims lapse


def _traced(claim: DeliveryClaim, trace: TraceContext) -> AbstractContextManager[Span]:
    """Makes a span of one attempt to deliver, in the trace of the response."""
    about: dict[str, str | int] = {
        "antiphon.response.id": claim.entry.response_id,
        "antiphon.tenant": claim.tenant,
        "antiphon.webhook": claim.webhook,
        "antiphon.failures": claim.entry.failures,
    }
    return traces.span("deliver webhook", about, kind="client", parent=trace)
