"""Listening on Redis channels: one connection for many of them, told of every moment it may have missed.

Owns noticing that the connection is dead, and making another; what a message means is its hearer's.
"""

import asyncio
import logging
from collections.abc import Callable

from shared.store.redis_client import REDIS_AWAY, RedisClient

_RECONNECT_S = 0.1
_SILENCE_MAX_S = 3.0
"""A subscription's connection that answers no ping for this long beyond its time is dead."""

_log = logging.getLogger(__name__)


class Subscription:
    """One connection that listens on many channels; channels come and go while it listens."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._pubsub = client.raw.pubsub(ignore_subscribe_messages=True)
        self._channels: set[str] = set()
        self._has_channels = asyncio.Event()
        self._changing = asyncio.Lock()
        self._adding: set[asyncio.Task[None]] = set()
        self._is_broken = False
        """A change has failed half-way: only a new connection is known to listen on all channels."""

    async def add(self, channel: str) -> None:
        """Hears what is published on a channel from now on, or as soon as Redis is there.

        One who is cancelled meanwhile may not be the only one who wants it: the channel is added.
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
                _log.warning("subscription: Redis is away (%s)", away)
            finally:
                self._is_broken |= not is_subscribed
        self._has_channels.set()  # also after a failure: the listener notices it, and tries again

    async def remove(self, channel: str) -> None:
        self._channels.discard(channel)
        if not self._channels:
            self._has_channels.clear()
        async with self._changing:
            if channel in self._channels:
                return  # somebody came back for it meanwhile
            is_unsubscribed = False
            try:
                await self._pubsub.unsubscribe(channel)
                is_unsubscribed = True
            finally:
                # redis-py would connect again in silence, and nobody would know what was missed.
                self._is_broken |= not is_unsubscribed

    async def listen(self, hear: Callable[[str, bytes], None], miss: Callable[[], None]) -> None:
        """Hands on messages until cancelled. `miss` is called after a broken connection: messages
        may have been missed."""
        while True:
            try:
                message = await self._next_message()
            except REDIS_AWAY as away:
                _log.warning("subscription: Redis is away (%s)", away)
                await asyncio.sleep(_RECONNECT_S)
                try:
                    await self._reconnect()
                except REDIS_AWAY:
                    continue  # the next message says so again
                miss()
                continue
            if message is not None:
                hear(*message)

    async def _next_message(self) -> tuple[str, bytes] | None:
        """(channel, payload), or None after at most a second without one."""
        if not self._has_channels.is_set():
            try:
                # Not `wait_for`: that of Python 3.11 loses a cancel that comes together with the event.
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
    """The clock that redis-py's health checks know."""
    return asyncio.get_running_loop().time()
