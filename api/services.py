"""What the routes call: accept a response, find one, read one, wait for one. Knows nothing of HTTP.

Owns the order of things and the bound on waiting for Redis; bytes that leave are those stored.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

import msgspec

from api.errors import ResponseLost, response_not_found
from api.hub import LogGone
from api.requests import Birth, read_create
from shared import ids, lifecycle
from shared.events import ResponseCreated, StreamEvent, decode, frame
from shared.settings import Settings
from shared.store import event_log, presence, response_store
from shared.store.keys import ResponseKey
from shared.store.redis_client import REDIS_AWAY, RedisClient
from shared.store.response_store import State

FROM_THE_START = -1


class Follower(Protocol):
    def follow(self, key: ResponseKey, after: int) -> AsyncGenerator[bytes, None]:
        """Stored frames with sequence_number > `after`, until the log is closed. Raises LogGone."""


@dataclass(frozen=True, slots=True)
class Created:
    key: ResponseKey
    is_streamed: bool


@dataclass(frozen=True, slots=True)
class Readiness:
    is_redis_reachable: bool
    workers: int
    tool_runners: int

    @property
    def is_ready(self) -> bool:
        return self.is_redis_reachable and self.workers > 0


class Services:
    def __init__(
        self, redis: RedisClient, follower: Follower, settings: Settings, clock: Callable[[], float]
    ) -> None:
        """`clock` tells seconds since the epoch."""
        self._redis = redis
        self._follower = follower
        self._settings = settings
        self._clock = clock

    async def create(self, tenant: str, raw: bytes) -> Created:
        """Accepts a create call, or raises (ClientError, QueueFull, REDIS_AWAY) and writes nothing."""
        birth = Birth(ids.new_response_id(self._settings.cell), int(self._clock()))
        creation = read_create(raw, birth, self._settings.models)
        key = ResponseKey(tenant, birth.response_id)
        first = frame(ResponseCreated(creation.request.response), 0)
        async with self._redis_bound():
            await response_store.create(
                self._redis, self._settings, key, creation.request, first, creation.secrets
            )
        return Created(key, creation.is_streamed)

    async def find(self, tenant: str, response_id: str) -> tuple[ResponseKey, State]:
        """A stored response of this tenant. Raises ClientError where there is none: somebody else's
        id, or that of a response that is not stored, is like one that never was."""
        if not ids.is_response_id(response_id):
            raise response_not_found(response_id)
        key = ResponseKey(tenant, response_id)
        async with self._redis_bound():
            state = await response_store.read_state(self._redis, key)
        if state is None or not state.is_stored:
            raise response_not_found(response_id)
        return key, state

    async def retrieve(self, tenant: str, response_id: str) -> bytes:
        """JSON of the response as it is now: its snapshot, or while it is open the fold of its log."""
        key, state = await self.find(tenant, response_id)
        if state.closed:
            return state.snapshot
        events = await self._read_events(key)
        if not events:
            raise response_not_found(response_id)
        return msgspec.json.encode(lifecycle.fold(events))

    def follow(self, key: ResponseKey, after: int) -> AsyncGenerator[bytes, None]:
        return self._follower.follow(key, after)

    async def finish(self, key: ResponseKey) -> bytes:
        """Waits for the end of a response; JSON of how it ended. Raises ResponseLost."""
        try:
            async with aclosing(self.follow(key, FROM_THE_START)) as frames:
                async for _ in frames:
                    pass
        except LogGone:
            raise ResponseLost(key.response_id) from None
        async with self._redis_bound():
            state = await response_store.read_state(self._redis, key)
        if state is None or not state.closed:
            raise ResponseLost(key.response_id)
        return state.snapshot

    async def look_around(self) -> Readiness:
        """Whether Redis answers, and how many processes serve responses and tool calls."""
        try:
            async with self._redis_bound():
                workers = await presence.count(self._redis, "worker")
                tool_runners = await presence.count(self._redis, "tool_runner")
        except REDIS_AWAY:
            return Readiness(False, 0, 0)
        return Readiness(True, workers, tool_runners)

    async def _read_events(self, key: ResponseKey) -> list[StreamEvent]:
        """All there is of a log at this moment; none if the response has vanished."""
        events: list[StreamEvent] = []
        while True:
            async with self._redis_bound():
                page = await event_log.read(self._redis, key, len(events) - 1)
            if page.is_missing:
                return []
            events += [decode(entry.frame) for entry in page.entries]
            if not page.entries or page.is_closed:
                return events

    def _redis_bound(self) -> asyncio.Timeout:
        """However often the client tries again beneath: an answer within this time, or REDIS_AWAY."""
        return asyncio.timeout(self._settings.redis_timeout_s)
