"""Renews leases from a thread of its own, so that no model work can delay it.

Owns the thread and the set of leases held; what a lost lease means is told to the event loop.
"""

import logging
import threading
from collections.abc import Callable

from shared.settings import Settings
from shared.store.owning.lease import Lease, Loss, renew_all
from shared.store.redis.blocking import BlockingClient
from shared.store.redis.connections import REDIS_AWAY

_log = logging.getLogger(__name__)

BEATS_PER_TTL = 3
_RETRY_S = 0.05


class LeaseBeat:
    """`on_loss` is called in the thread, with a lease that is to be given up, and why."""

    def __init__(self, settings: Settings, on_loss: Callable[[Lease, Loss], None]) -> None:
        self._settings = settings
        self._on_loss = on_loss
        # A connection that does not answer is left long before a lease lapses: another one can still keep it.
        self._redis = BlockingClient(settings.redis_url, timeout_s=settings.lease_ttl_s / 2)
        self._held: set[Lease] = set()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease-beat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()
        self._redis.close()

    def add(self, lease: Lease) -> None:
        with self._lock:
            self._held.add(lease)

    def discard(self, lease: Lease) -> None:
        with self._lock:
            self._held.discard(lease)

    def _beat(self) -> None:
        wait_s = self._settings.lease_ttl_s / BEATS_PER_TTL
        while not self._ended.wait(wait_s):
            wait_s = self._settings.lease_ttl_s / BEATS_PER_TTL
            with self._lock:
                held = list(self._held)
            if not held:
                continue
            try:
                losses = renew_all(self._redis, self._settings, held)
            except REDIS_AWAY as away:
                _log.warning("leases: Redis is away (%s)", away)
                wait_s = _RETRY_S
                continue
            for lease, loss in losses:
                self.discard(lease)
                self._on_loss(lease, loss)
