"""The router as an app: reads a request, decides which cell has to answer it, and passes it on.

Owns the decision, the probes' answers and the end of streams. Keeps nothing between requests except which
nodes can be reached.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import uvicorn
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from api.answer import Wire, wire_of
from api.cells.choice import by_key, in_turn
from api.cells.fleet import CellState, Fleet, Health
from api.cells.merging import Lists
from api.cells.naming import Named, cell_of_path, read_named
from api.cells.relay import SAFE, Passed, Relay, sent_of
from api.cells.sockets import SocketRelay
from api.cells.upstream import ROUTER, Sent
from api.door import SOCKET_PATH, Door
from api.errors import RETRY_AFTER, ClientError, StreamCut, node_ending, refuse
from api.held_bodies import Bodies
from api.http_protocol import make_protocol
from api.listing import read_wanted
from api.offload import Offload
from api.request_body import read_body
from api.server import configure, end_with
from api.socket_protocol import make_socket_protocol
from api.tenants import Tenants
from api.traced import Traced
from shared import metrics_listener, traces
from shared.ids import new_owner, new_request_id
from shared.settings import Settings

PROBED = ("/health", "/ready")
_LIST = "/v1/responses"
_WITH_IDS = frozenset(
    {
        *(_LIST, "/v1/responses/compact", "/v1/responses/input_tokens"),
        *("/v1/chat/completions", "/v1/conversations"),
    }
)
"""The paths whose bodies may name what a cell keeps."""
_CONSOLE = "/console/"
_PATH_IDS = {"responses": "response_id", "conversations": "conversation_id"}
"""What errors call the id in a path."""


class Router:
    """Routes requests. Also the state that `DrainingServer` ends (`api/server.py`)."""

    def __init__(
        self,
        settings: Settings,
        tenants: Tenants,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`chance`: of [0, 1)."""
        self.is_draining = False
        self.end_streams: Callable[[], None] = self._end_streams
        self.fleet = Fleet(settings)
        self._relay = Relay(self.fleet)
        self._lists = Lists(self.fleet, self._relay)
        self._settings = settings
        self._tenants = tenants
        self._chance = chance
        self.bodies = Bodies(settings.bodies_bytes_max)
        self._offload = Offload()
        self._wires: set[Wire] = set()
        self.sockets = SocketRelay(settings, self.fleet, self.bodies, self._read_message)

    def _end_streams(self) -> None:
        for wire in self._wires:
            wire.cut("the router is ending")
        self.sockets.end_all()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one HTTP request, or serves one WebSocket."""
        if scope["type"] == "websocket":
            await self._serve_socket(scope, receive, send)
            return
        request = Request(scope, receive)
        has_begun = False

        async def send_begun(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self._serve(request, send_begun)
        except ClientDisconnect:
            pass
        except ClientError as error:
            await refuse(error)(scope, receive, send)
        except StreamCut:
            if has_begun:
                raise
            await refuse(node_ending())(scope, receive, send)

    async def _serve_socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        websocket = WebSocket(scope, receive, send)
        try:
            if self.is_draining:
                raise node_ending()
            self._tenants.tenant_of(websocket.headers.get("authorization"))
            self.sockets.check_room()
        except ClientError as error:
            await websocket.send_denial_response(refuse(error))
            return
        await self.sockets.serve(scope, receive, send)

    async def _serve(self, request: Request, send: Send) -> None:
        match request.scope["path"]:
            case path if path == PROBED[0]:
                await JSONResponse({"status": "ok"})(request.scope, request.receive, send)
            case path if path == PROBED[1]:
                await self._readiness()(request.scope, request.receive, send)
            case _:
                tenant = self._tenants.tenant_of(request.headers.get("authorization"))
                with self.bodies.hold() as held:
                    body = await read_body(request, self._settings, held)
                    sent = sent_of(request, body)
                    sent.on_let_go = lambda: held.grow_to(0)
                    del body
                    wire = wire_of(request.scope)
                    if wire is None or not wire.is_lost:
                        await self._watched(wire, request, sent, tenant, send)

    async def _watched(
        self, wire: Wire | None, request: Request, sent: Sent, tenant: str, send: Send
    ) -> None:
        """Passes a request on; ends its part of the cell's work as soon as the client has left."""
        if wire is not None:
            self._wires.add(wire)
        try:
            with wire or nullcontext():
                answer = await self._answer(request, sent, tenant)
                await answer(request.scope, request.receive, send)
        finally:
            if wire is not None:
                self._wires.discard(wire)

    async def _answer(self, request: Request, sent: Sent, tenant: str) -> Response:
        path, method = request.scope["path"], request.method
        if path == _LIST and method in ("GET", "HEAD"):
            _, page = read_wanted(request.query_params.multi_items())
            return await self._lists.answer(sent, page)
        if path in _WITH_IDS and method == "POST":
            return await self._create(request, sent, tenant)
        if (path + "/").startswith(_CONSOLE):
            raise _no_console()
        cells = self.fleet.cells
        cell = cell_of_path(path, cells)
        if cell is not None and sent.body:
            await self._read(sent, cell, _PATH_IDS[path.split("/")[2]])
        asked = [cells[cell]] if cell is not None else self._any()
        return Passed(await self._relay.ask(asked, sent, is_repeatable=method in SAFE))

    async def _create(self, request: Request, sent: Sent, tenant: str) -> Response:
        """Passes a call on to the cell that has what it names, or else to one that takes new responses.

        One with an Idempotency-Key goes to the cell of its key and to no other: whether that has accepted an
        earlier call with the key, nobody else knows.
        """
        named = await self._read(sent)
        key = request.headers.get("idempotency-key") or None
        if named.cell is not None:
            asked = [self.fleet.cells[named.cell]]
        elif key is not None:
            weights = {name: cell.weight for name, cell in self.fleet.cells.items()}
            chosen = by_key(weights, f"{tenant} {key}")
            asked = [self.fleet.cells[chosen]] if chosen is not None else []
        else:
            asked = self._takers(named.hint)
        return Passed(await self._relay.ask(asked, sent, is_repeatable=key is not None))

    async def _read(self, sent: Sent, cell: str | None = None, origin: str = "") -> Named:
        body, values_max = sent.body, self._settings.json_values_max
        return await self._offload.run(
            len(body), lambda: read_named(body, self.fleet.cells, values_max, cell, origin)
        )

    async def _read_message(self, raw: bytes) -> tuple[Named, Sequence[CellState]]:
        """Reads a message of a WebSocket: it has the members of a body."""
        values_max = self._settings.json_values_max
        named = await self._offload.run(len(raw), lambda: read_named(raw, self.fleet.cells, values_max))
        asked = [self.fleet.cells[named.cell]] if named.cell is not None else self._takers(named.hint)
        return named, asked

    def _takers(self, hint: str | None) -> list[CellState]:
        """Returns the cells that take new responses, in the order in which they are asked."""
        weights = self.fleet.weights(Health.READY) or self.fleet.weights(Health.ANSWERING)
        order = in_turn(weights, self._chance)
        if hint in order:
            order.sort(key=lambda name: name != hint)
        return [self.fleet.cells[name] for name in order]

    def _any(self) -> list[CellState]:
        """Returns all cells, the best ones first: for what each answers alike."""
        return sorted(self.fleet.cells.values(), key=lambda cell: (cell.health, self._chance()))

    def _readiness(self) -> Response:
        cells = {
            name: {"ready": cell.count(Health.READY), "nodes": len(cell.nodes)}
            for name, cell in self.fleet.cells.items()
        }
        is_ready = bool(self.fleet.weights(Health.READY)) and not self.is_draining
        body = {"status": "ready" if is_ready else "not ready", "cells": cells}
        return JSONResponse(body) if is_ready else JSONResponse(body, 503, RETRY_AFTER)


