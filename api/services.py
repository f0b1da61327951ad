"""What the routes call: accept a response, find it, read it, wait for it, end it. Knows nothing of HTTP.

Owns the order of things and the bound on waiting for Redis; bytes that leave are those stored.
"""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import msgspec

from api import context
from api.bodies.requests import Birth, Creation, RequestLimits, read_create
from api.context import Sources, compose
from api.conversations import Conversations
from api.errors import (
    ResponseLost,
    cannot_cancel,
    cannot_delete,
    context_length_exceeded,
    cursor_beyond_end,
    response_not_found,
    unsupported_parameter,
)
from api.folds import Folds
from api.hub import LogGone, LogShorter
from api.offload import Offload
from api.paging import PageRequest
from api.prompt_length import check_prompt_length
from api.readiness import Readiness, look_around
from api.tenants import Tenants
from shared import ids
from shared.context_length import TOO_LONG
from shared.responses import ConversationReference, ResponseError, ResponseRequest
from shared.settings import Settings
from shared.store.keys import ConversationKey, ResponseKey
from shared.store.log import closing
from shared.store.records import response_store, token_count
from shared.store.records.response_store import (
    ConversationLocked,
    ConversationMoved,
    Membership,
    NewResponse,
    Repetition,
    State,
    Stored,
)
from shared.store.records.watchers import Watchers
from shared.store.redis.client import RedisClient

FROM_THE_START = -1
_READINGS_MAX = 3
"""So often a conversation is read for one create call, if others add items to it at that moment."""

Frames = AsyncGenerator[bytes, None]


@dataclass(frozen=True, slots=True)
class Cursor:
    """The sequence number of the last event that a reader has seen, and where it has said so."""

    after: int = FROM_THE_START
    param: str = "starting_after"


T = TypeVar("T")


class Follower(Protocol):
    def follow(self, key: ResponseKey, after: int) -> AsyncGenerator[bytes, None]:
        """Stored frames with sequence_number > `after`, until the log is closed. Raises LogGone."""


@dataclass(frozen=True, slots=True)
class Created:
    key: ResponseKey
    is_streamed: bool
    is_background: bool


