"""One lane of a WebSocket: creates responses in the order in which they were asked for, one at a time.

Owns that order, and what the lane may continue; its responses are accepted and followed as those of HTTP are.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass

from starlette.responses import Response
from uvicorn.protocols.utils import ClientDisconnected

from api.accept import Created, Recall
from api.errors import NodeEnding, ResponseLost
from api.held_bodies import HeldBody
from api.hub import LogGone, LogShorter
from api.ignored_tools import ignored_header
from api.read import FROM_THE_START
from api.services import Services
from api.socket_messages import error_message, event_messages, headers_message, lane_member
from api.socket_protocol import SocketProtocol
from api.sockets import Latest, Remembered
from api.sse import EventStreams
from api.traced import note_subject
from shared import logs, traces
from shared.responses import Dialect
from shared.store.keys import ResponseKey
from shared.store.records.response_store import Stored
from shared.store.redis.connections import REDIS_AWAY
from shared.tracer import NO_CONTEXT, TraceContext

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class SocketCall:
    """A `response.create` that waits for its turn. The node counts its body until it is accepted."""

    raw: bytes
    held: HeldBody
    generates: bool
    previous_response_id: str | None

    def release(self) -> None:
        self.raw = b""
        self.held.grow_to(0)


@dataclass(frozen=True, slots=True)
class LaneContext:
    """What the lanes of a connection share."""

    protocol: SocketProtocol
    services: Services
    streams: EventStreams
    remembered: Remembered
    places: asyncio.Semaphore
    """As many as the connection may have responses in progress."""
    dialect: Dialect | None
    keep_alive: bytes
    authorize: Callable[[], str]
    """Returns the tenant. Raises ClientError if the key is not accepted any more."""
    recall: Recall
    answer: Callable[[Exception], Awaitable[Response]]
    """Returns what HTTP would answer."""
    on_rest: Callable[[], None]
    """Called when a lane has nothing more to do."""
    trace: TraceContext = NO_CONTEXT
    """The client's, which each response of the connection continues."""


class LaneWire:
    """Writes the events of one lane to the connection, without waiting (`hub.LiveSink`, `sse.KeptAlive`)."""

    __slots__ = ("_member", "_notice", "_protocol")

    def __init__(self, protocol: SocketProtocol, member: bytes) -> None:
        self._protocol = protocol
        self._member = member
        self._notice = b""

    @property
    def is_free(self) -> bool:
        return self._protocol.is_free

    def announce(self, headers: Mapping[str, str]) -> None:
        """Has the first event followed by what HTTP would say of the response in headers, if there are any.

        Before it would be too early: clients expect a response to begin with its first event.
        """
        self._notice = headers_message(headers, self._member) if headers else b""

    def write(self, frames: bytes) -> None:
        self._protocol.write(self._messages(frames))

    async def deliver(self, frames: bytes) -> None:
        """Writes when the client has taken what was written earlier. Raises ClientDisconnected."""
        await self._protocol.deliver(self._messages(frames))

    def _messages(self, frames: bytes) -> bytes:
        messages = event_messages(frames, self._member, self._notice)
        if messages:
            self._notice = b""
        return messages

    async def refuse(self, answer: Response) -> None:
        await self._protocol.deliver(error_message(answer, self._member))

    def cut(self, why: str) -> None:
        self._protocol.shutdown()


