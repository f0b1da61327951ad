"""The models that requests may name: those that the operator names, and those that workers announce.

Owns what a name means here: whether there is such a model, and where its responses wait. `owning/fleet.py`
owns the announcements.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from api.errors import MODEL_NOT_FOUND, ClientError
from shared.settings import Settings
from shared.store import keys
from shared.store.owning import fleet
from shared.store.owning.fleet import Served
from shared.store.redis.client import RedisClient
from shared.store.redis.connections import REDIS_AWAY

_log = logging.getLogger(__name__)
_READ_AGAIN_S = 1.0
T = TypeVar("T")


class Catalogue:
    """As workers have announced it last. While Redis is away, it stays as it was."""

    def __init__(self, redis: RedisClient, settings: Settings) -> None:
        self._redis, self._settings = redis, settings
        self._known: dict[str, Served] = {}
        """What a living worker serves, or one served in the last day."""
        self._living: set[str] = set()

    async def run(self) -> None:
        """Keeps it up to date, until cancelled."""
        while True:
            await self.refresh()
            await asyncio.sleep(_READ_AGAIN_S)

    async def refresh(self) -> None:
        """Reads the announcements."""
        try:
            found = await fleet.read_models(self._redis)
        except REDIS_AWAY as away:
            _log.debug("the models stay as they were, Redis is unavailable (%s)", away)
            return
        known: dict[str, Served] = {}
        for served, _ in found:
            known.setdefault(served.name, served)
        self._known, self._living = known, {served.name for served, is_living in found if is_living}

    async def read(self, reading: Callable[[Sequence[str]], Awaitable[T]]) -> T:
        """Returns what `reading` makes with the names that requests may use, the default model's first. It is
        called again if it has missed one that a worker has announced meanwhile."""
        names = self.names()
        try:
            return await reading(names)
        except ClientError as error:
            if error.code != MODEL_NOT_FOUND:
                raise
            await self.refresh()
            if self.names() == names:
                raise
        return await reading(self.names())

    def names(self) -> list[str]:
        settings = self._settings
        return list(dict.fromkeys([*settings.models, *settings.pinned_models, *sorted(self._known)]))

    def listed(self) -> list[str]:
        """Returns the names of what can be had now, and of what the operator keeps requests waiting for."""
        return [name for name in self.names() if name in self._living or self._is_configured(name)]

    def _is_configured(self, name: str) -> bool:
        return name in self._settings.models or name in self._settings.pinned_models

    def queue_of(self, name: str) -> str:
        """Returns where responses for a model wait. Names that no worker has announced stand for the default
        model, whose workers may be of a version that announces nothing."""
        served = self._known.get(name)
        if served is not None:
            return served.queue
        return keys.queue_of(name) if name in self._settings.pinned_models else keys.RESPONSES_QUEUE

    def context_tokens_max(self, name: str) -> int:
        served = self._known.get(name)
        mine = self._settings.context_tokens_max
        return min(mine, served.context_tokens_max) if served is not None else mine
