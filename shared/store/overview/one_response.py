"""Everything that Redis keeps about one response besides its texts: state, log, archive and tool journal.

Only reads, and of the journal at most `CALLS_MAX` calls. The names of tools are shown, never what they were
asked or answered.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from shared.heads import ResponseHead
from shared.settings import Settings
from shared.store import keys
from shared.store.keys import ResponseKey
from shared.store.overview.open_responses import ResponseView, read_views
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


@dataclass(frozen=True, slots=True)
class Grant:
    """How the response came to one of its owners."""

    attempt: int
    """The fencing token; the highest that is kept is 64."""
    owner: str
    after_ms: int
    """Since the response was accepted."""


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
            *(f"grant:{i}" for i in attempts),
        ),
        ("HSTRLEN", keys.state(key), "request"),
        ("XLEN", keys.log(key)),
        ("EXISTS", keys.archive(key)),
        ("ZCARD", keys.readers(key)),
        ("PTTL", keys.state(key)),
    )
    head, record_format, queue, created_ms, *granted = fields
    lease_ttl_ms = int(settings.lease_ttl_s * 1000)
    grants = [
        _grant(attempt, grant, int(created_ms or 0) + lease_ttl_ms)
        for attempt, grant in zip(attempts, granted, strict=True)
        if grant is not None
    ]
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


def _grant(attempt: int, grant: bytes, first_end_ms: int) -> Grant:
    """`first_end_ms`: when a lease that was given as the response was accepted would have ended."""
    until_ms, _, owner = grant.decode().partition(" ")
    return Grant(attempt, owner, max(0, int(until_ms) - first_end_ms))


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
