"""Renews the claims of a tool runner, all in one round trip.

Owns when claims are renewed; `on_loss` decides what a lost claim means for its call.
"""

import asyncio
import logging
from collections.abc import Callable

from shared.settings import Settings
from shared.store.keys import ResponseKey
from shared.store.redis.client import RedisClient
from shared.store.redis.connections import REDIS_AWAY
from shared.store.tools import tool_journal
from shared.store.tools.tool_journal import Claim, Claiming

_log = logging.getLogger(__name__)

_BEATS_PER_TTL = 3
_RETRY_S = 0.05


class ClaimBeat:
    """Renews every claim added to it. Calls `on_loss` with each claim that another runner has, or whose call
    has a result or is no longer needed."""

    def __init__(self, settings: Settings, on_loss: Callable[[Claim], None]) -> None:
        self._settings = settings
        self._on_loss = on_loss
        # Connections of its own, so that calls waiting for Redis do not delay it. A silent connection is
        # dropped long before a claim lapses, so that another can still renew it.
        self._redis = RedisClient.connect(
            settings.redis_url,
            timeout_s=settings.tool_claim_ttl_s / 2,
            connections_max=2,
            durability=settings.durable_writes,
            replicas=settings.durable_replicas,
        )
        self._held: dict[tuple[ResponseKey, int], Claiming] = {}

    def add(self, claim: Claiming) -> None:
        """Adds a claim, replacing an earlier one on the same call."""
        self._held[claim.key, claim.call_index] = claim

    def discard(self, key: ResponseKey, call_index: int) -> None:
        self._held.pop((key, call_index), None)

    async def run(self) -> None:
        """Renews the claims until cancelled."""
        wait_s = self._settings.tool_claim_ttl_s / _BEATS_PER_TTL
        while True:
            await asyncio.sleep(wait_s)
            wait_s = self._settings.tool_claim_ttl_s / _BEATS_PER_TTL
            held = list(self._held.values())
            if not held:
                continue
            try:
                lost = await tool_journal.renew(self._redis, self._settings, held)
            except REDIS_AWAY as away:
                _log.warning("%d claims not renewed, Redis is unavailable (%s)", len(held), away)
                wait_s = _RETRY_S
                continue
            for claim in lost:
                if (claim.key, claim.call_index) in self._held:
                    self.discard(claim.key, claim.call_index)
                    self._on_loss(claim)

    async def close(self) -> None:
        await self._redis.close()
