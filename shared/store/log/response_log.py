"""Makes the writes to one response's log: entries under a fencing token, and its close. Pure; knows bytes
only.

A write is a value: the script's call, and what its reply means. The caller decides how it is sent: by itself,
or together with those of other responses (`appender.py`). The same script publishes what it appends,
for the API's hubs (docs/adr/0028-a-write-is-a-value.md). `event_log.py` owns the reading.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

import msgspec

from shared.settings import Settings
from shared.store import keys
from shared.store.keys import ConversationKey, ResponseKey
from shared.store.owning.lease import LeaseLost
from shared.store.redis.client import RedisClient
from shared.store.redis.joint_scripts import WORD, BoundJoint, JointScript, StoreCall, pack, pack_count
from shared.store.redis.scripts import Argument, LuaScript
from shared.store.webhooks.outbox import OutboxLimits

_APPEND, _CLOSE = JointScript("log/append", is_confirmed=True), LuaScript("log/close", is_confirmed=True)
_ANSWER = LuaScript("log/answer", is_confirmed=True)
_ONE_TOKEN = struct.Struct("<I")
_ENTRY = WORD * 3  # its frame, tokens and token record
_NOTHING = pack(b"")


class NewEntry(msgspec.Struct, frozen=True, gc=False):
    """An entry to be appended: its frame, and the token ids that made it.

    No cycle leads through one, and a worker keeps many, so the garbage collector ignores them.
    """

    frame: bytes
    tokens: tuple[int, ...] = ()
    token_record: bytes = b""
    """What the engine reported about the tokens, packed (`worker/response/token_record.py`), or an item of
    which the frame shows less (`shared/store/log/unshown.py`)."""


@dataclass(frozen=True, slots=True)
class Closing:
    """What closing a log sets besides its last entries."""

    status: str
    snapshot: bytes
    """JSON of the final Response."""
    retention_s: float
    unshown: bytes = b""
    """JSON of the calls of which the snapshot shows less than later responses read; b"" for none."""
    conversation: ConversationKey | None = None
    items: Sequence[tuple[str, bytes]] = ()
    """(item id, JSON) of the items that join the conversation: the response's input and output."""
    tokens: int = 0
    """What the response has used in all."""
    asked: Sequence[tuple[str, str]] = ()
    """(key, fingerprint) of each question whether a call may be made (`shared/approvals.py`)."""
    asked_s: float = 0
    """How long those are kept."""
    head: bytes = b""
    """JSON of what a list shows of the response, if it is stored."""
    listed_s: float = 0
    """How long a list may show it."""
    tells_owner: bool = False
    """Another than the owner closes it, and workers are told, so that the owner stops at once."""


@dataclass(frozen=True, slots=True)
class LogLimits:
    """How long things are kept after a log is closed."""

    archive_after_s: float
    conversation_retention_s: float
    outbox: OutboxLimits
    listed_max: int
    """How many responses of a tenant a list has."""

    @classmethod
    def of(cls, settings: Settings) -> Self:
        return cls(
            settings.archive_after_s,
            settings.conversation_retention_s,
            OutboxLimits.of(settings),
            settings.tenant_listed_max,
        )


class TailLost(RuntimeError):
    """The log is shorter than what was appended: Redis has lost entries, as in a failover."""

    def __init__(self, key: ResponseKey, first: int, tail: int) -> None:
        super().__init__(f"{key} appends {first}, log is at {tail}")
        self.tail = tail
        """The number of entries in the log."""


class Write(msgspec.Struct, frozen=True, gc=False):
    """One append to a log, or its close. If it is sent twice, it is written once."""

    key: ResponseKey
    token: str
    first: int
    count: int
    call: StoreCall

    def failure(self, reply: object) -> Exception | None:
        """Returns None if the write is in the log, or else the reason why nothing was written.

        LeaseLost if the token is stale or the log closed or gone, TailLost if the log is shorter than before.
        """
        match reply:
            case int():
                return None
            case [b"gap", _, owner] if owner != self.token.partition(" ")[2].encode():
                # A failover lost our lease, and another owner got the same token.
                return LeaseLost(f"{self.key}, {self.token}: owned by {owner!r}")
            case [b"gap", tail, _] if tail == self.first + self.count:
                return None  # our own append, whose reply was lost
            case [b"gap", int(tail), _] if tail < self.first:
                return TailLost(self.key, self.first, tail)
            case [b"gap", tail, _]:
                return RuntimeError(f"{self.key} appends {self.first}, log is at {tail}")
            case [b"fenced" | b"closed" | b"missing", *_]:
                return LeaseLost(f"{self.key}, {self.token}: {reply!r}")
            case Exception():
                return reply
            case _:
                return RuntimeError(f"{self.call.script.name} answered {reply!r}")


