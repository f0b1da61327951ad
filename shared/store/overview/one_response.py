"""Everything that Redis keeps about one response besides its texts: state, log, archive and tool journal.

Only reads, and of the journal at most `CALLS_MAX` calls. The names of tools are shown, never what they were
asked or answered.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import msgspec

from shared.heads import ResponseHead
from shared.settings import Settings
from shared.store import keys
from shared.store.keys import ResponseKey
from shared.store.overview.open_responses import ResponseStanding, ResponseView, read_views
from shared.store.redis.client import RedisClient
from shared.store.tools import tool_journal
from shared.tool_calls import ToolCall, ToolIntent

CALLS_MAX = 200
GRANTS_MAX = 64
"""Those that `granting.lua` keeps."""
_INTENT = re.compile(rb"(\d+):intent")
_read_head = msgspec.json.Decoder(ResponseHead).decode
_read_intent = msgspec.json.Decoder(ToolIntent).decode


@dataclass(frozen=True, slots=True)
class JournaledCall:
    """One task of a tool runner in the journal of a response."""

    call_index: int
    server_label: str
    tool: str
    """The tool's name, or `(list)` for the listing of a server's tools."""
    standing: str
    """As `tool_journal.Standing` says."""
    runner: str
    attempt: int
    """The fencing token of the attempt that submitted it."""
    result_bytes: int


Parting = Literal["handed_over", "lost", "seized", "ended"]
"""How an owner's time ended: it released the lease; it did not renew it; whoever cancels took it away; it
ended the response."""


@dataclass(frozen=True, slots=True)
class Grant:
    """How the response came to one of its owners."""

    attempt: int
    """The fencing token; the highest that is kept is 64."""
    owner: str
    after_ms: int
    """Since the response was accepted."""
    until_ms: int | None = None
    """When it let go, or if it was lost, was heard of last; None while it has the lease, and if that is not
    known."""
    parting: Parting | None = None
    """None until then."""


@dataclass(frozen=True, slots=True)
class ResponseDetail:
    response: ResponseView
    model: str
    """Empty if the response is not stored."""
    queue: str
    """Where it waits, or waited last; empty if an earlier version has accepted it."""
    is_archived: bool
    log_entries: int
    """0 once it is archived."""
    request_bytes: int
    readers: int
    """Those announced just now, of a foreground response."""
    record_format: int
    ttl_ms: int
    """After which Redis forgets it, unless something renews it."""
    grants: list[Grant]
    """The first owners, in order."""
    calls_total: int
    calls: list[JournaledCall]


async def read_detail(redis: RedisClient, settings: Settings, key: ResponseKey) -> ResponseDetail | None:
    """Returns what is kept about a response; None if there is no such response."""
    (view,) = await read_views(redis, [key])
    if view is None:
        return None
    attempts = range(1, min(view.attempt, GRANTS_MAX) + 1)
    fields, request_bytes, entries, is_archived, readers, ttl_ms = await redis.transaction(
        (
            "HMGET",
            keys.state(key),
            "head",
            "format",
            "queue",
            "created_ms",
            "lease_until_ms",
            "left_ms",
            *(f"grant:{i}" for i in attempts),
        ),
        ("HSTRLEN", keys.state(key), "request"),
        ("XLEN", keys.log(key)),
        ("EXISTS", keys.archive(key)),
        ("ZCARD", keys.readers(key)),
        ("PTTL", keys.state(key)),
    )
    head, record_format, queue, created_ms, lease_until_ms, left_ms, *granted = fields
    times = _Times(int(created_ms or 0), int(settings.lease_ttl_s * 1000))
    found = [pair for pair in zip(attempts, granted, strict=True) if pair[1] is not None]
    grants = times.read_grants(found)
    if grants and view.attempt <= GRANTS_MAX:
        until, left = int(lease_until_ms or 0), int(left_ms or 0)
        grants[-1] = times.with_last_parting(grants[-1], view.standing, until, left)
    total, calls = await _read_calls(redis, settings, key)
    return ResponseDetail(
        view,
        _read_head(head).model if head else "",
        (queue or b"").decode(),
        bool(is_archived),
        entries,
        request_bytes,
        readers,
        int(record_format or 1),
        ttl_ms,
        grants,
        total,
        calls,
    )


@dataclass(frozen=True, slots=True)
class _Times:
    """Turns times of Redis's clock into those since a response was accepted."""

    created_ms: int
    lease_ttl_ms: int

    def read_grants(self, found: Sequence[tuple[int, bytes]]) -> list[Grant]:
        """Returns the owners; how each one parted was noted with the next one."""
        grants: list[Grant] = []
        for attempt, grant in found:
            until_ms, owner, *parting = grant.decode().split(" ")
            after_ms = self._since(int(until_ms) - self.lease_ttl_ms)
            if grants and parting:
                grants[-1] = self._with_parting(grants[-1], parting[0], int(parting[1]), after_ms)
            grants.append(Grant(attempt, owner, after_ms))
        return grants

    def with_last_parting(
        self, grant: Grant, standing: ResponseStanding, lease_until_ms: int, left_ms: int
    ) -> Grant:
        if standing == "lapsed":
            return self._lost(grant, lease_until_ms)
        if standing in ("closed", "handed_over") and left_ms:
            parting: Parting = "ended" if standing == "closed" else "handed_over"
            return replace(grant, until_ms=self._since(left_ms), parting=parting)
        return grant

    def _with_parting(self, grant: Grant, how: str, at_ms: int, next_after_ms: int) -> Grant:
        if how == "left":
            return replace(grant, until_ms=self._since(at_ms), parting="handed_over")
        if self._since(at_ms) > next_after_ms:
            return replace(grant, until_ms=next_after_ms, parting="seized")
        return self._lost(grant, at_ms)

    def _lost(self, grant: Grant, lease_until_ms: int) -> Grant:
        heard_ms = max(grant.after_ms, self._since(lease_until_ms - self.lease_ttl_ms))
        return replace(grant, until_ms=heard_ms, parting="lost")

    def _since(self, at_ms: int) -> int:
        return max(0, at_ms - self.created_ms)