class Services:
    def __init__(
        self,
        redis: RedisClient,
        follower: Follower,
        settings: Settings,
        clock: Callable[[], float],
        tenants: Tenants,
    ) -> None:
        """`clock` returns seconds since the epoch."""
        self._redis = redis
        self._follower = follower
        self._settings = settings
        self._clock = clock
        self._tenants = tenants
        self._name = ids.new_owner("api")
        self._offload, self._asking = Offload(), asyncio.Semaphore(token_count.ASKING_MAX)
        self._folds = Folds(redis, self._offload)
        self.watchers = Watchers(redis, self._hear_last_reader_left)
        self.conversations = Conversations(redis, self._offload, settings, clock)

    # --- creating -------------------------------------------------------------------------------

    async def create(self, tenant: str, raw: bytes, idempotency_key: str | None = None) -> Created:
        """Accepts a create call, or raises and writes nothing.

        Raises ClientError, QueueFull, TenantBusy, KeyReused, REDIS_AWAY.
        """
        async with self._offload.in_hand(len(raw)):
            return await self._create(tenant, raw, idempotency_key)

    async def _create(self, tenant: str, raw: bytes, idempotency_key: str | None) -> Created:
        creation = await self._read(raw)
        response = creation.request.response
        self._check_background(response.background, response.store)
        self._check_secrets(creation.secret_param)
        repetition = None
        if idempotency_key is not None:
            digest = await self._offload.run(len(raw), lambda: hashlib.sha256(raw).hexdigest())
            repetition = Repetition(idempotency_key, digest)
            async with self._redis_bound():
                known = await response_store.find_repeated(self._redis, tenant, repetition)
            if known is not None:
                return Created(known, creation.is_streamed, response.background)
        key = await self._accept(tenant, creation, len(raw), repetition)
        return Created(key, creation.is_streamed, response.background)

    async def _accept(
        self, tenant: str, creation: Creation, raw_bytes: int, repetition: Repetition | None
    ) -> ResponseKey:
        """Writes the response with what it is to read, which is read again if that has moved on meanwhile."""
        for _ in range(_READINGS_MAX):
            sources = await self._read_sources(tenant, creation)
            new = await self._compose(
                creation,
                sources,
                raw_bytes,
                lambda request: self._make_new(tenant, request, creation, repetition),
            )
            new = replace(new, membership=sources.membership)
            try:
                async with self._redis_bound():
                    return await response_store.create(self._redis, self._settings_of(tenant), new)
            except ConversationMoved:
                pass
        raise ConversationLocked

    def _settings_of(self, tenant: str) -> Settings:
        return self._tenants.limits_of(tenant).over(self._settings)

    def _make_new(
        self, tenant: str, request: ResponseRequest, creation: Creation, repetition: Repetition | None
    ) -> NewResponse:
        """Accepts a stream that is too long: its own events report the error."""
        if not creation.is_streamed:
            check_prompt_length(request, self._settings.context_tokens_max)
        response = request.response
        previous = response.previous_response_id
        parent = ResponseKey(tenant, previous) if previous is not None else None
        return NewResponse.of(ResponseKey(tenant, response.id), request, creation.secrets, parent, repetition)

    async def _read(self, raw: bytes) -> Creation:
        birth = Birth(ids.new_response_id(self._settings.cell), int(self._clock()))
        settings = self._settings
        limits = RequestLimits(settings.items_max, settings.tools_max, settings.json_values_max)
        models = settings.models
        return await self._offload.run(len(raw), lambda: read_create(raw, birth, models, limits))

    async def _compose(
        self,
        creation: Creation,
        sources: Sources,
        raw_bytes: int,
        finish: Callable[[ResponseRequest], T],
    ) -> T:
        """What `finish` makes of the request with all that stands before its input."""
        request = creation.request
        if creation.conversation_id is not None:
            reference = ConversationReference(creation.conversation_id)
            response = msgspec.structs.replace(request.response, conversation=reference)
            request = msgspec.structs.replace(request, response=response)
        return await self._offload.run(
            raw_bytes + sources.size_bytes,
            lambda: finish(compose(request, creation.items, sources, self._settings)),
        )

    async def _read_sources(self, tenant: str, creation: Creation) -> Sources:
        request = creation.request
        parent, membership = None, None
        items: Sequence[bytes] = ()
        async with self._redis_bound():
            if creation.conversation_id is not None:
                conversation = ConversationKey(tenant, creation.conversation_id)
                read = await self.conversations.read_context(conversation)
                items, membership = read.items, Membership(conversation, read.place)
            elif request.response.previous_response_id is not None:
                key = ResponseKey(tenant, request.response.previous_response_id)
                parent = await context.read_parent(self._redis, key)
        referenced = await context.read_references(
            self._redis, self._offload, self._settings, tenant, creation.items, "input"
        )
        return Sources(parent, items, referenced, membership)

    def _check_background(self, background: bool, store: bool) -> None:
        if background and not store and not self._settings.allow_unstored_background:
            raise unsupported_parameter("background", "background can only be used when `store` is true.")

    def _check_secrets(self, param: str | None) -> None:
        """What could not be sealed is not taken; on a developer's own machine it may lie open."""
        is_at_home = self._tenants.is_open and not self._settings.open_hosts
        if param is not None and self._settings.secrets_key is None and not is_at_home:
            reason = "This server keeps no secrets for tool servers: its operator has set no secrets_key."
            raise unsupported_parameter(param, reason)

    async def count_input_tokens(self, tenant: str, raw: bytes) -> int:
        """How many tokens the model would read. Raises ClientError, and REDIS_AWAY if no worker answers."""
        async with self._offload.in_hand(len(raw)):
            record = await self._record(tenant, raw)
        return await token_count.ask(self._redis, self._settings_of(tenant), tenant, record, self._asking)

    async def _record(self, tenant: str, raw: bytes) -> bytes:
        creation = await self._read(raw)
        sources = await self._read_sources(tenant, creation)
        return await self._compose(creation, sources, len(raw), msgspec.json.encode)

    # --- finding --------------------------------------------------------------------------------

    async def find(self, tenant: str, response_id: str) -> tuple[ResponseKey, State]:
        """A response of this tenant that is kept. Raises ClientError where there is none: somebody else's
        id, or that of a response that is not kept, is like one that never was."""
        key, state = await self.find_log(tenant, response_id)
        if not state.is_kept:
            raise response_not_found(response_id)
        return key, state

    async def find_log(self, tenant: str, response_id: str) -> tuple[ResponseKey, State]:
        """As `find`, also for one that is not kept: its own reader may come back."""
        if not ids.is_response_id(response_id):
            raise response_not_found(response_id)
        key = ResponseKey(tenant, response_id)
        async with self._redis_bound():
            state = await response_store.read_state(self._redis, key)
        if state is None:
            raise response_not_found(response_id)
        return key, state

    async def retrieve(self, tenant: str, response_id: str) -> bytes:
        """JSON of the response as it is now: its snapshot, or while it is open the fold of its log."""
        key, state = await self.find(tenant, response_id)
        return await self._read_response(key, state)

    async def _read_response(self, key: ResponseKey, state: State) -> bytes:
        if state.closed:
            self._folds.forget(key)
            return await self._snapshot(key)
        told = await self._folds.tell(key)
        if not told:
            raise response_not_found(key.response_id)
        return told

    async def tell(self, key: ResponseKey) -> bytes:
        """As `retrieve`, for a response that was just created, stored or not."""
        async with self._redis_bound():
            state = await response_store.read_state(self._redis, key)
        if state is None:
            raise ResponseLost(key.response_id)
        return await self._read_response(key, state)

    async def list_input_items(self, tenant: str, response_id: str, page: PageRequest) -> bytes:
        """JSON of a page of what the response was given to read."""
        key, _ = await self.find(tenant, response_id)
        async with self._redis_bound():
            stored = await response_store.read_stored(self._redis, key)
        if stored is None:
            raise response_not_found(response_id)
        return await self._offload.run(stored.size_bytes, lambda: _list_page(stored, page))

    # --- reading --------------------------------------------------------------------------------

    async def follow(self, key: ResponseKey, after: int, *, is_watched: bool) -> AsyncGenerator[bytes, None]:
        """Yields stored frames after a number, to the end. `is_watched`: the response lives while read."""
        if not is_watched:
            async with aclosing(self._follower.follow(key, after)) as frames:
                async for some in frames:
                    yield some
            return
        async with self.watchers.present(key), aclosing(self._follower.follow(key, after)) as frames:
            async for some in frames:
                yield some

    async def resume(self, key: ResponseKey, state: State, cursor: Cursor) -> Frames | None:
        """As `follow`, for a reader that comes back. None: it has read to the end already.

        Raises ClientError where the log has ended before what the reader says it has seen.
        """
        frames = self.follow(key, cursor.after, is_watched=not state.is_background and not state.closed)
        if not state.closed:
            return frames
        try:
            first = await anext(frames, None)
        except LogGone:
            raise response_not_found(key.response_id) from None
        except LogShorter as last:
            raise cursor_beyond_end(cursor.param, str(last)) from None
        return None if first is None else _chain(first, frames)

    async def _hear_last_reader_left(self, key: ResponseKey) -> None:
        """With a grace, the owner's beat decides later; it also does when this node dies."""
        if self._settings.disconnect_grace_s == 0:
            await closing.cancel(self._redis, self._settings, key, self._name)

    async def finish(self, key: ResponseKey) -> bytes:
        """Waits for the end of a response; JSON of how it ended.

        Raises ResponseLost, NodeEnding; ClientError for one that turned out to be too long for the model.
        """
        try:
            frames = self.follow(key, FROM_THE_START, is_watched=True)
            async with aclosing(frames):
                async for _ in frames:
                    pass
        except LogGone:
            raise ResponseLost(key.response_id) from None
        closed, snapshot = await self._read_end(key)
        if closed == "failed":
            ending = await self._offload.run(len(snapshot), lambda: _read_ending(snapshot))
            if ending.error == TOO_LONG:
                raise context_length_exceeded()
        return snapshot

    async def _snapshot(self, key: ResponseKey) -> bytes:
        _, snapshot = await self._read_end(key)
        return snapshot

    async def _read_end(self, key: ResponseKey) -> tuple[str, bytes]:
        """The status that a response closed with, and its snapshot. Raises ResponseLost."""
        async with self._redis_bound():
            stored = await response_store.read_stored(self._redis, key)
        if stored is None or not stored.state.closed:
            raise ResponseLost(key.response_id)
        record = await self._offload.run(len(stored.packed), stored.unpack)
        return stored.state.closed, record.snapshot

    # --- ending ---------------------------------------------------------------------------------

    async def cancel(self, tenant: str, response_id: str) -> bytes:
        """JSON of the cancelled response. Raises ClientError if it has ended in another way."""
        key, state = await self.find(tenant, response_id)
        if not state.closed:
            async with self._redis_bound():
                await closing.cancel(self._redis, self._settings, key, self._name)
            key, state = await self.find(tenant, response_id)
        if state.closed != "cancelled":
            raise cannot_cancel(state.closed, state.is_background)
        return await self._snapshot(key)

    async def delete(self, tenant: str, response_id: str) -> None:
        """Raises ClientError if there is none, or if it is still open."""
        key, _ = await self.find(tenant, response_id)
        async with self._redis_bound():
            outcome = await response_store.delete(self._redis, key)
        if outcome == "open":
            raise cannot_delete()
        if outcome == "missing":
            raise response_not_found(response_id)

    async def look_around(self) -> Readiness:
        return await look_around(self._redis, self._settings.redis_timeout_s)

    def _redis_bound(self) -> asyncio.Timeout:
        """However often the client tries again beneath: an answer within this time, or REDIS_AWAY."""
        return asyncio.timeout(self._settings.redis_timeout_s)


async def _chain(first: bytes, rest: Frames) -> Frames:
    async with aclosing(rest):
        yield first
        async for some in rest:
            yield some


def _list_page(stored: Stored, page: PageRequest) -> bytes:
    request = stored.open().request
    return msgspec.json.encode(page.cut([*request.context, *request.input]))


class _Ending(msgspec.Struct):
    error: ResponseError | None


_read_ending = msgspec.json.Decoder(_Ending).decode