class Lane:
    """`stream_id`: its name, which its events carry; None for the lane that needs none."""

    def __init__(self, connection: LaneContext, stream_id: str | None) -> None:
        self._connection = connection
        self._wire = LaneWire(connection.protocol, lane_member(stream_id))
        self._waiting: deque[SocketCall] = deque()
        self._task: asyncio.Task[None] | None = None
        self._serving = 0
        self.current: ResponseKey | None = None
        """The response that is followed."""
        self.latest: Latest | None = None

    @property
    def is_busy(self) -> bool:
        return self._task is not None

    @property
    def in_hand(self) -> int:
        """The number of its calls that have not been served."""
        return len(self._waiting) + self._serving

    def ask(self, asked: SocketCall) -> None:
        self._waiting.append(asked)
        if self._task is None:
            self._task = asyncio.create_task(self._work())

    async def refuse(self, error: Exception) -> None:
        """Sends an error as an event of this lane. Raises ClientDisconnected."""
        await self._wire.refuse(await self._connection.answer(error))

    async def end(self) -> None:
        """Stops following, and forgets what is waiting. The responses stay as they are."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for asked in self._waiting:
            asked.release()
        self._waiting.clear()
        self._forget()

    async def _work(self) -> None:
        try:
            while self._waiting:
                async with self._connection.places:
                    asked, self._serving = self._waiting.popleft(), 1
                    await self._serve(asked)
                self._serving = 0
        except (ClientDisconnected, NodeEnding):
            pass  # the connection ends, and this lane with it
        finally:
            self._task = None
            self._connection.on_rest()

    async def _serve(self, asked: SocketCall) -> None:
        """Creates one response and follows it to its end; its failure must not end the others."""
        logs.forget_subject()
        try:
            parent = self._connection.trace
            with traces.span("WS response.create", kind="server", parent=parent) as span:
                try:
                    created = await self._accept(asked)
                finally:
                    asked.release()
                note_subject(span)
                await self._follow(created, is_watched=asked.generates)
            await self._remember(created, asked)
        except (ClientDisconnected, NodeEnding):
            raise
        except Exception as error:  # noqa: BLE001
            if _continues(self.latest, asked):
                self._forget()
            await self.refuse(error)

    async def _accept(self, asked: SocketCall) -> Created:
        shared = self._connection
        accept = shared.services.accept.create_by_message
        tenant = shared.authorize()
        return await accept(tenant, asked.raw, shared.recall, shared.dialect, generates=asked.generates)

    async def _follow(self, created: Created, *, is_watched: bool) -> None:
        """Sends a response's events. The client may leave at any time, and resume by HTTP."""
        shared, key = self._connection, created.key
        follow = shared.services.read.follow
        frames = follow(key, FROM_THE_START, self._wire, is_watched=is_watched, arrival=created.arrival)
        self.current = key
        self._wire.announce(ignored_header(created.ignored_tools))
        try:
            async with aclosing(frames):
                with shared.streams.kept_alive(self._wire, shared.keep_alive):
                    async for some in frames:
                        await self._wire.deliver(some)
        except (LogGone, LogShorter):
            raise ResponseLost(key.response_id) from None
        finally:
            self.current = None

    # --- what it may continue -------------------------------------------------------------------

    async def _remember(self, created: Created, asked: SocketCall) -> None:
        """Keeps an unstored response in place of the one before, which a failed continuation loses too."""
        before, self.latest, record = self.latest, None, None
        if not created.is_stored:
            # At once: the client may continue it, from any lane, before it has been read.
            self.latest = Latest(created.key)
            record = await self._read_ended(created.key)
        status = record.state.closed if record is not None else ""
        if status == "cancelled" or (status == "failed" and not _continues(before, asked)):
            self.latest = before
            return
        if before is not None:
            self._connection.remembered.forget(before)
        if status == "failed":
            self.latest = None
        elif record is not None and self.latest is not None:
            self._connection.remembered.keep(self.latest, record)

    async def _read_ended(self, key: ResponseKey) -> Stored | None:
        try:
            return await self._connection.services.read.read_ended(key)
        except REDIS_AWAY:
            return None  # it is read when it is continued

    def _forget(self) -> None:
        if self.latest is not None:
            self._connection.remembered.forget(self.latest)
            self.latest = None


def _continues(latest: Latest | None, asked: SocketCall) -> bool:
    return latest is not None and latest.key.response_id == asked.previous_response_id