async def _read_calls(
    redis: RedisClient, settings: Settings, key: ResponseKey
) -> tuple[int, list[JournaledCall]]:
    names: list[bytes] = await redis.command("HKEYS", keys.tools(key))
    found = sorted(int(match[1]) for name in names if (match := _INTENT.fullmatch(name)))
    indexes = found[:CALLS_MAX]
    if not indexes:
        return 0, []
    tools = keys.tools(key)
    intents: list[bytes | None] = await redis.command("HMGET", tools, *(f"{i}:intent" for i in indexes))
    sizes = await redis.transaction(*(("HSTRLEN", tools, f"{i}:result") for i in indexes))
    standings = await _standings(redis, settings, key, indexes, sizes)
    calls = [
        _call(index, intent, size, *standing)
        for index, intent, size, standing in zip(indexes, intents, sizes, standings, strict=True)
        if intent is not None
    ]
    return len(found), calls


async def _standings(
    redis: RedisClient, settings: Settings, key: ResponseKey, indexes: Sequence[int], sizes: Sequence[int]
) -> list[tuple[str, str]]:
    """Returns standing and runner of each call. Only a call without a result is asked about, because the
    answer would contain the result."""
    claims = await redis.command("HMGET", keys.tools(key), *(f"{i}:claim" for i in indexes))
    asked = [index for index, size in zip(indexes, sizes, strict=True) if not size]
    states = await tool_journal.read_states(redis, settings, [(key, i) for i in asked]) if asked else []
    by_index = dict(zip(asked, states, strict=True))
    standings: list[tuple[str, str]] = []
    for index, claim in zip(indexes, claims, strict=True):
        standing = by_index[index].standing if index in by_index else "answered"
        standings.append((standing, (claim or b"").decode().partition(" ")[0]))
    return standings


def _call(index: int, raw: bytes, result_bytes: int, standing: str, runner: str) -> JournaledCall:
    intent = _read_intent(raw)
    tool = intent.task.name if isinstance(intent.task, ToolCall) else "(list)"
    return JournaledCall(
        index, intent.task.server_label, tool, standing, runner, intent.fencing_token, result_bytes
    )
