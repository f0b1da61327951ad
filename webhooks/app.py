"""The composition root of the role `webhooks`: creates its parts, runs them side by side, shuts them down.

Owns the wiring and the order of startup and shutdown.
"""

import asyncio
import logging
from pathlib import Path

from shared import ids, metrics_listener, tenants_file
from shared.egress import Egress
from shared.process import Misuse
from shared.race import race
from shared.settings import Settings
from shared.store.owning import presence
from shared.store.redis.client import RedisClient
from shared.store.webhooks.outbox import Outbox
from webhooks.post import Post
from webhooks.sender import Sender

ROLE = "webhooks"

_log = logging.getLogger(__name__)


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Delivers until `stop` is set. Raises Misuse or tenants_file.FileInvalid before anything is started."""
    path = path_of(settings)
    roster = tenants_file.read(path)
    name = ids.new_owner(ROLE, settings.place)
    redis = connect(settings)
    post = Post(settings, Egress.of(settings))
    sender = Sender(Outbox(redis, settings, name), post, settings, roster)
    _log.info("%s delivers to the webhooks of %d tenants", name, len(roster.webhooks))
    try:
        await race(
            sender.run(),
            presence.maintain(redis, ROLE, name),
            *metrics_listener.services(settings, ROLE, name, [sender.refresh_metrics]),
            tenants_file.follow(path, roster, sender.take),
            stop.wait(),
        )
        await sender.drain()
    finally:
        await post.close()
        await redis.close()


def path_of(settings: Settings) -> Path:
    """Returns the tenants file. Raises Misuse."""
    if settings.api_keys is None:
        raise Misuse("webhooks are registered in the tenants file, which ANTIPHON_API_KEYS must name")
    return settings.api_keys


def connect(settings: Settings) -> RedisClient:
    return RedisClient.connect(
        settings.redis_url,
        timeout_s=settings.redis_timeout_s,
        durability=settings.durable_writes,
        replicas=settings.durable_replicas,
    )
