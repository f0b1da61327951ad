"""Opens connections to MCP servers over each transport: Streamable HTTP, HTTP with SSE, and stdio.

Owns how a session is begun, continued and ended on the wire, and how much of an answer is read at all.
`mcp_client.py` uses the connections, `mcp_sessions.py` decides which one a call uses. Only `mcp_client.py`,
`stdio_transport.py` and this module import the MCP client.
"""

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import anyio
import httpx2
import msgspec
from mcp import Client, ClientSession, types
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.jsonrpc_dispatcher import JSONRPCDispatcher
from mcp.shared.message import SessionMessage
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, MODERN_PROTOCOL_VERSIONS

from shared.egress import NotAllowed
from shared.responses import HttpError, McpProtocolError
from tool_runner.answers import INTERNAL_ERROR, INVALID_PARAMS
from tool_runner.bounded_answers import ANSWER_BYTES_MAX, BoundedBody, JudgedBody, bound
from tool_runner.endpoint_event import Listening
from tool_runner.http_pool import HttpPools, pass_on_trace
from tool_runner.mcp_client import (
    NO_ANSWER,
    SESSION_HEADER,
    Connection,
    LastStatus,
    ServerFailed,
    as_server_failures,
    read_refusal,
)
from tool_runner.passages import IncomingPassage, JoinedPassage
from tool_runner.servers import HttpServer, StdioServer
from tool_runner.stdio_transport import run_stdio
from tool_runner.unjudged import Unjudged

_CONNECT_TIMEOUT_S = 10.0
"""For connecting to one address of a server that a request names."""
SSE_VERSION = HANDSHAKE_PROTOCOL_VERSIONS[0]
"""The version of MCP that has HTTP with SSE; what is negotiated over it concerns the connection alone."""
UNSUPPORTED_VERSION = types.UNSUPPORTED_PROTOCOL_VERSION
_SESSION_ENDS = (HTTPStatus.NOT_FOUND, HTTPStatus.GONE)
"""The answers to a message by which servers over HTTP with SSE say that they have no such session. Others say
it in the text of a 400."""
_REFUSAL_S = 5.0
_REFUSAL_CHARS_MAX = 200
"""How long the text of a refusal is waited for, and what is told of it."""
_VERSION_HEADER = "mcp-protocol-version"
_SESSION_ID = re.compile(r"[\x21-\x7e]{0,1024}")
_ID_MAX = 2**52
"""Request ids are numbers that every JSON library reads exactly."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A connection on which a session has begun. `session_id`: empty if the server keeps no session."""

    connection: Connection
    version: str
    session_id: str

    @property
    def has_handshake(self) -> bool:
        return self.version in HANDSHAKE_PROTOCOL_VERSIONS


def is_known(version: str) -> bool:
    """Returns False for a version of MCP that only a newer tool runner speaks."""
    return version in HANDSHAKE_PROTOCOL_VERSIONS or version in MODERN_PROTOCOL_VERSIONS


@asynccontextmanager
async def begin_http(
    pools: HttpPools, server: HttpServer, timeout_s: float, status: LastStatus, *, has_handshake: bool
) -> AsyncIterator[Begun]:
    """Begins a session over Streamable HTTP, in the newest version that both sides speak. Raises
    ServerFailed.

    `timeout_s` bounds each single read and write; `status` records the status of each answer.
    `has_handshake`: the server is known to speak no version without a handshake, so it is not asked.
    """
    with as_server_failures(status):
        async with _open_client(pools, server, {}, timeout_s, status) as http:
            mode = "legacy" if has_handshake else "auto"
            async with Client(_unjudged(_streamable(server, http), status), cache=None, mode=mode) as client:
                if not _SESSION_ID.fullmatch(status.session_id):
                    message = "the id of the server's session is not what MCP allows"
                    raise ServerFailed(McpProtocolError(INTERNAL_ERROR, message))
                yield Begun(Connection(client.session, status), client.protocol_version, status.session_id)


@asynccontextmanager
async def continue_http(
    pools: HttpPools,
    server: HttpServer,
    timeout_s: float,
    status: LastStatus,
    version: str,
    session_id: str,
) -> AsyncIterator[Connection]:
    """Continues a session, which any process can do; sends nothing by itself. Raises ServerFailed."""
    headers = {SESSION_HEADER: session_id} if session_id else {}
    with as_server_failures(status):
        async with (
            _open_client(pools, server, headers, timeout_s, status) as http,
            _unjudged(_streamable(server, http), status) as (read, write),
            ClientSession(dispatcher=_Dispatcher(read, write)) as session,
        ):
            session.adopt(_agreed(version))
            yield Connection(session, status)


