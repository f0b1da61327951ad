"""What workers serve and are doing, as they announce it: for routing, the list of models, and operators.

Owns the announcements and their lifetime. They are hints: which queue a response waits in is in its state,
and what a worker takes is decided by the worker.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence

import msgspec

from shared.store import keys
from shared.store.owning.lease import now_ms
from shared.store.redis.client import RedisClient
from shared.store.redis.connections import REDIS_AWAY
from shared.store.redis.scripts import Command

FULL = 1_000
"""The load of a worker that has room for nothing more (`homes.lua`)."""
_REMEMBERED_MS = 86_400_000
"""How long a model that no living worker serves is still known: its responses wait for one."""


class Served(msgspec.Struct, frozen=True, array_like=True):
    """One name that requests may use for a model or an adapter."""

    name: str
    queue: str
    """Where its responses wait; names of one model share one."""
    context_tokens_max: int
    is_adapter: bool = False


class AboutWorker(msgspec.Struct, frozen=True):
    """One worker. `capacity`: how many responses it can run at once; `responses`: how many it has, `waiting`
    of which wait for tools."""

    served: Sequence[Served]
    engine: str
    capacity: int
    responses: int = 0
    waiting: int = 0
    place: str = ""
    pid: int = 0
    """On its machine; 0 if it is of an earlier version."""
    ended: int = 0
    """How many responses it has ended since it started."""

    @property
    def load(self) -> int:
        """How full it is, of FULL."""
        return min(FULL, FULL * (self.responses - self.waiting) // max(1, self.capacity))

    @property
    def queues(self) -> list[str]:
        """Those that the worker takes from."""
        return list(dict.fromkeys(each.queue for each in self.served))


_decode = msgspec.json.Decoder(AboutWorker).decode
_decode_served = msgspec.json.Decoder(Served).decode


async def announce(redis: RedisClient, worker: str, about: AboutWorker) -> None:
    """Announces a worker for `PRESENCE_TTL_S`, and its models for a day longer."""
    now = await now_ms(redis)
    gone = await redis.command("ZRANGEBYSCORE", keys.presence("worker"), "-inf", now)
    ttl_ms = int(keys.PRESENCE_TTL_S * 1000)
    loads = [command for queue in about.queues for command in _load_commands(queue, worker, about, gone)]
    members = [word for each in about.served for word in (now + ttl_ms, msgspec.json.encode(each))]
    await redis.transaction(
        ("SET", keys.announcement(worker), msgspec.json.encode(about), "PX", ttl_ms),
        ("ZADD", keys.MODELS, *members),
        ("ZREMRANGEBYSCORE", keys.MODELS, "-inf", now - _REMEMBERED_MS),
        ("PEXPIRE", keys.MODELS, _REMEMBERED_MS + ttl_ms),
        *loads,
    )


def _load_commands(queue: str, worker: str, about: AboutWorker, gone: Sequence[bytes]) -> list[Command]:
    loads = keys.loads(queue)
    forget: list[Command] = [("ZREM", loads, *gone)] if gone else []
    return [*forget, ("ZADD", loads, about.load, worker), ("PEXPIRE", loads, 60_000)]


async def maintain(redis: RedisClient, worker: str, describe: Callable[[], AboutWorker]) -> None:
    """Announces a worker until cancelled, then withdraws it; its models are remembered."""
    try:
        while True:
            try:
                await announce(redis, worker, describe())
            except REDIS_AWAY:
                pass  # readiness reports it
            await asyncio.sleep(keys.PRESENCE_TTL_S / 3)
    finally:
        try:
            queues = describe().queues
            await redis.transaction(
                ("DEL", keys.announcement(worker)), *(("ZREM", keys.loads(queue), worker) for queue in queues)
            )
        except REDIS_AWAY:
            pass  # the announcement expires


async def read_models(redis: RedisClient) -> list[tuple[Served, bool]]:
    """Returns what is served, or was lately, and whether a living worker serves it; those first."""
    now = await now_ms(redis)
    found: list[bytes] = await redis.command("ZRANGE", keys.MODELS, 0, -1, "REV", "WITHSCORES")
    members = zip(found[::2], found[1::2], strict=True)
    return [(_decode_served(member), float(until) > now) for member, until in members]


async def read_workers(redis: RedisClient) -> Mapping[str, AboutWorker]:
    """Returns the living workers of this version by their names."""
    now = await now_ms(redis)
    names: list[bytes] = await redis.command("ZRANGEBYSCORE", keys.presence("worker"), now, "+inf")
    if not names:
        return {}
    found = await redis.command("MGET", *(keys.announcement(name.decode()) for name in names))
    return {
        name.decode(): _decode(about) for name, about in zip(names, found, strict=True) if about is not None
    }
