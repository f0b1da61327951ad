"""The only importer of the MCP client: connections to servers, their tools, and calls.

Owns the transports and what their failures mean; decides neither which server nor which limits
apply (`servers`, `run_tool`), except for how much of an answer is read at all.
"""

import asyncio
import functools
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self

import anyio
import httpx2
from mcp import Client, MCPError, StdioServerParameters, stdio_client, types
from mcp.client.streamable_http import streamable_http_client
from pydantic import TypeAdapter, ValidationError

from shared.responses import HttpError, McpProtocolError, McpTool
from tool_runner.answers import CONNECTION_CLOSED, INTERNAL_ERROR, INVALID_PARAMS, Answer, make_encodable
from tool_runner.egress import Egress, GuardedTransport, NotAllowed
from tool_runner.servers import HttpServer, StdioServer
from tool_runner.value_count import ANSWER_VALUES_MAX, ValueCount

ANSWER_BYTES_MAX = 16 * 2**20
"""More than this of one HTTP answer is not read: a text that long is refused, not cut."""
_PAGES_MAX = 100
_CONNECT_TIMEOUT_S = 10.0
"""For one address of a server that a request named."""

_ANSWER: TypeAdapter[types.CallToolResult | types.InputRequiredResult] = TypeAdapter(
    types.CallToolResult | types.InputRequiredResult
)
_STAND_INS = frozenset({"Server returned an error response", "Not Found", "Session terminated"})
"""What the SDK puts in the place of an HTTP error; the status itself it does not tell."""


NO_ANSWER = HttpError(0, "no answer from the server")
"""Of every server that cannot be talked to, however: who may call what they like must not learn from
our words what refuses, what is silent, what is closed, and what is not allowed."""


class ServerFailed(Exception):
    """A server could not be reached, or not be talked to; `error` says how, as far as others may know."""

    def __init__(self, error: HttpError | McpProtocolError, cause: str = "") -> None:
        super().__init__(error.message)
        self.error = error
        self.cause = cause
        """For the operator's log, where `error` says less."""


class Connection:
    """An open way to one server; any number of calls at a time. Its methods raise ServerFailed.

    Cancelling a call cancels it on the server.
    """

    def __init__(self, client: Client, status: "LastStatus") -> None:
        self._client = client
        self._status = status

    async def call(self, name: str, arguments: dict[str, Any], meta: Mapping[str, Any]) -> Answer:
        request = types.CallToolRequest(
            params=types.CallToolRequestParams(name=name, arguments=arguments, _meta=dict(meta) or None)
        )
        with _told_as_failures(self._status):
            try:
                result = await self._client.session.send_request(request, _ANSWER)
            except MCPError as error:
                if error.code != types.HEADER_MISMATCH:
                    raise
                await self._list()  # it tells the client which arguments travel as headers
                result = await self._client.session.send_request(request, _ANSWER)
        if isinstance(result, types.InputRequiredResult):
            raise ServerFailed(McpProtocolError(INTERNAL_ERROR, "the tool asks for input from a person"))
        raw = result.model_dump(mode="json", by_alias=True, exclude_none=True)
        return Answer(
            raw["content"], raw.get("structuredContent"), raw.get("isError", False), raw.get("_meta", {})
        )

    async def list_tools(self) -> list[McpTool]:
        with _told_as_failures(self._status):
            return await self._list()

    async def _list(self) -> list[McpTool]:
        tools: list[McpTool] = []
        cursor: str | None = None
        for _ in range(_PAGES_MAX):
            page = await self._client.list_tools(cursor=cursor)
            tools += map(_read_tool, page.tools)
            cursor = page.next_cursor
            if not cursor:
                return tools
        raise ServerFailed(McpProtocolError(INTERNAL_ERROR, f"its tools take over {_PAGES_MAX} pages"))


def _read_tool(tool: types.Tool) -> McpTool:
    return McpTool(
        name=tool.name,
        input_schema=make_encodable(tool.input_schema),
        description=tool.description,
        annotations=_read_hints(tool.annotations),
    )


def _read_hints(hints: types.ToolAnnotations | None) -> dict[str, Any]:
    """The hosted API's `read_only`, always; the server's other hints beside it, under MCP's names."""
    said = hints.model_dump(mode="json", by_alias=True, exclude_none=True) if hints else {}
    return {"read_only": said.pop("readOnlyHint", False), **said}


@asynccontextmanager
async def open_http(
    server: HttpServer, egress: Egress, timeout_s: float, status: "LastStatus"
) -> AsyncIterator[Connection]:
    """Streamable HTTP. `timeout_s` bounds every single read and write; raises ServerFailed.

    `status` is told the status of each answer.
    """
    headers = {**server.headers, "accept-encoding": "identity"}  # nothing small unpacks to something huge
    http = _make_client(server, egress, headers, timeout_s)
    http.event_hooks = {"response": [status.note, _bound]}
    with _told_as_failures(status):
        async with http:
            transport = streamable_http_client(
                server.url, http_client=http, max_sse_event_size=ANSWER_BYTES_MAX
            )
            async with Client(transport, cache=None) as client:
                yield Connection(client, status)


def _make_client(
    server: HttpServer, egress: Egress, headers: Mapping[str, str], timeout_s: float
) -> httpx2.AsyncClient:
    """For a request's server every connection goes through `egress`, redirects (which the SDK follows
    within one origin) among them. A proxy of the environment's is for the operator's own servers only: it
    would do the looking up and the connecting that `egress` answers for."""
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
    """A process that ends with the context; `has_ended` is set when it ends (or falls silent) before."""
    parameters = StdioServerParameters(
        command=server.command,
        args=list(server.args),
        env=dict(server.env),
        encoding_error_handler="replace",
    )
    status = LastStatus()
    with _told_as_failures(status):
        async with Client(_watched(parameters, has_ended), cache=None) as client:
            yield Connection(client, status)


@functools.cache
def _tls() -> ssl.SSLContext:
    """One for all connections: making one reads every trusted certificate."""
    return httpx2.create_ssl_context()


class LastStatus:
    """The HTTP status that answered the last message of ours; 0: none has come."""

    def __init__(self) -> None:
        self.code = 0

    async def note(self, response: httpx2.Response) -> None:
        if response.request.method == "POST":
            self.code = response.status_code


class _TooLarge(httpx2.SSEError, httpx2.StreamError):
    """Both, because the SDK catches the one in event streams, the other in JSON bodies."""

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
    """What a server sends; the event is set when it will send nothing more."""

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
    *(RuntimeError, ValueError),  # the SDK's own word on answers that it does not accept
)
"""All that a server, or the way there, can do to us."""


@contextmanager
def _told_as_failures(status: LastStatus) -> Iterator[None]:
    """Raises ServerFailed for what a server, or the way there, did; a bug of ours stays itself.

    Not `except*`: Python before 3.11.4 wraps what is raised there in a group once more.
    """
    try:
        yield
    except (*_FAILURES, BaseExceptionGroup) as error:
        group = error if isinstance(error, BaseExceptionGroup) else ExceptionGroup("", [error])
        caught, others = group.split(_FAILURES)
        if others is not None or caught is None:
            raise
        failures = [(_read_failure(leaf, status.code), leaf) for leaf in _leaves(caught)]
        # A broken connection breaks other things too: the first cause is the one on the wire.
        on_the_wire = (each for each in failures if isinstance(each[0], HttpError))
        failure, cause = next(on_the_wire, failures[0])
        raise ServerFailed(failure, type(cause).__name__) from None


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors within groups: the SDK's background tasks wrap each level once more."""
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
