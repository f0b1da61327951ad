"""Marks approvals as used: each lets one response make one call, however many continue from the question.

Owns the mark and its life, and reads what was asked, which the end of a response keeps (`log/closing.py`);
what an approval allows is decided by the worker.
"""

from collections.abc import Mapping, Sequence

from shared.settings import Settings
from shared.store import keys
from shared.store.keys import ResponseKey
from shared.store.redis.client import RedisClient
from shared.store.redis.scripts import LuaScript

_USE = LuaScript("tools/use_approval", is_confirmed=True)


async def read_asked(redis: RedisClient, tenant: str, ids: Sequence[str]) -> Mapping[str, str | None]:
    """Returns the fingerprint of the question that was asked under each id (`shared/approvals.py`), or
    None."""
    replies = await redis.transaction(*(("GET", keys.asked(tenant, id_)) for id_ in ids))
    return {id_: None if reply is None else reply.decode() for id_, reply in zip(ids, replies, strict=True)}


async def use_approval(
    redis: RedisClient, settings: Settings, key: ResponseKey, approval_request_id: str
) -> bool:
    """Marks an approval as used by a response, as long as its tenant's responses are kept.

    Returns False if another response has used it; the same one may ask again.
    """
    kept_s = settings.tenant_retention_s.get(key.tenant, settings.response_retention_s)
    reply = await redis.run(
        _USE(
            approval=keys.approval(key.tenant, approval_request_id),
            response_id=key.response_id,
            ttl_ms=max(kept_s, settings.live_ttl_s) * 1000,
        )
    )
    match reply:
        case b"ok":
            return True
        case b"used":
            return False
        case _:
            raise RuntimeError(f"use_approval answered {reply!r}")
