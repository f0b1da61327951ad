"""Accepts responses and reads them back: request, state and snapshot.

Owns the record kept besides the log. A response is the fold of its log; the snapshot only saves readers from
folding a closed one.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from shared.record_format import RECORD_FORMAT
from shared.request_json import decode_request
from shared.responses import ResponseRequest
from shared.service_tiers import turn_cost
from shared.settings import Settings
from shared.store import job_queue, keys
from shared.store.keys import ConversationKey, ResponseKey
from shared.store.log import archive
from shared.store.log.closing import listed_s
from shared.store.records.admission import (
    Admitted,
    Allowances,
    ConversationLocked,
    ConversationMoved,
    KeyReused,
    NewResponse,
    QueueFull,
    RateExceeded,
    Repetition,
    TenantBusy,
)
from shared.store.records.server_secrets import seal_secrets
from shared.store.records.watchers import READER_TTL_S
from shared.store.redis.client import RedisClient
from shared.store.redis.scripts import LuaScript, ScriptCall, read_word

_CREATE = LuaScript("records/create", is_confirmed=True)
_DELETE = LuaScript("records/delete", is_confirmed=True, allows_full=True)


@dataclass(frozen=True, slots=True)
class State:
    """What is known about a response without reading its log."""

    is_stored: bool
    is_background: bool
    closed: str
    """The status that it closed with; empty while it is open."""

    @property
    def is_kept(self) -> bool:
        """True if the API may report it.

        A response with `store: false` is unknown to every call except the resumption of its own stream; only
        one in the background (`allow_unstored_background`) can be polled and cancelled, because its client
        has no stream.
        """
        return self.is_stored or self.is_background


@dataclass(frozen=True, slots=True)
class Stored:
    """A record as it is stored: cheap to read, but slow to open if it is large."""

    state: State
    request: bytes
    snapshot: bytes
    packed: bytes
    """The record within an archive; if set, everything else but the state is empty."""
    unshown: bytes = b""

    @property
    def size_bytes(self) -> int:
        """The size of its JSON."""
        if self.packed:
            return archive.record_bytes(self.packed)
        return len(self.request) + len(self.snapshot) + len(self.unshown)

    def unpack(self) -> archive.ArchivedRecord:
        """Returns the JSON of the request, of the snapshot, and of what that does not show."""
        return (
            archive.open_record(self.packed)
            if self.packed
            else archive.ArchivedRecord(self.request, self.snapshot, self.unshown)
        )

    def open(self) -> "Record":
        """Returns the record with its request decoded."""
        kept = self.unpack()
        return Record(self.state, decode_request(kept.request), kept.snapshot, kept.unshown)


@dataclass(frozen=True, slots=True)
class Record:
    """A response's request and, once it is closed, its snapshot (JSON of the final Response)."""

    state: State
    request: ResponseRequest
    snapshot: bytes
    unshown: bytes = b""
    """As in `Closing`."""


async def create(redis: RedisClient, settings: Settings, new: NewResponse) -> Admitted:
    """Writes record, first entries, secrets and job in one script.

    If the call repeats an earlier one, that is the earlier call's response. Raises what `admission.py` lists,
    having written nothing.
    """
    key = new.key
    match await redis.run(_create_call(settings, new)):
        case [b"ok", listeners, *left]:
            return Admitted(key, listeners > 0, Allowances.of(settings, left))
        case [b"exists"]:  # ids are unique, so this is our own retry
            return Admitted(key)
        case [b"known", response_id]:
            return Admitted(ResponseKey(key.tenant, response_id.decode()))
        case [b"full", depth]:
            raise QueueFull(f"{depth} jobs are waiting already")
        case [b"busy", count]:
            raise TenantBusy(f"{count} responses are open already")
        case [b"heavy", size_bytes]:
            raise TenantBusy(f"its requests hold {size_bytes} bytes already")
        case [b"limited", wait_ms, *left]:
            raise RateExceeded(Allowances.of(settings, left), wait_ms)
        case [b"conflict"]:
            raise KeyReused
        case [b"locked"]:
            raise ConversationLocked
        case [b"moved"]:
            raise ConversationMoved
        case reply:
            raise RuntimeError(f"create answered {reply!r}")


