"""The tasks that a worker gives to a tool runner, and their results. Owns shapes only, no transport.

A task is identified by (response, call_index); `shared/store/tools` owns its journal.
"""

import re

import msgspec

from shared import hosted_tools
from shared.responses import (
    HttpError,
    LeftOutTool,
    McpError,
    McpProtocolError,
    McpTool,
    McpToolExecutionError,
)
from shared.web_search import Display, SearchOptions

SESSION_META_KEY = "antiphon/session"
"""Key in the `_meta` of a tool's result for opaque state, which is sent back with the response's next call to
the same server. This lets a stateless server keep a session, as the Python tool does."""
CALL_META_KEY = "antiphon/call"
"""Key in the `_meta` of a call to a hosted tool's server for the name of the call. A call that is made again,
since its result was lost, has the same name, and no other call has it."""


def is_clients_own(server_label: str, server_url: str | None) -> bool:
    """Returns True for a server that the request gives a URL for, which has another default of
    `require_approval` than the operator's servers."""
    return server_url is not None and hosted_tools.by_label(server_label) is None


class ToolCall(msgspec.Struct, frozen=True, tag_field="kind", tag="call", omit_defaults=True):
    """A task: call the tool `name` on a server. `arguments`: a JSON object as text. `search`: what the
    request wants of its searches, if it asked for web search."""

    server_label: str
    name: str
    arguments: str
    server_url: str | None = None
    search: SearchOptions | None = None
    approval_request_id: str | None = None
    """The approval that the call uses up, if the client had to give one."""


class ToolListing(msgspec.Struct, frozen=True, tag_field="kind", tag="list"):
    """A task: list the tools of a server."""

    server_label: str
    server_url: str | None = None


ToolTask = ToolCall | ToolListing


class ToolIntent(msgspec.Struct, frozen=True, omit_defaults=True):
    """A task's first entry in the journal, with the fencing token of the attempt that submitted it."""

    task: ToolTask
    fencing_token: int
    trace: str = ""
    """The `traceparent` that the runner continues, if there are traces."""
    trace_state: str = ""
    """The `tracestate` that belongs to it."""


class ToolOutput(msgspec.Struct, frozen=True, tag_field="kind", tag="output", omit_defaults=True):
    """The tool answered. `output`: its text, cut to `tool_output_bytes_max` with a note that says so.
    `display`: which pages that text shows, if the tool shows pages and its server says so."""

    output: str
    display: Display | None = None


class ToolFailure(msgspec.Struct, frozen=True, tag_field="kind", tag="failure"):
    """The tool, its server or the connection failed; the model reads `describe(error)`."""

    error: McpError


class ToolsListed(msgspec.Struct, frozen=True, tag_field="kind", tag="tools", omit_defaults=True):
    """The server listed its tools. `left_out`: those among them that cannot be offered."""

    tools: tuple[McpTool, ...]
    left_out: tuple[LeftOutTool, ...] = ()


ToolResult = ToolOutput | ToolFailure | ToolsListed


def describe(error: McpError) -> str:
    """Describes the error in one sentence, for the model and `mcp_list_tools.error`."""
    match error:
        case McpProtocolError(code, message):
            return f"The tool call failed: {message} (code {code})."
        case HttpError(code, message):
            return f"The tool's server could not be used: {message}" + (f" (HTTP {code})." if code else ".")
        case McpToolExecutionError(content):
            return f"The tool reported an error: {_text_of(content)}"


def parse_failure(described: str) -> ToolFailure:
    """Returns a failure from which `describe` makes the same sentence."""
    if found := re.fullmatch(r"The tool call failed: (.*) \(code (-?\d+)\)\.", described, re.DOTALL):
        return ToolFailure(McpProtocolError(int(found[2]), found[1]))
    if found := re.fullmatch(
        r"The tool's server could not be used: (.*) \(HTTP ([1-9]\d*)\)\.", described, re.DOTALL
    ):
        return ToolFailure(HttpError(int(found[2]), found[1]))
    if found := re.fullmatch(r"The tool's server could not be used: (.*)\.", described, re.DOTALL):
        return ToolFailure(HttpError(0, found[1]))
    said = described.removeprefix("The tool reported an error: ")
    return ToolFailure(McpToolExecutionError([{"type": "text", "text": said}]))


def _text_of(content: object) -> str:
    """Returns MCP content blocks as text; any block that is not text, as JSON."""
    blocks = content if isinstance(content, list) else [content]
    return "\n".join(
        str(block["text"])
        if isinstance(block, dict) and "text" in block
        else msgspec.json.encode(block).decode()
        for block in blocks
    )
