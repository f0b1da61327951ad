"""Gives turns to tenants: a limited number at once, a limited share for each, and waiting tenants in
rotation.

Owns the counting and the order; knows nothing of what a turn is used for.
"""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Shares:
    """Limits turns to `total`, and one tenant's turns to the part `share` of it, but at least one.

    No call waits while a turn is free within its tenant's share. Waiting tenants are served in rotation, and
    the calls of one tenant in the order of their arrival.
    """

    def __init__(self, total: int, share: float) -> None:
        self._total = total
        self._share_max = max(1, int(total * share))
        self._taken: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        """Tenants in the order of their rotation."""

    @property
    def taken(self) -> int:
        return self._taken.total()

    @property
    def waiting(self) -> int:
        return sum(map(len, self._waiting.values()))

    @asynccontextmanager
    async def turn(self, tenant: str) -> AsyncIterator[None]:
        """Waits for a turn, and holds it for the duration of the context."""
        if self._may_take(tenant):
            self._taken[tenant] += 1
        else:
            await self._wait(tenant)
        try:
            yield
        finally:
            self._give_back(tenant)

    def _may_take(self, tenant: str) -> bool:
        return self.taken < self._total and self._taken[tenant] < self._share_max

    async def _wait(self, tenant: str) -> None:
        given: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tenant, deque()).append(given)
        try:
            await given
        except asyncio.CancelledError:
            if given.cancelled():
                self._forget(tenant, given)
            else:  # the turn was given at the moment of the cancellation
                self._give_back(tenant)
            raise

    def _forget(self, tenant: str, given: asyncio.Future[None]) -> None:
        line = self._waiting.get(tenant, deque())
        if given in line:
            line.remove(given)
            if not line:
                del self._waiting[tenant]

    def _give_back(self, tenant: str) -> None:
        self._taken[tenant] -= 1
        self._taken = +self._taken  # drops tenants without a turn
        while (following := next(filter(self._may_take, self._waiting), None)) is not None:
            line = self._waiting.pop(following)
            given = line.popleft()
            if line:
                self._waiting[following] = line
            if not given.cancelled():
                self._taken[following] += 1
                given.set_result(None)
