"""Stored frames as a server-sent event stream over HTTP.

Owns headers, keep-alives and how a stream ends; frames pass through unread, and live ones bypass it
(docs/adr/0031-relay-in-the-callback.md).
"""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from itertools import islice, takewhile
from typing import Protocol

from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.types import Receive, Scope, Send

from api.answer import Wire
from api.errors import NodeEnding, StreamCut
from api.hub import LogGone, LogShorter
from shared.logs import words_of
from shared.setting_types import KeepAliveForm
from shared.settings import Settings
from shared.store.redis.connections import REDIS_AWAY

_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
_ENDING = "this node is shutting down"
_TICKS = 20
"""How often keep-alives are checked within the time between two of them."""
_SENT_MAX = 64
"""The number of keep-alives sent at once, so that those of streams which began together do not hold the
loop."""


class _KeepAlive(ServerSentEvent):
    """A comment line without an empty line after it, which a well-known client would take for the end of an
    event without data, and fail on."""

    def encode(self) -> bytes:
        return b": keep-alive\n"


class _KeepAliveEvent(ServerSentEvent):
    """An event for clients whose watchdogs ignore comments. It is not part of the log: without a number and
    an `id`, it does not change the cursor from which a client resumes."""

    def encode(self) -> bytes:
        return b'event: keepalive\ndata: {"type":"keepalive"}\n\n'


class KeptAlive(Protocol):
    """What a stream is written to: an answer of HTTP, or a lane of a WebSocket."""

    @property
    def is_free(self) -> bool: ...

    def write(self, frames: bytes, /) -> None: ...

    def cut(self, why: str) -> None: ...


_KEEP_ALIVES: dict[KeepAliveForm, type[ServerSentEvent]] = {"comment": _KeepAlive, "event": _KeepAliveEvent}


def keep_alive_line(form: KeepAliveForm) -> bytes:
    return _KEEP_ALIVES[form]().encode()


class EventStreams:
    """Answers with streams, and keeps all streams of a node alive by one timer."""

    def __init__(self, settings: Settings) -> None:
        self.keep_alive_s = settings.keep_alive_s
        self._due: dict[KeptAlive, tuple[float, bytes]] = {}
        """When the next keep-alive of each stream is due, the earliest first, and its bytes."""

    def answer(
        self, frames: AsyncGenerator[bytes, None], form: KeepAliveForm, wire: Wire | None, first: bytes = b""
    ) -> EventSourceResponse:
        """Returns a 200 with `text/event-stream`; lines end in `\\n`, as one well-known parser requires.

        `frames`: those not written to the `wire` already; `first`: what was taken from them before.
        """
        return _Stream(frames, form, wire, self, first)

    async def run(self) -> None:
        """Sends keep-alives until cancelled."""
        clock = asyncio.get_running_loop().time
        while True:
            has_sent = self._send_due(clock())
            await asyncio.sleep(0 if has_sent else self.keep_alive_s / _TICKS)

    def _send_due(self, now_s: float) -> bool:
        """Sends those that are due, some at a time; returns False if there were none."""
        due = takewhile(lambda item: item[1][0] <= now_s, self._due.items())
        some = list(islice(due, _SENT_MAX))
        for wire, (_, line) in some:
            del self._due[wire]
            self._due[wire] = (now_s + self.keep_alive_s, line)
            if wire.is_free:  # otherwise the client has something to read
                wire.write(line)
        return bool(some)

    def end_slow(self) -> None:
        """Cuts the streams whose clients do not take what they are sent. The hub ends the others."""
        for wire in self._due:
            if not wire.is_free:
                wire.cut(_ENDING)

    @contextmanager
    def kept_alive(self, wire: KeptAlive, line: bytes) -> Iterator[None]:
        self._due[wire] = (asyncio.get_running_loop().time() + self.keep_alive_s, line)
        try:
            yield
        finally:
            del self._due[wire]


class _Stream(EventSourceResponse):
    """One stream, sent by its request's task alone: keep-alives, the client's disconnect and the node's
    shutdown need no task of their own."""

    def __init__(
        self,
        frames: AsyncGenerator[bytes, None],
        form: KeepAliveForm,
        wire: Wire | None,
        streams: EventStreams,
        first: bytes,
    ) -> None:
        super().__init__(
            _until_lost(frames, first),
            sep="\n",
            ping=streams.keep_alive_s,
            ping_message_factory=_KEEP_ALIVES[form],
            headers=_HEADERS,
        )
        self._frames = frames
        self._line = keep_alive_line(form)
        self._wire = wire
        self._streams = streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the stream; without a wire, and for HEAD, as sse-starlette does."""
        wire = self._wire
        async with aclosing(self._frames):
            if wire is None or scope["method"] == "HEAD":
                await super().__call__(scope, receive, send)
            elif not wire.is_lost:
                with wire:
                    await self._stream(wire, send)

    async def _stream(self, wire: Wire, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        with self._streams.kept_alive(wire, self._line):
            async for some in self.body_iterator:
                await send({"type": "http.response.body", "body": some, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _until_lost(frames: AsyncGenerator[bytes, None], first: bytes) -> AsyncGenerator[bytes, None]:
    """Yields the frames; raises StreamCut, between two frames, if the log cannot be read to its end."""
    async with aclosing(frames):
        try:
            if first:
                yield first
                first = b""
            async for frame in frames:
                yield frame
        except NodeEnding:
            raise StreamCut(_ENDING) from None
        except LogGone:
            raise StreamCut("its log is gone") from None
        except LogShorter as last:
            raise StreamCut(f"its log ends at {last}, before the cursor") from None
        except REDIS_AWAY as away:
            raise StreamCut(f"Redis is unavailable ({words_of(away)})") from None
