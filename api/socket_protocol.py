"""This server's WebSockets: limits what a client may send, and writes messages without waiting.

Owns the limits of a connection after its upgrade, and how it ends; `http_protocol.py` owns what comes before.
A thin class over uvicorn's protocol. Knows nothing of what messages say.
"""

import asyncio
import logging
import sys
from http import HTTPStatus
from typing import Any, cast

from starlette.types import Scope
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.datastructures import Headers
from websockets.frames import Frame
from websockets.http11 import Response as HandshakeAnswer
from websockets.typing import StatusLike

from api.errors import envelope
from api.held_bodies import Bodies, BodiesFull, HeldBody
from shared.ids import new_request_id
from shared.settings import Settings

_EXTENSION = "antiphon.socket"
_FRAGMENTS_MAX = 4_096
"""Frames of one message. A list of fragments of one byte each would take fifty times as much as they do."""
_PIECE_BYTES, _STEP_S = 2_048, 0.005
"""What arrives is read in pieces, for so long at a time: forty thousand empty frames may arrive at once."""
GOING_AWAY, TOO_BIG, RESTARTING, TRY_AGAIN_LATER = 1001, 1009, 1012, 1013
"""Codes with which a connection is closed (RFC 6455, 7.4.1, and its registry)."""

_log = logging.getLogger(__name__)
_log.setLevel(logging.WARNING)  # uvicorn would log each connection


def make_socket_protocol(settings: Settings, bodies: Bodies) -> type[WebSocketsSansIOProtocol]:
    """Returns the class that uvicorn takes as `ws` and instantiates for each upgrade.

    `bodies`: where the messages that have not arrived completely are counted.
    """
    members = {
        "bodies": bodies,
        "linger_s": settings.http_linger_s,
        "send_timeout_s": settings.http_send_timeout_s,
    }
    return type("BoundedSocketProtocol", (SocketProtocol,), members)


