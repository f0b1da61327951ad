"""What may stand in `input`: the kinds of item, what each must have, and the one form they are kept in.

Owns checking and normalising items; what an item means to the model is the worker's matter.
Source: the public OpenAI types, `ResponseInputItem`. Ids are optional wherever nothing refers to
them, because real clients leave them out when they replay items.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from api.errors import invalid_value, missing_parameter
from api.validation import Label, Name, Path, Shape, check, check_kind, check_type, spell

_McpToolName = Annotated[str, Field(pattern=r"^[^\s<>|]{1,256}$")]


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
    summary: list[_SummaryText]
    content: list[_ReasoningText] | None = None
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
    outputs: list[_CodeOutput] | None = None


class _ListedTool(Shape):
    name: _McpToolName
    input_schema: dict[str, Any]
    description: str | None = None
    annotations: dict[str, Any] | None = None


class _McpListTools(_Item):
    server_label: Label
    tools: list[_ListedTool]
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
    name: str


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


def read_input(value: object) -> list[dict[str, Any]]:
    """The checked items, each with its `type`; a bare string becomes one user message."""
    if value is None:
        raise missing_parameter("input")
    if isinstance(value, str):
        return [_user_message(value)]
    if not isinstance(value, list):
        raise invalid_value("input", "it should be a string or a list of items")
    if not value:
        raise invalid_value("input", "it should hold at least one item")
    items = [_read_item(item, ("input", index)) for index, item in enumerate(value)]
    _check_outputs_have_calls(items)
    return items


def _user_message(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


def _read_item(value: object, path: Path) -> dict[str, Any]:
    item = check_kind(_ITEMS, _with_type(value), path)
    match item["type"]:
        case "message":
            _check_content(item["content"], _MESSAGE_PARTS, (*path, "content"))
        case "function_call_output" | "custom_tool_call_output":
            _check_content(item["output"], _OUTPUT_PARTS, (*path, "output"))
        case "reasoning":
            _check_reasoning(item, path)
        case "mcp_call" if not isinstance(item.get("error"), str | None):  # older clients keep it as text
            check(_McpError, item["error"], (*path, "error"))
    return item


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
        raise invalid_value(spell(path), "it should be a string or a list of content parts")
    for index, part in enumerate(content):
        check_kind(parts, part, (*path, index))


def _check_reasoning(item: Mapping[str, Any], path: Path) -> None:
    for index, part in enumerate(item["summary"]):
        check_type(frozenset({"summary_text"}), part, (*path, "summary", index))
    for index, part in enumerate(item.get("content") or []):
        check_type(frozenset({"reasoning_text"}), part, (*path, "content", index))


def _check_outputs_have_calls(items: list[dict[str, Any]]) -> None:
    """An output without its call says nothing: the model would not know what answered.

    A referenced item may be the call, so a list with references is left to whoever resolves them.
    """
    calls = {item["call_id"] for item in items if item["type"] == "function_call"}
    has_references = any(item["type"] == "item_reference" for item in items)
    for index, item in enumerate(items):
        if item["type"] != "function_call_output" or item.get("name") is not None:
            continue
        param = spell(("input", index, "call_id"))
        match item.get("call_id"):
            case None:
                raise missing_parameter(param)
            case call_id if call_id not in calls and not has_references:
                raise invalid_value(param, "no function call with this id stands in the input")