async def find_repeated(redis: RedisClient, tenant: str, repetition: Repetition) -> ResponseKey | None:
    """Returns the response that an earlier call with this key created, or None. Raises KeyReused."""
    raw = await redis.command("GET", keys.idempotency(tenant, repetition.idempotency_key))
    if raw is None:
        return None
    response_id, digest = raw.decode().split(" ")
    if digest != repetition.body_digest:
        raise KeyReused
    key = ResponseKey(tenant, response_id)
    await redis.confirm()  # the earlier call may have failed because it could not be confirmed
    closed = await redis.command("HGET", keys.state(key), "closed")
    return None if closed is None or (repetition.renews and closed == b"cancelled") else key


def _job_id(key: ResponseKey) -> str:
    return f"{key}:0"


def _create_call(settings: Settings, new: NewResponse) -> ScriptCall:
    key = new.key
    repeated = new.repetition.idempotency_key if new.repetition else ""
    conversation = new.membership.conversation if new.membership else ConversationKey(key.tenant, "")
    return _CREATE(
        *new.frames,
        state=keys.state(key),
        log=keys.log(key),
        secrets=keys.secrets(key),
        tools=keys.tools(key),
        active=keys.ACTIVE,
        queue=new.queue,
        doorbell=keys.doorbell(new.queue),
        job_key=keys.job(_job_id(key)),
        open=keys.open_responses(key.tenant),
        idempotency=keys.idempotency(key.tenant, repeated),
        parent_tools=keys.tools(new.parent or key),
        parent_state=keys.state(new.parent or key),
        takers=keys.takers(new.queue),
        held=keys.held(key.tenant),
        held_bytes=keys.held_bytes(key.tenant),
        conversation=keys.conversation(conversation),
        readers=keys.readers(key),
        rate=keys.rate(key.tenant),
        listed=keys.listed(key.tenant),
        member=str(key),
        response_id=key.response_id,
        job_id=_job_id(key),
        job=job_queue.response_job(key) if new.is_queued else "",
        ttl_ms=settings.live_ttl_s * 1000,
        queue_depth_max=settings.queue_depth_max,
        open_max=settings.tenant_responses_max,
        ring_again_ms=int(settings.ring_again_s * 1000),
        request=new.record,
        store=int(new.is_stored),
        background=int(new.is_background),
        sealed_secrets=seal_secrets(settings, new.secrets),
        body_digest=new.repetition.body_digest if new.repetition else "",
        renews=int(new.repetition is not None and new.repetition.renews),
        idempotency_ttl_ms=settings.idempotency_retention_s * 1000,
        bytes=new.kept_bytes,
        bytes_max=settings.tenant_bytes_max,
        format=RECORD_FORMAT,
        place=new.membership.place if new.membership else "",
        reader=new.reader,
        reader_ttl_ms=int(READER_TTL_S * 1000),
        tokens=new.tokens,
        requests_per_minute=settings.tenant_requests_per_minute_max,
        tokens_per_minute=settings.tenant_tokens_per_minute_max,
        webhooks=" ".join(new.webhooks),
        trace=new.trace,
        channel=keys.live(key) if new.is_followed else "",
        head=new.head,
        members=new.members,
        listed_ttl_ms=int(listed_s(key.tenant, settings) * 1000),
        listed_max=settings.tenant_listed_max,
        flow=keys.flow(key.tenant, new.tier),
        turn_cost=turn_cost(new.tier, settings.tenant_weight),
        affinity_ms=int(settings.affinity_s * 1000),
        affinity_margin=int(settings.affinity_margin * 1000),
        bell_pattern=keys.BELL_PATTERN,
        prefix=keys.prefix(new.queue, key.tenant, new.prefix) if settings.affinity_s and new.prefix else "",
    )


async def _read_safely(redis: RedisClient, read: Callable[[], Awaitable[Stored | None]]) -> Stored | None:
    """Reads; if the response is missing or has ended, confirms that and reads again."""
    found = await read()
    if redis.is_confirming and (found is None or found.state.closed):
        await redis.confirm()
        found = await read()
    return found


async def read_states(redis: RedisClient, asked: Sequence[ResponseKey]) -> list[State | None]:
    """Returns the states of responses, None for each that does not exist or has expired.

    With `durable_writes`, None and an ended state are returned only once no failover can take them back.
    """
    found = await _read_states(redis, asked)
    if redis.is_confirming and any(state is None or state.closed for state in found):
        await redis.confirm()
        found = await _read_states(redis, asked)
    return found


