"""Turns a server's answer into the result of a tool call: text, cut to its limit. Pure.

Knows MCP's content blocks as JSON; `mcp_client.py` receives them.
"""

import base64
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from shared.responses import HttpError, McpError, McpProtocolError, McpToolExecutionError
from shared.tool_calls import ToolFailure, ToolOutput, ToolsListed
from shared.web_search import read_display
from tool_runner.listed_tools import Listing

INVALID_PARAMS, TIMED_OUT, CONNECTION_CLOSED, INTERNAL_ERROR = -32602, -32001, -32000, -32603
"""Error codes of JSON-RPC and MCP."""

_MESSAGE_BYTES_MAX = 4096

Block = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of `tools/call`, as JSON."""

    content: Sequence[Block]
    structured: Any = None
    is_error: bool = False
    meta: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, result: Mapping[str, Any]) -> "Answer":
        """Reads a result as it came: what is not as MCP wants it is kept as JSON text, never refused."""
        structured, meta = result.get("structuredContent"), result.get("_meta")
        match result.get("content"):
            case list(blocks):
                content = [block if isinstance(block, dict) else _as_text(block) for block in blocks]
            case None:
                content = []
            case other:
                content = [_as_text(other)]
        unknown = {name: value for name, value in result.items() if name not in _RESULT_FIELDS}
        if unknown and not content and structured is None:
            content = [_as_text(unknown)]
        return cls(content, structured, bool(result.get("isError")), meta if isinstance(meta, dict) else {})


_RESULT_FIELDS = frozenset({"content", "structuredContent", "isError", "_meta", "resultType"})
_SILENT = "It gave no reason."


def _as_text(value: Any) -> Block:
    return {"type": "text", "text": value if isinstance(value, str) else _encode(value)}


def _encode(value: Any) -> str:
    return msgspec.json.encode(make_encodable(value)).decode()


def make_result(answer: Answer, bytes_max: int, *, shows_pages: bool = False) -> ToolOutput | ToolFailure:
    """Returns the result of a call, cut to `bytes_max`. `shows_pages`: as in the tool's row."""
    if answer.is_error:
        said = [_as_text(text) for text in _texts(answer) if text.strip()] or [_as_text(_SILENT)]
        return ToolFailure(McpToolExecutionError(list(_cut_texts(said, bytes_max))))
    display = read_display(answer.structured) if shows_pages else None
    return ToolOutput(cut("\n".join(_texts(answer)), bytes_max), display)


def make_listing(listing: Listing) -> ToolsListed | ToolFailure:
    if listing.fault is not None:
        return make_failure(INTERNAL_ERROR, listing.fault)
    return ToolsListed(tuple(listing.tools), tuple(listing.left_out))


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
    """Yields what the answer says, block by block, as a model that reads only text can read it."""
    yield from map(_describe, answer.content)
    has_text = any(block.get("type") == "text" for block in answer.content)
    if not has_text and answer.structured is not None:
        yield _encode(answer.structured)


def _describe(block: Block) -> str:
    """Returns a block as text: text itself, what holds text with its address, anything else in brackets."""
    match block:
        case {"type": "text", "text": str(text)}:
            return text
        case {"type": "image" | "audio" as kind, "data": str(data)}:
            return _describe_data(kind, block.get("mimeType"), data)
        case {"type": "resource_link", "uri": uri}:
            name, about = block.get("name") or block.get("title"), block.get("description")
            return f"[resource {f'{name} at ' if name else ''}{uri}]" + (f" {about}" if about else "")
        case {"type": "resource", "resource": {"uri": uri, "text": str(text)}}:
            return f"[resource {uri}]\n{text}"
        case {"type": "resource", "resource": {"uri": uri, "blob": str(data), **rest}}:
            return _describe_blob(uri, str(rest.get("mimeType", "")), data)
        case _:
            return _describe_unknown(block)


def _describe_blob(uri: str, mime_type: str, data: str) -> str:
    text = _decoded_text(data) if _is_text(mime_type) else None
    if text is None:
        return _describe_data(f"resource {uri}", mime_type, data)
    return f"[resource {uri}]\n{text}"


def _describe_data(what: str, mime_type: object, data: str) -> str:
    return f"[{what}{f' {mime_type}' if mime_type else ''}, {_decoded_size(data)} bytes]"


def _describe_unknown(block: Block) -> str:
    """Returns a block of a kind that we do not know: its text, and the rest of it as JSON."""
    head = f"[{block.get('type', 'unknown content')}]"
    text = block.get("text")
    told = ("type", "text") if isinstance(text, str) else ("type",)
    rest = {name: _without_data(value) for name, value in block.items() if name not in told}
    said = [head, *([text] if isinstance(text, str) else []), *([_encode(rest)] if rest else [])]
    return "\n".join(said)


def _without_data(value: Any) -> Any:
    """Returns the value with a note in place of data that no model reads."""
    match value:
        case dict():
            return {name: _without_data(item) for name, item in value.items()}
        case list():
            return [_without_data(item) for item in value]
        case str() if len(value) > _DATA_LENGTH and _DATA.fullmatch(value):
            return f"[{_decoded_size(value)} bytes]"
        case _:
            return value


_DATA_LENGTH = 256
_DATA = re.compile(r"[A-Za-z0-9+/_=-]+")


def _is_text(mime_type: str) -> bool:
    kind = mime_type.partition(";")[0].strip().lower()
    return kind.startswith("text/") or kind.endswith(("+json", "+xml", "/json", "/xml", "/yaml", "/toml"))


def _decoded_text(base64_text: str) -> str | None:
    try:
        return base64.b64decode(base64_text, validate=True).decode()
    except ValueError:
        return None


def _decoded_size(base64_text: str) -> int:
    return len(base64_text.rstrip("=")) * 3 // 4


def _cut_texts(blocks: Iterable[Block], bytes_max: int) -> Iterator[Block]:
    """Yields the blocks of text that fit, in order; the first that does not fit is cut."""
    left = bytes_max
    for block in blocks:
        size = len(msgspec.json.encode(block))
        if size <= left:
            left -= size
            yield block
        elif left > 0:
            yield _as_text(cut(block["text"], left))
            left = 0
