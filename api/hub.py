"""Follows all logs that this node's clients read, over one subscription, and passes the bytes on.

Owns the readers of this process and their bounded buffers. It never parses a frame: what was stored
is what is sent. The log is the truth; a published message only saves a read
(docs/architecture.md, Relay).
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator

from api.errors import NodeEnding
from shared.settings import Settings
from shared.store import keys
from shared.store.keys import ResponseKey
from shared.store.log import event_log
from shared.store.log.event_log import Entry, Published
from shared.store.redis.client import RedisClient
from shared.store.redis.connections import REDIS_AWAY
from shared.store.redis.insisting import insist
from shared.store.redis.subscription import Subscription

_LOOK_EVERY_S = 2.0
"""A reader that hears nothing polls the log this often: messages are hints."""
_READS_MAX = 16
"""So many pages are read at once, a quarter of the connections to Redis: a thousand readers that come
together wait for each other, and other calls do not wait for them."""
_SLICE_BYTES = 64 * 1024
"""What is joined and handed on at once, unless a single frame or message is larger."""


class LogGone(Exception):
    """The response has vanished while it was followed: it expired or was deleted."""


class LogShorter(Exception):
    """The log is closed, and its last entry, whose number this is, comes before what the reader has seen."""


class _Reader:
    """Buffers what one client is still to be sent, as far as memory allows: a page of the log, then messages.

    It holds `bytes_max` or one page of the log, whichever is more, and beside it the slice on its way.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._frames: deque[bytes] = deque()
        self._messages: deque[Published] = deque()
        self._frames_bytes = self._messages_bytes = 0
        self._woken = asyncio.Event()

    def offer(self, message: Published) -> None:
        """Buffers a message; a reader that is too far behind drops its messages and will read the log."""
        self._messages.append(message)
        self._messages_bytes += len(message.frames)
        if self._frames_bytes + self._messages_bytes > self._bytes_max:
            self.forget()
        self._woken.set()

    def forget(self) -> None:
        self._messages.clear()
        self._messages_bytes = 0
        self._woken.set()

    def hold(self, entries: list[Entry]) -> None:
        """Keeps a page's frames, which then leave one slice at a time."""
        self._frames.extend(entry.frame for entry in entries)
        self._frames_bytes += sum(len(entry.frame) for entry in entries)

    def take_frames(self) -> bytes:
        """Returns the next slice of the page; empty when all of it is taken."""
        taken: list[bytes] = []
        size_bytes = 0
        while self._frames and (not taken or size_bytes + len(self._frames[0]) <= _SLICE_BYTES):
            taken.append(self._frames.popleft())
            size_bytes += len(taken[-1])
        self._frames_bytes -= size_bytes
        return b"".join(taken)

    def take_messages(self, following: int) -> list[Published]:
        """Returns the next slice of messages from number `following` on. If empty, the log must be read."""
        self._woken.clear()
        taken: list[Published] = []
        size_bytes = 0
        while self._messages and self._messages[0].first <= following:
            message = self._messages[0]
            if taken and size_bytes + len(message.frames) > _SLICE_BYTES:
                break
            self._messages.popleft()
            self._messages_bytes -= len(message.frames)
            if message.first == following:  # others were in the log already
                taken.append(message)
                size_bytes += len(message.frames)
                following = message.next
        if self._messages and self._messages[0].first > following:
            self.forget()  # something is missing in between
        elif self._messages:
            self._woken.set()
        return taken

    async def wait(self) -> None:
        try:
            # Not `wait_for`: that of Python 3.11 loses a cancel that comes together with the event.
            async with asyncio.timeout(_LOOK_EVERY_S):
                await self._woken.wait()
        except TimeoutError:
            pass


