"""The log: append under a fencing token, read after a cursor, close for good. Knows bytes only.

An entry is (sequence_number, frame, token ids); the Redis entry id is `<sequence_number + 1>-0`,
so a cursor is a sequence number and Redis itself refuses a repeated or older one. What is
appended is published in the same script, for the API's hubs (docs/adr/0002-log-ids.md).
"""

import asyncio
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from shared.settings import Settings
from shared.store import keys
from shared.store.keys import ResponseKey
from shared.store.lease import Lease, LeaseLost
from shared.store.redis_client import REDIS_AWAY, Argument, RedisClient, Script

_APPEND = Script("append")


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


@dataclass(frozen=True, slots=True)
class Closing:
    """Set together with the last entry, or not at all."""

    status: str
    snapshot: bytes
    """JSON of the final Response."""
    retention_s: float


@dataclass(frozen=True, slots=True)
class Page:
    """What a log held after a cursor, at one moment."""

    entries: list[Entry]
    is_closed: bool
    """True only when nothing can follow the last entry of this page."""
    is_missing: bool


def pack_tokens(tokens: Sequence[int]) -> bytes:
    """Little-endian unsigned 32-bit integers, one a token."""
    return struct.pack(f"<{len(tokens)}I", *tokens)


def unpack_tokens(packed: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(packed) // 4}I", packed)


async def read(redis: RedisClient, key: ResponseKey, after: int, count_max: int = 1000) -> Page:
    """Entries with sequence_number > `after` (-1: from the beginning), in order, without a gap."""
    closed, raw = await redis.transaction(
        ("HGET", keys.state(key), "closed"),
        ("XRANGE", keys.log(key), f"({after + 1}-0" if after >= 0 else "-", "+", "COUNT", count_max),
    )
    entries = [
        Entry(int(entry_id.partition(b"-")[0]) - 1, fields[b"e"], unpack_tokens(fields.get(b"t", b"")))
        for entry_id, fields in raw
    ]
    return Page(entries, bool(closed) and len(entries) < count_max, closed is None)


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


@dataclass(slots=True)
class _Append:
    lease: Lease
    first: int
    drafts: Sequence[Draft]
    closing: Closing | None
    done: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def call(self) -> tuple[list[str], list[Argument]]:
        key, closing = self.lease.key, self.closing
        args: list[Argument] = [
            keys.live(key),
            str(key),
            self.lease.fencing_token,
            self.first,
            closing.status if closing else "",
            int(closing.retention_s * 1000) if closing else 0,
            closing.snapshot if closing else b"",
            len(self.drafts),
        ]
        for draft in self.drafts:
            args += (draft.frame, pack_tokens(draft.tokens))
        return (
            [keys.state(key), keys.log(key), keys.secrets(key), keys.ACTIVE, keys.tools(key)],
            args,
        )

    def settle(self, reply: object) -> None:
        if self.done.done():
            return
        match reply:
            case [b"ok", _]:
                self.done.set_result(None)
            case [b"gap", tail] if tail == self.first + len(self.drafts):
                self.done.set_result(None)  # our own append, whose reply was lost
            case [b"gap", tail]:
                self.done.set_exception(RuntimeError(f"{self.lease} appends {self.first}, log is at {tail}"))
            case [b"fenced" | b"closed" | b"missing", *_]:
                self.done.set_exception(LeaseLost(f"{self.lease}: {reply!r}"))
            case Exception():
                self.done.set_exception(reply)
            case _:
                self.done.set_exception(RuntimeError(f"append answered {reply!r}"))


class Appender:
    """Writes the appends of all responses in a process, those of one moment in one pipeline.

    While one write is under way the next ones gather: 256 responses cost one round trip, not 256.
    When Redis is away it tries again for as long as a lease could still be ours to renew later;
    the script recognises an append whose reply was lost.
    """

    def __init__(self, redis: RedisClient, settings: Settings) -> None:
        self._redis = redis
        self._settings = settings
        self._pending: list[_Append] = []
        self._wake = asyncio.Event()

    def append(
        self, lease: Lease, first: int, drafts: Sequence[Draft], closing: Closing | None = None
    ) -> asyncio.Future[None]:
        """Appends drafts as `first`, `first + 1`, …; with `closing`, nothing follows them ever.

        The future fails with LeaseLost when the token is stale or the log closed: nothing was
        written then. One response has one append under way at a time.
        """
        append = _Append(lease, first, drafts, closing)
        self._pending.append(append)
        self._wake.set()
        return append.done

    async def run(self) -> None:
        """Serves `append` until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            batch, self._pending = self._pending, []
            await self._write(batch)

    async def _write(self, batch: list[_Append]) -> None:
        replies = await self._redis_replies(batch)
        for append, reply in zip(batch, replies, strict=True):
            append.settle(reply)

    async def _redis_replies(self, batch: list[_Append]) -> list[object]:
        deadline = asyncio.get_running_loop().time() + self._settings.redis_outage_max_s
        calls = [append.call() for append in batch]
        while True:
            try:
                return await self._redis.run_many(_APPEND, calls)
            except REDIS_AWAY as away:
                if asyncio.get_running_loop().time() > deadline:
                    return [away] * len(batch)
                await asyncio.sleep(0.05)
