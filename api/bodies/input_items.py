"""What may stand in `input`: the kinds of item, what each must have, and the one form they are kept in.

Owns checking and normalising items; what an item means to the model is the worker's matter.
Source: the public OpenAI types, `ResponseInputItem`. Ids are optional wherever nothing refers to
them, because real clients leave them out when they replay items.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from api.bodies.validation import (
    Checked,
    Label,
    Name,
    Path,
    Shape,
    check,
    check_kind,
    check_length,
    check_list,
    check_type,
    spell,
)
from api.errors import (
    invalid_prefix,
    invalid_type,
    invalid_value,
    missing_parameter,
    unreadable_content,
)
from shared.ids import item_id

Item = dict[str, Any]

_McpToolName = str
"""A server's own word, as our listings have it: the model never reads it (`worker/asking/tool_names.py`)."""


class _Item(Shape):
    id: str | None = None
    status: str | None = None


class _Message(_Item):
    role: Literal["user", "assistant", "system", "developer"]
    content: Any
    phase: Literal["commentary", "final_answer"] | None = None


class _FunctionCall(_Item):
    arguments: str
    call_id: str
    name: Name


class _FunctionCallOutput(_Item):
    output: Any
    call_id: str | None = None
    name: Name | None = None


class _SummaryText(Shape):
    text: str


class _ReasoningText(Shape):
    text: str


class _Reasoning(_Item):
    summary: Checked[_SummaryText]
    content: Checked[_ReasoningText] | None = None
    encrypted_content: str | None = None


class _WebSearchCall(_Item):
    action: dict[str, Any]
    status: str


class _CodeOutput(Shape):
    logs: str = ""


class _CodeInterpreterCall(_Item):
    container_id: str
    status: str
    code: str | None = None
    outputs: Checked[_CodeOutput] | None = None


class _ListedTool(Shape):
    name: _McpToolName
    input_schema: dict[str, Any]
    description: str | None = None
    annotations: dict[str, Any] | None = None


class _McpListTools(_Item):
    server_label: Label
    tools: Checked[_ListedTool]
    error: str | None = None


class _McpApprovalRequest(_Item):
    id: str
    arguments: str
    name: _McpToolName
    server_label: Label


class _McpApprovalResponse(_Item):
    approval_request_id: str
    approve: bool
    reason: str | None = None


class _McpError(Shape):
    type: str | None = None
    code: int | None = None
    message: str | None = None


class _McpCall(_Item):
    arguments: str
    name: _McpToolName
    server_label: Label
    output: str | None = None
    error: Any = None
    approval_request_id: str | None = None


class _ItemReference(Shape):
    id: str


class _CustomToolCall(_Item):
    call_id: str
    input: str
    name: Name


class _CustomToolCallOutput(_Item):
    call_id: str
    output: Any


class _Compaction(_Item):
    encrypted_content: str


_ITEMS: Mapping[str, type[Shape]] = {
    "message": _Message,
    "function_call": _FunctionCall,
    "function_call_output": _FunctionCallOutput,
    "reasoning": _Reasoning,
    "web_search_call": _WebSearchCall,
    "code_interpreter_call": _CodeInterpreterCall,
    "mcp_list_tools": _McpListTools,
    "mcp_approval_request": _McpApprovalRequest,
    "mcp_approval_response": _McpApprovalResponse,
    "mcp_call": _McpCall,
    "item_reference": _ItemReference,
    "custom_tool_call": _CustomToolCall,
    "custom_tool_call_output": _CustomToolCallOutput,
    "compaction": _Compaction,
}


_PREFIXES = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "reasoning": "rs",
    "web_search_call": "ws",
    "code_interpreter_call": "ci",
    "mcp_list_tools": "mcpl",
    "mcp_approval_request": "mcpr",
    "mcp_approval_response": "mcpa",
    "mcp_call": "mcp",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
    "compaction": "cmp",
}
_ID_PREFIXES = {
    kind: prefix for kind, prefix in _PREFIXES.items() if not kind.endswith(("_output", "_response"))
} | {"function_call_output": "fc"}
"""What an id that a client brings begins with, where the public API holds it to that."""
_WITH_STATUS = frozenset({"message", "function_call", "function_call_output"})
"""A listed item of these kinds has a status."""
_NEVER_NULL = {"reasoning": "encrypted_content", "mcp_list_tools": "error"}
"""Older items say null where the hosted API says nothing, and clients that validate accept only that."""


class _Text(Shape):
    text: str


class _Refusal(Shape):
    refusal: str


class _Image(Shape):
    image_url: str | None = None
    file_id: str | None = None
    detail: str | None = None


class _File(Shape):
    file_data: str | None = None
    file_id: str | None = None
    file_url: str | None = None
    filename: str | None = None


