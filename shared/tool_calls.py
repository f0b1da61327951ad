"""What a worker asks of a tool runner, and what it gets back. Shapes only, no transport.

A call belongs to (response, call_index, fencing token); its journal lives beside the log.
"""

import re
from typing import Literal

import msgspec

from shared import hosted_tools
from shared.responses import HttpError, McpError, McpProtocolError, McpTool, McpToolExecutionError

SESSION_META_KEY = "antiphon/session"
"""In `_meta` of a tool's result: opaque state that comes back with the next call of the same
response to the same server. It is how a stateless server keeps a session (the python tool does)."""


def approval_unsaid(server_label: str, server_url: str | None) -> Literal["always", "never"]:
    """Whether calls need leave where a request does not say: for servers of the request's own choice."""
    is_their_own = server_url is not None and hosted_tools.by_label(server_label) is None
    return "always" if is_their_own else "never"


class ToolCall(msgspec.Struct, frozen=True, tag_field="kind", tag="call"):
    """Call `name` on a server. `arguments` is a JSON object as text."""

    server_label: str
    name: str
    arguments: str
    server_url: str | None = None


class ToolListing(msgspec.Struct, frozen=True, tag_field="kind", tag="list"):
    """Ask a server which tools it has."""

    server_label: str
    server_url: str | None = None


ToolTask = ToolCall | ToolListing


class ToolIntent(msgspec.Struct, frozen=True):
    """The journal's first line on a task: what is to be done, and for which attempt."""

    task: ToolTask
    fencing_token: int


class ToolOutput(msgspec.Struct, frozen=True, tag_field="kind", tag="output"):
    """The tool answered. `output` is text, cut to `tool_output_bytes_max`, which it then says."""

    output: str


class ToolFailure(msgspec.Struct, frozen=True, tag_field="kind", tag="failure"):
    """The tool, its server or the connection failed; the model is given `error` in words."""

    error: McpError


class ToolsListed(msgspec.Struct, frozen=True, tag_field="kind", tag="tools"):
    tools: tuple[McpTool, ...]


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
    """A failure that `describe` makes the same sentence of."""
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
    """MCP content blocks as text; anything that is not text as its JSON."""
    blocks = content if isinstance(content, list) else [content]
    return "\n".join(
        str(block["text"])
        if isinstance(block, dict) and "text" in block
        else msgspec.json.encode(block).decode()
        for block in blocks
    )
