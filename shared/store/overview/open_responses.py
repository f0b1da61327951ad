"""What is open: how many responses, who has them, and where each one stands, for operators.

Only reads, and never more than it is asked for. The scripts of `owning` own what a lease means.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from shared.store import keys
from shared.store.keys import ResponseKey
from shared.store.owning.lease import now_ms
from shared.store.redis.client import RedisClient

ResponseStanding = Literal["waiting", "owned", "handed_over", "lapsed", "closed"]
"""`waiting`: it has had no owner yet; `handed_over`: its owner has released it; `lapsed`: its owner has not
renewed the lease in time; the next owner of these continues it."""

_BATCH = 100
"""The number of responses read in one transaction, which limits how long it occupies Redis."""
_FIELDS = (
    "created_ms",
    "attempt",
    "owner",
    "lease_until_ms",
    "deaths",
    "rings",
    "store",
    "background",
    "closed",
)


@dataclass(frozen=True, slots=True)
class ResponseView:
    """One response as its state shows it."""

    tenant: str
    response_id: str
    standing: ResponseStanding
    status: str
    """What it closed with; empty while it is open."""
    age_ms: int
    """Since it was accepted, by Redis's clock."""
    owner: str
    """The process that has the lease, or had it last; empty before the first."""
    attempt: int
    """The fencing token: how many times the lease was granted."""
    owners_lost: int
    rings: int
    """How many times the doorbell was rung again."""
    is_stored: bool
    is_background: bool


@dataclass(frozen=True, slots=True)
class OpenResponses:
    total: int
    responses: list[ResponseView]


async def read_open(redis: RedisClient, count_max: int, tenant: str = "") -> OpenResponses:
    """Returns at most `count_max` open responses, oldest first. If there are more, those without an owner in
    time are among them; the others are the same at each call, as far as they are still open.

    `tenant`: only this tenant's, '' for all.
    """
    total, members = await (_of_tenant(redis, tenant, count_max) if tenant else _of_all(redis, count_max))
    views = await read_views(redis, [ResponseKey.parse(member) for member in members])
    found = [view for view in views if view is not None and view.standing != "closed"]
    return OpenResponses(total, sorted(found, key=lambda view: -view.age_ms))


async def _of_all(redis: RedisClient, count_max: int) -> tuple[int, list[str]]:
    now = await now_ms(redis)
    total, overdue = await redis.transaction(
        ("ZCARD", keys.ACTIVE),
        ("ZRANGE", keys.ACTIVE, "-inf", now, "BYSCORE", "LIMIT", 0, count_max),
    )
    found: dict[bytes, None] = dict.fromkeys(overdue)
    cursor = 0
    while len(found) < count_max:  # in the order of the hash table, which renewals do not change
        cursor, pairs = await redis.command("ZSCAN", keys.ACTIVE, cursor, "COUNT", _BATCH)
        found.update(dict.fromkeys(member for member, _ in pairs))
        if cursor == 0:
            break
    return total, [member.decode() for member in list(found)[:count_max]]


async def _of_tenant(redis: RedisClient, tenant: str, count_max: int) -> tuple[int, list[str]]:
    opened = keys.open_responses(tenant)
    total = int(await redis.command("SCARD", opened))
    cursor, ids = 0, set[bytes]()
    while len(ids) < count_max:
        cursor, found = await redis.command("SSCAN", opened, cursor, "COUNT", _BATCH)
        ids.update(found)
        cursor = int(cursor)
        if cursor == 0:
            break
    return total, [str(ResponseKey(tenant, name.decode())) for name in sorted(ids)[:count_max]]


async def read_views(redis: RedisClient, asked: Sequence[ResponseKey]) -> list[ResponseView | None]:
    """Returns what the states show; None for each response that does not exist."""
    now = await now_ms(redis)
    views: list[ResponseView | None] = []
    for first in range(0, len(asked), _BATCH):
        batch = asked[first : first + _BATCH]
        replies = await redis.transaction(*(("HMGET", keys.state(key), *_FIELDS) for key in batch))
        views += [_view(key, fields, now) for key, fields in zip(batch, replies, strict=True)]
    return views


def _view(key: ResponseKey, fields: list[bytes | None], now: int) -> ResponseView | None:
    if fields[6] is None:
        return None
    created, attempt, owner, until, deaths, rings, stored, background, closed = (
        (field or b"").decode() for field in fields
    )
    return ResponseView(
        key.tenant,
        key.response_id,
        _standing(closed, int(attempt or 0), int(until or 0), now),
        closed,
        max(0, now - int(created or now)),
        owner,
        int(attempt or 0),
        int(deaths or 0),
        int(rings or 0),
        stored == "1",
        background == "1",
    )


def _standing(closed: str, attempt: int, until: int, now: int) -> ResponseStanding:
    if closed:
        return "closed"
    if attempt == 0:
        return "waiting"
    if until == 0:
        return "handed_over"
    return "owned" if until >= now else "lapsed"


async def find(redis: RedisClient, response_id: str, tenants: Sequence[str]) -> ResponseKey | None:
    """Returns the response with this id of one of the tenants; None if none of them has it."""
    for first in range(0, len(tenants), _BATCH):
        asked = [ResponseKey(tenant, response_id) for tenant in tenants[first : first + _BATCH]]
        exists = await redis.transaction(*(("EXISTS", keys.state(key)) for key in asked))
        found = [key for key, is_there in zip(asked, exists, strict=True) if is_there]
        if found:
            return found[0]
    return None
