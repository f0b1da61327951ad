"""The log: append under a fencing token, read after a cursor, close for good. Knows bytes only.

An entry is (sequence_number, frame, token ids), and what the engine measured of the tokens, if anything; the
Redis entry id is `<sequence_number + 1>-0`, so a cursor is a sequence number and Redis itself refuses a
repeated or older one. What is appended is published in the same script, for the API's hubs
(docs/adr/0002-log-ids.md).
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat

import msgspec

from shared.settings import Settings
from shared.store import keys
from shared.store.keys import ConversationKey, ResponseKey
from shared.store.log import archive
from shared.store.owning.lease import Lease, LeaseLost
from shared.store.redis.client import RedisClient
from shared.store.redis.scripts import Argument, LuaScript

APPEND = LuaScript("log/append", is_confirmed=True)
_READ = LuaScript("log/read")

PAGE_ENTRIES, PAGE_BYTES = 500, 256 * 1024
"""What a page holds of entries, which bounds how long Redis is busy with it, and of frames, unless a single
one is larger; a chunk of an archive has its own bounds."""


class NewEntry(msgspec.Struct, frozen=True):
    """An entry before it is in the log: its frame, and the token ids that made it."""

    frame: bytes
    tokens: tuple[int, ...] = ()
    measured: bytes = b""
    """What the engine reported beside the tokens, packed (`worker/response/token_record.py`)."""


@dataclass(frozen=True, slots=True)
class Entry:
    sequence_number: int
    frame: bytes
    tokens: tuple[int, ...]
    """Empty once the log is archived: nobody will continue it."""
    measured: bytes = b""
    """As in NewEntry, for who asked."""


@dataclass(frozen=True, slots=True)
class Closing:
    """Set together with the last entry, or not at all."""

    status: str
    snapshot: bytes
    """JSON of the final Response."""
    retention_s: float
    conversation: ConversationKey | None = None
    items: Sequence[tuple[str, bytes]] = ()
    """(item id, JSON) of what joins the conversation: the response's input and output."""


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


def pack_tokens(tokens: Sequence[int]) -> bytes:
    """Little-endian unsigned 32-bit integers, one a token."""
    return struct.pack(f"<{len(tokens)}I", *tokens)


def unpack_tokens(packed: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(packed) // 4}I", packed)


# --- reading ------------------------------------------------------------------------------------


async def read(
    redis: RedisClient,
    key: ResponseKey,
    after: int,
    count_max: int = PAGE_ENTRIES,
    *,
    with_measured: bool = False,
) -> Page:
    """Entries with sequence_number > `after` (-1: from the beginning), in order, without a gap.

    At most `count_max` of them and `PAGE_BYTES` of frames, but at least one; or from an archived log what
    one chunk holds (`archive.CHUNK_ENTRIES`, `archive.CHUNK_BYTES`). One round trip.
    """
    names = [keys.state(key), keys.log(key), keys.archive(key)]
    match await redis.run(_READ, names, [after + 1, count_max, PAGE_BYTES, int(with_measured)]):
        case [b"log", is_closed, has_more, *rest]:
            width = 3 if with_measured else 2
            measured = rest[2::3] if with_measured else repeat(b"", len(rest) // 2)
            columns = zip(rest[::width], rest[1::width], measured, strict=True)
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
        case _:
            return Page([], is_closed=False, is_missing=True, has_more=False)


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


# --- appending ----------------------------------------------------------------------------------


async def append(
    redis: RedisClient,
    settings: Settings,
    lease: Lease,
    first: int,
    entries: Sequence[NewEntry],
    closing: Closing | None = None,
) -> None:
    """Appends entries as `first`, `first + 1`, …; with `closing`, nothing follows them ever.

    Raises LeaseLost when the token is stale or the log closed, TailLost when there is less in the log than
    before: nothing was written then.
    """
    reply = await redis.run(APPEND, *append_call(settings, lease, first, entries, closing))
    check_appended(reply, lease, first, len(entries))


def append_call(
    settings: Settings,
    lease: Lease,
    first: int,
    entries: Sequence[NewEntry],
    closing: Closing | None,
    usage: bytes = b"",
) -> tuple[list[str], list[Argument]]:
    """Keys and arguments of the script. `usage`: as in `lease.Acquired`, when the entries are in the log."""
    key = lease.key
    conversation = (closing and closing.conversation) or ConversationKey(key.tenant, "")
    args: list[Argument] = [
        keys.live(key),
        str(key),
        key.response_id,
        lease.proof,
        first,
        closing.status if closing else "",
        int(closing.retention_s * 1000) if closing else 0,
        closing.snapshot if closing else b"",
        int(settings.archive_after_s * 1000),
        keys.CANCELLED,
        settings.conversation_retention_s * 1000,
        usage,
        len(entries),
    ]
    for entry in entries:
        args += (entry.frame, pack_tokens(entry.tokens))
    items = closing.items if closing else ()
    args.append(len(items))
    for item_id, item in items:
        args += (item_id, item)
    for offset, entry in enumerate(entries):
        if entry.measured:
            args += (offset, entry.measured)
    return [
        keys.state(key),
        keys.log(key),
        keys.secrets(key),
        keys.ACTIVE,
        keys.tools(key),
        keys.open_responses(key.tenant),
        keys.CLOSED,
        keys.conversation(conversation),
        keys.conversation_items(conversation),
        keys.conversation_order(conversation),
        keys.RESPONSES_QUEUE,
        keys.held(key.tenant),
    ], args


class TailLost(RuntimeError):
    """The log is shorter than what was appended: Redis has gone back, as a failover may."""

    def __init__(self, lease: Lease, first: int, tail: int) -> None:
        super().__init__(f"{lease} appends {first}, log is at {tail}")
        self.tail = tail
        """How many entries there are."""


def check_appended(reply: object, lease: Lease, first: int, count: int) -> None:
    """Raises unless the reply says that the entries are in the log."""
    match reply:
        case [b"ok", _]:
            return
        case [b"gap", _, owner] if owner != lease.owner.encode():
            # Our acquiring was lost in a failover, and somebody else got the same token.
            raise LeaseLost(f"{lease}: owned by {owner!r}")
        case [b"gap", tail, _] if tail == first + count:
            return  # our own append, whose reply was lost
        case [b"gap", int(tail), _] if tail < first:
            raise TailLost(lease, first, tail)
        case [b"gap", tail, _]:
            raise RuntimeError(f"{lease} appends {first}, log is at {tail}")
        case [b"fenced" | b"closed" | b"missing", *_]:
            raise LeaseLost(f"{lease}: {reply!r}")
        case Exception():
            raise reply
        case _:
            raise RuntimeError(f"append answered {reply!r}")
