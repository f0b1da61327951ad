"""Stream events: one closed union on `type`, and their bytes on the wire.

An event has no number of its own; the log assigns it. `frame` joins the two into the bytes that are stored
and then relayed unparsed (docs/adr/0003-encode-once.md); `delta_frames.py` makes the same bytes for deltas,
faster. Field names: the public OpenAI types, section `ResponseStreamEvent`.
"""

import msgspec

from shared.input_items import SummaryText
from shared.responses import Item, Logprob, Part, Response, UrlCitation

SSE_ENCODING = "utf-8"


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


class ContentPartAdded(_Event, frozen=True, tag="response.content_part.added"):
    output_index: int
    content_index: int
    item_id: str
    part: Part


class ContentPartDone(_Event, frozen=True, tag="response.content_part.done"):
    output_index: int
    content_index: int
    item_id: str
    part: Part


class ReasoningTextDelta(_Event, frozen=True, tag="response.reasoning_text.delta"):
    output_index: int
    content_index: int
    item_id: str
    delta: str


class ReasoningTextDone(_Event, frozen=True, tag="response.reasoning_text.done"):
    output_index: int
    content_index: int
    item_id: str
    text: str


class ReasoningSummaryPartAdded(_Event, frozen=True, tag="response.reasoning_summary_part.added"):
    output_index: int
    summary_index: int
    item_id: str
    part: SummaryText


class ReasoningSummaryTextDelta(_Event, frozen=True, tag="response.reasoning_summary_text.delta"):
    output_index: int
    summary_index: int
    item_id: str
    delta: str


class ReasoningSummaryTextDone(_Event, frozen=True, tag="response.reasoning_summary_text.done"):
    output_index: int
    summary_index: int
    item_id: str
    text: str


class ReasoningSummaryPartDone(_Event, frozen=True, tag="response.reasoning_summary_part.done"):
    output_index: int
    summary_index: int
    item_id: str
    part: SummaryText


class OutputTextDelta(_Event, frozen=True, tag="response.output_text.delta"):
    output_index: int
    content_index: int
    item_id: str
    delta: str
    logprobs: tuple[Logprob, ...] = ()


class OutputTextDone(_Event, frozen=True, tag="response.output_text.done"):
    output_index: int
    content_index: int
    item_id: str
    text: str
    logprobs: tuple[Logprob, ...] = ()


class OutputTextAnnotationAdded(_Event, frozen=True, tag="response.output_text.annotation.added"):
    """Follows the delta that ends the cited mark. `annotation_index`: its place in the part's list."""

    output_index: int
    content_index: int
    item_id: str
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


class FunctionCallArgumentsDelta(CallDelta, frozen=True, tag="response.function_call_arguments.delta"):
    pass


class FunctionCallArgumentsDone(CallWritten, frozen=True, tag="response.function_call_arguments.done"):
    name: str
    arguments: str


class CustomToolCallInputDelta(CallDelta, frozen=True, tag="response.custom_tool_call_input.delta"):
    pass


class CustomToolCallInputDone(CallWritten, frozen=True, tag="response.custom_tool_call_input.done"):
    input: str


class ApplyPatchDiffDelta(CallDelta, frozen=True, tag="response.apply_patch_call_operation_diff.delta"):
    pass


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


class McpCallInProgress(Announcement, frozen=True, tag="response.mcp_call.in_progress"):
    pass


class McpCallArgumentsDelta(CallDelta, frozen=True, tag="response.mcp_call_arguments.delta"):
    pass


class McpCallArgumentsDone(CallWritten, frozen=True, tag="response.mcp_call_arguments.done"):
    arguments: str


class McpCallCompleted(Announcement, frozen=True, tag="response.mcp_call.completed"):
    pass


class McpCallFailed(Announcement, frozen=True, tag="response.mcp_call.failed"):
    pass


class CodeInterpreterCallInProgress(
    Announcement, frozen=True, tag="response.code_interpreter_call.in_progress"
):
    pass


class CodeInterpreterCallCodeDelta(CallDelta, frozen=True, tag="response.code_interpreter_call_code.delta"):
    pass


class CodeInterpreterCallCodeDone(CallWritten, frozen=True, tag="response.code_interpreter_call_code.done"):
    code: str


class CodeInterpreterCallInterpreting(
    Announcement, frozen=True, tag="response.code_interpreter_call.interpreting"
):
    pass


class CodeInterpreterCallCompleted(Announcement, frozen=True, tag="response.code_interpreter_call.completed"):
    pass


class WebSearchCallInProgress(Announcement, frozen=True, tag="response.web_search_call.in_progress"): ...


class WebSearchCallSearching(Announcement, frozen=True, tag="response.web_search_call.searching"): ...


class WebSearchCallCompleted(Announcement, frozen=True, tag="response.web_search_call.completed"): ...


class McpListToolsInProgress(Announcement, frozen=True, tag="response.mcp_list_tools.in_progress"):
    pass


class McpListToolsCompleted(Announcement, frozen=True, tag="response.mcp_list_tools.completed"):
    pass


class McpListToolsFailed(Announcement, frozen=True, tag="response.mcp_list_tools.failed"):
    pass


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
    | ReasoningTextDone
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
)
StreamEvent = LifecycleEvent | ItemEvent | TextDelta | Error

_LINE_ENDS = tuple((end.encode(), rb"\u%04x" % ord(end)) for end in "\x85\u2028\u2029")
"""Next line, line separator, paragraph separator: Unicode's line ends, which JSON may contain unescaped."""

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[StreamEvent] = msgspec.json.Decoder(StreamEvent)


def encode(value: StreamEvent | Response | str) -> bytes:
    """Returns JSON on a single line, also for readers that break lines at characters JSON need not escape."""
    body = _encoder.encode(value)
    return body if body.isascii() else _escape_line_ends(body)


def _escape_line_ends(body: bytes) -> bytes:
    """Escapes Unicode's line ends. In UTF-8, their bytes occur nowhere else, so bytes can be replaced."""
    for raw, escaped in _LINE_ENDS:
        if raw[-1] in body:  # one byte is found many times as fast as three, and is mostly absent
            body = body.replace(raw, escaped)
    return body


def frame(event: StreamEvent, sequence_number: int) -> bytes:
    """Returns the event as a server-sent event, with its JSON on one `data:` line.

    Lines end in `\\n`; `id:` repeats the number for clients that resume by Last-Event-ID.
    """
    name = event.__struct_config__.tag
    body = encode(event)
    return b'event: %b\nid: %d\ndata: %b,"sequence_number":%d}\n\n' % (
        str(name).encode(SSE_ENCODING),
        sequence_number,
        body[:-1],
        sequence_number,
    )


def is_queued(stored: bytes) -> bool:
    """Returns True if a stored frame is `response.queued`, which only the API writes."""
    return stored.startswith(b"event: response.queued\n")


def data_of(stored: bytes) -> bytes:
    """Returns the JSON within a stored frame, for folding a log; a relay never calls it."""
    start = stored.index(b"\ndata: ") + 7
    return stored[start:-2]


def decode(stored: bytes) -> StreamEvent:
    """Returns the event within a stored frame. Raises msgspec.DecodeError for what `frame` did not make."""
    return _decoder.decode(data_of(stored))
