"""Follows all logs that this node's clients read, over one subscription, and passes the bytes on.

Owns the readers of this process and their bounded buffers. Never parses a frame: what was stored is what is
sent. The log is the truth; a published message only saves a read (docs/architecture.md, Relay). A reader that
is up to date is written to in the callback that received the message; one that is behind, slow or at an end
is woken.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

from api.errors import NodeEnding
from shared import metrics
from shared.race import race
from shared.rota import Rota
from shared.settings import Settings
from shared.store import keys
from shared.store.keys import ResponseKey
from shared.store.log import event_log
from shared.store.log.event_log import Entry, Published
from shared.store.redis.client import RedisClient, ScriptPipe
from shared.store.redis.connections import REDIS_AWAY
from shared.store.redis.insisting import insist
from shared.store.redis.subscription import Subscription

_ROUND_S, _SHIFTS = 1.0, 10
"""How often each reader is looked at, and in how many parts, so that many readers do not hold the loop."""
_SILENT_ROUNDS_MAX = 2
"""A reader that receives nothing for this many rounds has its log checked, since messages are only hints."""
_CHECKED_MAX = 100
"""The number of logs checked by one script, which limits how long it occupies Redis."""
_WOKEN_MAX = 32
"""The number of readers woken at once if all of them have to read their logs."""
_READS_MAX = 16
"""The number of pages read at once: a quarter of the connections to Redis, so that a thousand readers that
arrive together wait for each other, and other calls do not wait for them."""
_MEASURED_MAX = 1_000
"""The number of readers that are measured at once."""
_SLICE_BYTES = 64 * 1024
"""How much is joined and passed on at once, unless a single frame or message is larger."""


class LogGone(Exception):
    """The response expired or was deleted while it was followed."""


class LogShorter(Exception):
    """The log is closed and ends before the reader's cursor; the argument is the number of its last entry."""


class LiveSink(Protocol):
    """Writes to a client without waiting."""

    @property
    def is_free(self) -> bool:
        """Returns True if nothing written earlier still waits for the client."""

    def write(self, frames: bytes) -> None: ...


class _Reader:
    """Buffers what one client is still to be sent: a page of the log, then messages.

    It holds `bytes_max` or one page of the log, whichever is more, and the slice being sent.
    """

    def __init__(self, key: ResponseKey, after: int, bytes_max: int, sink: LiveSink | None) -> None:
        self.key, self.name = key, str(key)
        self.following = after + 1
        """The number of the next event; earlier ones are sent or being sent, in order."""
        self._silent_rounds = 0
        self.is_waiting = False
        """Everything it knows of is sent."""
        self.sink = sink
        self._bytes_max = bytes_max
        self._frames: deque[bytes] = deque()
        self._messages: deque[Published] = deque()
        self._frames_bytes = self._messages_bytes = 0
        self._woken = asyncio.Event()

    def take(self, message: Published) -> None:
        """Sends a message if it is the next one and nothing waits for the client; otherwise buffers it,
        unless it has nothing new. An end is always buffered: the request's task reports it."""
        self._silent_rounds = 0
        if message.next <= self.following and not message.is_closed:
            return
        if (
            self.is_waiting
            and self.sink is not None
            and message.first == self.following
            and not message.is_closed
            and self.sink.is_free
        ):
            self.following = message.next
            self.sink.write(message.frames)
        else:
            self.offer(message)

    def offer(self, message: Published) -> None:
        """Buffers a message. A reader that is too far behind drops its messages, and then reads the log."""
        self._messages.append(message)
        self._messages_bytes += len(message.frames)
        if self._frames_bytes + self._messages_bytes > self._bytes_max:
            self.forget()
        self._woken.set()

    def forget(self) -> None:
        self._messages.clear()
        self._messages_bytes = 0
        self._woken.set()

    @property
    def buffered_bytes(self) -> int:
        return self._frames_bytes + self._messages_bytes

    def hold(self, entries: list[Entry]) -> None:
        """Buffers a page's frames, to be taken one slice at a time."""
        self._frames.extend(entry.frame for entry in entries)
        self._frames_bytes += sum(len(entry.frame) for entry in entries)

    def take_frames(self) -> bytes:
        """Returns the next slice of the page, or b"" at its end."""
        taken: list[bytes] = []
        size_bytes = 0
        while self._frames and (not taken or size_bytes + len(self._frames[0]) <= _SLICE_BYTES):
            taken.append(self._frames.popleft())
            size_bytes += len(taken[-1])
        self._frames_bytes -= size_bytes
        return b"".join(taken)

    def take_messages(self) -> list[Published]:
        """Returns the next slice of messages that continue from here. If empty, the log must be read."""
        self._woken.clear()
        taken: list[Published] = []
        size_bytes = 0
        while self._messages and self._messages[0].first <= self.following:
            message = self._messages[0]
            if taken and size_bytes + len(message.frames) > _SLICE_BYTES:
                break
            self._messages.popleft()
            self._messages_bytes -= len(message.frames)
            if message.first == self.following:  # otherwise it was in the log already
                taken.append(message)
                size_bytes += len(message.frames)
                self.following = message.next
        if self._messages and self._messages[0].first > self.following:
            self.forget()  # there is a gap
        elif self._messages:
            self._woken.set()
        return taken

    def is_overdue(self) -> bool:
        """Called once a round: returns True if its log is to be checked."""
        self._silent_rounds += 1
        if self._silent_rounds < _SILENT_ROUNDS_MAX or not self.is_waiting:
            return False
        self._silent_rounds = 0
        return True

    async def wait(self) -> None:
        """Returns when there is something to take or to read. Meanwhile, messages may be sent directly."""
        self.is_waiting = True
        try:
            await self._woken.wait()
        finally:
            self.is_waiting = False


