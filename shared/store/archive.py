"""A closed log, compacted: chunks of frames and one record, each compressed with zstd.

Owns the format and the compacting; who reads an archive reads it through `event_log` and
`response_store`, and sees the bytes that were first sent. Chunks have a fixed number of entries,
so a cursor names its chunk, and a reader of a long log holds one chunk in memory at a time.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
import zstandard

from shared.store import keys
from shared.store.keys import ResponseKey
from shared.store.redis_client import Argument, RedisClient, Script

_COMPACT = Script("compact")


CHUNK_ENTRIES = 2_000
RECORD_FIELD = "record"
_LEVEL = 3
_FRAME_END = b"\n\n"
"""Ends every frame and stands nowhere else: a frame's JSON has no line breaks."""


class Record(msgspec.Struct, frozen=True):
    """What is kept of a closed response beside its frames; both are JSON."""

    request: bytes
    snapshot: bytes


def chunk_of(sequence_number: int) -> int:
    """Which chunk holds an entry: the name of its field."""
    return sequence_number // CHUNK_ENTRIES


def pack_chunks(frames: Sequence[bytes]) -> list[tuple[str, bytes]]:
    """(field, compressed frames) for a whole log. zstandard's objects are made anew: they are not shared."""
    compressor = zstandard.ZstdCompressor(level=_LEVEL)
    starts = range(0, len(frames), CHUNK_ENTRIES)
    return [
        (str(chunk_of(start)), compressor.compress(b"".join(frames[start : start + CHUNK_ENTRIES])))
        for start in starts
    ]


def open_chunk(chunk: bytes, index: int) -> list[tuple[int, bytes]]:
    """(sequence_number, frame) of every entry in a chunk."""
    frames = zstandard.ZstdDecompressor().decompress(chunk).split(_FRAME_END)
    return [(index * CHUNK_ENTRIES + i, frame + _FRAME_END) for i, frame in enumerate(frames[:-1])]


def pack_record(record: Record) -> bytes:
    return zstandard.ZstdCompressor(level=_LEVEL).compress(msgspec.msgpack.encode(record))


def open_record(packed: bytes) -> Record:
    return msgspec.msgpack.decode(zstandard.ZstdDecompressor().decompress(packed), type=Record)


async def due(redis: RedisClient, now_ms: int, count_max: int) -> list[ResponseKey]:
    """Closed logs whose time to be compacted has come."""
    members: list[Any] = await redis.command(
        "ZRANGEBYSCORE", keys.CLOSED, "-inf", now_ms, "LIMIT", 0, count_max
    )
    return [ResponseKey.parse(member.decode()) for member in members]


async def compact(redis: RedisClient, key: ResponseKey) -> str:
    """Replaces a closed log by its archive; safe to be tried by many at once, and again."""
    (request, snapshot), entries = await redis.transaction(
        ("HMGET", keys.state(key), "request", "snapshot"), ("XRANGE", keys.log(key), "-", "+")
    )
    frames = [fields[b"e"] for _, fields in entries]
    fields: list[Argument] = []
    if request is not None:
        fields += (RECORD_FIELD, pack_record(Record(request, snapshot)))
        for name, chunk in pack_chunks(frames):
            fields += (name, chunk)
    reply = await redis.run(
        _COMPACT,
        [keys.state(key), keys.log(key), keys.tools(key), keys.archive(key), keys.CLOSED],
        [str(key), len(frames), *fields],
    )
    return str(reply.decode())
