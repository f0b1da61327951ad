"""WebSockets through a router, in front of stand-ins for API nodes: one connection goes to one cell."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.http11 import Request, Response

from api.cells.app import Router
from local.ports import find_free
from shared.ids import new_response_id
from tests.cells import routing
from tests.patience import until
from tests.sockets import Socket

A, B = (new_response_id(cell) for cell in "ab")
LONG = "é" * 40_000


@dataclass
class SocketNode:
    """Answers each message with one that says who was asked what. A full node refuses connections."""

    name: str
    port: int
    is_full: bool = False
    connections: list[ServerConnection] = field(default_factory=list)

    def look(self, connection: ServerConnection, request: Request) -> Response | None:
        if request.path == "/ready":
            return connection.respond(HTTPStatus.OK, "{}")
        return connection.respond(HTTPStatus.TOO_MANY_REQUESTS, "") if self.is_full else None

    async def talk(self, connection: ServerConnection) -> None:
        self.connections.append(connection)
        async for message in connection:
            answer = {"cell": self.name, "asked": json.loads(message), "text": LONG}
            await connection.send(json.dumps(answer, ensure_ascii=False))

    @property
    def is_left(self) -> bool:
        return all(each.close_code is not None for each in self.connections)


@dataclass
class Two:
    a: SocketNode
    b: SocketNode
    router: Router
    client: httpx.AsyncClient

    @asynccontextmanager
    async def socket(self, **headers: str) -> AsyncIterator[Socket]:
        url = f"ws{str(self.client.base_url).removeprefix('http')}/v1/responses?x=1"
        async with connect(url, additional_headers=headers, proxy=None, max_size=None) as connection:
            yield Socket(connection)


@asynccontextmanager
async def two(
    configure: Callable[[SocketNode, SocketNode], None] = lambda a, b: None, **settings: Any
) -> AsyncIterator[Two]:
    a, b = (SocketNode(name, port) for name, port in zip("ab", find_free(2), strict=True))
    configure(a, b)
    async with (
        serve(a.talk, "127.0.0.1", a.port, process_request=a.look) as _,
        serve(b.talk, "127.0.0.1", b.port, process_request=b.look) as _,
        routing(
            {"a": [], "b": []},
            urls={each.name: [f"http://127.0.0.1:{each.port}"] for each in (a, b)},
            **settings,
        ) as (router, client),
    ):
        yield Two(a, b, router, client)


async def test_a_socket_goes_to_the_cell_of_its_first_message_and_stays_there() -> None:
    async with two() as cells, cells.socket(**{"antiphon-dialect": "vllm", "authorization": "Bearer k"}) as s:
        await s.create(previous_response_id=B)
        answer = await s.event()
        assert (answer["cell"], answer["asked"]["previous_response_id"]) == ("b", B)
        assert answer["text"] == LONG
        (connection,) = cells.b.connections
        assert connection.request is not None
        assert connection.request.path == "/v1/responses?x=1"
        assert connection.request.headers["authorization"] == "Bearer k"
        assert connection.request.headers["antiphon-dialect"] == "vllm"
        assert connection.request.headers["via"] == "1.1 antiphon-router"
        for _ in range(8):
            await s.create("more")
            assert (await s.event())["cell"] == "b"
        await s.create(previous_response_id=A, stream_id="lane")
        refused = await s.event()
        assert (refused["type"], refused["status"], refused["stream_id"]) == ("error", 400, "lane")
        assert refused["error"]["param"] == "previous_response_id"
        await s.create(previous_response_id=A, conversation="conv_b_" + "0" * 32)
        assert await s.refusal() == (400, "invalid_value")
        await s.create("and on")
        assert (await s.event())["cell"] == "b"
        assert (len(cells.a.connections), len(cells.b.connections)) == (0, 1)


async def test_a_socket_that_names_nothing_goes_to_a_cell_that_takes_it() -> None:
    def fill(a: SocketNode, b: SocketNode) -> None:
        a.is_full = True

    async with two(fill) as cells:
        for _ in range(4):
            async with cells.socket() as s:
                await s.create()
                assert (await s.event())["cell"] == "b"
        async with cells.socket() as s:
            await s.create(previous_response_id=A)
            refused = await s.event()
            assert (refused["status"], refused["error"]["code"]) == (503, "service_unavailable")
            assert refused["error"]["headers"]["retry-after"]
            await s.create(previous_response_id=B)  # the connection has no cell yet
            assert (await s.event())["cell"] == "b"


@pytest.mark.parametrize(("code", "shown"), [(1001, 1001), (None, 1012)])
async def test_the_end_of_a_nodes_connection_is_that_of_the_clients(code: int | None, shown: int) -> None:
    async with two() as cells, cells.socket() as s:
        await s.create(previous_response_id=A)
        await s.event()
        (connection,) = cells.a.connections
        if code is None:
            connection.transport.abort()
        else:
            await connection.close(code, "an hour is over")
        with pytest.raises(ConnectionClosed) as closed:
            await s.receive()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == shown


async def test_a_client_that_leaves_ends_the_connection_to_the_node() -> None:
    async with two() as cells, cells.socket() as s:
        await s.create(previous_response_id=A)
        await s.event()
        s.cut()
        await until(lambda: cells.a.is_left)


async def test_a_router_that_ends_closes_its_sockets_and_accepts_none() -> None:
    async with two() as cells, cells.socket() as s:
        await s.create(previous_response_id=A)
        await s.event()
        cells.router.is_draining = True
        cells.router.end_streams()
        with pytest.raises(ConnectionClosed) as closed:
            await s.receive()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
        await until(lambda: cells.a.is_left)
        with pytest.raises(InvalidStatus) as refused:
            await asyncio.create_task(open_one(cells))
        assert refused.value.response.status_code == 503


async def open_one(cells: Two) -> None:
    async with cells.socket():
        pass


async def test_a_router_has_so_many_sockets_and_messages_of_so_many_bytes() -> None:
    async with two(sockets_max=1, body_bytes_max=1_000) as cells, cells.socket() as s:
        await s.create()
        await s.event()
        with pytest.raises(InvalidStatus) as refused:
            await open_one(cells)
        assert refused.value.response.status_code == 429
        await s.create("x" * 2_000)
        with pytest.raises(ConnectionClosed) as closed:
            await s.receive()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009
