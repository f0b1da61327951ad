"""The format of an archive: a closed log as chunks of frames, an index and one record, with zstd.

Knows bytes only, and no Redis: `archiving` makes archives; `event_log` and `response_store` read them,
and give the bytes that were first sent. A chunk is bounded in bytes, and a reader of a long
log holds one at a time; the index tells which one a cursor is in.
"""

import struct
from collections.abc import Mapping, Sequence

import msgspec
import zstandard

CHUNK_ENTRIES, CHUNK_BYTES = 2_000, 512 * 1024
"""A chunk holds so many entries and bytes of frames at most, but at least one entry."""
INDEX_FIELD, RECORD_FIELD = "index", "record"
_LEVEL = 3
_FRAME_END = b"\n\n"
"""Ends every frame and stands nowhere else: a frame's JSON has no line breaks."""


class UnreadableLog(Exception):
    """Its frames could not be told apart in an archive: it must stay as it is."""


class ArchivedRecord(msgspec.Struct, frozen=True):
    """What is kept of a closed response beside its frames; both are JSON."""

    request: bytes
    snapshot: bytes


def pack_chunk(frames: Sequence[bytes]) -> bytes:
    """Raises UnreadableLog. zstandard's objects are made anew: threads must not share them."""
    joined = b"".join(frames)
    ends = sum(frame.endswith(_FRAME_END) for frame in frames)
    if not ends == len(frames) == joined.count(_FRAME_END):
        raise UnreadableLog("a frame does not end where a frame must end")
    return zstandard.ZstdCompressor(level=_LEVEL).compress(joined)


def open_chunk(chunk: bytes, first: int) -> list[tuple[int, bytes]]:
    """(sequence_number, frame) of every entry in a chunk whose first entry is number `first`."""
    frames = zstandard.ZstdDecompressor().decompress(chunk).split(_FRAME_END)
    return [(first + i, frame + _FRAME_END) for i, frame in enumerate(frames[:-1])]


def pack_index(starts: Sequence[int]) -> bytes:
    """The first sequence number of each chunk, and the number of entries: little-endian, 32 bits each."""
    return struct.pack(f"<{len(starts)}I", *starts)


def open_all(fields: Mapping[bytes, bytes]) -> list[tuple[int, bytes]]:
    """(sequence_number, frame) of every entry of an archive, from all its fields."""
    index = fields[INDEX_FIELD.encode()]
    starts = struct.unpack(f"<{len(index) // 4}I", index)
    return [
        entry for i, first in enumerate(starts[:-1]) for entry in open_chunk(fields[str(i).encode()], first)
    ]


def pack_record(record: ArchivedRecord) -> bytes:
    return zstandard.ZstdCompressor(level=_LEVEL).compress(msgspec.msgpack.encode(record))


def record_bytes(packed: bytes) -> int:
    """What a packed record takes when it is open; it stands in its header."""
    return zstandard.frame_content_size(packed)


def open_record(packed: bytes) -> ArchivedRecord:
    return msgspec.msgpack.decode(zstandard.ZstdDecompressor().decompress(packed), type=ArchivedRecord)
