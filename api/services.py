"""The services that routes call, created once: accepting, reading, conversations, models, readiness."""

from collections.abc import Callable

from api.accept import Acceptance
from api.console.readings import Console
from api.conversations import Conversations
from api.offload import Offload
from api.read import Follower, Reading
from api.readiness import Readiness, check_readiness
from api.tenants import Tenants
from shared.settings import Settings
from shared.store.redis.client import RedisClient


class Services:
    def __init__(
        self,
        redis: RedisClient,
        follower: Follower,
        settings: Settings,
        clock: Callable[[], float],
        tenants: Tenants,
    ) -> None:
        """`clock` returns seconds since the epoch."""
        self._redis = redis
        self._settings = settings
        offload = self.offload = Offload()
        self.conversations = Conversations(redis, offload, settings, clock)
        self.accept = Acceptance(redis, offload, self.conversations, settings, clock, tenants, follower)
        self.catalogue = self.accept.catalogue
        self.read = Reading(redis, offload, follower, settings)
        self.console = Console(redis, settings, tenants.names)

    async def check_readiness(self) -> Readiness:
        return await check_readiness(self._redis, self._settings.redis_timeout_s)