async def _read_states(redis: RedisClient, asked: Sequence[ResponseKey]) -> list[State | None]:
    commands = [("HMGET", keys.state(key), *_STATE_FIELDS) for key in asked]
    replies = await redis.transaction(*commands) if commands[1:] else [await redis.command(*commands[0])]
    return list(map(_state, replies))


async def read_ended(redis: RedisClient, key: ResponseKey) -> Stored | None:
    """Returns what `read_stored` does, but without the request unless it is archived: enough to report a
    response that has ended. With `durable_writes`, as `read_states`."""
    return await _read_safely(redis, lambda: _read_ended(redis, key))


async def _read_ended(redis: RedisClient, key: ResponseKey) -> Stored | None:
    fields, packed = await redis.transaction(
        ("HMGET", keys.state(key), *_STATE_FIELDS, "snapshot", "unshown"),
        ("HGET", keys.archive(key), archive.RECORD_FIELD),
    )
    *state, snapshot, unshown = fields
    return _stored([*state, None, snapshot, unshown], packed)


async def read_request(redis: RedisClient, key: ResponseKey) -> bytes:
    """Returns JSON of the ResponseRequest of a response that is not archived; empty if there is none."""
    return await redis.command("HGET", keys.state(key), "request") or b""


async def read_noted(redis: RedisClient, key: ResponseKey) -> tuple[bytes, bytes]:
    """Returns what the owners of an open response have stored beside its log, or b"": its usage
    (`shared/usage.py`), and the answer with which it ends in any case (`shared/store/log/closing.py`)."""
    usage, answered = await redis.command("HMGET", keys.state(key), "usage", "answered")
    return usage or b"", answered or b""


async def read_stored(redis: RedisClient, key: ResponseKey) -> Stored | None:
    """Returns the whole record, archived or not, or None if the response does not exist or has expired."""
    (stored,) = await read_all_stored(redis, [key])
    return stored


async def read_whole(redis: RedisClient, key: ResponseKey) -> Stored | None:
    """Returns what `read_stored` does; with `durable_writes`, as `read_state`."""
    return await _read_safely(redis, lambda: read_stored(redis, key))


async def read_all_stored(redis: RedisClient, asked: Sequence[ResponseKey]) -> list[Stored | None]:
    """Returns what `read_stored` does for several responses, as of one moment."""
    commands: list[tuple[str, ...]] = []
    for key in asked:
        commands.append(("HMGET", keys.state(key), *_STATE_FIELDS, *_RECORD_FIELDS))
        commands.append(("HGET", keys.archive(key), archive.RECORD_FIELD))
    replies = await redis.transaction(*commands)
    return [_stored(*replies[i : i + 2]) for i in range(0, len(replies), 2)]


def _stored(fields: list[bytes | None], packed: bytes | None) -> Stored | None:
    state = _state(fields[:3])
    if state is None:
        return None
    request, snapshot, unshown = fields[3:]
    return Stored(state, request or b"", snapshot or b"", packed or b"", unshown or b"")


async def read_sizes(redis: RedisClient, asked: Sequence[ResponseKey]) -> list[int]:
    """Returns the bytes that `read_all_stored` would read for each response; archives count packed."""
    commands: list[tuple[str, ...]] = []
    for key in asked:
        commands += [("HSTRLEN", keys.state(key), field) for field in _RECORD_FIELDS]
        commands.append(("HSTRLEN", keys.archive(key), archive.RECORD_FIELD))
    lengths = await redis.transaction(*commands)
    width = len(_RECORD_FIELDS) + 1
    return [sum(lengths[i : i + width]) for i in range(0, len(lengths), width)]


_STATE_FIELDS = ("store", "background", "closed")
_RECORD_FIELDS = ("request", "snapshot", "unshown")


def _state(fields: list[bytes | None]) -> State | None:
    stored, background, closed = fields
    if stored is None:
        return None
    return State(stored == b"1", background == b"1", (closed or b"").decode())


async def delete(redis: RedisClient, key: ResponseKey) -> str:
    """Deletes a closed response with its keys.

    Returns `deleted`; or `open` or `missing`, having done nothing.
    """
    reply = await redis.run(
        _DELETE(
            state=keys.state(key),
            log=keys.log(key),
            tools=keys.tools(key),
            archive=keys.archive(key),
            closed_logs=keys.CLOSED,
            held=keys.held(key.tenant),
            held_bytes=keys.held_bytes(key.tenant),
            listed=keys.listed(key.tenant),
            member=str(key),
            response_id=key.response_id,
        )
    )
    return read_word(reply, "deleted", "open", "missing")
