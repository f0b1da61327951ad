"""Connects to MCP servers, lists their tools and calls them. The only importer of the MCP client.

Owns the transports, what their failures mean, and how much of an answer is read at all. `servers.py` chooses
the server, `run_tool.py` owns the other limits.
"""

import asyncio
import functools
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, contextmanager
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self

import anyio
import httpx2
from mcp import Client, MCPError, StdioServerParameters, stdio_client, types
from mcp.client.streamable_http import streamable_http_client
from pydantic import ValidationError

from shared.responses import HttpError, McpProtocolError, McpTool
from tool_runner.answers import CONNECTION_CLOSED, INTERNAL_ERROR, INVALID_PARAMS, Answer, make_encodable
from tool_runner.egress import Egress, GuardedTransport, NotAllowed
from tool_runner.listed_tools import Listing
from tool_runner.servers import HttpServer, StdioServer
from tool_runner.unjudged import Unjudged, left_out_of, result_of
from tool_runner.value_count import ANSWER_VALUES_MAX, ValueCount

ANSWER_BYTES_MAX = 16 * 2**20
"""The most that is read of one HTTP answer; a longer one is refused, not cut."""
_PAGES_MAX = 100
_CONNECT_TIMEOUT_S = 10.0
"""For connecting to one address of a server that a request names."""

_STAND_INS = frozenset({"Server returned an error response", "Not Found", "Session terminated"})
"""Messages by which the SDK replaces HTTP errors, without their status."""


NO_ANSWER = HttpError(0, "no answer from the server")
"""The error for every server that cannot be reached: a client that may call any address must not learn from
the error which ones refuse, are silent, are closed or are not allowed."""


class ServerFailed(Exception):
    """A server could not be reached, or answered with an error; `error` is what the client may know of it."""

    def __init__(self, error: HttpError | McpProtocolError, cause: str = "") -> None:
        super().__init__(error.message)
        self.error = error
        self.cause = cause
        """More detail, for the operator's log."""


class Connection:
    """An open connection to one server, for any number of calls at a time. Its methods raise ServerFailed.

    Cancelling a call cancels it on the server.
    """

    def __init__(self, client: Client, status: "LastStatus") -> None:
        self._client = client
        self._status = status

    async def call(self, name: str, arguments: dict[str, Any], meta: Mapping[str, Any]) -> Answer:
        """Calls a tool. `meta`: sent as `_meta`."""
        request = types.CallToolRequest(
            params=types.CallToolRequestParams(name=name, arguments=arguments, _meta=dict(meta) or None)
        )
        with _as_server_failures(self._status):
            try:
                result = await self._client.session.send_request(request, types.CallToolResult)
            except MCPError as error:
                if error.code != types.HEADER_MISMATCH:
                    raise
                async for _ in self._pages():
                    pass  # the client learns from them which arguments are sent as headers
                result = await self._client.session.send_request(request, types.CallToolResult)
        answer = result_of(result.meta)
        if answer.get("resultType") == "input_required":
            raise ServerFailed(McpProtocolError(INTERNAL_ERROR, "the tool asks for input from a person"))
        return Answer.read(answer)

    async def list_tools(self, listing: Listing) -> None:
        """Adds the server's tools to the listing, without the pages after the one that fills it."""
        with _as_server_failures(self._status):
            async with aclosing(self._pages()) as pages:
                async for page in pages:
                    left_out, size = left_out_of(page.meta)
                    listing.add(map(_read_tool, page.tools), left_out, size)
                    if listing.is_full:
                        break

    async def _pages(self) -> AsyncGenerator[types.ListToolsResult, None]:
        cursor: str | None = None
        for _ in range(_PAGES_MAX):
            page = await self._client.list_tools(cursor=cursor)
            yield page
            cursor = page.next_cursor
            if not cursor:
                return
        raise ServerFailed(McpProtocolError(INTERNAL_ERROR, f"its tools take over {_PAGES_MAX} pages"))


def _read_tool(tool: types.Tool) -> McpTool:
    return McpTool(
        name=tool.name,
        input_schema=make_encodable(tool.input_schema),
        description=tool.description,
        annotations=_read_hints(tool.annotations),
    )