_OUTPUT_PARTS: Mapping[str, type[Shape]] = {
    "input_text": _Text,
    "input_image": _Image,
    "input_file": _File,
}
_MESSAGE_PARTS: Mapping[str, type[Shape]] = {**_OUTPUT_PARTS, "output_text": _Text, "refusal": _Refusal}


def read_input(value: object, items_max: int, *, is_continuing: bool) -> list[Item]:
    """The checked items, each with its `type`; a bare string becomes one user message.

    `is_continuing`: something stands before them, so that there may be none.
    """
    if is_continuing and (value is None or value == []):
        return []
    if value is None:
        raise missing_parameter("input")
    if isinstance(value, str):
        return [_user_message(value)]
    if not isinstance(value, list):
        raise invalid_type("input", "a string or an array of items", value)
    if not value:
        raise invalid_value("input", "it should hold at least one item")
    return read_items(value, "input", items_max)


def read_items(value: object, field: str, items_max: int) -> list[Item]:
    """The checked items of a list, each with its `type`; `field` names the list in complaints."""
    check_length(value, items_max, (field,))
    return [_read_item(item, (field, index)) for index, item in enumerate(check_list(value, (field,)))]


def _user_message(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


def _read_item(value: object, path: Path) -> dict[str, Any]:
    item = check_kind(_ITEMS, _with_type(value), path)
    _check_id(item, path)
    match item["type"]:
        case "message":
            _check_content(item["content"], _MESSAGE_PARTS, (*path, "content"))
        case "function_call_output" | "custom_tool_call_output":
            _check_output(item, path)
        case "reasoning":
            _check_reasoning(item, path)
        case "compaction":  # none is made here
            raise unreadable_content(item["encrypted_content"])
        case "mcp_call" if not isinstance(item.get("error"), str | None):  # older clients keep it as text
            check(_McpError, item["error"], (*path, "error"))
    return item


def _check_id(item: Mapping[str, Any], path: Path) -> None:
    """An id of another kind would be mistaken for it by whoever reads the item back."""
    prefix = _ID_PREFIXES.get(item["type"])
    if prefix and item.get("id") and not item["id"].startswith(prefix):
        raise invalid_prefix(spell((*path, "id")), item["id"], prefix)


def _with_type(value: object) -> object:
    """The two kinds that may leave their `type` out get it: easy messages and references."""
    if not isinstance(value, dict) or value.get("type") is not None:
        return value
    if "role" in value or "content" in value:
        return {**value, "type": "message"}
    if value.keys() <= {"id", "type"} and "id" in value:
        return {**value, "type": "item_reference"}
    return value


def _check_content(content: object, parts: Mapping[str, type[Shape]], path: Path) -> None:
    if isinstance(content, str):
        return
    if not isinstance(content, list):
        raise invalid_type(spell(path), "a string or an array of content parts", content)
    for index, part in enumerate(content):
        check_kind(parts, part, (*path, index))


def _check_reasoning(item: Mapping[str, Any], path: Path) -> None:
    for index, part in enumerate(item["summary"]):
        check_type(frozenset({"summary_text"}), part, (*path, "summary", index))
    for index, part in enumerate(item.get("content") or []):
        check_type(frozenset({"reasoning_text"}), part, (*path, "content", index))


def _check_output(item: Mapping[str, Any], path: Path) -> None:
    _check_content(item["output"], _OUTPUT_PARTS, (*path, "output"))
    if item.get("call_id") is None and item.get("name") is None:
        raise missing_parameter(spell((*path, "call_id")))


def adopt_items(items: Sequence[Item], origin: str) -> list[Item]:
    """The items as they are listed later; those without an id get one, `origin` being part of it."""
    return [_adopt(item, origin, index) for index, item in enumerate(items)]


def _adopt(item: Item, origin: str, index: int) -> Item:
    kind = item["type"]
    if kind == "item_reference":
        return item
    adopted = {"id": item.get("id") or item_id(_PREFIXES[kind], origin, f"i{index}")}
    adopted |= {name: value for name, value in item.items() if name != "id"}
    if (optional := _NEVER_NULL.get(kind)) and adopted.get(optional) is None:
        adopted.pop(optional, None)
    if kind in _WITH_STATUS and item.get("status") is None:
        adopted["status"] = "completed"
    if kind == "message":
        adopted["content"] = _parts_of(item["role"], item["content"])
    return adopted


_PART_DEFAULTS: Mapping[str, Item] = {
    "output_text": {"annotations": [], "logprobs": []},
    "input_image": {"detail": "auto"},
}
"""What every listed part of a kind has, whoever wrote it."""


def _parts_of(role: str, content: str | list[Item]) -> list[Item]:
    if isinstance(content, str):
        kind = "output_text" if role == "assistant" else "input_text"
        content = [{"type": kind, "text": content}]
    return [{**_PART_DEFAULTS.get(part["type"], {}), **part} for part in content]
