"""Turns a server's answer into the result of a tool call: text, cut to its limit. Pure.

Knows MCP's content blocks as JSON; `mcp_client.py` receives them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from shared.responses import HttpError, McpError, McpProtocolError, McpTool, McpToolExecutionError
from shared.tool_calls import ToolFailure, ToolOutput, ToolsListed

INVALID_PARAMS, TIMED_OUT, CONNECTION_CLOSED, INTERNAL_ERROR = -32602, -32001, -32000, -32603
"""Error codes of JSON-RPC and MCP."""

_MESSAGE_BYTES_MAX = 4096
_SCHEMA_LEVELS_MAX = 100
"""Below the limit for requests, so that a client can always send a listing back to us."""

Block = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of `tools/call`, as JSON."""

    content: Sequence[Block]
    structured: Any = None
    is_error: bool = False
    meta: Mapping[str, Any] = field(default_factory=dict)


def make_result(answer: Answer, bytes_max: int) -> ToolOutput | ToolFailure:
    """Returns the result of a call, cut to `bytes_max`."""
    if answer.is_error:
        return ToolFailure(McpToolExecutionError(list(_cut_blocks(answer.content, bytes_max))))
    return ToolOutput(cut("\n".join(_texts(answer)), bytes_max))


def make_listing(tools: Sequence[McpTool], bytes_max: int) -> ToolsListed | ToolFailure:
    """Returns a listing, or a failure if it is too large or deep: in a partial listing, tools would seem not
    to exist."""
    for tool in tools:
        if _is_deeper(tool.input_schema, _SCHEMA_LEVELS_MAX):
            message = f"the schema of the tool {tool.name[:64]!r} has over {_SCHEMA_LEVELS_MAX} levels"
            return make_failure(INTERNAL_ERROR, message)
    listed = ToolsListed(tuple(tools))
    size = len(msgspec.json.encode(listed))
    if size > bytes_max:
        message = f"the server's list of tools takes at least {size} bytes, over {bytes_max}"
        return make_failure(INTERNAL_ERROR, message)
    return listed


def _is_deeper(value: Any, levels: int) -> bool:
    level = [value]
    for _ in range(levels + 1):
        nodes = (node.values() if isinstance(node, dict) else node for node in level)
        level = [child for children in nodes for child in children if isinstance(child, dict | list)]
        if not level:
            return False
    return True


def make_failure(code: int, message: str) -> ToolFailure:
    return ToolFailure(McpProtocolError(code, cut(message, _MESSAGE_BYTES_MAX)))


def cut_message(error: McpError) -> McpError:
    """Returns the error with its message cut, since servers choose the message."""
    match error:
        case McpProtocolError(code, message):
            return McpProtocolError(code, cut(message, _MESSAGE_BYTES_MAX))
        case HttpError(code, message):
            return HttpError(code, cut(message, _MESSAGE_BYTES_MAX))
        case McpToolExecutionError():
            return error


def cut(text: str, bytes_max: int) -> str:
    """Returns at most `bytes_max` bytes of UTF-8, in whole characters, with a note if the text was cut."""
    raw = text.encode("utf-8", "replace")
    if len(raw) <= bytes_max:
        return raw.decode()
    note = f"\n[cut: this is the beginning of {len(raw)} bytes]".encode()
    kept = raw[: max(0, bytes_max - len(note))].decode("utf-8", "ignore").encode()
    return (kept + note)[:bytes_max].decode()


def make_encodable(value: Any) -> Any:
    """Returns the value with integers over 64 bits, which our encoder cannot write, as floats or text."""
    match value:
        case dict():
            return {key: make_encodable(item) for key, item in value.items()}
        case list():
            return [make_encodable(item) for item in value]
        case int() if not -(2**63) <= value < 2**64:
            return float(value) if abs(value) < 10**300 else str(value)
        case _:
            return value


def _texts(answer: Answer) -> Iterator[str]:
    yield from map(_describe, answer.content)
    has_text = any(block.get("type") == "text" for block in answer.content)
    if not has_text and answer.structured is not None:
        yield msgspec.json.encode(make_encodable(answer.structured)).decode()


def _describe(block: Block) -> str:
    """Returns a block as text: text itself, a text resource with its address, anything else in brackets."""
    match block:
        case {"type": "text", "text": str(text)}:
            return text
        case {"type": "image" | "audio" as kind, "data": str(data)}:
            return f"[{kind} {block.get('mimeType', '')}, {_decoded_size(data)} bytes]"
        case {"type": "resource_link", "uri": uri}:
            return f"[resource {block.get('name', '')} at {uri}]"
        case {"type": "resource", "resource": {"uri": uri, "text": str(text)}}:
            return f"[resource {uri}]\n{text}"
        case {"type": "resource", "resource": {"uri": uri, "blob": str(data), **rest}}:
            return f"[resource {uri} {rest.get('mimeType', '')}, {_decoded_size(data)} bytes]"
        case _:
            return f"[{block.get('type', 'unknown content')}]"


def _decoded_size(base64_text: str) -> int:
    return len(base64_text.rstrip("=")) * 3 // 4


def _cut_blocks(blocks: Sequence[Block], bytes_max: int) -> Iterator[Block]:
    """Yields the blocks that fit, in order; the first that does not fit becomes text and is cut."""
    left = bytes_max
    for block in map(make_encodable, blocks):
        size = len(msgspec.json.encode(block))
        if size <= left:
            left -= size
            yield block
        elif left > 0:
            yield {"type": "text", "text": cut(_describe(block), left)}
            left = 0
