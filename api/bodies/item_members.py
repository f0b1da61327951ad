"""The closed lists of input items: which values their members may have.

Pure. The types that records keep (`shared/input_items.py`) leave these open, because records of earlier
versions hold anything; `input_items.py` reads the items. Every value that the hosted API, this server or an
SDK writes in an item is on the list. Source: the public OpenAI types, `ResponseInputItem` and
`ResponseOutputItem`.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from api.bodies.validation import Path, parse
from api.errors import ClientError
from shared.hosted_tools import Text

_Said = Literal["in_progress", "completed", "incomplete"]
_Called = Literal["in_progress", "completed", "incomplete", "failed"]
_List = list[Any] | None | UnsetType
_Amount = Annotated[int, Meta(ge=0)] | None | UnsetType


class _Statement(msgspec.Struct):
    status: _Said | None | UnsetType = UNSET


class _Caller(msgspec.Struct):
    type: Literal["direct", "program"]
    caller_id: Text = UNSET


class _CallMembers(msgspec.Struct):
    status: _Called | None | UnsetType = UNSET
    caller: _Caller | None | UnsetType = UNSET


class _ClientsCall(_CallMembers):
    async_: bool | None | UnsetType = msgspec.field(default=UNSET, name="async")


# --- parts --------------------------------------------------------------------------------------


class _Breakpoint(msgspec.Struct):
    mode: Literal["explicit"]
    ttl: Literal["30m", "12h"] | None | UnsetType = UNSET


class _Part(msgspec.Struct):
    prompt_cache_breakpoint: _Breakpoint | None | UnsetType = UNSET


class _TextPart(_Part, tag="input_text"):
    pass


class _ImagePart(_Part, tag="input_image"):
    detail: Literal["auto", "low", "high", "original"] | None | UnsetType = UNSET


class _FilePart(_Part, tag="input_file"):
    detail: Literal["auto", "low", "high"] | None | UnsetType = UNSET


class _Annotation(msgspec.Struct):
    type: Literal["url_citation", "file_citation", "container_file_citation", "file_path"]


class _OutputText(msgspec.Struct, tag="output_text"):
    annotations: list[_Annotation] | None | UnsetType = UNSET
    logprobs: _List = UNSET


class _Refusal(msgspec.Struct, tag="refusal"):
    pass


_AnswerPart = _TextPart | _ImagePart | _FilePart
_AnyPart = _AnswerPart | _OutputText | _Refusal

# --- items --------------------------------------------------------------------------------------


class _Message(_Statement):
    content: str | list[_AnyPart] | UnsetType = UNSET


class _OutputMembers(_CallMembers):
    output: str | list[_AnswerPart] | UnsetType = UNSET


class _Local(msgspec.Struct, tag="local"):
    skills: _List = UNSET


class _Container(msgspec.Struct, tag="container_reference"):
    container_id: str


class _ShellLimits(msgspec.Struct):
    max_output_length: _Amount = UNSET
    timeout_ms: _Amount = UNSET


class _ShellCall(_ClientsCall):
    action: _ShellLimits | UnsetType = UNSET
    environment: _Local | _Container | None | UnsetType = UNSET


class _Exit(msgspec.Struct, tag="exit"):
    exit_code: int


class _Timeout(msgspec.Struct, tag="timeout"):
    pass


class _Ran(msgspec.Struct):
    outcome: _Exit | _Timeout | UnsetType = UNSET


class _ShellOutput(_CallMembers):
    output: list[_Ran] | UnsetType = UNSET
    max_output_length: _Amount = UNSET


class _LocalShellLimits(msgspec.Struct):
    timeout_ms: _Amount = UNSET


class _LocalShellCall(_ClientsCall):
    action: _LocalShellLimits | UnsetType = UNSET


class _Creation(msgspec.Struct, tag="create_file"):
    diff: str


class _Update(msgspec.Struct, tag="update_file"):
    diff: str


class _Deletion(msgspec.Struct, tag="delete_file"):
    pass


class _ApplyPatchCall(_ClientsCall):
    operation: _Creation | _Update | _Deletion | UnsetType = UNSET


class _McpError(msgspec.Struct):
    type: Literal["mcp_protocol_error", "mcp_tool_execution_error", "http_error"] | None | UnsetType = UNSET


class _McpCall(msgspec.Struct):
    status: _Called | Literal["calling"] | None | UnsetType = UNSET
    error: str | _McpError | None | UnsetType = UNSET


class _Logs(msgspec.Struct, tag="logs"):
    logs: str


class _Image(msgspec.Struct, tag="image"):
    url: str


class _CodeInterpreterCall(msgspec.Struct):
    status: _Called | Literal["interpreting"] | UnsetType = UNSET
    outputs: list[_Logs | _Image] | None | UnsetType = UNSET


class _Source(msgspec.Struct):
    type: Literal["url", "api"]
    url: Text = UNSET
    name: Text = UNSET


class _Search(msgspec.Struct, tag="search"):
    query: Text = UNSET
    queries: list[str] | None | UnsetType = UNSET
    sources: list[_Source] | None | UnsetType = UNSET


class _OpenPage(msgspec.Struct, tag="open_page"):
    url: Text = UNSET


class _FindInPage(msgspec.Struct, tag="find_in_page"):
    pattern: str
    url: Text = UNSET


class _Find(_FindInPage, tag="find"):
    """Its former name."""


class _WebSearchCall(msgspec.Struct):
    status: _Called | Literal["searching"] | UnsetType = UNSET
    action: _Search | _OpenPage | _FindInPage | _Find | UnsetType = UNSET


class _FileSearchMembers(msgspec.Struct):
    status: _Called | Literal["searching"] | None | UnsetType = UNSET


class _ImageGenerationMembers(msgspec.Struct):
    status: _Called | Literal["generating"] | None | UnsetType = UNSET


class _Gesture(msgspec.Struct):
    type: Literal["click", "double_click", "drag", "keypress", "move", "screenshot", "scroll", "type", "wait"]


class _ComputerMembers(_Statement):
    action: _Gesture | None | UnsetType = UNSET
    actions: list[_Gesture] | None | UnsetType = UNSET


class _Screenshot(msgspec.Struct):
    type: Literal["computer_screenshot"]


class _ScreenshotMembers(_Statement):
    output: _Screenshot | UnsetType = UNSET


class _ToolSearchMembers(_Statement):
    execution: Literal["server", "client"] | None | UnsetType = UNSET


_MEMBERS: Mapping[str, type[msgspec.Struct]] = {
    "message": _Message,
    "reasoning": _Statement,
    "function_call": _ClientsCall,
    "function_call_output": _OutputMembers,
    "custom_tool_call": _ClientsCall,
    "custom_tool_call_output": _OutputMembers,
    "shell_call": _ShellCall,
    "shell_call_output": _ShellOutput,
    "local_shell_call": _LocalShellCall,
    "local_shell_call_output": _CallMembers,
    "apply_patch_call": _ApplyPatchCall,
    "apply_patch_call_output": _CallMembers,
    "mcp_list_tools": _CallMembers,
    "mcp_approval_request": _CallMembers,
    "mcp_approval_response": _CallMembers,
    "mcp_call": _McpCall,
    "code_interpreter_call": _CodeInterpreterCall,
    "web_search_call": _WebSearchCall,
    "file_search_call": _FileSearchMembers,
    "image_generation_call": _ImageGenerationMembers,
    "computer_call": _ComputerMembers,
    "computer_call_output": _ScreenshotMembers,
    "tool_search_call": _ToolSearchMembers,
    "tool_search_output": _ToolSearchMembers,
}
"""The type of an item -> those of its members that have values on a list, or a shape that records leave
open."""


def refuse_values(fields: Mapping[str, Any], path: Path) -> Iterator[ClientError]:
    """Refuses the first value that is not on its list. `fields`: the item as sent, of a known type."""
    members = _MEMBERS.get(fields["type"])
    if members is None:
        return
    try:
        parse(members, fields, path)
    except ClientError as refusal:
        yield refusal
