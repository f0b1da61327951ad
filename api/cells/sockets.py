"""Passes a WebSocket on to one cell: the one that has what its first message names, or else one by weight.

Owns the connection to that cell's node, and how the end of one side becomes that of the other; what messages
mean, the node knows. Events pass as they come; nothing is kept, so who loses a connection resumes by HTTP.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
from starlette.datastructures import Headers as SocketHeaders
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket
from uvicorn.protocols.utils import ClientDisconnected
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from api.cells.fleet import CellState, Fleet, Node
from api.cells.naming import Named
from api.cells.relay import away, passed_on, traced
from api.cells.upstream import VIA, Headers
from api.door import SOCKET_PATH
from api.errors import RETRY_AFTER, ClientError, invalid_value, refuse
from api.held_bodies import Bodies, BodiesFull
from api.socket_messages import error_message, lane_member, text_message
from api.socket_protocol import RESTARTING, SocketProtocol, socket_of
from api.traced import told_by
from shared import metrics, traces
from shared.logs import words_of
from shared.settings import Settings

_OF_THE_HANDSHAKE = (b"sec-websocket-", b"host", b"origin", b"content-length")
"""Headers that the connection to the node has of its own; the origin has been checked."""
_ABNORMAL, _NO_CODE = 1006, 1005
_ELSEWHERE = frozenset({429, 503})
"""With these, a node refuses a connection that another one may accept."""

_log = logging.getLogger(__name__)
_log_of_library = logging.getLogger(f"{__name__}.websockets")
_log_of_library.setLevel(logging.CRITICAL)

Choosing = Callable[[bytes], Awaitable[tuple[Named, Sequence[CellState]]]]
"""Reads a message: what it names, and which cells may answer it. Raises ClientError."""


class _Lane(msgspec.Struct):
    stream_id: Any = None


_read_lane = msgspec.json.Decoder(_Lane).decode


class SocketRelay:
    """Serves the WebSockets of a router."""

    def __init__(self, settings: Settings, fleet: Fleet, bodies: Bodies, choosing: Choosing) -> None:
        self._settings = settings
        self._fleet = fleet
        self._bodies = bodies
        self._choosing = choosing
        self._open = set[SocketProtocol]()

    def check_room(self) -> None:
        """Raises ClientError if no further connection is accepted."""
        if self._settings.sockets_max == 0:
            message = "This router passes no WebSockets on. Use HTTP."
            raise ClientError(426, message, "websocket_not_supported", headers={"upgrade": "websocket"})
        if len(self._open) >= self._settings.sockets_max:
            message = f"This router has {len(self._open)} WebSockets, as many as it may. Try again later."
            raise ClientError(429, message, "rate_limit_exceeded", headers=RETRY_AFTER)

    def end_all(self) -> None:
        for protocol in list(self._open):
            protocol.end(RESTARTING, "this router is stopping")

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves a connection whose client may call, until it ends."""
        websocket = WebSocket(scope, receive, send)
        await websocket.accept()
        protocol = socket_of(scope)
        self._open.add(protocol)
        passing = _Passing(websocket, protocol)
        try:
            while (received := await websocket.receive())["type"] == "websocket.receive":
                await self._take(passing, received["bytes"])
        except ClientDisconnected:
            pass
        finally:
            self._open.discard(protocol)
            await passing.end()

    async def _take(self, passing: "_Passing", raw: bytes) -> None:
        try:
            with self._bodies.hold() as held:
                held.grow_to(len(raw))
                named, cells = await self._choosing(raw)
                if passing.cell is None:
                    await self._reach(passing, cells)
                elif named.cell not in (None, passing.cell):
                    raise invalid_value(named.origin, _OTHER_CELL)
                await passing.send(raw)
        except BodiesFull:
            message = "This router has too many large requests in hand. Try again."
            await passing.refuse(ClientError(503, message, "service_unavailable", headers=RETRY_AFTER), raw)
        except ClientError as error:
            await passing.refuse(error, raw)

    async def _reach(self, passing: "_Passing", cells: Sequence[CellState]) -> None:
        """Connects to a node of the first cell that has one. Raises ClientError."""
        parent = told_by(SocketHeaders(scope=passing.scope))
        with traces.span("WS /v1/responses", kind="server", parent=parent) as span:
            for cell in cells:
                for node in cell.usable():
                    if (connection := await self._connect(node, passing.scope)) is not None:
                        metrics.ROUTED.labels(cell.name, "answered").inc()
                        span.note({"antiphon.cell": cell.name})
                        passing.begin(cell.name, connection)
                        return
                    metrics.ROUTED.labels(cell.name, "unreached").inc()
            raise away()

    async def _connect(self, node: Node, scope: Scope) -> ClientConnection | None:
        """Returns None if another node may be asked. Raises ClientError for what all would refuse."""
        query = scope["query_string"].decode("latin-1")
        try:
            return await connect(
                f"ws{node.url.removeprefix('http')}{SOCKET_PATH}{'?' if query else ''}{query}",
                additional_headers=_headers_of(scope["headers"]),
                user_agent_header=None,
                compression=None,
                proxy=None,
                open_timeout=self._settings.cell_probe_timeout_s,
                ping_interval=self._settings.socket_ping_s,
                ping_timeout=self._settings.socket_ping_s,
                close_timeout=self._settings.http_linger_s,
                max_size=None,
                logger=_log_of_library,
            )
        except InvalidStatus as error:
            status = error.response.status_code
            if status in _ELSEWHERE:
                return None
            message = "The node that was asked accepts no WebSocket. Use HTTP."
            raise ClientError(status, message, "websocket_not_supported") from error
        except (OSError, TimeoutError, InvalidHandshake) as error:
            _log.warning("node %s accepts no WebSocket: %s", node.url, words_of(error))
            return None


