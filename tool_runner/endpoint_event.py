"""Reads where a server over HTTP with SSE wants its messages: the `endpoint` event that begins its stream.

Owns what such a beginning must be and how long it may take. `mcp_transports.py` opens the stream; the MCP
client reads the event too, but waits for ever where it refuses it.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from urllib.parse import urljoin, urlsplit

import httpx2

from shared.responses import McpProtocolError
from tool_runner.answers import INTERNAL_ERROR
from tool_runner.mcp_client import ServerFailed

_CONTENT_TYPE = "text/event-stream"
_OTHER_TYPES = frozenset({"text/html", "text/plain", "application/json"})
"""Those that are named; nothing that a server writes is repeated, for it may be a secret that it was sent."""
_BEGINNING_BYTES_MAX = 64 * 1024
_LINE_END = re.compile(rb"\r\n|\r|\n")
_PARTS = ("scheme", "host", "port")
_BROKEN = (httpx2.NetworkError, httpx2.ProtocolError)


class NoEndpoint(ServerFailed, httpx2.SSEError):
    """A stream does not begin with an `endpoint` event that can be used; the message says what it does.

    Has two bases because the SDK passes on one, and `mcp_client.py` the other, as it is.
    """

    def __init__(self, said: str) -> None:
        ServerFailed.__init__(
            self, McpProtocolError(INTERNAL_ERROR, f"over HTTP with SSE, the server {said}")
        )


class Listening:
    """One stream of a server's messages: `is_open` once it has begun as such a stream begins."""

    def __init__(self, url: str, wait_s: float) -> None:
        self._url = url
        self._wait_s = wait_s
        self._deadline_s = 0.0
        self.is_open = False

    async def begin(self, way: httpx2.AsyncBaseTransport, request: httpx2.Request) -> httpx2.Response:
        """Sends the GET. Raises NoEndpoint if it is answered by another kind of content, or not in time."""
        self._deadline_s = asyncio.get_running_loop().time() + self._wait_s
        try:
            async with asyncio.timeout_at(self._deadline_s):
                response = await way.handle_async_request(request)
        except TimeoutError:
            raise NoEndpoint(f"did not answer GET within {self._wait_s:g} s") from None
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if response.is_success and kind != _CONTENT_TYPE:
            await response.aclose()
            shown = kind if kind in _OTHER_TYPES else "another type"
            raise NoEndpoint(f"answered GET with content of {shown}, not {_CONTENT_TYPE}")
        self.is_open = response.is_success
        return response

    async def read(self, body: httpx2.AsyncByteStream) -> AsyncIterator[bytes]:
        """Yields the stream, from its `endpoint` event on. Raises NoEndpoint."""
        chunks, beginning = aiter(body), _Beginning(self._url)
        while not beginning.has_endpoint:
            try:
                async with asyncio.timeout_at(self._deadline_s):
                    beginning.add(await anext(chunks))
            except (StopAsyncIteration, *_BROKEN):
                raise NoEndpoint("ended its stream before an `endpoint` event") from None
            except TimeoutError:
                raise NoEndpoint(f"sent no `endpoint` event within {self._wait_s:g} s") from None
        yield bytes(beginning.held)
        async for chunk in chunks:
            yield chunk


class _Beginning:
    """The bytes of a stream up to its `endpoint` event, held back until that is known to be one."""

    def __init__(self, url: str) -> None:
        self.held = bytearray()
        self.has_endpoint = False
        self._url = url
        self._line_at = self._read_to = 0
        self._event, self._data = "", list[str]()

    def add(self, chunk: bytes) -> None:
        self.held += chunk
        while not self.has_endpoint and (end := _LINE_END.search(self.held, self._read_to)):
            if end.end() == len(self.held) and end[0] == b"\r":
                break  # a line feed may follow, which belongs to it
            line = self.held[self._line_at : end.start()].decode("utf-8", "replace")
            self._line_at = self._read_to = end.end()
            self._read_line(line)
        if not self.has_endpoint:
            self._read_to = max(self._line_at, len(self.held) - 1)
            if len(self.held) > _BEGINNING_BYTES_MAX:
                raise NoEndpoint(f"sent {_BEGINNING_BYTES_MAX} bytes without an `endpoint` event")

    def _read_line(self, line: str) -> None:
        name, _, value = line.partition(":")
        match name:
            case "event":
                self._event = value.removeprefix(" ")
            case "data":
                self._data.append(value.removeprefix(" "))
            case "" if not line:
                self._read_event(self._event or "message", "\n".join(self._data))
                self._event, self._data = "", []

    def _read_event(self, event: str, data: str) -> None:
        if event == "endpoint":
            if (fault := find_fault(self._url, data)) is not None:
                raise NoEndpoint(fault)
            self.has_endpoint = True
        elif event == "message" and data:
            raise NoEndpoint("sent a message before an `endpoint` event")


def find_fault(url: str, endpoint: str) -> str | None:
    """Returns what is wrong with the `endpoint` that the server at `url` names, or None."""
    if not endpoint.strip():
        return "names no URL in its `endpoint` event"
    try:
        joined = urljoin(url, endpoint)
        named, own = urlsplit(joined), urlsplit(url)
        httpx2.URL(joined)
        parts = [(named.scheme, own.scheme), (named.hostname, own.hostname), (named.port, own.port)]
    except (ValueError, httpx2.InvalidURL):
        return "names no URL in its `endpoint` event"
    if (named.scheme, named.netloc) == (own.scheme, own.netloc):
        return None
    others = [part for part, (its, ours) in zip(_PARTS, parts, strict=True) if its != ours] or ["user"]
    return f"leads to another origin in its `endpoint` event (another {', '.join(others)})"
