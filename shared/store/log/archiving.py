"""Replaces closed logs by their archives, page by page, so that nothing else has to wait.

Owns the claims on due logs and the replacement; `archive.py` owns the format.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import Any

from shared.store import keys
from shared.store.keys import ResponseKey
from shared.store.log import archive, event_log
from shared.store.redis.client import RedisClient
from shared.store.redis.scripts import LuaScript, read_word

_CLAIM_DUE, _PACK, _ARCHIVE = LuaScript("log/claim_due"), LuaScript("log/pack"), LuaScript("log/archive")

CLAIM_S = 60.0
"""How long a claim on a log lasts; each packed chunk renews it."""
_CLAIM_MS = int(CLAIM_S * 1000)


async def claim_due(redis: RedisClient, count_max: int) -> list[ResponseKey]:
    """Claims up to `count_max` closed logs that are due; no other worker gets them for `CLAIM_S`."""
    members: list[Any] = await redis.run(
        _CLAIM_DUE(closed_logs=keys.CLOSED, count_max=count_max, claim_ms=_CLAIM_MS)
    )
    return [ResponseKey.parse(member.decode()) for member in members]


async def archive_log(redis: RedisClient, key: ResponseKey) -> str:
    """Replaces a closed log by its archive.

    Returns `archived`; or `changed` (the log is open, or changed meanwhile) or `gone`, having done nothing.
    Safe to repeat, and for several workers at once. Raises UnreadableLog, leaving the log as it is.
    """
    packing = keys.packing(key, secrets.token_hex(8))
    closed, request, snapshot, unshown = await redis.command(
        "HMGET", keys.state(key), "closed", "request", "snapshot", "unshown"
    )
    starts, record = [0], b""
    if closed and request is not None:
        kept = archive.ArchivedRecord(request, snapshot, unshown or b"")
        record = await asyncio.to_thread(archive.pack_record, kept)
        starts = await _pack_chunks(redis, key, packing)
    reply = await redis.run(
        _ARCHIVE(
            state=keys.state(key),
            log=keys.log(key),
            tools=keys.tools(key),
            archive=keys.archive(key),
            closed_logs=keys.CLOSED,
            packing=packing,
            held=keys.held(key.tenant),
            held_bytes=keys.held_bytes(key.tenant),
            member=str(key),
            entry_count=starts[-1],
            chunk_count=len(starts) - 1,
            index=archive.pack_index(starts),
            record=record,
            response_id=key.response_id,
        )
    )
    return read_word(reply, "archived", "changed", "gone")


async def _pack_chunks(redis: RedisClient, key: ResponseKey, packing: str) -> list[int]:
    """Stores the log's chunks; returns each one's first sequence number, then the number of entries."""
    starts = [0]
    async for frames in _chunks(redis, key):
        chunk = await asyncio.to_thread(archive.pack_chunk, frames)
        await redis.run(
            _PACK(
                packing=packing,
                closed_logs=keys.CLOSED,
                chunk_index=len(starts) - 1,
                chunk=chunk,
                claim_ms=_CLAIM_MS,
                member=str(key),
            )
        )
        starts.append(starts[-1] + len(frames))
    return starts


async def _chunks(redis: RedisClient, key: ResponseKey) -> AsyncIterator[list[bytes]]:
    """Yields the frames of a log, as many pages at once as fit into a chunk."""
    frames: list[bytes] = []
    size_bytes = 0
    async for page in event_log.pages(redis, key):
        page_bytes = sum(len(entry.frame) for entry in page.entries)
        is_full = len(frames) + len(page.entries) > archive.CHUNK_ENTRIES
        if frames and (is_full or size_bytes + page_bytes > archive.CHUNK_BYTES):
            yield frames
            frames, size_bytes = [], 0
        frames += [entry.frame for entry in page.entries]
        size_bytes += page_bytes
    if frames:
        yield frames