_OTHER_CELL = "it is kept in another cell than the one of this WebSocket; open another one for it"


class _Passing:
    """One client's connection, and the one to a node once there is one."""

    def __init__(self, websocket: WebSocket, protocol: SocketProtocol) -> None:
        self.scope = websocket.scope
        self.cell: str | None = None
        self._protocol = protocol
        self._node: ClientConnection | None = None
        self._returning: asyncio.Task[None] | None = None

    def begin(self, cell: str, node: ClientConnection) -> None:
        self.cell, self._node = cell, node
        self._returning = asyncio.create_task(self._return(node), name="messages of a node")

    async def send(self, raw: bytes) -> None:
        """Raises ClientDisconnected if the node is gone, once the client has been told so."""
        assert self._node is not None
        assert self._returning is not None
        try:
            await self._node.send(raw, text=True)
        except ConnectionClosed:
            await asyncio.gather(self._returning, return_exceptions=True)
            raise ClientDisconnected from None

    async def refuse(self, error: ClientError, raw: bytes) -> None:
        """Answers a message as a node would refuse it."""
        try:
            stream_id = _read_lane(raw).stream_id
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            stream_id = None
        lane = lane_member(stream_id if isinstance(stream_id, str) else None)
        await self._protocol.deliver(error_message(refuse(error), lane))

    async def _return(self, node: ClientConnection) -> None:
        """Passes on what the node says, to its end, which it passes on, too."""
        try:
            while True:
                message = await node.recv(decode=False)
                await self._protocol.deliver(text_message(message))
        except ClientDisconnected:
            pass
        except ConnectionClosed:
            code = node.close_code
            is_lost = code in (None, _ABNORMAL, _NO_CODE)
            self._protocol.end(RESTARTING if is_lost or code is None else code, node.close_reason or "")

    async def end(self) -> None:
        """Ends the connection to the node, which then knows that the client has left."""
        if self._returning is not None and self._node is not None:
            self._returning.cancel()
            await asyncio.gather(self._returning, return_exceptions=True)
            await self._node.close()


def _headers_of(headers: Headers) -> list[tuple[str, str]]:
    kept = [each for each in traced(passed_on(headers)) if not each[0].startswith(_OF_THE_HANDSHAKE)]
    return [(key.decode("latin-1"), value.decode("latin-1")) for key, value in [*kept, VIA]]
