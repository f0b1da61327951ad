"""Stands in for the API nodes of cells, and runs a router in this process.

Owns no rule of routing. A node notes what it is asked, and answers as the test says, byte by byte.
"""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import uvicorn

from api.cells.app import Router, make_config
from api.tenants import Tenants
from shared.settings import Settings
from tests.patience import PATIENCE_S, until

READY = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
NOT_READY = b"HTTP/1.1 503 No\r\ncontent-length: 2\r\n\r\n{}"


@dataclass(frozen=True, slots=True)
class Asked:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    has_been_left: Callable[[], bool]
    """Returns True if the router has closed the connection."""

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Answering = Callable[[Asked, asyncio.StreamWriter], Awaitable[None]]


def answer_of(body: Any, status: int = 200, **headers: str) -> bytes:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {"content-type": "application/json", "content-length": str(len(raw))} | headers
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} Status\r\n{head}\r\n".encode() + raw


@dataclass
class FakeNode:
    """Answers with its name, unless the test sets `answering`. `asked`: all that came, probes aside."""

    name: str
    asked: list[Asked] = field(default_factory=list)
    readiness: bytes = READY
    answering: Answering | None = None
    port: int = 0
    _server: asyncio.Server | None = None
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stops listening, and resets all connections, as a killed node does."""
        if self._server is not None:
            self._server.close()
            self._server = None
            for writer in list(self._writers):
                writer.transport.abort()
            await until(lambda: not self._writers)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while asked := await self._read(reader):
                if asked.target == "/ready":
                    writer.write(self.readiness)
                else:
                    self.asked.append(asked)
                    await self._answer(asked, writer)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()
            self._writers.discard(writer)

    async def _answer(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        if self.answering is None:
            writer.write(answer_of({"cell": self.name}, x_cell=self.name))
            return
        await self.answering(asked, writer)

    async def _read(self, reader: asyncio.StreamReader) -> Asked | None:
        head = await reader.readuntil(b"\r\n\r\n")
        line, *lines = head.decode("latin-1").rstrip().split("\r\n")
        method, target, _ = line.split(" ")
        headers = {name.lower(): value for name, _, value in (each.partition(": ") for each in lines)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        return Asked(method, target, headers, body, reader.at_eof)


@asynccontextmanager
async def routing(
    cells: dict[str, list[FakeNode]],
    tenants: Tenants | None = None,
    weights: dict[str, float] | None = None,
    urls: dict[str, list[str]] | None = None,
    **settings: Any,
) -> AsyncIterator[tuple[Router, httpx.AsyncClient]]:
    """Runs nodes and a router that has probed them once, and does so again when the test says.

    `urls`: of nodes that the test runs itself.
    """
    for node in (node for nodes in cells.values() for node in nodes):
        await node.start()
    named = {
        name: {
            "nodes": (urls or {}).get(name) or [f"http://127.0.0.1:{node.port}" for node in nodes],
            "weight": (weights or {}).get(name, 1),
        }
        for name, nodes in cells.items()
    }
    chosen = Settings(cells=named, cell_probe_s=3_600, **settings)
    tenants = tenants or Tenants()
    router = Router(chosen, tenants)
    config = make_config(router, chosen, tenants, "127.0.0.1", 0)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        running = asyncio.create_task(server.serve([listening]))
        await until(lambda: server.started)
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        try:
            async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_S) as client:
                yield router, client
        finally:
            server.should_exit = True
            await running
            for node in (node for nodes in cells.values() for node in nodes):
                await node.stop()