def _read_hints(hints: types.ToolAnnotations | None) -> dict[str, Any]:
    """Returns the hosted API's `read_only`, always, and the server's other hints under MCP's names."""
    found = hints.model_dump(mode="json", by_alias=True, exclude_none=True) if hints else {}
    return {"read_only": found.pop("readOnlyHint", False), **found}


@asynccontextmanager
async def open_http(
    server: HttpServer, egress: Egress, timeout_s: float, status: "LastStatus"
) -> AsyncIterator[Connection]:
    """Opens a connection over Streamable HTTP. Raises ServerFailed.

    `timeout_s` bounds each single read and write; `status` records the status of each answer.
    """
    headers = {
        **server.headers,
        "accept-encoding": "identity",
    }  # a small answer must not unpack to a huge one
    http = _make_client(server, egress, headers, timeout_s)
    http.event_hooks = {"response": [status.note, _bound]}
    with _as_server_failures(status):
        async with http:
            transport = streamable_http_client(
                server.url, http_client=http, max_sse_event_size=ANSWER_BYTES_MAX
            )
            async with Client(_unjudged(transport), cache=None) as client:
                yield Connection(client, status)


def _make_client(
    server: HttpServer, egress: Egress, headers: Mapping[str, str], timeout_s: float
) -> httpx2.AsyncClient:
    """Returns an HTTP client for a server. Raises ServerFailed if its URL is not allowed.

    To a server that a request names, every connection goes through `egress`, including redirects (which the
    SDK follows within one origin). A proxy from the environment is used for the operator's own servers only,
    because it would do the resolving and connecting that `egress` controls.
    """
    if not server.is_of_request:
        return httpx2.AsyncClient(headers=headers, timeout=timeout_s, verify=_tls())
    try:
        egress.check(httpx2.URL(server.url))
    except NotAllowed as refused:
        raise ServerFailed(McpProtocolError(INVALID_PARAMS, str(refused))) from None
    except httpx2.InvalidURL:
        message = "server_url must be an http or https URL"
        raise ServerFailed(McpProtocolError(INVALID_PARAMS, message)) from None
    way_out = httpx2.AsyncHTTPTransport(verify=_tls(), trust_env=False)
    timeout = httpx2.Timeout(timeout_s, connect=min(timeout_s, _CONNECT_TIMEOUT_S))
    transport = GuardedTransport(egress, way_out)
    return httpx2.AsyncClient(headers=headers, timeout=timeout, transport=transport, trust_env=False)


@asynccontextmanager
async def open_stdio(server: StdioServer, has_ended: asyncio.Event) -> AsyncIterator[Connection]:
    """Starts a process, which ends with the context. Sets `has_ended` if it ends, or closes its output,
    earlier.

    Raises ServerFailed.
    """
    parameters = StdioServerParameters(
        command=server.command,
        args=list(server.args),
        env=dict(server.env),
        encoding_error_handler="replace",
    )
    status = LastStatus()
    with _as_server_failures(status):
        async with Client(_unjudged(_watched(parameters, has_ended)), cache=None) as client:
            yield Connection(client, status)


@asynccontextmanager
async def _unjudged(transport: AbstractAsyncContextManager[Any]) -> AsyncIterator[tuple[Any, Any]]:
    async with transport as (read, write, *_):
        streams = Unjudged(read, write)
        yield streams.incoming, streams.outgoing


@functools.cache
def _tls() -> ssl.SSLContext:
    """Returns one context for all connections, since making one reads every trusted certificate."""
    return httpx2.create_ssl_context()


class LastStatus:
    """Records the HTTP status of the answer to our last message; 0 before the first answer."""

    def __init__(self) -> None:
        self.code = 0

    async def note(self, response: httpx2.Response) -> None:
        if response.request.method == "POST":
            self.code = response.status_code


class _TooLarge(httpx2.SSEError, httpx2.StreamError):
    """Has two bases because the SDK catches one in event streams, the other in JSON bodies."""

    def __init__(self, reason: str) -> None:
        Exception.__init__(self, reason)


