"""Reads responses: finds them, follows them, waits for them, ends them. Knows nothing of HTTP.

Owns which responses are reported at all, and to whom. The bytes returned are those stored.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import aclosing, nullcontext
from dataclasses import dataclass
from typing import Protocol

import msgspec

from api.bodies.includes import check_sealing
from api.compacted import answer_of
from api.delivery import delivery
from api.errors import (
    ResponseLost,
    cannot_cancel,
    cannot_delete,
    context_length_exceeded,
    cursor_beyond_end,
    response_not_found,
)
from api.folds import Folds
from api.hub import Arrival, LiveSink, LogGone, LogShorter
from api.included import add_included
from api.listing import Listed
from api.offload import Offload
from api.paging import PageRequest, join_list
from shared import ids, logs
from shared.compaction import as_shown
from shared.context_length import TOO_LONG
from shared.frames import encode
from shared.responses import Response, ResponseError
from shared.sealing import COMPACTION, REASONING, Seal
from shared.settings import Settings
from shared.store.keys import ResponseKey
from shared.store.log import closing
from shared.store.records import listing, response_store
from shared.store.records.listing import Wanted
from shared.store.records.response_store import State, Stored
from shared.store.records.watchers import Watchers
from shared.store.redis.client import RedisClient
from shared.store.redis.together import Together

FROM_THE_START = -1
_STATES_MAX = 100
"""The number of states read in one transaction, which limits how long it occupies Redis."""

Frames = AsyncGenerator[bytes, None]


@dataclass(frozen=True, slots=True)
class Cursor:
    """The sequence number of the last event that a reader has seen, and the parameter that gives it."""

    after: int = FROM_THE_START
    param: str = "starting_after"


class Follower(Protocol):
    """Follows logs as `Hub` does."""

    def follow(
        self,
        key: ResponseKey,
        after: int,
        sink: LiveSink | None = None,
        arrival: Arrival | None = None,
    ) -> AsyncGenerator[bytes, None]:
        """Yields stored frames with sequence_number > `after`, until the log is closed, except those sent to
        the sink.

        Raises the same errors as `Hub.follow`.
        """

    def expect(self, key: ResponseKey, frames: Sequence[bytes]) -> Arrival: ...

    def forsake(self, arrival: Arrival) -> None: ...


class Reading:
    def __init__(self, redis: RedisClient, offload: Offload, follower: Follower, settings: Settings) -> None:
        self._redis = redis
        self._offload = offload
        self._follower = follower
        self._settings = settings
        self._name = ids.new_owner("api")
        self._states = Together(self._read_states, _STATES_MAX)
        self._folds = Folds(redis, offload)
        self.watchers = Watchers(redis, self._on_last_left)

    # --- finding --------------------------------------------------------------------------------

    async def find_log(self, tenant: str, response_id: str) -> tuple[ResponseKey, State]:
        """Returns a response of this tenant, also one that is not kept, since its own reader may come back.

        Raises ClientError if there is none; another tenant's id is unknown.
        """
        key = _key_of(tenant, response_id)
        state = await self._states.ask(key)
        if state is None:
            raise response_not_found(response_id)
        return key, state

    async def _read_states(self, wanted: Sequence[ResponseKey]) -> list[State | None]:
        """Bounds each question by itself: whoever comes with a crowd waits for those before him."""
        async with self._redis_bound():
            return await response_store.read_states(self._redis, wanted)

    async def retrieve(self, tenant: str, response_id: str, included: Collection[str] = ()) -> bytes:
        """Returns the JSON of the response as it is now: its snapshot, or the fold of its log while it is
        open.

        `included`: what its items are to show besides, once it has ended. Raises ClientError if there is
        none, if it is not kept, or if it could not be shown so.
        """
        check_sealing(included, has_keys=bool(self._settings.seal_keys))
        key, stored = await self._find_kept(tenant, response_id)
        if not included or not stored.state.closed:
            return await self._read_response(key, stored)
        return await self._offload.run(
            stored.size_bytes, lambda: add_included(stored.unpack(), included, self._sealer_of(tenant))
        )

    def _sealer_of(self, tenant: str) -> Callable[[str], str]:
        """Returns what seals reasoning for the tenant; only called where there are keys."""
        return lambda text: Seal(self._settings.seal_keys, tenant, REASONING).seal(text)

    async def _find_kept(self, tenant: str, response_id: str) -> tuple[ResponseKey, Stored]:
        key = _key_of(tenant, response_id)
        async with self._redis_bound():
            stored = await response_store.read_ended(self._redis, key)
        if stored is None or not stored.state.is_kept:
            raise response_not_found(response_id)
        return key, stored

    async def _read_response(self, key: ResponseKey, stored: Stored) -> bytes:
        if stored.state.closed:
            self._folds.forget(key)
            return await self._snapshot_of(stored)
        folded = await self._folds.read(key)
        if not folded:
            raise response_not_found(key.response_id)
        return folded

    async def retrieve_repeated(self, key: ResponseKey) -> bytes:
        """Returns what `retrieve` does, for a response that an earlier call created, kept or not."""
        async with self._redis_bound():
            stored = await response_store.read_ended(self._redis, key)
        if stored is None:
            raise ResponseLost(key.response_id)
        return await self._read_response(key, stored)

    async def list_input_items(self, tenant: str, response_id: str, page: PageRequest) -> bytes:
        """Returns the JSON of a page of the response's context and input."""
        key = _key_of(tenant, response_id)
        async with self._redis_bound():
            stored = await response_store.read_whole(self._redis, key)
        if stored is None or not stored.state.is_kept:
            raise response_not_found(response_id)
        return await self._offload.run(stored.size_bytes, lambda: _list_page(stored, page))

    async def list_responses(
        self, tenant: str, wanted: Wanted, page: PageRequest, after_ms: int | None = None
    ) -> Listed:
        """Returns a list: a page of the tenant's stored responses, without what they were asked and what they
        said. `after_ms`: when the one was created after which it begins, if another cell may have that.
        With `durable_writes`, it is read from a server that has just confirmed."""
        async with self._redis_bound():
            await self._redis.confirm()
            found = await listing.list_page(
                self._redis,
                tenant,
                wanted,
                page.after or "",
                page.limit,
                is_newest_first=page.order == "desc",
                after_ms=after_ms,
            )
        if found == "unknown":
            raise response_not_found(page.after or "", "after")
        heads = found.heads
        first, last = (heads[place].id if heads else None for place in (0, -1))
        body = join_list([encode(head) for head in heads], first, last, has_more=found.has_more)
        return Listed(body, found.after_ms, found.created_ms)

    # --- reading --------------------------------------------------------------------------------

    async def follow(
        self,
        key: ResponseKey,
        after: int,
        sink: LiveSink | None = None,
        *,
        is_watched: bool,
        arrival: Arrival | None = None,
    ) -> AsyncGenerator[bytes, None]:
        """Yields stored frames after a number, to the end, except those sent to the sink.

        `is_watched`: whether the response lives only while it is read. `arrival`: of a response that this
        node has just created; then the first frames come without waiting.
        """
        frames = self._follower.follow(key, after, sink, arrival)
        announced = arrival.announced if arrival else ""
        watch = self.watchers.present(key, announced) if is_watched else nullcontext()
        with delivery() as told:
            async with watch, aclosing(frames):
                async for some in frames:
                    told.latest = some
                    yield some
            told.is_whole = True

    async def resume(
        self, key: ResponseKey, state: State, cursor: Cursor, sink: LiveSink | None = None
    ) -> Frames | None:
        """Returns the frames after a cursor, as `follow` does, or None if the reader is at the end of a
        closed log.

        Raises ClientError if the log is closed and ends before the cursor.
        """
        frames = self.follow(key, cursor.after, sink, is_watched=not state.is_background and not state.closed)
        if not state.closed:
            return frames
        try:
            first = await anext(frames, None)
        except LogGone:
            raise response_not_found(key.response_id) from None
        except LogShorter as last:
            raise cursor_beyond_end(cursor.param, str(last)) from None
        return None if first is None else _chain(first, frames)

    async def _on_last_left(self, key: ResponseKey) -> None:
        """Cancels the response if there is no grace period; otherwise the owner's beat does, at its end."""
        if self._settings.disconnect_grace_s == 0:
            await closing.cancel(self._redis, self._settings, key, self._name, self._offload.run)

    async def finish(self, key: ResponseKey, arrival: Arrival | None = None) -> bytes:
        """Waits until a response ends; returns its JSON.

        Raises ResponseLost, NodeEnding, and ClientError if its prompt turned out to be too long for the
        model.
        """
        try:
            frames = self.follow(key, FROM_THE_START, is_watched=True, arrival=arrival)
            async with aclosing(frames):
                async for _ in frames:
                    pass
        except LogGone:
            raise ResponseLost(key.response_id) from None
        async with self._redis_bound():
            stored = await response_store.read_ended(self._redis, key)
        if stored is None or not stored.state.closed:
            raise ResponseLost(key.response_id)
        snapshot = await self._snapshot_of(stored)
        if stored.state.closed == "failed":
            ending = await self._offload.run(len(snapshot), lambda: _read_ending(snapshot))
            if ending.error == TOO_LONG:
                raise context_length_exceeded()
        return snapshot

    async def finish_compaction(self, key: ResponseKey, arrival: Arrival | None = None) -> bytes:
        """Waits until a compaction ends; returns JSON of what it made.

        Raises what `finish` does, and ClientError for one that failed.
        """
        snapshot = await self.finish(key, arrival)
        seal = Seal(self._settings.seal_keys, key.tenant, COMPACTION)
        return await self._offload.run(len(snapshot), lambda: answer_of(snapshot, seal))

    async def _snapshot_of(self, stored: Stored) -> bytes:
        record = await self._offload.run(len(stored.packed), stored.unpack)
        return record.snapshot

    async def read_ended(self, key: ResponseKey) -> Stored | None:
        """Returns the whole record of a response that has ended, also one that is not kept: for its own
        client. None if it is gone, or has not ended."""
        async with self._redis_bound():
            stored = await response_store.read_whole(self._redis, key)
        return stored if stored is not None and stored.state.closed else None

    # --- ending ---------------------------------------------------------------------------------

    async def cancel_own(self, key: ResponseKey) -> None:
        """Cancels a response for the client that follows it, kept or not. Nothing happens if it has ended."""
        async with self._redis_bound():
            await closing.cancel(self._redis, self._settings, key, self._name, self._offload.run)

    async def cancel(self, tenant: str, response_id: str) -> bytes:
        """Cancels a response; returns its JSON.

        Raises ClientError if there is none, or if it has ended otherwise.
        """
        key = _key_of(tenant, response_id)
        async with self._redis_bound():
            snapshot = await closing.cancel_kept(
                self._redis, self._settings, key, self._name, self._offload.run
            )
        if snapshot is not None:
            self._folds.forget(key)
            return snapshot
        _, stored = await self._find_kept(tenant, response_id)
        if stored.state.closed != "cancelled":
            raise cannot_cancel(stored.state.closed, stored.state.is_background)
        return await self._snapshot_of(stored)

    async def end(self, key: ResponseKey) -> Response:
        """Cancels a response that its only reader has read as far as it wants to, unless it has ended
        already; returns it, kept or not. Raises ResponseLost."""
        async with self._redis_bound():
            await closing.cancel(self._redis, self._settings, key, self._name, self._offload.run)
            stored = await response_store.read_ended(self._redis, key)
        if stored is None or not stored.state.closed:
            raise ResponseLost(key.response_id)
        snapshot = await self._snapshot_of(stored)
        return await self._offload.run(len(snapshot), lambda: _decode_response(snapshot))

    async def delete(self, tenant: str, response_id: str) -> None:
        """Deletes a response. Raises ClientError if there is none, or if it is still open."""
        key, state = await self.find_log(tenant, response_id)
        if not state.is_kept:
            raise response_not_found(response_id)
        outcome = await response_store.delete(self._redis, key)
        if outcome == "open":
            raise cannot_delete()
        if outcome == "missing":
            raise response_not_found(response_id)

    def _redis_bound(self) -> asyncio.Timeout:
        """Limits several round trips together to `redis_timeout_s`; then raises TimeoutError (REDIS_AWAY)."""
        return asyncio.timeout(self._settings.redis_timeout_s)


def _key_of(tenant: str, response_id: str) -> ResponseKey:
    if not ids.is_response_id(response_id):
        raise response_not_found(response_id)
    logs.note_subject(tenant, response_id)
    return ResponseKey(tenant, response_id)


async def _chain(first: bytes, rest: Frames) -> Frames:
    async with aclosing(rest):
        yield first
        async for some in rest:
            yield some


def _list_page(stored: Stored, page: PageRequest) -> bytes:
    request = stored.open().request
    return msgspec.json.encode(page.cut(as_shown([*request.context, *(request.sent or request.input)])))


class _Ending(msgspec.Struct):
    error: ResponseError | None


_read_ending = msgspec.json.Decoder(_Ending).decode
_decode_response = msgspec.json.Decoder(Response).decode
