"""Lists a tenant's stored responses, a page at a time, by the index that is kept with their records.

Owns the reading of that index; the scripts that create, close and delete a response write it (`listed.lua`,
docs/adr/0053-a-list-of-responses.md). A page is one script, unless it comes upon many that have expired.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from shared.heads import ResponseHead, name_member
from shared.responses import ResponseStatus
from shared.store import keys
from shared.store.redis.client import RedisClient
from shared.store.redis.scripts import LuaScript

_LIST = LuaScript("records/list", allows_full=True)
_SCAN_MAX = 1_000
"""How many entries of the index one script looks at."""
_OPEN = "open"
_read_head = msgspec.json.Decoder(ResponseHead).decode


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which responses to list. `member`: a key and value of their metadata."""

    status: ResponseStatus | None = None
    member: tuple[str, str] | None = None

    @property
    def group(self) -> str:
        """The group of the index that has them (`listed.lua`)."""
        return _OPEN if self.is_open else self.status or ""

    @property
    def is_open(self) -> bool:
        return self.status in ("queued", "in_progress")


@dataclass(frozen=True, slots=True)
class ResponsePage:
    heads: Sequence[ResponseHead]
    has_more: bool
    created_ms: Sequence[int] = ()
    """When each was created, by which they are ordered; two of the same millisecond, by their ids."""
    after_ms: int | None = None
    """The same of the response after which the page begins."""


async def list_page(
    redis: RedisClient,
    tenant: str,
    wanted: Wanted,
    after: str,
    limit: int,
    *,
    is_newest_first: bool,
    after_ms: int | None = None,
) -> ResponsePage | Literal["unknown"]:
    """Returns at most `limit` responses after the one with the id `after`, or from the beginning ('').

    `after_ms`: when that one was created, if it may be of another cell. `unknown`: the tenant has no such
    response.
    """
    heads: list[ResponseHead] = []
    created_ms: list[int] = []
    began_after, began_ms = after, after_ms
    while True:
        reply = await redis.run(
            _LIST(
                listed=keys.listed(tenant),
                state_pattern=keys.STATE_PATTERN,
                log_pattern=keys.LOG_PATTERN,
                tenant=tenant,
                group=wanted.group,
                member=name_member(*wanted.member) if wanted.member else "",
                wanted=wanted.status or "" if wanted.is_open else "",
                after=after,
                after_ms="" if after_ms is None else after_ms,
                limit=limit - len(heads),
                scan_max=_SCAN_MAX,
                newest_first=int(is_newest_first),
            )
        )
        match reply:
            case [b"unknown"]:
                return "unknown"
            case [b"ok", has_more, resume, after_created, *found]:
                heads += [_head_of(*found[i + 1 : i + 3]) for i in range(0, len(found), 4)]
                created_ms += [int(float(each)) for each in found[3::4]]
                if after == began_after and after_created:
                    began_ms = int(float(after_created))
                after = resume.decode()
                if after != began_after:
                    after_ms = None
            case _:
                raise RuntimeError(f"list answered {reply!r}")
        if len(heads) == limit or not has_more:
            return ResponsePage(heads, bool(has_more), created_ms, began_ms)


def _head_of(raw: bytes, status: bytes) -> ResponseHead:
    """Returns the head as it is now: it is written when a response is created, and when it has ended."""
    return msgspec.structs.replace(_read_head(raw), status=status.decode())
