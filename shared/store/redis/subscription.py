"""Listens on Redis channels: one connection for many of them, which reports every gap in what it received.

redis-py finds the server and logs in; after that, the connection's bytes are parsed here, in its callback.
Owns the detection of a dead connection and the reconnection; the callbacks own what a message means.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import hiredis
from redis.exceptions import InvalidResponse

from shared.store.redis.client import RedisClient
from shared.store.redis.connections import REDIS_AWAY, TORN, make_reader

_RECONNECT_S = 0.1
_PING_EVERY_S = 1.0
_UNANSWERED_MAX = 3
"""A connection counts as dead if nothing arrived after this many pings. Pings are counted, not time, because
a process that was paused has sent none."""

_log = logging.getLogger(__name__)

OnMessage = Callable[[str, bytes], None]


class _Connection(asyncio.Protocol):
    """One connection, which passes on each message in the callback that received it."""

    def __init__(self, raw: Any, on_message: OnMessage) -> None:
        """Takes over an open connection of redis-py."""
        self.raw = raw
        self.on_message = on_message
        self.lost: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        self._unanswered = 0
        self._reader = make_reader()
        self._asked: dict[str, asyncio.Future[None]] = {}
        """Done when the server has confirmed the channel."""
        self._unconfirmed: deque[asyncio.Future[None]] = deque()
        self._transport: asyncio.WriteTransport = raw.hand_over(self)

    def data_received(self, data: bytes) -> None:
        self._unanswered = 0
        try:
            self._reader.feed(data)
            next_reply = self._reader.gets
            while (reply := next_reply()) is not False:
                if type(reply) is list and reply[0] == b"message":
                    self.on_message(reply[1].decode(), reply[2])
                else:
                    self._take_answer(reply)
        except InvalidResponse as garbled:
            self.end(ConnectionError(f"the subscription's connection is broken ({garbled})"))
        except Exception as bug:  # noqa: BLE001  passed on through `lost` to `listen`
            self.end(bug)

    def _take_answer(self, reply: object) -> None:
        if isinstance(reply, Exception):
            self.end(reply)
        elif isinstance(reply, list) and reply[0] == b"subscribe":
            self._unconfirmed.popleft().set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.end(ConnectionError(f"the subscription's connection is lost ({exc or 'closed'})"))

    def end(self, why: Exception) -> None:
        """Aborts the connection. Nobody waits for its confirmations any more: the next one subscribes to
        everything."""
        if self.lost.done():
            return
        self.lost.set_result(why)
        self._transport.abort()
        while self._unconfirmed:
            self._unconfirmed.popleft().set_result(None)

    def ask_for(self, channels: Iterable[str]) -> None:
        """Subscribes to those that it has not asked for yet, without waiting."""
        if self.lost.done():
            return
        if new := [channel for channel in channels if channel not in self._asked]:
            for channel in new:
                self._asked[channel] = asyncio.get_running_loop().create_future()
                self._unconfirmed.append(self._asked[channel])
            self._write("SUBSCRIBE", *new)

    async def subscribe(self, channels: Sequence[str]) -> None:
        """Returns when the server has confirmed all of them, or the connection is lost."""
        self.ask_for(channels)
        if self.lost.done():
            return
        # Confirmations arrive in order; a cancelled wait does not cancel the future.
        waiting = [self._asked[channel] for channel in channels if not self._asked[channel].done()]
        if waiting:
            await asyncio.wait([waiting[-1]], timeout=_UNANSWERED_MAX * _PING_EVERY_S)

    def unsubscribe(self, channel: str) -> None:
        if self._asked.pop(channel, None) is not None:
            self._write("UNSUBSCRIBE", channel)

    def ping(self) -> None:
        if self._unanswered >= _UNANSWERED_MAX:
            self.end(ConnectionError("the subscription's server is silent"))
        self._unanswered += 1
        self._write("PING")

    def _write(self, *command: Any) -> None:
        if self.lost.done():
            return
        try:
            self._transport.write(hiredis.pack_command(command))
        except TORN as torn:
            self.end(ConnectionError(f"the subscription's connection is closed ({torn})"))


class Subscription:
    """One connection that listens on many channels, which can be added and removed meanwhile."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._channels: set[str] = set()
        self._connection: _Connection | None = None
        self._on_message: OnMessage = self._on_early_message
        self._changing = asyncio.Lock()
        self._tries = 0
        """The number of attempts to connect; after the first, messages may have been missed."""
        self._has_missed = False

    def ask_for(self, channel: str) -> None:
        """Subscribes to a channel without waiting, or as soon as there is a connection."""
        self._channels.add(channel)
        if self._connection is not None:
            self._connection.ask_for([channel])

    async def add(self, channel: str) -> None:
        """Subscribes to a channel, at once or as soon as Redis is available, even if cancelled meanwhile."""
        self._channels.add(channel)
        try:
            connection = await self._connect()
        except REDIS_AWAY as away:  # `listen` tries again
            _log.warning("subscription: Redis is unavailable (%s)", away)
        else:
            await connection.subscribe([channel])

    def remove(self, channel: str) -> None:
        self._channels.discard(channel)
        if self._connection is not None:
            self._connection.unsubscribe(channel)

    async def listen(self, on_message: OnMessage, on_gap: Callable[[], None]) -> None:
        """Passes messages (channel, payload) to `on_message` until cancelled; calls `on_gap` after a
        reconnection, or if messages arrived before this call. Raises what `on_message` raises."""
        self._on_message = on_message
        if self._connection is not None:
            self._connection.on_message = on_message
        try:
            while True:
                try:
                    await self._maintain(await self._connect(), on_gap)
                except REDIS_AWAY as away:
                    _log.warning("subscription: Redis is unavailable (%s)", away)
                await asyncio.sleep(_RECONNECT_S)
        finally:
            await self.close()

    async def _maintain(self, connection: _Connection, on_gap: Callable[[], None]) -> None:
        """Pings until the connection ends, and raises the reason."""
        if self._has_missed:
            self._has_missed = False
            on_gap()
        while not connection.lost.done():
            await asyncio.wait([connection.lost], timeout=_PING_EVERY_S)
            if not self._client.is_current(connection.raw):
                connection.end(ConnectionError("the subscription's server is no longer the primary"))
            connection.ping()
        raise connection.lost.result()

    async def _connect(self) -> _Connection:
        """Returns the open connection, or a new one. Concurrent callers share one attempt.

        Raises REDIS_AWAY.
        """
        tries = self._tries
        if self._connection is None or self._connection.lost.done():
            async with self._changing:
                if tries == self._tries:
                    try:
                        await self._open()
                    finally:
                        self._tries += 1
        if self._connection is None:
            raise ConnectionError("the subscription has no connection")
        return self._connection

    async def _open(self) -> None:
        self._has_missed |= self._tries > 0
        await self._drop()
        raw = await self._client.raw.connection_pool.get_connection()
        try:
            self._connection = _Connection(raw, self._on_message)
        except REDIS_AWAY:
            await self._client.raw.connection_pool.release(raw)
            raise
        await self._connection.subscribe(tuple(self._channels))

    async def close(self) -> None:
        async with self._changing:
            await self._drop()

    async def _drop(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.end(ConnectionError("the subscription is closed"))
            await connection.raw.disconnect()
            await self._client.raw.connection_pool.release(connection.raw)

    def _on_early_message(self, _channel: str, _payload: bytes) -> None:
        self._has_missed = True