class ResponseLog:
    """Makes the writes to one response's log. What all appends under one lease have in common is packed once.

    `token` is a lease's `proof`; `first` is the sequence number of the first entry.
    """

    def __init__(self, limits: LogLimits, key: ResponseKey) -> None:
        self._limits = limits
        self._key = key
        self._token = ""
        self._append: BoundJoint

    def append(self, token: str, first: int, entries: Sequence[NewEntry], usage: bytes = b"") -> Write:
        """Returns a write that appends entries.

        `usage`: what is then stored of the response's usage (`shared/usage.py`); b"": what was stored before.
        """
        if token != self._token:
            self._token, self._append = token, self._bind(token)
        count = len(entries)
        args = [pack(usage) if usage else _NOTHING, _pack_numbers(first, count)]
        for number, entry in enumerate(entries, first):
            if number > first:
                args.append(_pack_id(number))
            args.append(_pack_entry(entry))
        call = self._append.call(*args, count=4 * count)
        return Write(self._key, token, first, count, call)

    def _bind(self, token: str) -> BoundJoint:
        key = self._key
        return _APPEND.bind(state=keys.state(key), log=keys.log(key), channel=keys.live(key), proof=token)

    def answer(self, token: str, first: int, answered: bytes) -> Write:
        """Returns a write that appends nothing, and stores what closes the log if somebody ends the response
        in its owner's place from now on (`closing.py`). `first`: how many entries the answer has."""
        key = self._key
        call = _ANSWER(state=keys.state(key), log=keys.log(key), proof=token, first=first, answered=answered)
        return Write(key, token, first, 0, call)

    def close(self, token: str, first: int, entries: Sequence[NewEntry], closing: Closing) -> Write:
        """Returns a write that appends the last entries and closes the log; nothing can follow them."""
        key = self._key
        conversation = closing.conversation or ConversationKey(key.tenant, "")
        repeated: list[Argument] = [*_fields(first, entries)]
        for asked_key, fingerprint in closing.asked:
            repeated += (asked_key, fingerprint)
        for item_id, item in closing.items:
            repeated += (item_id, item)
        call = _CLOSE(
            *repeated,
            state=keys.state(key),
            log=keys.log(key),
            secrets=keys.secrets(key),
            active=keys.ACTIVE,
            tools=keys.tools(key),
            open=keys.open_responses(key.tenant),
            closed_logs=keys.CLOSED,
            conversation=keys.conversation(conversation),
            items=keys.conversation_items(conversation),
            order=keys.conversation_order(conversation),
            queue=keys.RESPONSES_QUEUE,
            held=keys.held(key.tenant),
            rate=keys.rate(key.tenant),
            outboxes=keys.OUTBOXES,
            dead_letters=keys.dead_letters(key.tenant),
            listed=keys.listed(key.tenant),
            proof=token,
            channel=keys.live(key),
            member=str(key),
            response_id=key.response_id,
            archive_after_ms=int(self._limits.archive_after_s * 1000),
            conversation_ttl_ms=int(self._limits.conversation_retention_s * 1000),
            cancelled_channel=keys.CANCELLED if closing.tells_owner else "",
            outbox_ttl_ms=self._limits.outbox.ttl_ms,
            outbox_max=self._limits.outbox.waiting_max,
            dead_letters_max=self._limits.outbox.dead_max,
            dead_letter_ttl_ms=self._limits.outbox.dead_ttl_ms,
            first=first,
            tokens=closing.tokens,
            status=closing.status,
            retention_ms=int(closing.retention_s * 1000),
            snapshot=closing.snapshot,
            unshown=closing.unshown,
            header=_header(first, len(entries), is_closed=True),
            entry_count=len(entries),
            asked_count=len(closing.asked),
            asked_ttl_ms=int(closing.asked_s * 1000),
            head=closing.head,
            listed_ttl_ms=int(closing.listed_s * 1000),
            listed_max=self._limits.listed_max,
        )
        return Write(key, token, first, len(entries), call)


async def write_now(redis: RedisClient, write: Write) -> None:
    """Sends one write by itself. Raises what `Write.failure` returns, and REDIS_AWAY."""
    failure = write.failure(await redis.run(write.call))
    if failure is not None:
        raise failure


@lru_cache(maxsize=16_384)
def _pack_numbers(first: int, count: int) -> bytes:
    """Packs what depends on the entries' numbers alone, up to the first one's id, if there is one.

    Cached, because all responses of a worker count alike.
    """
    numbers = pack(b"%d" % first, _header(first, count, is_closed=False)) + pack_count(4 * count)
    return numbers + _pack_id(first) if count else numbers


def _pack_id(number: int) -> bytes:
    return pack(_id(number))


def _pack_entry(entry: NewEntry) -> bytes:
    """Packs an entry without its id."""
    frame, ids, token_record = entry.frame, entry.tokens, entry.token_record
    tokens = _ONE_TOKEN.pack(ids[0]) if len(ids) == 1 else _pack(ids)
    return _ENTRY % (len(frame), frame, len(tokens), tokens, len(token_record), token_record)


def _id(number: int) -> bytes:
    """Returns an entry's id (docs/adr/0002-log-ids.md)."""
    return b"%d-0" % (number + 1)


def _header(first: int, count: int, *, is_closed: bool) -> bytes:
    """Returns the first line of the published message (`event_log.Published`)."""
    return b"%d %d %d\n" % (first, first + count, is_closed)


def _fields(first: int, entries: Sequence[NewEntry]) -> list[bytes]:
    """Returns the id, frame, tokens and token record of each entry in turn."""
    fields: list[bytes] = []
    for number, entry in enumerate(entries, first):
        fields += (_id(number), entry.frame, _pack(entry.tokens), entry.token_record)
    return fields


def _pack(tokens: Sequence[int]) -> bytes:
    """Packs tokens as little-endian uint32."""
    return struct.pack(f"<{len(tokens)}I", *tokens) if tokens else b""
