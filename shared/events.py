"""Stream events: one closed union on `type`.

An event has no number of its own; the log assigns it. `frames.py` makes the bytes of both. Field names: the
public OpenAI types, section `ResponseStreamEvent`.
"""

import msgspec

from shared.input_items import SummaryText
from shared.responses import Item, Logprob, Part, Response, UrlCitation


class _Event(msgspec.Struct, frozen=True, tag_field="type"):
    pass


class ResponseCreated(_Event, frozen=True, tag="response.created"):
    response: Response


class ResponseQueued(_Event, frozen=True, tag="response.queued"):
    response: Response


class ResponseInProgress(_Event, frozen=True, tag="response.in_progress"):
    response: Response


class ResponseCompleted(_Event, frozen=True, tag="response.completed"):
    response: Response


class ResponseIncomplete(_Event, frozen=True, tag="response.incomplete"):
    response: Response


class ResponseFailed(_Event, frozen=True, tag="response.failed"):
    """Also ends a cancelled stream: then `response.status` is `cancelled`."""

    response: Response


class ErrorBody(msgspec.Struct, frozen=True):
    """The error as in the envelope of an HTTP error response."""

    type: str
    code: str
    message: str
    param: str | None


class Error(_Event, frozen=True, tag="error"):
    """Precedes `response.failed` if the request itself cannot be served.

    The public types have its fields at the top level, the hosted service sends them within `error`; this has
    both.
    """

    code: str
    message: str
    param: str | None
    error: ErrorBody


class OutputItemAdded(_Event, frozen=True, tag="response.output_item.added"):
    output_index: int
    item: Item


class OutputItemDone(_Event, frozen=True, tag="response.output_item.done"):
    output_index: int
    item: Item


class _PartEvent(_Event, frozen=True):
    """Concerns one part of an item's content."""

    output_index: int
    content_index: int
    item_id: str


class ContentPartAdded(_PartEvent, frozen=True, tag="response.content_part.added"):
    part: Part


class ContentPartDone(_PartEvent, frozen=True, tag="response.content_part.done"):
    part: Part


class ReasoningTextDelta(_PartEvent, frozen=True, tag="response.reasoning_text.delta"):
    delta: str


class ReasoningTextDone(_PartEvent, frozen=True, tag="response.reasoning_text.done"):
    text: str


# The same events with the names of other dialects (`Dialect` in `responses.py`): vLLM has its own for parts,
# Open Responses for text. As subclasses, they are read by whatever reads those with OpenAI's names.


class ReasoningPartAdded(ContentPartAdded, frozen=True, tag="response.reasoning_part.added"): ...


class ReasoningPartDone(ContentPartDone, frozen=True, tag="response.reasoning_part.done"): ...


class ReasoningDelta(ReasoningTextDelta, frozen=True, tag="response.reasoning.delta"): ...


class ReasoningDone(ReasoningTextDone, frozen=True, tag="response.reasoning.done"): ...


class _SummaryPartEvent(_Event, frozen=True):
    """Concerns one part of a reasoning item's summary."""

    output_index: int
    summary_index: int
    item_id: str


class ReasoningSummaryPartAdded(_SummaryPartEvent, frozen=True, tag="response.reasoning_summary_part.added"):
    part: SummaryText


class ReasoningSummaryTextDelta(_SummaryPartEvent, frozen=True, tag="response.reasoning_summary_text.delta"):
    delta: str


class ReasoningSummaryTextDone(_SummaryPartEvent, frozen=True, tag="response.reasoning_summary_text.done"):
    text: str


class ReasoningSummaryPartDone(_SummaryPartEvent, frozen=True, tag="response.reasoning_summary_part.done"):
    part: SummaryText


class OutputTextDelta(_PartEvent, frozen=True, tag="response.output_text.delta"):
    delta: str
    logprobs: tuple[Logprob, ...] = ()


class OutputTextDone(_PartEvent, frozen=True, tag="response.output_text.done"):
    text: str
    logprobs: tuple[Logprob, ...] = ()


class OutputTextAnnotationAdded(_PartEvent, frozen=True, tag="response.output_text.annotation.added"):
    """Follows the delta that ends the cited mark. `annotation_index`: its place in the part's list."""

    annotation_index: int
    annotation: UrlCitation


class CallDelta(_Event, frozen=True):
    """Adds to the text that the model writes in a call."""

    output_index: int
    item_id: str
    delta: str


class CallWritten(_Event, frozen=True):
    """Contains the whole text that the model wrote in a call, in the same field as the call's item."""

    output_index: int
    item_id: str


class Announcement(_Event, frozen=True):
    """Reports an item's progress; its result is in the item's own `done` event."""

    output_index: int
    item_id: str


class FunctionCallArgumentsDelta(CallDelta, frozen=True, tag="response.function_call_arguments.delta"): ...


class FunctionCallArgumentsDone(CallWritten, frozen=True, tag="response.function_call_arguments.done"):
    name: str
    arguments: str


