"""Accepting a response and reading it back: its request, its state, its snapshot.

Owns the record beside the log. A response is the fold of its log; the snapshot only saves a
reader the folding once the log is closed.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from shared.responses import ResponseRequest, ServerSecrets
from shared.settings import Settings
from shared.store import job_queue, keys
from shared.store.keys import ResponseKey
from shared.store.redis_client import RedisClient, Script

_CREATE = Script("create")


class QueueFull(Exception):
    """`queue_depth_max` responses wait already; nothing was written."""


@dataclass(frozen=True, slots=True)
class State:
    """What is known of a response without reading its log."""

    is_stored: bool
    closed: str
    """The status it closed with; empty while it is open."""
    snapshot: bytes
    """JSON of the final Response; empty while it is open."""


async def create(
    redis: RedisClient,
    settings: Settings,
    key: ResponseKey,
    request: ResponseRequest,
    first_frame: bytes,
    secrets: Mapping[str, ServerSecrets],
) -> None:
    """Writes record, entry 0, secrets and job in one script, or raises QueueFull and writes nothing."""
    job_id = f"{key}:0"
    reply = await redis.run(
        _CREATE,
        [
            keys.state(key),
            keys.log(key),
            keys.secrets(key),
            keys.ACTIVE,
            keys.RESPONSES_QUEUE,
            keys.doorbell(keys.RESPONSES_QUEUE),
            keys.job(job_id),
        ],
        [
            str(key),
            job_id,
            job_queue.response_job(key),
            settings.live_ttl_s * 1000,
            settings.queue_depth_max,
            int(settings.ring_again_s * 1000),
            msgspec.json.encode(request),
            int(request.response.store),
            first_frame,
            msgspec.json.encode(secrets) if secrets else b"",
        ],
    )
    match reply:
        case [b"full", depth]:
            raise QueueFull(f"{depth} responses wait already")
        case [b"ok", *_] | [b"exists"]:  # an id is never used twice: `exists` is our own retry
            return
        case _:
            raise RuntimeError(f"create answered {reply!r}")


async def read_state(redis: RedisClient, key: ResponseKey) -> State | None:
    """None: no such response, or it has expired."""
    stored, closed, snapshot = await redis.command("HMGET", keys.state(key), "store", "closed", "snapshot")
    if stored is None:
        return None
    return State(stored == b"1", closed.decode(), snapshot or b"")


async def read_secrets(redis: RedisClient, key: ResponseKey) -> dict[str, ServerSecrets]:
    raw = await redis.command("GET", keys.secrets(key))
    return msgspec.json.decode(raw, type=dict[str, ServerSecrets]) if raw else {}
