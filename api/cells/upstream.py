"""Speaks HTTP/1.1 to the API nodes of cells: sends a request, and reads the answer as it comes.

Owns connections, and what is known of a request that failed: whether a node can have read it. Which node is
asked, and what a failure means for the client, others decide.
"""

import asyncio
import errno
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httptools

from shared.logs import words_of

Headers = Sequence[tuple[bytes, bytes]]

_READ_BYTES = 64 * 1024
_IDLE_MAX = 64
_IDLE_S = 30.0
"""Less than the nodes' own 75 s, so that no request meets a connection that is being closed."""
_HEAD_BYTES_MAX = 64 * 1024
ROUTER = b"antiphon-router"
"""What a router calls itself in `Via`, by which it finds out that a node of its cells is a router."""
VIA = (b"via", b"1.1 " + ROUTER)


_OWN_LIMITS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})
"""What this machine has run out of; such an error says nothing about the other one."""
_CONNECT_PARTS = 4


class Unreached(Exception):
    """No node has read this request, because there was no connection.

    `is_nodes_fault`: False if this process could not even try. `is_silent`: nothing has answered at all.
    """

    def __init__(self, message: str, *, is_nodes_fault: bool = True, is_silent: bool = False) -> None:
        super().__init__(message)
        self.is_nodes_fault = is_nodes_fault
        self.is_silent = is_silent


class Broken(Exception):
    """The connection ended before the answer did. The request may have been read, and done."""


@dataclass(slots=True)
class Sent:
    """A request as it goes to a node. `headers` are without those that concern one connection."""

    method: bytes
    target: bytes
    headers: Headers
    body: bytes = b""
    on_let_go: Callable[[], None] = lambda: None

    def let_go(self) -> None:
        """Forgets the body, which is not needed again."""
        self.body = b""
        self.on_let_go()

    def head(self) -> bytes:
        lines = [b"%b %b HTTP/1.1" % (self.method, self.target)]
        lines += [b"%b: %b" % header for header in self.headers]
        lines.append(b"%b: %b" % VIA)
        if self.body or self.method in (b"POST", b"PUT", b"PATCH"):
            lines.append(b"content-length: %d" % len(self.body))
        return b"\r\n".join(lines) + b"\r\n\r\n"


@dataclass
class _Parsed:
    """What the parser has found of an answer so far."""

    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: list[bytes] = field(default_factory=list)
    has_head: bool = False
    is_complete: bool = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.has_head:  # otherwise it is a trailer
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.has_head = True

    def on_body(self, body: bytes) -> None:
        self.body.append(body)

    def on_message_complete(self) -> None:
        self.is_complete = True


class CellConnection:
    """One connection to a node, which has one answer at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.idle_since_s = 0.0
        self.heard_s = time.monotonic()
        """When the node last sent something, or was sent something."""

    @property
    def is_usable(self) -> bool:
        return not (self._reader.at_eof() or self._writer.is_closing())

    async def write(self, *parts: bytes) -> None:
        self.heard_s = time.monotonic()
        self._writer.writelines(parts)
        await self._writer.drain()

    async def read(self) -> bytes:
        data = await self._reader.read(_READ_BYTES)
        self.heard_s = time.monotonic()
        return data

    def close(self) -> None:
        self._writer.transport.abort()


class CellAnswer:
    """The answer of a node: its head, and its body as it comes. Must be closed."""

    def __init__(self, connection: CellConnection, upstream: "Upstream", *, is_head: bool) -> None:
        self._connection = connection
        self._upstream = upstream
        self._is_head = is_head
        self._parsed = _Parsed()
        self._parser = httptools.HttpResponseParser(self._parsed)
        self._is_closed = False

    @property
    def status(self) -> int:
        return self._parser.get_status_code()

    @property
    def headers(self) -> Headers:
        return self._parsed.headers

    def header(self, name: bytes) -> bytes:
        return next((value for key, value in self.headers if key == name), b"")

    async def read_head(self) -> None:
        """Waits for the head of the answer, and closes the answer if none comes. Raises Broken."""
        try:
            size_bytes = 0
            while not self._parsed.has_head:
                size_bytes += await self._read()
                if size_bytes > _HEAD_BYTES_MAX and not self._parsed.has_head:
                    raise Broken("the head of the answer is too large")
        except BaseException:
            self.close()
            raise
        if self._is_head:
            self._parsed.is_complete = True

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yields the body. Raises Broken if it ends too early."""
        while True:
            if found := self._parsed.body:
                self._parsed.body = []
                yield found[0] if len(found) == 1 else b"".join(found)
            elif self._parsed.is_complete:
                return
            else:
                await self._read()

    async def read_whole(self, bytes_max: int) -> bytes:
        """Returns the whole body. Raises Broken, also if it is too large."""
        chunks: list[bytes] = []
        size_bytes = 0
        async for chunk in self.chunks():
            size_bytes += len(chunk)
            if size_bytes > bytes_max:
                raise Broken("the answer is too large")
            chunks.append(chunk)
        return b"".join(chunks)

    async def _read(self) -> int:
        try:
            data = await self._connection.read()
            if not data:
                raise Broken("the connection was closed")
            self._parser.feed_data(data)
        except (OSError, httptools.HttpParserError) as error:
            raise Broken(words_of(error)) from error
        return len(data)

    def close(self) -> None:
        """Keeps the connection for further requests if the answer has been read; ends it if not."""
        if self._is_closed:
            return
        self._is_closed = True
        self._upstream.in_use.discard(self._connection)
        is_reusable = self._parsed.is_complete and not self._is_head and self._parser.should_keep_alive()
        if is_reusable and self._connection.is_usable:
            self._upstream.keep(self._connection)
        else:
            self._connection.close()