async def end_http(
    pools: HttpPools, server: HttpServer, timeout_s: float, status: LastStatus, version: str, session_id: str
) -> None:
    """Tells the server that a session is over. Raises ServerFailed."""
    headers = {SESSION_HEADER: session_id, _VERSION_HEADER: version}
    with as_server_failures(status):
        async with (
            _open_client(pools, server, headers, timeout_s, status) as http,
            http.stream("DELETE", server.url),
        ):
            pass


def _streamable(server: HttpServer, http: httpx2.AsyncClient) -> AbstractAsyncContextManager[Any]:
    """The session outlives the connection: it is not the SDK that ends it."""
    return streamable_http_client(
        server.url, http_client=http, terminate_on_close=False, max_sse_event_size=ANSWER_BYTES_MAX
    )


@asynccontextmanager
async def _unjudged(
    transport: AbstractAsyncContextManager[Any], status: LastStatus
) -> AsyncIterator[tuple[Any, Any]]:
    async with transport as (read, write, *_):
        streams = Unjudged(read, write, status.note_change)
        yield streams.incoming, streams.outgoing


class _Dispatcher(JSONRPCDispatcher[Any]):
    """Numbers requests at random: other processes number theirs within the same session."""

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: Any = None, **more: Any
    ) -> dict[str, Any]:
        numbered = {"request_id": secrets.randbelow(_ID_MAX), **(opts or {})}
        return await super().send_raw_request(method, params, numbered, **more)  # type: ignore[arg-type]


def _agreed(version: str) -> types.InitializeResult | types.DiscoverResult:
    """Returns what a server would answer that has agreed to a version."""
    capabilities = types.ServerCapabilities()
    if version in MODERN_PROTOCOL_VERSIONS:
        return types.DiscoverResult(
            supported_versions=[version],
            capabilities=capabilities,
            result_type="complete",
            ttl_ms=0,
            cache_scope="public",
        )
    name = types.Implementation(name="", version="")
    return types.InitializeResult(protocol_version=version, capabilities=capabilities, server_info=name)


@asynccontextmanager
async def open_sse(
    pools: HttpPools, server: HttpServer, timeout_s: float, listening: Listening, has_ended: asyncio.Event
) -> AsyncIterator[Connection]:
    """Opens a session over HTTP with SSE (MCP 2024-11-05), which lasts as long as the connection.

    `listening`: its stream, not begun yet. Sets `has_ended` if the server ends it, or no longer accepts
    messages. Raises ServerFailed.
    """
    status, incoming = LastStatus(), _Received()

    def make_client(headers: Any = None, timeout: Any = None, auth: Any = None) -> Any:
        return _open_client(pools, server, {}, timeout_s, status, (listening, incoming))

    streams = incoming.joined(sse_client(server.url, httpx_client_factory=make_client))
    with as_server_failures(status):
        async with Client(
            _unjudged(_watched(streams, has_ended), status), cache=None, mode="legacy"
        ) as client:
            yield Connection(client.session, status)


@asynccontextmanager
async def open_stdio(server: StdioServer, has_ended: asyncio.Event) -> AsyncIterator[Connection]:
    """Starts a process, which ends with the context. Sets `has_ended` if it ends, or closes its output,
    earlier.

    Raises ServerFailed.
    """
    status = LastStatus()
    with as_server_failures(status):
        async with Client(
            _unjudged(_watched(run_stdio(server.command, server.args, dict(server.env)), has_ended), status),
            cache=None,
        ) as client:
            yield Connection(client.session, status)


@asynccontextmanager
async def _open_client(
    pools: HttpPools,
    server: HttpServer,
    headers: Mapping[str, str],
    timeout_s: float,
    status: LastStatus,
    live: "tuple[Listening, _Received] | None" = None,
) -> AsyncIterator[httpx2.AsyncClient]:
    """Opens an HTTP client for one server. Raises ServerFailed if its URL is not allowed.

    `live`: given for HTTP with SSE only, where one answer lasts as long as the session; that answer, and what
    comes in it.
    """
    try:
        pools.check(server)
    except NotAllowed as refused:
        raise ServerFailed(McpProtocolError(INVALID_PARAMS, f"server_url: {refused}")) from None
    except httpx2.InvalidURL:
        message = "server_url must be an http or https URL"
        raise ServerFailed(McpProtocolError(INVALID_PARAMS, message)) from None
    connect_s = min(timeout_s, _CONNECT_TIMEOUT_S) if server.is_of_request else timeout_s
    read_s = timeout_s if live is None else None
    async with httpx2.AsyncClient(
        # "identity": a small answer must not unpack to a huge one
        headers={**server.headers, "accept-encoding": "identity", **headers},
        timeout=httpx2.Timeout(timeout_s, connect=connect_s, read=read_s),
        transport=_LiveWay(pools.way_to(server), *live) if live else _BoundedWay(pools.way_to(server)),
        cookies=status.cookies,
        trust_env=False,
        max_redirects=0,  # the way follows them
        event_hooks={"request": [] if live else [pass_on_trace], "response": [status.note]},
    ) as client:
        yield client


