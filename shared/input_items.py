"""Input items: one closed union of what a model reads, as clients send it and records keep it.

Owns shapes only. The API parses items once (`api/bodies/input_items.py`), the worker renders them for the
model (`worker/asking/conversation.py`). A field that a client omitted is UNSET and has no key; null stays
null. Source of names and fields: the public OpenAI types, `ResponseInputItem`.
"""

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from shared.client_tools import AnyClientAnswer, AnyClientCall
from shared.hosted_tools import AnyHostedToolCall, Text
from shared.in_turn import Noted


class InputText(msgspec.Struct, frozen=True, tag="input_text"):
    text: str
    prompt_cache_breakpoint: Any = UNSET


class InputImage(msgspec.Struct, frozen=True, tag="input_image"):
    image_url: Text = UNSET
    file_id: Text = UNSET
    detail: Text = UNSET
    prompt_cache_breakpoint: Any = UNSET


class InputFile(msgspec.Struct, frozen=True, tag="input_file"):
    file_data: Text = UNSET
    file_id: Text = UNSET
    file_url: Text = UNSET
    filename: Text = UNSET
    detail: Any = UNSET
    prompt_cache_breakpoint: Any = UNSET


class EarlierText(msgspec.Struct, frozen=True, tag="output_text"):
    """A model's earlier output text, possibly from another service."""

    text: str
    annotations: Any = UNSET
    logprobs: Any = UNSET


class Refusal(msgspec.Struct, frozen=True, tag="refusal"):
    refusal: str


OutputPart = InputText | InputImage | InputFile
"""A part of a tool's output."""
MessagePart = OutputPart | EarlierText | Refusal


class SummaryText(msgspec.Struct, frozen=True, tag="summary_text"):
    text: str


class EarlierThought(msgspec.Struct, frozen=True, tag="reasoning_text"):
    text: str


class _InputItem(msgspec.Struct, frozen=True, kw_only=True):
    id: Text = UNSET
    """Always present once a response or a conversation has adopted the item."""
    status: Text = UNSET
    in_turn: Noted = UNSET
    """Only in records, never shown to clients; so in every item that is a call."""


class InputMessage(_InputItem, frozen=True, kw_only=True, tag="message"):
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[MessagePart]
    phase: Literal["commentary", "final_answer"] | None | UnsetType = UNSET


class InputReasoning(_InputItem, frozen=True, kw_only=True, tag="reasoning"):
    summary: list[SummaryText]
    content: list[EarlierThought] | None | UnsetType = UNSET
    encrypted_content: Text = UNSET


class InputFunctionCall(_InputItem, frozen=True, kw_only=True, tag="function_call"):
    call_id: str
    name: str
    arguments: str
    namespace: Any = UNSET
    caller: Any = UNSET
    async_: Any = msgspec.field(default=UNSET, name="async")


class FunctionCallOutput(_InputItem, frozen=True, kw_only=True, tag="function_call_output"):
    """Answers the call with its `call_id`, or any call of the function `name`."""

    output: str | list[OutputPart]
    call_id: Text = UNSET
    name: Text = UNSET
    namespace: Any = UNSET
    caller: Any = UNSET


class CustomToolCallOutput(_InputItem, frozen=True, kw_only=True, tag="custom_tool_call_output"):
    output: str | list[OutputPart]
    call_id: str
    name: Any = UNSET
    caller: Any = UNSET


class ListedTool(msgspec.Struct, frozen=True):
    name: str
    input_schema: dict[str, Any]
    description: Text = UNSET
    annotations: dict[str, Any] | None | UnsetType = UNSET


class InputMcpListTools(_InputItem, frozen=True, kw_only=True, tag="mcp_list_tools"):
    server_label: str
    tools: list[ListedTool]
    error: Text = UNSET


class InputMcpApprovalRequest(_InputItem, frozen=True, kw_only=True, tag="mcp_approval_request"):
    server_label: str
    name: str
    arguments: str