class Upstream:
    """The connections to one node."""

    def __init__(self, url: str, connect_timeout_s: float, send_timeout_s: float) -> None:
        """`url`: `http://host:port` or `https://host:port`, without a path."""
        parts = urlsplit(url)
        assert parts.hostname is not None
        self._host = parts.hostname
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._tls else 80)
        self._connect_timeout_s = connect_timeout_s
        self._send_timeout_s = send_timeout_s
        self._idle: deque[CellConnection] = deque()
        self.in_use = set[CellConnection]()
        """The connections whose answers have been begun, and not been closed."""

    async def send(self, sent: Sent) -> CellAnswer:
        """Sends a request; returns its answer, whose head is yet to be read. Raises Unreached, Broken."""
        connection = self._take() or await self._connect()
        try:
            async with asyncio.timeout(self._send_timeout_s):
                await connection.write(sent.head(), sent.body)
        except (OSError, TimeoutError) as error:
            connection.close()
            raise Broken(words_of(error)) from error
        except BaseException:
            connection.close()
            raise
        self.in_use.add(connection)
        return CellAnswer(connection, self, is_head=sent.method == b"HEAD")

    def abandon(self, since_s: float) -> int:
        """Ends the connections on which nothing has come since then (`time.monotonic`), so that who waits
        there for an answer learns that none comes. Returns their number."""
        silent = [connection for connection in self.in_use if connection.heard_s < since_s]
        for connection in silent:
            connection.close()
        return len(silent)

    def _take(self) -> CellConnection | None:
        """Returns the connection that was used last, if there is one that can be used."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_usable and time.monotonic() - connection.idle_since_s < _IDLE_S:
                return connection
            connection.close()
        return None

    async def _connect(self) -> CellConnection:
        """The time is waited for in parts: if this process itself was busy for longer than one, it reads what
        has come in the meantime before the next is over."""
        opening = asyncio.create_task(
            asyncio.open_connection(self._host, self._port, ssl=self._tls, limit=_READ_BYTES)
        )
        try:
            for _ in range(_CONNECT_PARTS):
                await asyncio.wait({opening}, timeout=self._connect_timeout_s / _CONNECT_PARTS)
                if opening.done():
                    return CellConnection(*opening.result())
        except OSError as error:
            is_ours = error.errno in _OWN_LIMITS
            raise Unreached(f"{self._host}:{self._port}: {error}", is_nodes_fault=not is_ours) from error
        except asyncio.CancelledError:
            _give_up(opening)
            raise
        _give_up(opening)
        raise Unreached(f"{self._host}:{self._port}: no connection in time", is_silent=True)

    def keep(self, connection: CellConnection) -> None:
        connection.idle_since_s = time.monotonic()
        self._idle.append(connection)
        if len(self._idle) > _IDLE_MAX:
            self._idle.popleft().close()

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()


def _give_up(opening: "asyncio.Task[tuple[asyncio.StreamReader, asyncio.StreamWriter]]") -> None:
    """Ends an attempt to connect, and the connection if there is one by then."""
    opening.cancel()
    opening.add_done_callback(_close_opened)


def _close_opened(opening: "asyncio.Task[tuple[asyncio.StreamReader, asyncio.StreamWriter]]") -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result()[1].transport.abort()
