"""Listens on Redis channels: one connection for many of them, which reports every gap in what it received.

Owns the detection of a dead connection and the reconnection; the callbacks own what a message means.
"""

import asyncio
import logging
from collections.abc import Callable

from shared.store.redis.client import RedisClient
from shared.store.redis.connections import REDIS_AWAY

_RECONNECT_S = 0.1
_SILENCE_MAX_S = 3.0
"""A subscription's connection counts as dead if a ping's answer is overdue by this long."""

_log = logging.getLogger(__name__)


class Subscription:
    """One connection that listens on many channels, which can be added and removed meanwhile."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._pubsub = client.raw.pubsub(ignore_subscribe_messages=True)
        self._channels: set[str] = set()
        self._has_channels = asyncio.Event()
        self._changing = asyncio.Lock()
        self._adding: set[asyncio.Task[None]] = set()
        self._is_broken = False
        """A change failed half-way, so only a new connection is known to listen on all channels."""

    async def add(self, channel: str) -> None:
        """Subscribes to a channel, at once or as soon as Redis is available.

        Shielded from cancellation, since others may have added the same channel.
        """
        self._channels.add(channel)
        adding = asyncio.create_task(self._subscribe(channel))
        self._adding.add(adding)
        adding.add_done_callback(self._adding.discard)
        await asyncio.shield(adding)

    async def _subscribe(self, channel: str) -> None:
        async with self._changing:
            is_subscribed = False
            try:
                await self._pubsub.subscribe(channel)
                is_subscribed = True
            except REDIS_AWAY as away:
                _log.warning("subscription: Redis is unavailable (%s)", away)
            finally:
                self._is_broken |= not is_subscribed
        self._has_channels.set()  # also after a failure: the listener notices it and reconnects

    async def remove(self, channel: str) -> None:
        """Unsubscribes from a channel. Raises REDIS_AWAY."""
        self._channels.discard(channel)
        if not self._channels:
            self._has_channels.clear()
        async with self._changing:
            if channel in self._channels:
                return  # it was added again meanwhile
            is_unsubscribed = False
            try:
                await self._pubsub.unsubscribe(channel)
                is_unsubscribed = True
            finally:
                # redis-py would reconnect silently, and the gap would go unnoticed.
                self._is_broken |= not is_unsubscribed

    async def listen(self, on_message: Callable[[str, bytes], None], on_gap: Callable[[], None]) -> None:
        """Passes messages (channel, payload) to `on_message` until cancelled; calls `on_gap` after a
        reconnection, because messages may have been missed."""
        while True:
            try:
                message = await self._next_message()
            except REDIS_AWAY as away:
                _log.warning("subscription: Redis is unavailable (%s)", away)
                await asyncio.sleep(_RECONNECT_S)
                try:
                    await self._reconnect()
                except REDIS_AWAY:
                    continue  # the next message raises it again
                on_gap()
                continue
            if message is not None:
                on_message(*message)

    async def _next_message(self) -> tuple[str, bytes] | None:
        """Returns (channel, payload), or None after at most a second without a message."""
        if not self._has_channels.is_set():
            try:
                # Not `wait_for`, which in Python 3.11 loses a cancellation that coincides with the event.
                async with asyncio.timeout(1.0):
                    await self._has_channels.wait()
            except TimeoutError:
                return None
        connection = self._pubsub.connection
        if connection is None or self._is_broken:
            raise ConnectionError("the subscription has no connection")
        if not self._client.is_current(connection):
            raise ConnectionError("the subscription's server is no longer the primary")
        message = await self._pubsub.get_message(timeout=1.0)
        if message is None and _now_s() > connection.next_health_check + _SILENCE_MAX_S:
            raise ConnectionError("the subscription's server is silent")  # its pings are not answered
        if message is None or message["type"] != "message":
            return None
        return message["channel"].decode(), message["data"]

    async def _reconnect(self) -> None:
        async with self._changing:
            self._is_broken = True
            await self.close()
            self._pubsub = self._client.raw.pubsub(ignore_subscribe_messages=True)
            if self._channels:
                await self._pubsub.subscribe(*self._channels)
            self._is_broken = False

    async def close(self) -> None:
        try:
            await self._pubsub.aclose()  # type: ignore[no-untyped-call]
        except REDIS_AWAY:
            pass


def _now_s() -> float:
    """Returns the time of the clock that redis-py's health checks use."""
    return asyncio.get_running_loop().time()
