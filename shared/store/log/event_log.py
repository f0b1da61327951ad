"""The log as it is read: after a cursor, page by page, from its stream or its archive. Knows bytes only.

An entry is a frame, the token ids that made it, and what the engine reported beside those (the token record),
if anything. Its Redis id is `<sequence_number + 1>-0`, so a cursor is a sequence number and Redis itself
refuses a repeated or older one (docs/adr/0002-log-ids.md). Writing is `response_log`'s.
"""

import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import repeat

from shared.store import keys
from shared.store.keys import ResponseKey
from shared.store.log import archive
from shared.store.redis.client import RedisClient
from shared.store.redis.scripts import LuaScript

_READ = LuaScript("log/read")

PAGE_ENTRIES, PAGE_BYTES = 500, 256 * 1024
"""What a page holds of entries, which bounds how long Redis is busy with it, and of frames, unless a single
one is larger; a chunk of an archive has its own bounds."""


@dataclass(frozen=True, slots=True)
class Entry:
    sequence_number: int
    frame: bytes
    tokens: tuple[int, ...]
    """Empty once the log is archived: nobody will continue it."""
    token_record: bytes = b""
    """As in NewEntry, if it was asked for."""


@dataclass(frozen=True, slots=True)
class Page:
    """What a log held after a cursor, at one moment."""

    entries: list[Entry]
    is_closed: bool
    """True only when nothing can follow the last entry of this page."""
    is_missing: bool
    has_more: bool
    """The page is full: what follows is there and can be read at once."""
    beyond: int | None = None
    """The log is closed and shorter than the cursor says: how many entries it has. Redis has gone back, and
    another owner has ended the response with fewer; or the cursor was never one."""


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
    """Entries with sequence_number > `after` (-1: from the beginning), in order, without a gap.

    At most `count_max` of them and `PAGE_BYTES` of frames, but at least one; or from an archived log what
    one chunk holds (`archive.CHUNK_ENTRIES`, `archive.CHUNK_BYTES`). One round trip.
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
    """As `read`, page by page, up to where the log ends when that is reached: at least one page."""
    has_more = True
    while has_more:
        page = await read(redis, key, after, with_token_records=with_token_records)
        after, has_more = after + len(page.entries), page.has_more
        yield page


@dataclass(frozen=True, slots=True)
class Published:
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