class _BoundedWay(httpx2.AsyncBaseTransport):
    """Limits what is read of each answer, and refuses to listen for messages that answer no request."""

    def __init__(self, way: httpx2.AsyncBaseTransport) -> None:
        self._way = way

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if request.method == "GET" and "last-event-id" not in request.headers:
            return httpx2.Response(405, request=request)
        return bound(await self._way.handle_async_request(request))

    async def aclose(self) -> None:
        await self._way.aclose()


class _LiveWay(httpx2.AsyncBaseTransport):
    """Limits what is read of each message of a stream that lasts. Answers in the server's place where it
    refuses a message: the SDK waits for an answer on the stream, whatever becomes of the message."""

    def __init__(self, way: httpx2.AsyncBaseTransport, listening: Listening, incoming: "_Received") -> None:
        self._way = way
        self._listening, self._incoming = listening, incoming
        self._stream: BoundedBody | None = None

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if request.method == "GET":
            return await self._listen(request)
        if self._stream is not None:
            self._stream.renew()
        try:
            response = bound(await self._way.handle_async_request(request))
        except (httpx2.HTTPError, OSError):
            self._incoming.refuse(request.content, NO_ANSWER, is_end=True)
            return httpx2.Response(HTTPStatus.ACCEPTED, request=request)
        if response.status_code < HTTPStatus.MULTIPLE_CHOICES:
            return response
        refusal, is_end = read_refusal(response), response.status_code in _SESSION_ENDS
        if response.status_code == HTTPStatus.BAD_REQUEST:
            said = await _text_of_refusal(response)
            is_end = said is None or "session" in said.lower()
            refusal = HttpError(refusal.code, f"{refusal.message}: {said}") if said else refusal
        self._incoming.refuse(request.content, refusal, is_end=is_end)
        await response.aclose()
        return httpx2.Response(HTTPStatus.ACCEPTED, request=request)

    async def _listen(self, request: httpx2.Request) -> httpx2.Response:
        response = bound(await self._listening.begin(self._way, request))
        assert isinstance(response.stream, BoundedBody)
        self._stream = response.stream
        if self._listening.is_open:
            response.stream = JudgedBody(self._listening.read(self._stream), self._stream)
        return response

    async def aclose(self) -> None:
        await self._way.aclose()


async def _text_of_refusal(response: httpx2.Response) -> str | None:
    """Returns the beginning of what a 400 says, which may be that there is no such session; None if it does
    not come in time."""
    try:
        async with asyncio.timeout(_REFUSAL_S):
            said = (await response.aread())[:_REFUSAL_CHARS_MAX].decode("utf-8", "replace")
    except (TimeoutError, httpx2.HTTPError, httpx2.StreamError, OSError):
        return None
    return "".join(character if character.isprintable() else " " for character in said).strip()


class _Received:
    """What comes over HTTP with SSE, once its stream is open: the server's messages and its refusals."""

    def __init__(self) -> None:
        self._joined: JoinedPassage | None = None

    @asynccontextmanager
    async def joined(self, streams: AbstractAsyncContextManager[Any]) -> AsyncIterator[tuple[Any, Any]]:
        async with streams as (read, write):
            self._joined = JoinedPassage(read)
            yield self._joined, write

    def refuse(self, message: bytes, error: HttpError, *, is_end: bool) -> None:
        """Answers a message that the server has not taken, and ends the stream behind it if `is_end`."""
        assert self._joined is not None  # nothing is sent before
        sent = msgspec.json.decode(message)
        if "method" in sent and "id" in sent:
            told = types.ErrorData(code=INTERNAL_ERROR, message=error.message, data=error)
            self._joined.add(SessionMessage(types.JSONRPCError(jsonrpc="2.0", id=sent["id"], error=told)))
        if is_end:
            self._joined.end()


@asynccontextmanager
async def _watched(
    streams: AbstractAsyncContextManager[Any], has_ended: asyncio.Event
) -> AsyncIterator[tuple["_WatchedStream", Any]]:
    async with streams as (read, write):
        yield _WatchedStream(read, has_ended), write


class _WatchedStream(IncomingPassage):
    """Sets `has_ended` when there will be no more messages."""

    def __init__(self, stream: Any, has_ended: asyncio.Event) -> None:
        super().__init__(stream)
        self._has_ended = has_ended

    async def receive(self) -> Any:
        try:
            return await super().receive()
        except (anyio.EndOfStream, anyio.ClosedResourceError):
            self._has_ended.set()
            raise