class RouterEdge:
    """The router behind the door, with its lifespan, and with a name for each answer that has none."""

    def __init__(self, router: Router, settings: Settings, tenants: Tenants) -> None:
        self._router = router
        self._settings = settings
        self._tenants = tenants
        door = Door(router, settings, is_open=tenants.is_open)
        self._door: ASGIApp = Traced(door, _route_of) if traces.is_on() else door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("x-request-id", new_request_id())
                if self._router.is_draining:
                    headers["connection"] = "close"
            await send(message)

        if any(key == b"via" and ROUTER in value for key, value in scope["headers"]):
            await refuse(_in_a_circle())(scope, receive, send_named)
        else:
            await self._door(scope, receive, send_named)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        await self._router.fleet.probe_all()
        running = [asyncio.create_task(self._router.fleet.run(), name="prober")]
        running += [
            asyncio.create_task(service, name="metrics")
            for service in metrics_listener.services(
                self._settings, "router", new_owner("router", self._settings.place)
            )
        ]
        if self._tenants.is_in_file:
            running.append(asyncio.create_task(self._tenants.run(), name="reader of the tenants file"))
        for task in running:
            task.add_done_callback(end_with)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        self._router.fleet.close()
        await send({"type": "lifespan.shutdown.complete"})


def _route_of(scope: Scope) -> str | None:
    """Returns the path by which a span is called, with a name in place of an id; None for any other."""
    path: str = scope["path"]
    if path in _WITH_IDS:
        return path
    kind = next((kind for kind in _PATH_IDS if path.startswith(f"/v1/{kind}/")), None)
    return f"/v1/{kind}/{{{_PATH_IDS[kind]}}}" if kind is not None else None


def _no_console() -> ClientError:
    message = "Each cell has a console of its own, which its API nodes serve."
    return ClientError(404, message, "unknown_url")


def _in_a_circle() -> ClientError:
    message = "This request comes from a router: ANTIPHON_CELLS may name API nodes only."
    return ClientError(508, message, "router_loop")


def make_config(router: Router, settings: Settings, tenants: Tenants, host: str, port: int) -> uvicorn.Config:
    """Returns how a router is served."""
    return configure(
        RouterEdge(router, settings, tenants),
        settings,
        host,
        port,
        make_protocol(settings, PROBED, [SOCKET_PATH]),
        ws=make_socket_protocol(settings, router.bodies),
        ws_max_size=settings.body_bytes_max,
        ws_ping_interval=settings.socket_ping_s,
        ws_ping_timeout=settings.socket_ping_s,
        ws_per_message_deflate=False,
    )