class McpApprovalResponse(_InputItem, frozen=True, kw_only=True, tag="mcp_approval_response"):
    approval_request_id: str
    approve: bool
    reason: Text = UNSET


class EarlierError(msgspec.Struct, frozen=True):
    """An `McpError` of an earlier call, from this server or another."""

    type: Text = UNSET
    code: int | None | UnsetType = UNSET
    message: Text = UNSET
    content: Any = UNSET


class InputMcpCall(_InputItem, frozen=True, kw_only=True, tag="mcp_call"):
    """A call of an MCP tool, with its outcome. `error` may be text, as older clients keep it."""

    server_label: str
    name: str
    arguments: str
    output: Text = UNSET
    error: str | EarlierError | None | UnsetType = UNSET
    approval_request_id: Text = UNSET


class InputCompaction(_InputItem, frozen=True, kw_only=True, tag="compaction"):
    """Stands for a part of the conversation that was summarised (`shared/compaction.py`)."""

    encrypted_content: str
    summary: Text = UNSET
    """What is sealed in it, once the API has opened it; only in records, never shown to clients."""
    container_id: Text = UNSET
    """The same: the container of the last code that it stands for."""


# --- calls of tools that only other services have ---------------------------------------------------


class CallElsewhere(_InputItem, frozen=True, kw_only=True):
    """A call, or the answer to one, of a tool that no model is offered here: the base of these types. They
    come with a session that began elsewhere."""


class FoundText(msgspec.Struct, frozen=True):
    filename: Text = UNSET
    text: Text = UNSET
    file_id: Text = UNSET
    score: float | None | UnsetType = UNSET
    attributes: Any = UNSET


class FileSearchCall(CallElsewhere, frozen=True, kw_only=True, tag="file_search_call"):
    queries: list[str]
    results: list[FoundText] | None | UnsetType = UNSET


class ImageGenerationCall(CallElsewhere, frozen=True, kw_only=True, tag="image_generation_call"):
    result: Text = UNSET
    revised_prompt: Text = UNSET
    error: dict[str, Any] | None | UnsetType = UNSET
    action: Text = UNSET
    background: Text = UNSET
    output_format: Text = UNSET
    quality: Text = UNSET
    size: Text = UNSET
    svg_usage: Any = UNSET


class ComputerCall(CallElsewhere, frozen=True, kw_only=True, tag="computer_call"):
    call_id: str
    action: dict[str, Any] | None | UnsetType = UNSET
    actions: list[dict[str, Any]] | None | UnsetType = UNSET
    pending_safety_checks: Any = UNSET


class ComputerCallOutput(CallElsewhere, frozen=True, kw_only=True, tag="computer_call_output"):
    call_id: str
    output: dict[str, Any]
    acknowledged_safety_checks: Any = UNSET


class ToolSearchCall(CallElsewhere, frozen=True, kw_only=True, tag="tool_search_call"):
    arguments: Any
    call_id: Text = UNSET
    execution: Text = UNSET


class ToolSearchOutput(CallElsewhere, frozen=True, kw_only=True, tag="tool_search_output"):
    tools: list[dict[str, Any]]
    call_id: Text = UNSET
    execution: Text = UNSET


AnyCallElsewhere = (
    FileSearchCall
    | ImageGenerationCall
    | ComputerCall
    | ComputerCallOutput
    | ToolSearchCall
    | ToolSearchOutput
)
"""The closed union of the subclasses of CallElsewhere."""

InputItem = (
    InputMessage
    | InputReasoning
    | InputCompaction
    | InputFunctionCall
    | FunctionCallOutput
    | AnyClientCall
    | AnyClientAnswer
    | CustomToolCallOutput
    | AnyHostedToolCall
    | AnyCallElsewhere
    | InputMcpListTools
    | InputMcpApprovalRequest
    | McpApprovalResponse
    | InputMcpCall
)


class ItemReference(msgspec.Struct, frozen=True, tag="item_reference"):
    """Refers to a stored item, by which the API replaces it."""

    id: str


AskedItem = InputItem | ItemReference
"""What a client may send as an item."""