class _BoundedBody(httpx2.AsyncByteStream):
    def __init__(self, body: httpx2.AsyncByteStream) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left, values = ANSWER_BYTES_MAX, ValueCount()
        async for chunk in self._body:
            left -= len(chunk)
            if left < 0:
                raise _TooLarge(f"the answer is longer than {ANSWER_BYTES_MAX} bytes")
            if values.add(chunk) > ANSWER_VALUES_MAX:
                raise _TooLarge(f"the answer has more than {ANSWER_VALUES_MAX} values")
            yield chunk

    async def aclose(self) -> None:
        await self._body.aclose()


async def _bound(response: httpx2.Response) -> None:
    assert isinstance(response.stream, httpx2.AsyncByteStream)
    response.stream = _BoundedBody(response.stream)
    response.headers.pop("content-encoding", None)


@asynccontextmanager
async def _watched(
    parameters: StdioServerParameters, has_ended: asyncio.Event
) -> AsyncIterator[tuple["_WatchedStream", Any]]:
    async with stdio_client(parameters) as (read, write):
        yield _WatchedStream(read, has_ended), write


class _WatchedStream:
    """The messages of a server; sets `has_ended` when there will be no more."""

    def __init__(self, stream: Any, has_ended: asyncio.Event) -> None:
        self._stream = stream
        self._has_ended = has_ended

    async def receive(self) -> Any:
        try:
            return await self._stream.receive()
        except (anyio.EndOfStream, anyio.ClosedResourceError):
            self._has_ended.set()
            raise

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        try:
            return await self.receive()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


_FAILURES = (
    *(ServerFailed, MCPError, httpx2.HTTPError, httpx2.InvalidURL, ValidationError, OSError),
    *(anyio.ClosedResourceError, anyio.BrokenResourceError, anyio.EndOfStream),
    *(RuntimeError, ValueError),  # raised by the SDK for answers that it does not accept
)
"""Every error that a server, or the connection to it, can cause."""


@contextmanager
def _as_server_failures(status: LastStatus) -> Iterator[None]:
    """Turns errors caused by a server, or the connection to it, into ServerFailed; other errors pass
    unchanged.

    Does not use `except*`: before 3.11.4, Python wraps what is raised there in another group.
    """
    try:
        yield
    except (*_FAILURES, BaseExceptionGroup) as error:
        group = error if isinstance(error, BaseExceptionGroup) else ExceptionGroup("", [error])
        caught, others = group.split(_FAILURES)
        if others is not None or caught is None:
            raise
        failures = [(_read_failure(leaf, status.code), leaf) for leaf in _leaves(caught)]
        # A broken connection causes further errors, so an error of HTTP is preferred as the cause.
        on_the_wire = (each for each in failures if isinstance(each[0], HttpError))
        failure, cause = next(on_the_wire, failures[0])
        raise ServerFailed(failure, type(cause).__name__) from None


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """Yields the errors within nested groups: each level of the SDK's background tasks adds a group."""
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from _leaves(part)
    else:
        yield error


def _read_failure(error: BaseException, status: int) -> HttpError | McpProtocolError:
    match error:
        case ServerFailed():
            return error.error
        case MCPError() if status >= 300 and (status < 400 or error.message in _STAND_INS):
            return HttpError(status, f"the server answered {_phrase(status)}")
        case MCPError():
            return McpProtocolError(error.code, error.message)
        case httpx2.HTTPError() | httpx2.InvalidURL():
            return NO_ANSWER
        case ValidationError():
            return McpProtocolError(INTERNAL_ERROR, "the server's answer is not what MCP allows")
        case OSError():
            return McpProtocolError(
                CONNECTION_CLOSED,
                f"the server could not be started ({error.strerror or type(error).__name__})",
            )
        case anyio.ClosedResourceError() | anyio.BrokenResourceError() | anyio.EndOfStream():
            return McpProtocolError(CONNECTION_CLOSED, "the connection to the server was lost")
        case _:
            return McpProtocolError(INTERNAL_ERROR, str(error))


def _phrase(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)
