"""What is written to one response's log: entries under a fencing token, and its end. Pure; knows bytes only.

A write is a value: the script's call, and what its reply means. Who sends it decides how: by itself, or with
those of other responses in one (`appender`). What is appended is published in the same script, for the API's
hubs (docs/adr/0028-a-write-is-a-value.md). Reading is `event_log`'s.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import msgspec

from shared.settings import Settings
from shared.store import keys
from shared.store.keys import ConversationKey, ResponseKey
from shared.store.owning.lease import LeaseLost
from shared.store.redis.client import RedisClient
from shared.store.redis.scripts import Argument, LuaScript, ScriptCall

_APPEND, _CLOSE = LuaScript("log/append", is_confirmed=True), LuaScript("log/close", is_confirmed=True)


class NewEntry(msgspec.Struct, frozen=True):
    """An entry before it is in the log: its frame, and the token ids that made it."""

    frame: bytes
    tokens: tuple[int, ...] = ()
    token_record: bytes = b""
    """What the engine reported beside the tokens, packed (`worker/response/token_record.py`)."""


@dataclass(frozen=True, slots=True)
class Closing:
    """What is set together with the last entry."""

    status: str
    snapshot: bytes
    """JSON of the final Response."""
    retention_s: float
    conversation: ConversationKey | None = None
    items: Sequence[tuple[str, bytes]] = ()
    """(item id, JSON) of what joins the conversation: the response's input and output."""


@dataclass(frozen=True, slots=True)
class LogLimits:
    """How long things are kept after the end of a log."""

    archive_after_s: float
    conversation_retention_s: float

    @classmethod
    def of(cls, settings: Settings) -> Self:
        return cls(settings.archive_after_s, settings.conversation_retention_s)


class TailLost(RuntimeError):
    """The log is shorter than what was appended: Redis has gone back, as a failover may."""

    def __init__(self, key: ResponseKey, first: int, tail: int) -> None:
        super().__init__(f"{key} appends {first}, log is at {tail}")
        self.tail = tail
        """The number of entries in the log."""


@dataclass(frozen=True, slots=True)
class Write:
    """One append, or the end of a log. Sent twice, it is written once."""

    key: ResponseKey
    token: str
    first: int
    count: int
    call: ScriptCall

    def failure(self, reply: object) -> Exception | None:
        """None: it is in the log. Otherwise nothing was written.

        LeaseLost when the token is stale or the log closed, TailLost when the log is shorter than before.
        """
        match reply:
            case [b"ok", _]:
                return None
            case [b"gap", _, owner] if owner != self.token.partition(" ")[2].encode():
                # Our acquiring was lost in a failover, and somebody else got the same token.
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
    """Makes the writes to one response's log. The names of its keys are made once, for all of them.

    `token` is a lease's `proof`.
    """

    def __init__(self, limits: LogLimits, key: ResponseKey) -> None:
        self._limits = limits
        self._key = key
        self._channel = keys.live(key)
        self._append = _APPEND.bind(state=keys.state(key), log=keys.log(key), channel=self._channel)

    def append(self, token: str, first: int, entries: Sequence[NewEntry], usage: bytes = b"") -> Write:
        """Entries as `first`, `first + 1`, …. `usage`: as in `lease.Acquired`, once they are in the log."""
        repeated: list[Argument] = []
        for entry in entries:
            repeated += (entry.frame, _pack(entry.tokens), entry.token_record)
        return Write(self._key, token, first, len(entries), self._append(token, first, usage, *repeated))

    def close(self, token: str, first: int, entries: Sequence[NewEntry], closing: Closing) -> Write:
        """The last entries, and the end: nothing follows them ever."""
        key = self._key
        conversation = closing.conversation or ConversationKey(key.tenant, "")
        repeated: list[Argument] = []
        for entry in entries:
            repeated += (entry.frame, _pack(entry.tokens), entry.token_record)
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
            proof=token,
            channel=self._channel,
            member=str(key),
            response_id=key.response_id,
            archive_after_ms=int(self._limits.archive_after_s * 1000),
            conversation_ttl_ms=int(self._limits.conversation_retention_s * 1000),
            cancelled_channel=keys.CANCELLED,
            first=first,
            status=closing.status,
            retention_ms=int(closing.retention_s * 1000),
            snapshot=closing.snapshot,
            entry_count=len(entries),
        )
        return Write(key, token, first, len(entries), call)


async def write_now(redis: RedisClient, write: Write) -> None:
    """Sends one write by itself. Raises what `Write.failure` says, and REDIS_AWAY."""
    failure = write.failure(await redis.run(write.call))
    if failure is not None:
        raise failure


def _pack(tokens: Sequence[int]) -> bytes:
    """Little-endian unsigned 32-bit integers, one a token."""
    return struct.pack(f"<{len(tokens)}I", *tokens) if tokens else b""
