"""Delivers what webhooks have to deliver: claims it, sends it, and ends the claim.

Owns how many deliveries are in flight, and that no webhook holds up another. Any number of processes may do
this side by side. docs/adr/0052-an-outbox-written-by-the-close.md.
"""

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence

from shared import logs, metrics
from shared.settings import Settings
from shared.store.redis.connections import REDIS_AWAY
from shared.store.redis.insisting import insist
from shared.store.webhooks.outbox import DeliveryClaim, Outbox
from shared.tenants_file import Roster
from webhooks.message import event_type
from webhooks.post import Post
from webhooks.verdict import Delivered, GivenUp, TryAgain, Undelivered, judge

_log = logging.getLogger(__name__)

_POLL_INTERVAL_S = 0.25
_SKEW_MAX_S = 60.0
"""Receivers allow for five minutes."""
_AILING_SHARE = 2
"""Webhooks whose last delivery failed have at most one part in this many of the places."""


class Places:
    """Who has a place among the deliveries in flight. Pure.

    A tenant has a part of them. A webhook whose last delivery failed has one place, and all such webhooks
    together have half of them, so that those that answer always find a place.
    """

    def __init__(self, settings: Settings) -> None:
        self._places_max = settings.webhooks_in_flight_max
        self.tenant_max = settings.tenant_webhooks_in_flight_max
        self._in_flight: Counter[str] = Counter()
        """`tenant/name` -> deliveries."""
        self._ailing: set[str] = set()

    @property
    def free(self) -> int:
        return self._places_max - self._in_flight.total()

    def rooms(self) -> dict[str, int]:
        """Returns what has room for fewer than `tenant_max` further deliveries: a tenant, or `tenant/name` ->
        for how many."""
        rooms: dict[str, int] = {}
        for name, count in self._in_flight.items():
            tenant = name.partition("/")[0]
            rooms[tenant] = max(0, rooms.get(tenant, self.tenant_max) - count)
        ailing = sum(self._in_flight[name] for name in self._ailing)
        is_full = ailing >= max(1, self._places_max // _AILING_SHARE)
        return rooms | {name: int(not is_full and not self._in_flight[name]) for name in self._ailing}

    def take(self, name: str) -> None:
        self._in_flight[name] += 1

    def leave(self, name: str) -> None:
        self._in_flight[name] -= 1
        if not self._in_flight[name]:
            del self._in_flight[name]

    def note(self, name: str, *, is_well: bool) -> None:
        """Notes whether a webhook's last delivery arrived."""
        self._ailing.discard(name) if is_well else self._ailing.add(name)


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
        self._roster = roster

    async def refresh_metrics(self) -> None:
        metrics.WEBHOOKS_IN_FLIGHT.set(len(self._tasks))

    async def run(self) -> None:
        """Delivers what is due, until cancelled."""
        while True:
            self._freed.clear()
            claims: Sequence[DeliveryClaim] = []
            try:
                places = self._places
                claims = await self._outbox.claim(places.free, places.tenant_max, places.rooms())
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
        logs.note_subject(claim.tenant, claim.entry.response_id)
        try:
            outcome = await self._send(claim)
        except Exception:  # noqa: BLE001  the top of one delivery: a bug must not end the others
            _log.exception("%s: the delivery of %s crashed", claim.name, claim.entry.response_id)
            outcome = Undelivered("a fault of the server's")
        try:
            await insist(lambda: self._settle(claim, outcome), self._settings.redis_outage_max_s)
        except REDIS_AWAY as away:
            _log.warning("%s: delivered again later, Redis is unavailable (%s)", claim.name, away)

    async def _send(self, claim: DeliveryClaim) -> Delivered | Undelivered:
        webhook = self._roster.webhooks.get(claim.tenant, {}).get(claim.webhook)
        if webhook is None:  # its entries wait, in case it comes back
            self._places.note(claim.name, is_well=True)
            return Undelivered("not in the tenants file")
        if event_type(claim.entry) not in webhook.event_types:
            return Delivered()
        outcome = await self._post.deliver(webhook, claim.entry)
        self._places.note(claim.name, is_well=isinstance(outcome, Delivered))
        return outcome

    async def _settle(self, claim: DeliveryClaim, outcome: Delivered | Undelivered) -> None:
        response_id = claim.entry.response_id
        match outcome:
            case Delivered():
                metrics.WEBHOOK_DELIVERIES.labels("delivered").inc()
                await self._outbox.note_delivered(claim)
            case Undelivered():
                match judge(claim, outcome, self._settings, random.uniform):
                    case TryAgain(entry, in_s):
                        metrics.WEBHOOK_DELIVERIES.labels("failed").inc()
                        _log.info(
                            "%s: %s, %s is tried again in %.0f s",
                            claim.name,
                            outcome.reason,
                            response_id,
                            in_s,
                        )
                        await self._outbox.try_again(claim, entry, in_s)
                    case GivenUp(reason):
                        metrics.WEBHOOK_DELIVERIES.labels("given_up").inc()
                        _log.warning("%s: %s is given up: %s", claim.name, response_id, reason)
                        await self._outbox.give_up(claim, reason)

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
