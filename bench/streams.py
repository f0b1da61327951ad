"""A cheap client: sends one request, passes on the bytes of the body, counts events.

Parses no event.
"""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httptools

_READ_BYTES = 65_536


class Refused(Exception):
    """The API answered something other than 200."""


class _Body:
    """Callbacks of the parser."""

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.is_complete = False

    def on_body(self, chunk: bytes) -> None:
        self.chunks.append(chunk)

    def on_message_complete(self) -> None:
        self.is_complete = True

    def take(self) -> bytes:
        taken = b"".join(self.chunks)
        self.chunks.clear()
        return taken


class Connection:
    """Sends one request over a connection of its own."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> AsyncIterator[bytes]:
        """Yields the bytes of the answer's body as they arrive. Raises Refused, ConnectionError."""
        raw = json.dumps(body).encode() if body is not None else b""
        head = (
            f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer bench\r\n"
            f"content-type: application/json\r\ncontent-length: {len(raw)}\r\n\r\n"
        )
        self._writer.write(head.encode() + raw)
        answer = _Body()
        parser = httptools.HttpResponseParser(answer)
        while not answer.is_complete:
            received = await self._reader.read(_READ_BYTES)
            if not received:
                raise ConnectionError("the stream broke off")
            parser.feed_data(received)
            if parser.get_status_code() != 200:
                raise Refused(received.decode(errors="replace"))
            if taken := answer.take():
                yield taken


@asynccontextmanager
async def connect(port: int, *, receive_buffer_bytes: int | None = None) -> AsyncIterator[Connection]:
    """Opens a connection. With `receive_buffer_bytes`, it receives little more than is read from it."""
    connection = socket.socket()
    if receive_buffer_bytes is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", port))
    limit = receive_buffer_bytes or _READ_BYTES
    reader, writer = await asyncio.open_connection(sock=connection, limit=limit)
    try:
        yield Connection(reader, writer)
    finally:
        writer.close()


class Count:
    """Counts events, each of which has one `id:` line, unlike keep-alive comments."""

    _MARK = b"\nid: "

    def __init__(self) -> None:
        self.events = 0
        self._last = b""

    def add(self, chunk: bytes) -> None:
        self.events += (self._last + chunk).count(self._MARK)
        self._last = (self._last + chunk)[1 - len(self._MARK) :]


async def create(port: int, text: str, **more: Any) -> str:
    """Starts a response in the background; returns its id."""
    body = {"model": "default", "input": text, "background": True} | more
    async with connect(port) as connection:
        answer = b"".join([chunk async for chunk in connection.ask("POST", "/v1/responses", body)])
    return str(json.loads(answer)["id"])


async def follow(port: int, response_id: str, count: Count) -> float:
    """Reads all events of a response to its end; returns the time of that, by the performance counter."""
    async with connect(port) as connection:
        async for chunk in connection.ask("GET", f"/v1/responses/{response_id}?stream=true"):
            count.add(chunk)
    return time.perf_counter()