class Hub:
    """`redis` reads logs; `listener` is for the subscription, which blocks."""

    def __init__(self, redis: RedisClient, listener: RedisClient, settings: Settings) -> None:
        self._redis = redis
        self._settings = settings
        self._subscription = Subscription(listener)
        self._readers: dict[str, set[_Reader]] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._is_ending = False
        self._reading = asyncio.Semaphore(_READS_MAX)

    async def run(self) -> None:
        """Passes messages to readers until cancelled, through any number of Redis restarts."""
        await self._subscription.listen(self._hear, self._miss)

    def end_streams(self) -> None:
        """Every reader stops between two frames, with NodeEnding; its client resumes on another node."""
        self._is_ending = True
        self._miss()

    def _hear(self, channel: str, payload: bytes) -> None:
        published = Published.parse(payload)
        for reader in self._readers.get(channel, ()):
            reader.offer(published)

    def _miss(self) -> None:
        """Whatever was published meanwhile is missing: every reader looks into the log."""
        for readers in self._readers.values():
            for reader in readers:
                reader.forget()

    async def follow(self, key: ResponseKey, after: int) -> AsyncGenerator[bytes, None]:
        """Stored frames with sequence_number > `after`, one or more at a time, until the log closes.

        Raises NodeEnding, wherever it is, when this node ends (`end_streams`), LogGone, LogShorter, or
        REDIS_AWAY when the log could not be read for `redis_outage_max_s`: who comes to the end has it all.
        """
        reader = _Reader(self._settings.client_buffer_bytes_max)
        following = after + 1
        try:
            await self._join(key, reader)
            while True:
                self._check_ending()
                # The log first: whoever subscribed before reading can miss nothing.
                page = await self._read(key, following - 1)
                following += len(page.entries)
                is_closed, has_more = page.is_closed, page.has_more
                reader.hold(page.entries)
                del page  # what was sent is not kept until the next page
                while frames := reader.take_frames():
                    yield frames
                    self._check_ending()
                if is_closed:
                    return
                if has_more:
                    continue
                # Then what is published, for as long as it carries on.
                while True:
                    await reader.wait()
                    self._check_ending()
                    messages = reader.take_messages(following)
                    if not messages or (messages[-1].is_closed and self._redis.is_confirming):
                        break  # the log tells, also whether an end is one for good
                    following, is_closed = messages[-1].next, messages[-1].is_closed
                    frames = b"".join([message.frames for message in messages])
                    del messages
                    yield frames
                    if is_closed:
                        return
        finally:
            self._part(key, reader)

    def _check_ending(self) -> None:
        if self._is_ending:
            raise NodeEnding

    async def _read(self, key: ResponseKey, after: int) -> event_log.Page:
        async def ask() -> event_log.Page:
            async with self._reading:
                return await self._read_for_good(key, after)

        page = await insist(ask, self._settings.redis_outage_max_s)
        if page.is_missing:
            raise LogGone(str(key))
        if page.beyond is not None:
            raise LogShorter(page.beyond - 1)
        return page

    async def _read_for_good(self, key: ResponseKey, after: int) -> event_log.Page:
        """With `durable_writes`, an end is reported only once no failover can take it back."""
        page = await event_log.read(self._redis, key, after)
        if self._redis.is_confirming and (page.is_closed or page.is_missing or page.beyond is not None):
            await self._redis.confirm()
            page = await event_log.read(self._redis, key, after)
        return page

    async def _join(self, key: ResponseKey, reader: _Reader) -> None:
        channel = keys.live(key)
        readers = self._readers.setdefault(channel, set())
        readers.add(reader)
        if len(readers) == 1:
            await self._subscription.add(channel)

    def _part(self, key: ResponseKey, reader: _Reader) -> None:
        """Never waits: the task that leaves may be cancelled already."""
        channel = keys.live(key)
        readers = self._readers[channel]
        readers.discard(reader)
        if not readers:
            del self._readers[channel]
            leaving = asyncio.create_task(self._unsubscribe(channel))
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)

    async def _unsubscribe(self, channel: str) -> None:
        try:
            if channel not in self._readers:  # nobody has joined meanwhile
                await self._subscription.remove(channel)
        except REDIS_AWAY:
            pass  # gone with the connection
