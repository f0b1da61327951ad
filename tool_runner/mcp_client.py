"""Lists the tools of MCP servers and calls them, over a connection that is open.

Owns what an answer and a failure mean. `mcp_transports.py` opens connections; `servers.py` chooses the
server, `run_tool.py` owns the limits.
"""

import re
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from http import HTTPStatus
from typing import Any

import anyio
import httpx2
import msgspec
from mcp import ClientSession, MCPError, types
from pydantic import ValidationError

from shared.responses import HttpError, McpProtocolError, McpTool
from tool_runner.answers import CONNECTION_CLOSED, INTERNAL_ERROR, Answer, make_encodable
from tool_runner.listed_tools import Listing
from tool_runner.session_cookies import SessionCookies
from tool_runner.unjudged import left_out_of, result_of

SESSION_HEADER = "mcp-session-id"
_PAGES_MAX = 100
_DEMAND_CHARS_MAX = 500

_UNPARSED = "Failed to parse "
"""How the SDK begins its account of an answer that it cannot read, which quotes the answer."""
_TOO_LARGE = re.compile(r"the answer (is longer|has more) than \d+ (bytes|values)\Z")
"""What `mcp_transports.py` says of an answer that it stops reading, at the end of such an account."""
_STAND_INS = frozenset({"Server returned an error response", "Not Found", "Session terminated"})
"""Messages by which the SDK replaces HTTP errors, without their status."""


NO_ANSWER = HttpError(0, "no answer from the server")
"""The error for every server that cannot be reached: a client that may call any address must not learn from
the error which ones refuse, are silent, are closed or are not allowed."""


OnProgress = Callable[[float, float | None, str | None], None]
"""Called with how far a call is, of how much, if known, and what the server says about it."""


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

    def __init__(self, session: ClientSession, status: "LastStatus") -> None:
        self._session = session
        self.status = status

    async def call(
        self, name: str, arguments: dict[str, Any], meta: Mapping[str, Any], on_progress: OnProgress
    ) -> Answer:
        """Calls a tool. `meta`: sent as `_meta`; `on_progress`: called with each report of the server."""

        async def report(progress: float, total: float | None, message: str | None) -> None:
            on_progress(progress, total, message)

        request = types.CallToolRequest(
            params=types.CallToolRequestParams(name=name, arguments=arguments, _meta=dict(meta) or None)
        )
        with as_server_failures(self.status):
            try:
                result = await self._session.send_request(
                    request, types.CallToolResult, progress_callback=report
                )
            except MCPError as error:
                if error.code != types.HEADER_MISMATCH:
                    raise
                async for _ in self._pages():
                    pass  # the client learns from them which arguments are sent as headers
                result = await self._session.send_request(
                    request, types.CallToolResult, progress_callback=report
                )
        answer = result_of(result.meta)
        if answer.get("resultType") == "input_required":
            raise ServerFailed(McpProtocolError(INTERNAL_ERROR, "the tool asks for input from a person"))
        return Answer.read(answer)

    async def list_tools(self, listing: Listing) -> None:
        """Adds the server's tools to the listing, without the pages after the one that fills it."""
        with as_server_failures(self.status):
            async with aclosing(self._pages()) as pages:
                async for page in pages:
                    left_out, size = left_out_of(page.meta)
                    listing.add(map(_read_tool, page.tools), left_out, size)
                    if listing.is_full:
                        break

    async def _pages(self) -> AsyncGenerator[types.ListToolsResult, None]:
        cursor: str | None = None
        for _ in range(_PAGES_MAX):
            page = await self._session.list_tools(params=types.PaginatedRequestParams(cursor=cursor))
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


class LastStatus:
    """Records the HTTP answer to our last message: its status (0 before the first answer), what it demands,
    and the session that the server opened, with its cookies."""

    def __init__(self) -> None:
        self.code = 0
        self.demand = ""
        self.session_id = ""
        self.cookies = SessionCookies()
        """Sent with each message; set before the connection is opened."""
        self.tools_have_changed = False
        """The server has said so, and nobody has acted upon it yet."""

    def note_change(self) -> None:
        self.tools_have_changed = True

    async def note(self, response: httpx2.Response) -> None:
        if response.request.method != "POST":
            return
        self.code = response.status_code
        self.demand = _read_demand(response)
        self.session_id = response.headers.get(SESSION_HEADER) or self.session_id


def _read_demand(response: httpx2.Response) -> str:
    """Returns what a refusal says must be done about it, in brackets; empty if it does not say."""
    match response.status_code:
        case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN:
            name = "www-authenticate"
        case HTTPStatus.TOO_MANY_REQUESTS | HTTPStatus.SERVICE_UNAVAILABLE:
            name = "retry-after"
        case _:
            return ""
    value = response.headers.get(name, "")[:_DEMAND_CHARS_MAX]
    return f" ({name}: {value})" if value.isascii() and value.isprintable() and value else ""


_FAILURES = (
    *(ServerFailed, MCPError, httpx2.HTTPError, httpx2.InvalidURL, ValidationError, OSError),
    *(anyio.ClosedResourceError, anyio.BrokenResourceError, anyio.EndOfStream),
    *(RuntimeError, ValueError),  # raised by the SDK for answers that it does not accept
)
"""Every error that a server, or the connection to it, can cause."""


@contextmanager
def as_server_failures(status: LastStatus) -> Iterator[None]:
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
        failures = [(_read_failure(leaf, status), leaf) for leaf in _leaves(caught)]
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


def _read_failure(error: BaseException, status: LastStatus) -> HttpError | McpProtocolError:
    match error:
        case ServerFailed():
            return error.error
        case MCPError() if isinstance(error.data, HttpError):  # no server can send one: JSON has no such type
            return error.data
        case MCPError() if status.code >= 300 and (status.code < 400 or error.message in _STAND_INS):
            return HttpError(status.code, f"the server answered {_phrase(status.code)}{status.demand}")
        case MCPError() if error.code == types.PARSE_ERROR and error.message.startswith(_UNPARSED):
            too_large = _TOO_LARGE.search(error.message)
            message = too_large[0] if too_large else "the server's answer is not what MCP allows"
            return McpProtocolError(types.PARSE_ERROR, message)
        case MCPError():
            return McpProtocolError(error.code, _all_said(error))
        case httpx2.HTTPStatusError():
            return read_refusal(error.response)
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


def _all_said(error: MCPError) -> str:
    """Returns the message of a server's error with its data, which may be all that tells what to do."""
    if error.data in (None, "", {}, []):
        return error.message
    is_text = isinstance(error.data, str)
    data = error.data if is_text else msgspec.json.encode(make_encodable(error.data)).decode()
    return f"{error.message}: {data}"


def read_refusal(response: httpx2.Response) -> HttpError:
    """Returns what to say of an answer whose status is an error."""
    code = response.status_code
    return HttpError(code, f"the server answered {_phrase(code)}{_read_demand(response)}")


def _phrase(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)
