"""Renews leases from a thread and event loop of its own, so that no model work can delay a renewal.

Owns the thread and the set of leases held; what happens to a lost lease is up to `on_loss`.
"""

import asyncio
import logging
import threading
from collections.abc import Callable

from shared.race import race
from shared.rota import Rota
from shared.settings import Settings
from shared.store.owning.lease import Lease, Loss, Renewal, renew_all
from shared.store.redis.client import RedisClient, ScriptPipe
from shared.store.redis.connections import REDIS_AWAY

_log = logging.getLogger(__name__)

BEATS_PER_TTL = 3
_SHIFTS, _SHIFT_SIZE = 10, 32
"""In how many parts a beat renews many leases, evenly over its time, and how many leases make a part full:
renewing all at once would keep Redis, and this process's interpreter, from all else for milliseconds."""
_RETRY_S = 0.05


class LeaseBeat:
    """Renews every lease added to it, three times within its TTL. Calls `on_loss`, in its own thread, with
    each lost lease and why."""

    def __init__(self, settings: Settings, on_loss: Callable[[Lease, Loss], None]) -> None:
        self._settings = settings
        self._on_loss = on_loss
        self._renewals: dict[Lease, Renewal] = {}
        self._rota: Rota[Renewal] = Rota(settings.lease_ttl_s / BEATS_PER_TTL, _SHIFTS, _SHIFT_SIZE)
        self._lock = threading.Lock()
        """Guards the two above."""
        self._ended = asyncio.Event()
        self._running: tuple[asyncio.AbstractEventLoop, threading.Thread] | None = None

    def start(self) -> None:
        runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        thread = threading.Thread(target=self._run, args=(runner,), name="lease-beat", daemon=True)
        self._running = runner.get_loop(), thread
        thread.start()

    def stop(self) -> None:
        if self._running is None:
            return
        loop, thread = self._running
        loop.call_soon_threadsafe(self._ended.set)
        thread.join()
        self._running = None

    def add(self, lease: Lease) -> None:
        renewal = Renewal.of(self._settings, lease)
        with self._lock:
            self._renewals[lease] = renewal
            self._rota.add(renewal)

    def discard(self, lease: Lease) -> None:
        with self._lock:
            renewal = self._renewals.pop(lease, None)
            if renewal is not None:
                self._rota.discard(renewal)

    def _run(self, runner: asyncio.Runner) -> None:
        with runner:
            runner.run(self._beat())

    async def _beat(self) -> None:
        # A silent connection is dropped long before a lease lapses, so that another can still renew it.
        redis = RedisClient.connect(
            self._settings.redis_url,
            timeout_s=self._settings.lease_ttl_s / 2,
            connections_max=2,
            durability=self._settings.durable_writes,
            replicas=self._settings.durable_replicas,
        )
        pipe = redis.open_pipe()
        await race(self._renew_for_ever(pipe), self._ended.wait())
        await pipe.close()
        await redis.close()

    async def _renew_for_ever(self, pipe: ScriptPipe) -> None:
        while True:
            await self._rota.wait()
            while not await self._renew(pipe):
                await pipe.close()  # the next connection looks for the primary
                await asyncio.sleep(_RETRY_S)

    async def _renew(self, pipe: ScriptPipe) -> bool:
        """Renews the leases that are due and reports the lost ones; returns False if Redis did not answer."""
        with self._lock:
            due = self._rota.due()
        if not due:
            return True
        try:
            losses = await renew_all(pipe, due)
        except REDIS_AWAY as away:
            _log.warning("leases: Redis is unavailable (%s)", away)
            return False
        for lease, loss in losses:
            self.discard(lease)
            self._on_loss(lease, loss)
        return True
