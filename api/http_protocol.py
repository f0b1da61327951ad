"""This server's HTTP/1.1: limits what a client may send and how long it may take.

Owns the limits of a connection and the refusals before there is a request
(docs/adr/0019-bounds-and-cuts-of-http.md); `answer` owns how an answer is sent. A thin class over uvicorn's
protocol on httptools: uvicorn's cycle writes the answers, and its WebSocket upgrade is kept. Knows nothing of
the content of requests and answers.
"""

import asyncio
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Self

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from api.answer import HttpAnswer, Wire
from api.errors import RETRY_AFTER, envelope
from shared.ids import new_request_id
from shared.settings import Settings

_FRAMING_MAX = 8
"""How many bytes may frame one byte of a body; a client that sends chunks of one byte each uses six."""

_HEADER_BYTES_MAX = 8_000
"""One header of an upgrade; what parses it again reads no more than 8,192 bytes of a line."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Bounds:
    """The limits, from the settings `http_…`."""

    line_bytes_max: int
    head_bytes_max: int
    headers_max: int
    pipelined_max: int
    connections_max: int
    excess_connections_max: int
    head_timeout_s: float
    body_timeout_s: float
    send_timeout_s: float
    linger_s: float

    @classmethod
    def of(cls, settings: Settings) -> Self:
        return cls(**{name: getattr(settings, f"http_{name}") for name in cls.__dataclass_fields__})


def make_protocol(
    settings: Settings, probed: Collection[str], upgraded: Collection[str]
) -> type[HttpToolsProtocol]:
    """Returns the class that uvicorn takes as `http` and instantiates for each connection.

    `probed`: the paths that are also answered on connections in excess of the limit; `upgraded`: those that
    are WebSockets, too.
    """
    members = {
        "bounds": Bounds.of(settings),
        "probed": frozenset(path.encode() for path in probed),
        "upgraded": frozenset(path.encode() for path in upgraded),
        "excess": {},
    }
    return type("BoundedProtocol", (Protocol,), members)


class _Refused(Exception):
    """A request that is refused before it reaches the app."""

    def __init__(self, status: int, message: str, code: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class _Enough(Exception):
    """Nothing more is read from this connection; requests received already are answered."""


def _too_large(what: str, bytes_max: int) -> _Refused:
    return _Refused(
        431, f"{what} too large: at most {bytes_max} bytes are read.", "request_headers_too_large"
    )


class Protocol(HttpToolsProtocol):
    """One connection, within its limits."""

    bounds: Bounds
    probed: frozenset[bytes]
    upgraded: frozenset[bytes]
    excess: dict["Protocol", None]
    """Connections of this node in excess of their limit, in order of arrival. Only probes are answered on
    them, so that a full node is not taken for dead and killed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_bytes = self._headers = 0
        self._framing_bytes = 0
        """Bytes received besides the body and its permitted framing: the head, chunk extensions, trailers."""
        self._is_in_head = self._has_body_to_come = self._is_passed_over = self._is_deaf = False
        self.wire: Wire | None = None
        """That of the answer being sent."""
        self._reading: asyncio.TimerHandle | None = None
        self._writing: asyncio.TimerHandle | None = None

    # --- the connection -------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) - len(self.excess) > self.bounds.connections_max:
            self.excess[self] = None
            if len(self.excess) > self.bounds.excess_connections_max:
                self._make_way()
        self._expect_within(self.bounds.head_timeout_s, self._end_late_head)

    def _make_way(self) -> None:
        """Closes the oldest connection in excess that is not waiting for an answer."""
        idle = (other for other in self.excess if other.cycle is None or other.cycle.response_complete)
        ended = next(idle, self)
        del self.excess[ended]
        ended.transport.abort()

    def _admit(self) -> None:
        """Handles a request on a connection in excess. Raises _Refused, unless it is a probe or others have
        ended."""
        if len(self.connections) - len(self.excess) < self.bounds.connections_max:
            del self.excess[self]
        elif self.url.partition(b"?")[0] not in self.probed:
            raise _Refused(503, "This node has too many connections.", "service_unavailable")

    def connection_lost(self, exc: Exception | None) -> None:
        self.excess.pop(self, None)
        self._expect_nothing()
        self._stop_watching_writes()
        super().connection_lost(exc)
        if self.wire is not None:
            self.wire.lose()

    def data_received(self, data: bytes) -> None:
        if self._is_deaf:
            return
        self._framing_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._expect_nothing()
            if not self._should_upgrade():
                self._pass_over_upgrade(data[upgrade.args[0] :])
            elif max(len(name) + len(value) for name, value in self.headers) > _HEADER_BYTES_MAX:
                self._refuse(_too_large("A header is", _HEADER_BYTES_MAX))
            else:
                self.handle_websocket_upgrade()
        except httptools.HttpParserError as error:
            self._handle_fault(error.__context__)
        else:
            if self._framing_bytes > self.bounds.head_bytes_max:
                self._refuse(_too_large("What frames the request is", self.bounds.head_bytes_max))

    def _should_upgrade(self) -> bool:
        path = self.url.partition(b"?")[0].removesuffix(b"/")
        is_socket = self.parser.get_method() == b"GET" and path in self.upgraded and self.url.isascii()
        return is_socket and super()._should_upgrade()

    def _pass_over_upgrade(self, rest: bytes) -> None:
        """Parses a request again without its upgrade to a protocol that is not supported, such as HTTP/2,
        which Java clients request. The parser would otherwise take it for the last request, and one without a
        body."""
        self.parser = httptools.HttpRequestParser(self)
        lines = [b"%s %s HTTP/1.1" % (self.scope["method"].encode(), self.url)]
        for name, value in self.headers:
            if name == b"connection" and b"close" in value.lower():
                lines.append(b"connection: close")
            elif name not in (b"connection", b"upgrade", b"http2-settings"):
                lines.append(b"%s: %s" % (name, value))
        self.data_received(b"\r\n".join(lines) + b"\r\n\r\n" + rest)

    def _handle_fault(self, cause: BaseException | None) -> None:
        match cause:
            case _Enough():
                self._is_deaf = True
                self._expect_nothing()
            case _Refused():
                self._refuse(cause)
            case _:
                self._refuse(_Refused(400, "This is no request of HTTP/1.1.", "invalid_http"))

    def shutdown(self) -> None:
        """Called when the node shuts down: refuses a request whose body has not arrived completely."""
        if self._has_body_to_come:
            self._refuse(_Refused(503, "This node is stopping. Try again.", "service_unavailable"))
        else:
            super().shutdown()

    # --- what the parser finds ------------------------------------------------------------------

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._unset_keepalive_if_required()
        self._head_bytes = self._headers = self._framing_bytes = 0
        self._is_in_head = True
        self._expect_within(self.bounds.head_timeout_s, self._end_late_head)

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > self.bounds.line_bytes_max:
            message = f"The address is too long: at most {self.bounds.line_bytes_max} bytes are read."
            raise _Refused(414, message, "uri_too_long")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers += 1
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > self.bounds.head_bytes_max:
            raise _too_large("The headers are", self.bounds.head_bytes_max)
        if self._headers > self.bounds.headers_max:
            message = f"The request has too many headers: at most {self.bounds.headers_max} are read."
            raise _Refused(431, message, "request_headers_too_large")
        if self._is_in_head:  # otherwise it is a trailer, which is ignored
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        if len(self.pipeline) >= self.bounds.pipelined_max:
            self.pipeline[0][0].keep_alive = False  # the last request that is answered
            raise _Enough
        if self in self.excess:
            self._admit()
        self.scope["method"] = self.parser.get_method().decode()
        self._is_passed_over = self.parser.should_upgrade() and not self._should_upgrade()
        if self._is_passed_over:
            if self.scope["method"] == "CONNECT":
                raise _Refused(400, "This is no proxy.", "invalid_http")
            return
        self._has_body_to_come = True
        self._expect_within(self.bounds.body_timeout_s, self._end_late_body)
        super().on_headers_complete()
        if self in self.excess:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._framing_bytes = max(0, self._framing_bytes - _FRAMING_MAX * len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._is_passed_over:
            return
        self._has_body_to_come = False
        self._expect_nothing()
        super().on_message_complete()
        if self in self.excess:
            raise _Enough

    # --- answers --------------------------------------------------------------------------------

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        super()._start_asgi_task(cycle, HttpAnswer(cycle, app, self))  # type: ignore[arg-type]

    def is_still_sent(self, cycle: RequestResponseCycle) -> bool:
        """Returns True if this request's body has not arrived completely."""
        return cycle is self.cycle and self._has_body_to_come

    def end_after_answer(self) -> None:
        """Ends the sending side, and leaves the client time to read the answer."""
        self._is_deaf = True
        self._has_body_to_come = False  # otherwise `shutdown` would send a second answer
        self._expect_nothing()
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._expect_within(self.bounds.linger_s, self.close)

    def close(self) -> None:
        """Closes the connection; what was written is still sent, as long as the client reads it."""
        self.transport.close()
        if self in self.connections:  # otherwise it is lost already
            self._watch_writes(self.transport.get_write_buffer_size())

    def eof_received(self) -> None:
        """A client that sends no more has left: nothing else says so while a stream is idle."""
        self.close()

    def timeout_keep_alive_handler(self) -> None:
        self.close()

    def _refuse(self, refusal: _Refused) -> None:
        """Answers instead of the app; if an answer has begun already, cuts it."""
        if self.transport.is_closing():
            return
        cycle = self.cycle
        is_idle = cycle is None or cycle.response_complete
        if self.pipeline or (not is_idle and cycle.response_started):
            self.close()
            return
        if not is_idle:
            cycle.disconnected = True
            cycle.message_event.set()
        self.transport.write(self._encode(refusal))
        self.end_after_answer()

    def _encode(self, refusal: _Refused) -> bytes:
        headers = RETRY_AFTER if refusal.status == 503 else None
        answer = envelope(refusal.status, str(refusal), refusal.code, None, headers)
        fields = [
            *self.server_state.default_headers,
            *answer.raw_headers,
            (b"x-request-id", new_request_id().encode()),
            (b"connection", b"close"),
        ]
        head = b"".join(b"%s: %s\r\n" % field for field in fields)
        return STATUS_LINE[refusal.status] + head + b"\r\n" + bytes(answer.body)

    # --- time -----------------------------------------------------------------------------------

    def _expect_within(self, limit_s: float, end: Callable[[], None]) -> None:
        self._expect_nothing()
        self._reading = self.loop.call_later(limit_s, end)

    def _expect_nothing(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def _end_late_head(self) -> None:
        if self._is_in_head:
            message = f"The headers did not come within {self.bounds.head_timeout_s:g} seconds."
            self._refuse(_Refused(408, message, "request_timeout"))
        else:  # it has never sent a request
            self.close()

    def _end_late_body(self) -> None:
        if self.cycle.response_complete:
            self.close()
        else:
            message = f"The body did not come within {self.bounds.body_timeout_s:g} seconds."
            self._refuse(_Refused(408, message, "request_timeout"))

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_writes(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        self._stop_watching_writes()
        if self.transport.is_closing():
            self._watch_writes(self.transport.get_write_buffer_size())
        super().resume_writing()

    def _watch_writes(self, left_bytes: int) -> None:
        self._stop_watching_writes()
        self._writing = self.loop.call_later(self.bounds.send_timeout_s, self._check_writes, left_bytes)

    def _check_writes(self, left_bytes: int) -> None:
        """Disconnects a client that has read nothing of what is waiting for it."""
        now_left = self.transport.get_write_buffer_size()
        if now_left < left_bytes:
            self._watch_writes(now_left)
        else:
            _log.info("a client has read nothing for %g s and is disconnected", self.bounds.send_timeout_s)
            self.transport.abort()

    def _stop_watching_writes(self) -> None:
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None