class CustomToolCallInputDelta(CallDelta, frozen=True, tag="response.custom_tool_call_input.delta"): ...


class CustomToolCallInputDone(CallWritten, frozen=True, tag="response.custom_tool_call_input.done"):
    input: str


class ApplyPatchDiffDelta(CallDelta, frozen=True, tag="response.apply_patch_call_operation_diff.delta"): ...


class ApplyPatchDiffDone(CallWritten, frozen=True, tag="response.apply_patch_call_operation_diff.done"):
    diff: str


class _CommandEvent(_Event, frozen=True):
    """Has no `item_id`, as in the hosted API."""

    output_index: int
    command_index: int


class ShellCommandAdded(_CommandEvent, frozen=True, tag="response.shell_call_command.added"):
    command: str


class ShellCommandDelta(_CommandEvent, frozen=True, tag="response.shell_call_command.delta"):
    delta: str


class ShellCommandDone(_CommandEvent, frozen=True, tag="response.shell_call_command.done"):
    command: str


class McpCallInProgress(Announcement, frozen=True, tag="response.mcp_call.in_progress"): ...


class McpCallArgumentsDelta(CallDelta, frozen=True, tag="response.mcp_call_arguments.delta"): ...


class McpCallArgumentsDone(CallWritten, frozen=True, tag="response.mcp_call_arguments.done"):
    arguments: str


class McpCallCompleted(Announcement, frozen=True, tag="response.mcp_call.completed"): ...


class McpCallFailed(Announcement, frozen=True, tag="response.mcp_call.failed"): ...


class CodeInterpreterCallInProgress(
    Announcement, frozen=True, tag="response.code_interpreter_call.in_progress"
):
    pass


class CodeInterpreterCallCodeDelta(
    CallDelta, frozen=True, tag="response.code_interpreter_call_code.delta"
): ...


class CodeInterpreterCallCodeDone(CallWritten, frozen=True, tag="response.code_interpreter_call_code.done"):
    code: str


class CodeInterpreterCallInterpreting(
    Announcement, frozen=True, tag="response.code_interpreter_call.interpreting"
):
    pass


class CodeInterpreterCallCompleted(
    Announcement, frozen=True, tag="response.code_interpreter_call.completed"
): ...


class WebSearchCallInProgress(Announcement, frozen=True, tag="response.web_search_call.in_progress"): ...


class WebSearchCallSearching(Announcement, frozen=True, tag="response.web_search_call.searching"): ...


class WebSearchCallCompleted(Announcement, frozen=True, tag="response.web_search_call.completed"): ...


class McpListToolsInProgress(Announcement, frozen=True, tag="response.mcp_list_tools.in_progress"): ...


class McpListToolsCompleted(Announcement, frozen=True, tag="response.mcp_list_tools.completed"): ...


class McpListToolsFailed(Announcement, frozen=True, tag="response.mcp_list_tools.failed"): ...


class CompactionCompacting(Announcement, frozen=True, tag="response.compaction.compacting"):
    """Reports that a summary grows; says nothing of its text."""


LifecycleEvent = (
    ResponseCreated
    | ResponseQueued
    | ResponseInProgress
    | ResponseCompleted
    | ResponseIncomplete
    | ResponseFailed
)
SummaryEvent = (
    ReasoningSummaryPartAdded
    | ReasoningSummaryTextDelta
    | ReasoningSummaryTextDone
    | ReasoningSummaryPartDone
)
TextDelta = (
    ReasoningTextDelta
    | ReasoningDelta
    | ReasoningSummaryTextDelta
    | OutputTextDelta
    | FunctionCallArgumentsDelta
    | CustomToolCallInputDelta
    | ApplyPatchDiffDelta
    | ShellCommandDelta
    | McpCallArgumentsDelta
    | CodeInterpreterCallCodeDelta
)
ItemEvent = (
    OutputItemAdded
    | OutputItemDone
    | ContentPartAdded
    | ContentPartDone
    | ReasoningPartAdded
    | ReasoningPartDone
    | ReasoningTextDone
    | ReasoningDone
    | ReasoningSummaryPartAdded
    | ReasoningSummaryTextDone
    | ReasoningSummaryPartDone
    | OutputTextDone
    | OutputTextAnnotationAdded
    | FunctionCallArgumentsDone
    | CustomToolCallInputDone
    | ApplyPatchDiffDone
    | ShellCommandAdded
    | ShellCommandDone
    | McpCallInProgress
    | McpCallArgumentsDone
    | McpCallCompleted
    | McpCallFailed
    | CodeInterpreterCallInProgress
    | CodeInterpreterCallCodeDone
    | CodeInterpreterCallInterpreting
    | CodeInterpreterCallCompleted
    | WebSearchCallInProgress
    | WebSearchCallSearching
    | WebSearchCallCompleted
    | McpListToolsInProgress
    | McpListToolsCompleted
    | McpListToolsFailed
    | CompactionCompacting
)
StreamEvent = LifecycleEvent | ItemEvent | TextDelta | Error
