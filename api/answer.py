"""Sends answers: their framing, their cut, and bytes that are written without waiting.

Owns what uvicorn's cycle does not: the end of an answer that must not seem complete, and writing a stream's
body past the app's `send` (docs/adr/0031-relay-in-the-callback.md).
"""

import asyncio
import logging
import socket
import struct
from types import TracebackType
from typing import Protocol, cast

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from api.errors import StreamCut

_EXTENSION = "antiphon.wire"
_RESET_AT_END, _NO_RESET = struct.pack("ii", 1, 0), struct.pack("ii", 0, 0)

_log = logging.getLogger(__name__)


class HttpConnection(Protocol):
    """What an answer needs of its connection."""

    wire: "Wire | None"

    def is_still_sent(self, cycle: RequestResponseCycle) -> bool: ...

    def end_after_answer(self) -> None: ...

    def close(self) -> None: ...


class Wire:
    """Writes the body of one answer, between its start and its end, which the app sends.

    The caller checks `is_free` first, and writes whole frames.
    """

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self._flow = cycle.flow
        self._transport = cycle.transport
        self._task: asyncio.Task[object] | None = None
        self._has_cancelled = False
        self._cut: StreamCut | None = None

    @property
    def is_free(self) -> bool:
        """Returns True if the answer has begun, and nothing written earlier still waits for the client."""
        return self._cycle.response_started and not (self._flow.write_paused or self._transport.is_closing())

    @property
    def has_whole_request(self) -> bool:
        return not self._cycle.more_body

    def write(self, body: bytes) -> None:
        if self._cycle.chunked_encoding:
            body = b"%x\r\n%b\r\n" % (len(body), body)
        self._transport.write(body)

    # --- the client's disconnect ----------------------------------------------------------------

    @property
    def is_lost(self) -> bool:
        return self._cycle.disconnected

    def __enter__(self) -> None:
        """Ends the block, quietly, as soon as the client disconnects. Requires that it is still connected."""
        self._task = asyncio.current_task()

    def lose(self) -> None:
        """Called when the connection is lost."""
        self._cycle.disconnected = True  # uvicorn says so only to the request that has arrived last
        self._cancel()

    def cut(self, why: str) -> None:
        """Ends the block with StreamCut, also while the client keeps it waiting."""
        self._cut = StreamCut(why)
        self._cancel()

    def _cancel(self) -> None:
        if self._task is not None and not self._has_cancelled:
            self._task.cancel()
            self._has_cancelled = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        task, self._task = self._task, None
        if task is None or not self._has_cancelled:
            return False
        if task.uncancel() or kind is not asyncio.CancelledError:
            return False  # others cancel it too, or it has failed
        if self._cut is not None and not self.is_lost:
            raise self._cut from None
        return True


def wire_of(scope: Scope) -> Wire | None:
    """Returns None on another server, and while the request is still arriving and must be received."""
    wire = cast(Wire | None, scope.get("extensions", {}).get(_EXTENSION))
    return wire if wire is not None and wire.has_whole_request else None


class HttpAnswer:
    """Runs the app for one request. An answer that the app breaks off is cut, so that it never seems
    complete."""

    def __init__(self, cycle: RequestResponseCycle, app: ASGIApp, connection: HttpConnection) -> None:
        self._cycle = cycle
        self._app = app
        self._connection = connection
        self._is_unframed = self._lingers = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_framed(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = self._begin(scope, message)
            elif not message.get("more_body", False):
                self._prepare_end(message)
            if self._is_unframed:
                self._cycle.expected_content_length = len(message.get("body", b""))
            await send(message)
            if self._lingers:
                self._connection.end_after_answer()
            elif self._cycle.transport.is_closing():
                self._connection.close()

        wire = self._connection.wire = Wire(self._cycle)
        if self._cycle.transport.is_closing():
            wire.lose()  # before its turn came
        try:
            await self._app({**scope, "extensions": {_EXTENSION: wire}}, receive, send_framed)
        except StreamCut as cut:
            _log.info("%s was cut: %s", scope["path"], cut)
            self._cycle.disconnected = True
            self._connection.close()  # what was sent arrives, but not the chunk that would end the answer
        finally:
            if self._connection.wire is wire:  # the next request may have begun
                self._connection.wire = None

    def _begin(self, scope: Scope, message: Message) -> Message:
        """Returns the answer's start without the app's `connection: keep-alive`, which is not its
        decision."""
        headers = [field for field in message["headers"] if field != (b"connection", b"keep-alive")]
        is_framed = any(name == b"content-length" for name, _ in headers)
        has_body = scope["method"] != "HEAD" and message["status"] not in (204, 304)
        if scope["http_version"] == "1.0" and has_body and not is_framed:
            # Such a client knows no chunks: the answer ends where the connection does. Until the answer is
            # complete, make any end a reset, even if this process is killed.
            self._is_unframed = True
            self._cycle.chunked_encoding = False
            self._set_linger(_RESET_AT_END)
        return {**message, "headers": headers}

    def _prepare_end(self, message: Message) -> None:
        if self._is_unframed:
            self._set_linger(_NO_RESET)
        if not self._cycle.keep_alive and self._connection.is_still_sent(self._cycle):
            self._lingers = self._cycle.keep_alive = True  # `end_after_answer` closes, not the cycle

    def _set_linger(self, how: bytes) -> None:
        connection = self._cycle.transport.get_extra_info("socket")
        if connection is not None and not self._cycle.transport.is_closing():
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, how)
