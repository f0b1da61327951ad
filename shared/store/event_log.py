"""The log: append under a fencing token, read after a cursor, close for good. Knows bytes only.

An entry is (sequence_number, frame, token ids); the Redis entry id is `<sequence_number + 1>-0`,
so a cursor is a sequence number and Redis itself refuses a repeated or older one. What is
appended is published in the same script, for the API's hubs (docs/adr/0002-log-ids.md).
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from shared.settings import Settings
from shared.store import archive, keys
from shared.store.keys import ConversationKey, ResponseKey
from shared.store.lease import Lease, LeaseLost
from shared.store.redis_client import Argument, RedisClient, Script

APPEND = Script("append")


@dataclass(frozen=True, slots=True)
class Draft:
    """An entry before it is in the log: its frame, and the token ids that made it."""

    frame: bytes
    tokens: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    sequence_number: int
    frame: bytes
    tokens: tuple[int, ...]
    """Empty once the log is compacted: nobody will continue it."""


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
    """The page is full: what follows can be read at once."""


def pack_tokens(tokens: Sequence[int]) -> bytes:
    """Little-endian unsigned 32-bit integers, one a token."""
    return struct.pack(f"<{len(tokens)}I", *tokens)


def unpack_tokens(packed: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(packed) // 4}I", packed)


# --- reading ------------------------------------------------------------------------------------


async def read(redis: RedisClient, key: ResponseKey, after: int, count_max: int = 1000) -> Page:
    """Entries with sequence_number > `after` (-1: from the beginning), in order, without a gap.

    At most `count_max`, or from a compacted log one chunk of it (`archive.CHUNK_ENTRIES`).
    """
    (closed, compacted), raw, chunk = await redis.transaction(
        ("HMGET", keys.state(key), "closed", "compacted"),
        ("XRANGE", keys.log(key), f"({after + 1}-0" if after >= 0 else "-", "+", "COUNT", count_max),
        ("HGET", keys.archive(key), archive.chunk_of(after + 1)),
    )
    if compacted is not None:
        return _page_of_archive(chunk, after)
    entries = [
        Entry(int(entry_id.partition(b"-")[0]) - 1, fields[b"e"], unpack_tokens(fields.get(b"t", b"")))
        for entry_id, fields in raw
    ]
    is_full = len(entries) == count_max
    return Page(entries, bool(closed) and not is_full, closed is None, is_full)


def _page_of_archive(chunk: bytes | None, after: int) -> Page:
    """A chunk that is not there lies past the end."""
    if chunk is None:
        return Page([], is_closed=True, is_missing=False, has_more=False)
    numbered = archive.open_chunk(chunk, archive.chunk_of(after + 1))
    entries = [Entry(number, frame, ()) for number, frame in numbered if number > after]
    is_full = len(numbered) == archive.CHUNK_ENTRIES
    return Page(entries, is_closed=not is_full, is_missing=False, has_more=is_full)


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
    drafts: Sequence[Draft],
    closing: Closing | None = None,
) -> None:
    """Appends drafts as `first`, `first + 1`, …; with `closing`, nothing follows them ever.

    Raises LeaseLost when the token is stale or the log closed: nothing was written then.
    """
    reply = await redis.run(APPEND, *append_call(settings, lease, first, drafts, closing))
    check_appended(reply, lease, first, len(drafts))


def append_call(
    settings: Settings, lease: Lease, first: int, drafts: Sequence[Draft], closing: Closing | None
) -> tuple[list[str], list[Argument]]:
    """Keys and arguments of the script."""
    key = lease.key
    conversation = (closing and closing.conversation) or ConversationKey(key.tenant, "")
    args: list[Argument] = [
        keys.live(key),
        str(key),
        key.response_id,
        lease.fencing_token,
        first,
        closing.status if closing else "",
        int(closing.retention_s * 1000) if closing else 0,
        closing.snapshot if closing else b"",
        int(settings.compact_after_s * 1000),
        keys.CANCELLED,
        settings.conversation_retention_s * 1000,
        len(drafts),
    ]
    for draft in drafts:
        args += (draft.frame, pack_tokens(draft.tokens))
    items = closing.items if closing else ()
    args.append(len(items))
    for item_id, item in items:
        args += (item_id, item)
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
    ], args


def check_appended(reply: object, lease: Lease, first: int, count: int) -> None:
    """Raises unless the reply says that the entries are in the log."""
    match reply:
        case [b"ok", _]:
            return
        case [b"gap", tail] if tail == first + count:
            return  # our own append, whose reply was lost
        case [b"gap", tail]:
            raise RuntimeError(f"{lease} appends {first}, log is at {tail}")
        case [b"fenced" | b"closed" | b"missing", *_]:
            raise LeaseLost(f"{lease}: {reply!r}")
        case Exception():
            raise reply
        case _:
            raise RuntimeError(f"append answered {reply!r}")