@dataclass(slots=True)
class Arrival:
    """A response that this node creates, with a reader who listens before it exists: whatever is published
    then follows its first entries, which nobody has to read."""

    reader: _Reader
    frames: bytes
    """The first entries of its log."""
    is_heard: bool = False
    """The subscription was there before them, so that no message can have been missed."""
    announced: str = ""
    """The name under which its reader was announced, if the response lives only while it is read."""


class Hub:
    """Follows logs for this node's clients.

    `redis`: reads logs; `listener`: for the subscription, which blocks.
    """

    def __init__(self, redis: RedisClient, listener: RedisClient, settings: Settings) -> None:
        self._redis = redis
        self._settings = settings
        self._subscription = Subscription(listener)
        self._readers: dict[str, set[_Reader]] = {}
        self._rota: Rota[_Reader] = Rota(_ROUND_S, _SHIFTS, _CHECKED_MAX)
        """The same readers, by when they are looked at."""
        self._waking: set[asyncio.Task[None]] = set()
        self._is_ending = False
        self._reading = asyncio.Semaphore(_READS_MAX)

    async def run(self) -> None:
        """Passes messages to readers until cancelled, across any number of Redis restarts."""
        pipe = self._redis.open_pipe()
        try:
            await race(self._subscription.listen(self._on_message, self._on_gap), self._check_silent(pipe))
        finally:
            await pipe.close()

    def end_streams(self) -> None:
        """Stops every reader between two frames, with NodeEnding; their clients resume on other nodes."""
        self._is_ending = True
        self._on_gap()

    def _on_message(self, channel: str, payload: bytes) -> None:
        published = Published.parse(payload)
        for reader in self._readers.get(channel, ()):
            reader.take(published)

    async def refresh_metrics(self) -> None:
        readers = [*chain.from_iterable(self._readers.values())]
        behind = buffered_bytes = 0
        for first in range(0, len(readers), _MEASURED_MAX):
            for reader in readers[first : first + _MEASURED_MAX]:
                behind += not reader.is_waiting
                buffered_bytes += reader.buffered_bytes
            await asyncio.sleep(0)
        metrics.HUB_READERS.set(len(readers))
        metrics.HUB_BEHIND.set(behind)
        metrics.HUB_BUFFERED.set(buffered_bytes)

    def _on_gap(self) -> None:
        """Makes every reader read its log, as messages may have been missed."""
        metrics.HUB_GAPS.inc()
        waking = asyncio.create_task(self._wake([*chain.from_iterable(self._readers.values())]))
        self._waking.add(waking)
        waking.add_done_callback(self._waking.discard)

    async def _wake(self, readers: list[_Reader]) -> None:
        for first in range(0, len(readers), _WOKEN_MAX):
            for reader in readers[first : first + _WOKEN_MAX]:
                reader.forget()
            await asyncio.sleep(0)

    async def _check_silent(self, pipe: ScriptPipe) -> None:
        """Checks the logs of readers that receive nothing, many at a time, until cancelled."""
        while True:
            await self._rota.wait()
            silent = [reader for reader in self._rota.due() if reader.is_overdue()]
            try:
                for first in range(0, len(silent), _CHECKED_MAX):
                    await self._check_logs(pipe, silent[first : first + _CHECKED_MAX])
            except REDIS_AWAY:
                for reader in silent:
                    reader.forget()  # each then waits for Redis as long as it may

    async def _check_logs(self, pipe: ScriptPipe, readers: list[_Reader]) -> None:
        """Wakes those whose logs hold something new."""
        known = [(reader.name, reader.following) for reader in readers]
        for place in await event_log.find_grown(pipe, known):
            readers[place].forget()

    def expect(self, key: ResponseKey, frames: Sequence[bytes]) -> Arrival:
        """Begins to listen to a response that is about to be created, without waiting.

        `frames`: the first entries of its log. The caller passes the arrival to `follow` or to `forsake`.
        """
        reader = _Reader(key, len(frames) - 1, self._buffer_bytes_max, None)
        self._join(reader)
        self._subscription.ask_for(keys.live(key))
        return Arrival(reader, b"".join(frames))

    def forsake(self, arrival: Arrival) -> None:
        """Stops listening to a response that was not created, or is not followed."""
        self._part(arrival.reader)

    async def follow(
        self,
        key: ResponseKey,
        after: int,
        sink: LiveSink | None = None,
        arrival: Arrival | None = None,
    ) -> AsyncGenerator[bytes, None]:
        """Yields stored frames with sequence_number > `after`, one or more at a time, until the log is
        closed.

        With a sink, frames published while the next ones are awaited here may be sent there instead. They
        stay in order if the caller sends what it gets before it asks for more.
        `arrival`: a response that this node has just created, followed from the start; the first entries of
        its log are yielded without waiting.

        Raises NodeEnding after `end_streams`, LogGone, LogShorter, and REDIS_AWAY if the log could not be
        read for `redis_outage_max_s`; a reader that reaches the end has everything.
        """
        reader = arrival.reader if arrival else _Reader(key, after, self._buffer_bytes_max, sink)
        try:
            if arrival is None:
                self._join(reader)
            else:
                reader.sink, frames, arrival.frames = sink, arrival.frames, b""
                yield frames
                del frames
            has_missed = arrival is None or not arrival.is_heard
            if has_missed:
                await self._subscription.add(keys.live(key))
            while True:
                self._check_ending()
                # The log first: a reader that subscribed before reading can miss nothing.
                while has_missed:
                    page = await self._read(key, reader.following - 1)
                    reader.following += len(page.entries)
                    is_closed, has_missed = page.is_closed, page.has_more
                    reader.hold(page.entries)
                    del page  # free what was sent before the next page is read
                    while frames := reader.take_frames():
                        yield frames
                        self._check_ending()
                    if is_closed:
                        return
                has_missed = True
                # Then published messages, for as long as they continue from here.
                while True:
                    await reader.wait()
                    self._check_ending()
                    messages = reader.take_messages()
                    if not messages:
                        break
                    is_closed = messages[-1].is_closed
                    if is_closed and self._redis.is_confirming:
                        reader.following = messages[0].first
                        break  # read the log, which also confirms an end
                    frames = b"".join([message.frames for message in messages])
                    del messages
                    yield frames
                    if is_closed:
                        return
        finally:
            self._part(reader)

    @property
    def _buffer_bytes_max(self) -> int:
        return self._settings.client_buffer_bytes_max

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

    def _join(self, reader: _Reader) -> None:
        self._readers.setdefault(keys.live(reader.key), set()).add(reader)
        self._rota.add(reader)

    def _part(self, reader: _Reader) -> None:
        """Removes a reader without waiting, since its task may be cancelled."""
        channel = keys.live(reader.key)
        readers = self._readers[channel]
        readers.discard(reader)
        self._rota.discard(reader)
        if not readers:
            del self._readers[channel]
            self._subscription.remove(channel)
