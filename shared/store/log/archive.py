"""The format of an archive: a closed log as chunks of frames, an index and one record, compressed with zstd.

Knows bytes only, and nothing of Redis: `archiving.py` makes archives, `event_log.py` and `response_store.py`
read them and return the bytes that were first sent. A chunk is bounded in bytes, and a reader of a long log
holds one at a time; the index says which one contains a cursor.
"""

import struct
from collections.abc import Mapping, Sequence

import msgspec
import zstandard

CHUNK_ENTRIES, CHUNK_BYTES = 2_000, 512 * 1024
"""The largest number of entries in a chunk, and of bytes in its frames; a chunk has at least one entry."""
INDEX_FIELD, RECORD_FIELD = "index", "record"
_LEVEL = 3
_FRAME_END = b"\n\n"
"""Ends every frame and occurs nowhere else, since a frame's JSON has no line breaks."""


class UnreadableLog(Exception):
    """The log's frames could not be separated again in an archive, so it must stay as it is."""


class ArchivedRecord(msgspec.Struct, frozen=True):
    """What is kept of a closed response besides its frames; all of it is JSON."""

    request: bytes
    snapshot: bytes
    unshown: bytes = b""
    """As in Closing."""


def pack_chunk(frames: Sequence[bytes]) -> bytes:
    """Returns the compressed frames. Raises UnreadableLog.

    Makes new zstandard objects each time, since threads must not share them.
    """
    joined = b"".join(frames)
    ends = sum(frame.endswith(_FRAME_END) for frame in frames)
    if not ends == len(frames) == joined.count(_FRAME_END):
        raise UnreadableLog("a frame does not end where a frame must end")
    return zstandard.ZstdCompressor(level=_LEVEL).compress(joined)


def open_chunk(chunk: bytes, first: int) -> list[tuple[int, bytes]]:
    """Returns (sequence_number, frame) of every entry in a chunk whose first entry is number `first`."""
    frames = zstandard.ZstdDecompressor().decompress(chunk).split(_FRAME_END)
    return [(first + i, frame + _FRAME_END) for i, frame in enumerate(frames[:-1])]


def pack_index(starts: Sequence[int]) -> bytes:
    """Returns the index: each chunk's first sequence number, and the number of entries (uint32, LE)."""
    return struct.pack(f"<{len(starts)}I", *starts)


def open_all(fields: Mapping[bytes, bytes]) -> list[tuple[int, bytes]]:
    """Returns (sequence_number, frame) of every entry of an archive, given all its fields."""
    index = fields[INDEX_FIELD.encode()]
    starts = struct.unpack(f"<{len(index) // 4}I", index)
    return [
        entry for i, first in enumerate(starts[:-1]) for entry in open_chunk(fields[str(i).encode()], first)
    ]


def pack_record(record: ArchivedRecord) -> bytes:
    return zstandard.ZstdCompressor(level=_LEVEL).compress(msgspec.msgpack.encode(record))


def record_bytes(packed: bytes) -> int:
    """Returns the size of a packed record once unpacked, as its header gives it."""
    return zstandard.frame_content_size(packed)


def open_record(packed: bytes) -> ArchivedRecord:
    return msgspec.msgpack.decode(zstandard.ZstdDecompressor().decompress(packed), type=ArchivedRecord)