class SocketProtocol(WebSocketsSansIOProtocol):
    """One connection, within its limits."""

    bodies: Bodies
    linger_s: float
    """How long the client may take to answer that the connection is closed."""
    send_timeout_s: float
    """How long a closed connection waits for the client to take the rest."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.logger = self.conn.logger = _log
        self.conn.reject = _reject  # type: ignore[method-assign]
        self._arriving = HeldBody(self.bodies)
        self._fragments_bytes = 0
        self._turn = asyncio.Lock()
        self._pong = b""
        self._left_bytes = 0
        self._unread = b""
        self._step: asyncio.Handle | None = None
        """That in which the rest is read; until then nothing more is taken from the client."""

    async def run_asgi(self) -> None:
        extensions = cast(dict[str, object], self.scope["extensions"])
        extensions[_EXTENSION] = self
        await super().run_asgi()

    # --- what arrives ---------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Reads what has arrived, or if that takes long a part of it, and the rest when others have had their
        turn."""
        self._unread += data
        if self._step is None:
            self._read_on()
        else:
            self._hold()

    async def receive(self) -> Any:
        """Returns the next message for the app; then uvicorn lets the client go on, whatever is unread."""
        message = await super().receive()
        self._hold()
        return message

    def _hold(self) -> None:
        if self._step is not None and not self.transport.is_closing():
            self.transport.pause_reading()

    def _read_on(self) -> None:
        was_held, self._step, read_bytes = self._step is not None, None, 0
        ends_s = self.loop.time() + _STEP_S
        while read_bytes < len(self._unread) and not self.transport.is_closing():
            self._read(self._unread[read_bytes : read_bytes + _PIECE_BYTES])
            read_bytes += _PIECE_BYTES
            if self.read_paused or self.loop.time() >= ends_s:
                break
        self._unread = b"" if self.transport.is_closing() else self._unread[read_bytes:]
        if self._unread:
            self._step = self.loop.call_soon(self._read_on)
            self._hold()
        elif was_held and not self.read_paused and not self.transport.is_closing():
            self.transport.resume_reading()

    def _read(self, data: bytes) -> None:
        """Counts the message that is arriving, which its reader counts from then on."""
        if self.conn.parser_exc is not None:
            self.conn.receive_data(data)  # throws it away
            return
        if self.close_sent and not self.handshake_initiated:
            return
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            self._refuse_handshake()
            return
        if self.transport.is_closing():
            return
        try:
            self._arriving.grow_to(len(self.conn.reader.buffer) + self._fragments_bytes)
        except BodiesFull:
            self.end(TRY_AGAIN_LATER, "this node has too many large requests in hand")

    def _refuse_handshake(self) -> None:
        """Called when a request with an upgrade is no handshake, as one with a body: uvicorn is not told, and
        would wait for ever."""
        answer = b"".join(self.conn.data_to_send())
        self.transport.write(answer or _reject(400, "This is no request for a WebSocket.").serialize())
        self.close_sent = True
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.close_timer = self.loop.call_later(self.linger_s, self._finish)

    def handle_cont(self, event: Frame) -> None:
        if len(self.frames) >= _FRAGMENTS_MAX:
            self.end(TOO_BIG, f"a message may have {_FRAGMENTS_MAX} fragments")
            return
        self._fragments_bytes = self._fragments_bytes + len(event.data)
        super().handle_cont(event)

    def handle_text(self, event: Frame) -> None:
        self._fragments_bytes = len(event.data)
        super().handle_text(event)

    handle_bytes = handle_text  # JSON is UTF-8, whatever the frame is called

    def send_receive_event_to_app(self) -> None:
        """Passes the bytes on as they are: whoever decodes the JSON checks that they are UTF-8."""
        self.curr_msg_data_type = "bytes"
        self._fragments_bytes = 0
        super().send_receive_event_to_app()

    def handle_ping(self) -> None:
        """Answers a ping, or if earlier bytes still wait for the client, the last of its pings later."""
        answer = b"".join(self.conn.data_to_send())
        if self.writable.is_set():
            self.transport.write(answer)
        else:
            self._pong = answer

    # --- what is sent ---------------------------------------------------------------------------

    @property
    def is_free(self) -> bool:
        """Returns True if nothing written earlier still waits for the client."""
        return self.is_open and self.writable.is_set()

    @property
    def is_open(self) -> bool:
        is_accepted = self.handshake_complete and self.initial_response is None
        return is_accepted and not (self.close_sent or self.transport.is_closing())

    def write(self, messages: bytes) -> None:
        """Writes whole messages. The caller checks `is_free` first."""
        self.transport.write(messages)

    async def deliver(self, messages: bytes) -> None:
        """Writes whole messages when the client has taken what was written earlier; those who wait take
        turns. Raises ClientDisconnected."""
        async with self._turn:
            await self.writable.wait()
            if not self.is_open:
                raise ClientDisconnected
            self.transport.write(messages)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._left_bytes = sys.maxsize  # the client has taken much
        if self._pong and self.is_open:
            self.transport.write(self._pong)
        self._pong = b""

    def keepalive_timeout(self) -> None:
        """Called when the client has not answered a ping, which it cannot do while it is still reading what
        was sent before."""
        left_bytes = self.transport.get_write_buffer_size()
        is_reading = 0 < left_bytes < self._left_bytes
        self._left_bytes = left_bytes
        if is_reading and self.ping_timeout is not None:
            self.pong_timer = self.loop.call_later(self.ping_timeout, self.keepalive_timeout)
            return
        super().keepalive_timeout()
        self._abort_after(self.linger_s)

    # --- the end --------------------------------------------------------------------------------

    def end(self, code: int, reason: str) -> None:
        """Closes the connection, between two messages; what was written is still sent. Does not wait."""
        if self.is_open:
            self.conn.send_close(code, reason)
            self._linger(code, reason)

    def handle_parser_exception(self) -> None:
        """Called when the client breaks the protocol, or sends a message that is too big. What it goes on
        sending is read for a while, or else it might be reset before it has read why."""
        assert self.conn.close_sent is not None
        self._fragments_bytes = 0
        self._linger(self.conn.close_sent.code, self.conn.close_sent.reason)
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def _linger(self, code: int, reason: str) -> None:
        """Sends the close that is ready, and gives the client time to answer it."""
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.stop_keepalive()
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        self.close_timer = self.loop.call_later(self.linger_s, self._finish)

    def _finish(self) -> None:
        self.transport.close()
        self._abort_after(self.send_timeout_s)

    def handle_close(self, event: Frame) -> None:
        """Called when the client closes the connection, or answers that this side has."""
        super().handle_close(event)
        self._abort_after(self.send_timeout_s)

    def _abort_after(self, limit_s: float) -> None:
        """Bounds the time for what is still to be sent, after which nothing says that the client is gone."""
        if self.close_timer is not None:
            self.close_timer.cancel()
        self.close_timer = self.loop.call_later(limit_s, self.transport.abort)

    def shutdown(self) -> None:
        """Called when the node shuts down."""
        if self.is_open:
            self.end(RESTARTING, "this node is stopping")
        elif not self.close_sent:
            super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        self._arriving.grow_to(0)
        self._unread = b""
        super().connection_lost(exc)


def _reject(status: StatusLike, text: str) -> HandshakeAnswer:
    """Returns the answer to a handshake that is refused, in the envelope of all errors."""
    answer = envelope(int(status), text.strip() or "The handshake was refused.", "invalid_handshake")
    fields = [(name.decode(), value.decode()) for name, value in answer.raw_headers]
    named = [("x-request-id", new_request_id()), ("sec-websocket-version", "13"), ("connection", "close")]
    return HandshakeAnswer(
        int(status), HTTPStatus(status).phrase, Headers(fields + named), bytes(answer.body)
    )


def socket_of(scope: Scope) -> SocketProtocol:
    """Returns the connection of a WebSocket that this server accepts."""
    return cast(SocketProtocol, scope["extensions"][_EXTENSION])
