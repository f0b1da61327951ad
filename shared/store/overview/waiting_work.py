"""What waits in the queues, and what each tenant has, for operators.

Only reads, and never more flows or tenants than it is asked for. `queue.lua` owns the queues.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from shared.store import keys
from shared.store.keys import ResponseKey
from shared.store.owning import fleet
from shared.store.owning.lease import now_ms
from shared.store.redis.client import RedisClient

_COMMON = "antiphon:{queue}:"
"""What the names of all queues begin with."""


@dataclass(frozen=True, slots=True)
class FlowView:
    """What one tenant has waiting in one tier."""

    tenant: str
    tier: str
    waiting: int
    turn_cost: int
    oldest_ms: int | None
    """How long ago the response was accepted that waits longest; None if it is not known."""


@dataclass(frozen=True, slots=True)
class QueueView:
    name: str
    """`responses`, that of the default model; `responses@MODEL`; or `tools`."""
    waiting: int
    """All jobs, including those that are just being taken."""
    first: int
    """Those taken before all turns, takeovers above all, and those that are just being taken."""
    large: int
    """Those that wait for a worker with room for their bytes."""
    flows_total: int
    flows: list[FlowView]
    """Those with the next turns."""


async def read_queues(redis: RedisClient, flows_max: int, pinned: Sequence[str] = ()) -> list[QueueView]:
    """Returns each queue with at most `flows_max` of its flows, of which there is at least 1. `pinned`: the
    models for which responses wait even if nobody has served them yet."""
    queues = [*await _response_queues(redis, pinned), keys.TOOLS_QUEUE]
    return [await _read_queue(redis, queue, flows_max) for queue in queues]


async def _response_queues(redis: RedisClient, pinned: Sequence[str]) -> list[str]:
    """Returns the queues of all models that are served, were in the last day, or are pinned; that of the
    default model first."""
    served = [each for each, _ in await fleet.read_models(redis)]
    others = set(pinned) - {each.name for each in served}
    named = sorted([*(each.queue for each in served), *map(keys.queue_of, others)])
    return list(dict.fromkeys([keys.RESPONSES_QUEUE, *named]))


async def _read_queue(redis: RedisClient, queue: str, flows_max: int) -> QueueView:
    waiting, first, large, flows_total, flows = await redis.transaction(
        ("ZCARD", queue),
        ("ZCARD", keys.front(queue)),
        ("ZCARD", keys.large(queue)),
        ("ZCARD", keys.turns(queue)),
        ("ZRANGE", keys.turns(queue), 0, flows_max - 1),
    )
    names = [flow.decode() for flow in flows]
    name = queue.removeprefix(_COMMON)
    return QueueView(name, waiting, first, large, flows_total, await _read_flows(redis, queue, names))


async def _read_flows(redis: RedisClient, queue: str, flows: Sequence[str]) -> list[FlowView]:
    if not flows:
        return []
    costs = await redis.command("HMGET", keys.costs(queue), *flows)
    lists = [keys.waiting(queue, flow) for flow in flows]
    lengths = await redis.transaction(*(("LLEN", waiting) for waiting in lists))
    heads = await redis.transaction(*(("LINDEX", waiting, 0) for waiting in lists))
    now = await now_ms(redis)
    created = await redis.transaction(*(("HGET", _state_of(job), "created_ms") for job in heads))
    return [
        FlowView(*_parts(flow), length, int(cost or 0), max(0, now - int(at)) if at else None)
        for flow, length, cost, at in zip(flows, lengths, costs, created, strict=True)
    ]


def _parts(flow: str) -> tuple[str, str]:
    """Returns tenant and tier."""
    tenant, _, tier = flow.rpartition("/")
    return tenant, tier


def _state_of(job_id: bytes | None) -> str:
    """Returns the key of the state of the response that a job is for; of none for other jobs."""
    name = (job_id or b"").decode().partition(":")[0]
    return keys.state(ResponseKey.parse(name))


@dataclass(frozen=True, slots=True)
class TenantView:
    tenant: str
    open: int
    waiting: int
    held_bytes: int
    """Its requests that Redis holds uncompressed."""


async def read_tenants(
    redis: RedisClient, named: Sequence[str], count_max: int, pinned: Sequence[str] = ()
) -> list[TenantView]:
    """Returns the tenants that are named, and those with something waiting or open among the first
    `count_max` flows and responses; at most `count_max`."""
    queues = await _response_queues(redis, pinned)
    members, *flows = await redis.transaction(
        ("ZRANGE", keys.ACTIVE, 0, count_max - 1),
        *(("ZRANGE", keys.turns(queue), 0, count_max - 1) for queue in queues),
    )
    lists: dict[str, list[str]] = {name: [] for name in named}
    for queue, waiting in zip(queues, flows, strict=True):
        for flow in waiting:
            tenant, _ = _parts(flow.decode())
            lists.setdefault(tenant, []).append(keys.waiting(queue, flow.decode()))
    for member in members:
        lists.setdefault(ResponseKey.parse(member.decode()).tenant, [])
    return [await _read_tenant(redis, name, lists[name]) for name in sorted(lists)[:count_max]]


async def _read_tenant(redis: RedisClient, tenant: str, lists: Sequence[str]) -> TenantView:
    opened, held_bytes, *lengths = await redis.transaction(
        ("SCARD", keys.open_responses(tenant)),
        ("HGET", keys.held_bytes(tenant), "total"),
        *(("LLEN", waiting) for waiting in lists),
    )
    return TenantView(tenant, opened, sum(lengths), int(held_bytes or 0))
