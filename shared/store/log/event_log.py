"""Reads a log: after a cursor, page by page, from its stream or its archive. Knows bytes only.

An entry is a frame, the token ids that made it, and what the engine reported about those (the token record),
if anything. Its Redis id is `<sequence_number + 1>-0`, so a cursor is a sequence number and Redis itself
rejects a repeated or older one (docs/adr/0002-log-ids.md). `response_log.py` owns the writing.
"""

import struct
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from itertools import repeat

from msgspec import Struct

from shared.store import keys
from shared.store.keys import ResponseKey
from shared.store.log import archive
from shared.store.redis.client import RedisClient, ScriptPipe
from shared.store.redis.scripts import LuaScript

_READ, _LOOK = LuaScript("log/read"), LuaScript("log/look")

PAGE_ENTRIES, PAGE_BYTES = 500, 256 * 1024
"""The largest number of entries in a page, which bounds the time that Redis spends on it, and of bytes in its
frames, unless a single frame is larger. A chunk of an archive has bounds of its own."""


@dataclass(frozen=True, slots=True)
class Entry:
    sequence_number: int
    frame: bytes
    tokens: tuple[int, ...]
    """Empty once the log is archived, since it will not be continued."""
    token_record: bytes = b""
    """As in NewEntry; empty unless requested."""


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a log after a cursor, as it was at one moment."""

    entries: list[Entry]
    is_closed: bool
    """True only if nothing can follow the last entry of this page."""
    is_missing: bool
    has_more: bool
    """The page is full, and more entries can be read at once."""
    beyond: int | None = None
    """The number of entries, if the log is closed and ends before the cursor. Then a failover took entries
    back and another owner closed the log with fewer, or the cursor was never valid."""


def unpack_tokens(packed: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(packed) // 4}I", packed)


# --- reading ------------------------------------------------------------------------------------


async def read(
    redis: RedisClient,
    key: ResponseKey,
    after: int,
    count_max: int = PAGE_ENTRIES,
    *,
    with_token_records: bool = False,
) -> Page:
    """Returns the entries with sequence_number > `after` (-1: from the beginning), in order and without a
    gap.

    They are at most `count_max` entries and `PAGE_BYTES` of frames, but at least one if there is one; or, of
    an archived log, those of one chunk (`archive.CHUNK_ENTRIES`, `archive.CHUNK_BYTES`). Takes one round
    trip.
    """
    reply = await redis.run(
        _READ(
            state=keys.state(key),
            log=keys.log(key),
            archive=keys.archive(key),
            first=after + 1,
            count_max=count_max,
            bytes_max=PAGE_BYTES,
            with_token_records=int(with_token_records),
        )
    )
    match reply:
        case [b"log", is_closed, has_more, *rest]:
            width = 3 if with_token_records else 2
            token_records = rest[2::3] if with_token_records else repeat(b"", len(rest) // 2)
            columns = zip(rest[::width], rest[1::width], token_records, strict=True)
            entries = [
                Entry(number, frame, unpack_tokens(packed) if packed else (), about)
                for number, (frame, packed, about) in enumerate(columns, after + 1)
            ]
            return Page(entries, bool(is_closed), False, bool(has_more))
        case [b"archive", has_more, first, chunk]:
            numbered = archive.open_chunk(chunk, first) if chunk else []
            entries = [Entry(number, frame, ()) for number, frame in numbered if number > after]
            return Page(entries, not has_more, False, bool(has_more))
        case [b"beyond", count]:
            return Page([], is_closed=True, is_missing=False, has_more=False, beyond=count)
        case [b"missing"]:
            return Page([], is_closed=False, is_missing=True, has_more=False)
        case _:
            raise RuntimeError(f"read answered {reply!r}")


async def pages(
    redis: RedisClient, key: ResponseKey, after: int = -1, *, with_token_records: bool = False
) -> AsyncIterator[Page]:
    """Yields pages as `read` returns them, at least one, until a page has nothing after it."""
    has_more = True
    while has_more:
        page = await read(redis, key, after, with_token_records=with_token_records)
        after, has_more = after + len(page.entries), page.has_more
        yield page


async def find_grown(pipe: ScriptPipe, read: Sequence[tuple[str, int]]) -> list[int]:
    """Returns the indexes of those logs that are no longer open or have more entries than this.

    `read`: the names of responses (`str(key)`), and how many entries are known.
    """
    known = [part for each in read for part in each]
    places: list[int] = await pipe.run(
        _LOOK(*known, state_pattern=keys.STATE_PATTERN, log_pattern=keys.LOG_PATTERN)
    )
    return places


class Published(Struct, frozen=True, gc=False):
    """One message on a response's live channel: the frames of one append, joined."""

    first: int
    next: int
    is_closed: bool
    frames: bytes

    @classmethod
    def parse(cls, message: bytes) -> "Published":
        header, _, frames = message.partition(b"\n")
        first, following, closed = header.split(b" ")
        return cls(int(first), int(following), closed == b"1", frames)
