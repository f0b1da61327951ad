"""Follows all logs that this node's clients read, over one subscription, and hands the bytes on.

Owns the readers of this process and their bounded buffers. It never looks into a frame: what was
stored is what is sent. The log is the truth; a published message only saves a read
(docs/architecture.md, Relay).
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator

from shared.settings import Settings
from shared.store import event_log, keys
from shared.store.event_log import Published
from shared.store.keys import ResponseKey
from shared.store.redis_client import REDIS_AWAY, RedisClient, Subscription

_log = logging.getLogger(__name__)

_LOOK_EVERY_S = 2.0
"""A reader that hears nothing looks into the log this often: messages are hints."""
_PAGE_ENTRIES = 500


class LogGone(Exception):
    """The response has vanished while it was followed: it expired or was deleted."""


class _Reader:
    """What one client still has to be sent, as far as memory allows."""

    def __init__(self, buffer_bytes_max: int) -> None:
        self._buffer_bytes_max = buffer_bytes_max
        self._messages: deque[Published] = deque()
        self._buffered_bytes = 0
        self._woken = asyncio.Event()

    def offer(self, message: Published) -> None:
        """A reader that is too far behind keeps nothing: it will read the log instead."""
        if self._buffered_bytes + len(message.frames) > self._buffer_bytes_max:
            self.forget()
        else:
            self._messages.append(message)
            self._buffered_bytes += len(message.frames)
        self._woken.set()

    def forget(self) -> None:
        self._messages.clear()
        self._buffered_bytes = 0
        self._woken.set()

    def take(self, following: int) -> list[Published]:
        """Messages that carry on from sequence number `following`, without a gap; drops the others."""
        taken: list[Published] = []
        for message in self._messages:
            if message.first == following:
                taken.append(message)
                following = message.next
        self.forget()
        self._woken.clear()
        return taken

    async def wait(self) -> None:
        try:
            await asyncio.wait_for(self._woken.wait(), _LOOK_EVERY_S)
        except TimeoutError:
            pass


class Hub:
    """`redis` reads logs; `listener` is for the subscription, which blocks."""

    def __init__(self, redis: RedisClient, listener: RedisClient, settings: Settings) -> None:
        self._redis = redis
        self._settings = settings
        self._subscription = Subscription(listener)
        self._readers: dict[str, set[_Reader]] = {}

    async def run(self) -> None:
        """Passes messages to readers until cancelled, through any number of Redis restarts."""
        while True:
            try:
                message = await self._subscription.next_message()
            except REDIS_AWAY as away:
                _log.warning("hub: Redis is away (%s)", away)
                await asyncio.sleep(0.1)
                await self._reconnect()
                continue
            if message is not None:
                channel, payload = message
                published = Published.parse(payload)
                for reader in self._readers.get(channel, ()):
                    reader.offer(published)

    async def _reconnect(self) -> None:
        """Whatever was published meanwhile is missing: every reader looks into the log."""
        try:
            await self._subscription.reconnect()
        except REDIS_AWAY:
            return  # the next message says so again
        for readers in self._readers.values():
            for reader in readers:
                reader.forget()

    async def follow(self, key: ResponseKey, after: int) -> AsyncGenerator[bytes, None]:
        """Stored frames with sequence_number > `after`, one or more at a time, until the log closes.

        Raises LogGone, or REDIS_AWAY when the log could not be read for `redis_outage_max_s`.
        """
        reader = await self._join(key)
        following = after + 1
        try:
            while True:
                # The log first: whoever subscribed before reading can miss nothing.
                page = await self._read(key, following - 1)
                if page.entries:
                    following = page.entries[-1].sequence_number + 1
                    yield b"".join(entry.frame for entry in page.entries)
                if page.is_closed:
                    return
                if len(page.entries) == _PAGE_ENTRIES:
                    continue
                # Then what is published, for as long as it carries on.
                while True:
                    await reader.wait()
                    messages = reader.take(following)
                    if not messages:
                        break
                    following = messages[-1].next
                    yield b"".join(message.frames for message in messages)
                    if messages[-1].is_closed:
                        return
        finally:
            await self._part(key, reader)

    async def _read(self, key: ResponseKey, after: int) -> event_log.Page:
        deadline = asyncio.get_running_loop().time() + self._settings.redis_outage_max_s
        while True:
            try:
                page = await event_log.read(self._redis, key, after, _PAGE_ENTRIES)
            except REDIS_AWAY:
                if asyncio.get_running_loop().time() > deadline:
                    raise
                await asyncio.sleep(0.1)
                continue
            if page.is_missing:
                raise LogGone(str(key))
            return page

    async def _join(self, key: ResponseKey) -> _Reader:
        channel = keys.live(key)
        reader = _Reader(self._settings.client_buffer_bytes_max)
        readers = self._readers.setdefault(channel, set())
        readers.add(reader)
        if len(readers) == 1:
            try:
                await self._subscription.add(channel)
            except REDIS_AWAY:
                pass  # `run` subscribes again; until then the log is looked at slowly
        return reader

    async def _part(self, key: ResponseKey, reader: _Reader) -> None:
        channel = keys.live(key)
        readers = self._readers[channel]
        readers.discard(reader)
        if not readers:
            del self._readers[channel]
            try:
                await self._subscription.remove(channel)
            except REDIS_AWAY:
                pass  # gone with the connection
