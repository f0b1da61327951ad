"""Renders a request as a Harmony conversation: system and developer messages, then the input items.

Pure. Owns what the model reads of each item; `worker/harmony` makes the tokens, `offer.py` chooses the tools.
Source: the Harmony format guide (instructions and functions belong in the developer message; the analysis of
earlier turns is dropped once they have ended in a final message).
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, assert_never

import msgspec

from shared import client_tools, hosted_tools
from shared.approvals import approved_in
from shared.client_tools import ClientAnswer, ClientCall, CustomToolCall
from shared.hosted_tools import HostedToolCall
from shared.input_items import (
    CallElsewhere,
    CustomToolCallOutput,
    EarlierText,
    EarlierThought,
    FunctionCallOutput,
    InputCompaction,
    InputFile,
    InputFunctionCall,
    InputImage,
    InputItem,
    InputMcpApprovalRequest,
    InputMcpCall,
    InputMcpListTools,
    InputMessage,
    InputReasoning,
    InputText,
    McpApprovalResponse,
    MessagePart,
    Refusal,
    SummaryText,
)
from shared.record_format import RECORD_FORMAT
from shared.responses import (
    McpTool,
    ResponseRequest,
)
from shared.turns import answers_in
from shared.waiting_calls import CALLS
from worker.asking.answer_order import answers_in_order
from worker.asking.arguments import read_written
from worker.asking.earlier import as_before, items_as_before
from worker.asking.elsewhere import tell_elsewhere
from worker.asking.files import read_files
from worker.asking.joined_calls import FORMAT_OF_JOINED_CALLS, join_calls
from worker.asking.offer import Offer, recipient_of
from worker.asking.outcomes import tell_outcomes
from worker.asking.tool_names import one_line
from worker.asking.turn_order import in_order
from worker.harmony.signatures import FUNCTIONS, Namespaces
from worker.harmony.tokens import ChatMessage, DeveloperPart, HarmonyMessage, SystemPart

_EFFORTS = {
    "none": "low",
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
    "max": "high",
}
"""GPT-OSS knows three efforts; the API's others map to the nearest of them."""

_SUMMARY_HEADING = "# Summary of the conversation so far"
_SUMMARY_NOTE = "It stands in place of everything but the messages above. Go on from it."

_CALL_CHANNELS = ("analysis", "commentary")
_FORMAT_OF_HEADINGS = 3
_FORMAT_OF_OUTCOMES = 5
"""Records of earlier formats have their prompts as they were begun (`shared/record_format.py`)."""


def build_conversation(
    request: ResponseRequest,
    offer: Offer,
    unavailable: Mapping[str, str] = MappingProxyType({}),
    record_format: int = RECORD_FORMAT,
) -> list[HarmonyMessage]:
    """Returns everything that precedes the model's first token, in order.

    `unavailable`: server_label -> why its tools could not be listed, as the model reads it.
    """
    has_headings = record_format >= _FORMAT_OF_HEADINGS
    response = request.response
    effort = (response.reasoning or {}).get("effort") or "medium"
    date = datetime.fromtimestamp(response.created_at, UTC).date().isoformat()
    given: Sequence[InputItem] = [*request.context, *request.input]
    if record_format >= _FORMAT_OF_OUTCOMES:
        given = tell_outcomes(answers_in_order(given), _confirmed_in(request))
    else:
        given = items_as_before(given)
    leading, items = _split_leading_instructions(read_files(given) if has_headings else given)
    formats = _response_formats(response.text, are_lines_comments=has_headings)
    instructions = [response.instructions, *leading, _unavailable_servers(unavailable)]
    instructions.append(_wanted_json(response.text))
    said = _render_items(items)
    namespaces: Namespaces = offer.namespaces
    if has_headings:
        said = list(map(_with_heading, said))
    else:
        namespaces, instructions, formats = as_before(namespaces), [*instructions, formats], None
    developer = DeveloperPart(_join(instructions), namespaces, formats)
    messages: list[HarmonyMessage] = [SystemPart(_EFFORTS[effort], date, offer.hosted)]
    if developer.instructions or developer.namespaces or developer.response_formats:
        messages.append(developer)
    if record_format >= FORMAT_OF_JOINED_CALLS:
        said = join_calls(said)
    return [*messages, *_drop_old_analysis(said)]


def render_items(items: Sequence[InputItem]) -> list[ChatMessage]:
    """Returns what the model reads of items by themselves, as in the conversation."""
    return list(map(_with_heading, _render_items(read_files(tell_outcomes(answers_in_order(items), ())))))


def as_read(message: InputMessage) -> InputMessage:
    """Returns the message with what the model reads of images and files in their place."""
    (read,) = read_files([message])
    assert isinstance(read, InputMessage)
    if isinstance(read.content, str):
        return read
    parts = [
        InputText(_text_of_part(part)) if isinstance(part, InputImage | InputFile) else part
        for part in read.content
    ]
    return msgspec.structs.replace(read, content=parts)


def listings_in(items: Iterable[InputItem]) -> dict[str, tuple[McpTool, ...]]:
    """Returns the tools of each server already listed in the context, by server_label."""
    return {
        item.server_label: msgspec.convert(msgspec.to_builtins(item.tools), tuple[McpTool, ...])
        for item in items
        if isinstance(item, InputMcpListTools) and not item.error
    }


def approved_calls_in(request: ResponseRequest) -> list[tuple[str, str, str, str]]:
    """Returns (server_label, name, text, approval_request_id) of the calls that may run now. `text`: what the
    model wrote.

    These are the calls that the client has approved, that have not run yet in the context, and that the API
    has found to be those that the model asked about.
    """
    return [
        (question.server_label, question.name, _written_in(question), question_id)
        for question_id, question in _confirmed_in(request).items()
    ]


def _confirmed_in(request: ResponseRequest) -> dict[str, InputMcpApprovalRequest]:
    """Returns the questions whose calls may run now, by id, in the order in which the calls are made."""
    approved = approved_in([*request.context, *request.input])
    if request.approved is None:
        return approved
    return {id_: approved[id_] for id_ in request.approved if id_ in approved}


def call_message(recipient: str, arguments: str) -> ChatMessage:
    """Returns a tool call as the model itself would have written it."""
    hosted = hosted_tools.by_recipient(recipient)
    channel, content_type = (hosted.channel, hosted.content_type) if hosted else ("commentary", "json")
    return ChatMessage("assistant", arguments, channel, recipient, content_type)


def tool_message(recipient: str, text: str, channel: str | None = None) -> ChatMessage:
    """Returns a tool's answer to a call of `recipient`, on the channel of the call.

    `channel`: the call's, as the model wrote it. If None, or not a channel for calls, the one that the guide
    gives such a call is used.
    """
    if channel not in _CALL_CHANNELS:
        channel = call_message(recipient, "").channel
    return ChatMessage("tool", text, channel, "assistant", None, recipient)


# --- instructions -------------------------------------------------------------------------------


def _split_leading_instructions(items: Sequence[InputItem]) -> tuple[list[str], Sequence[InputItem]]:
    """Splits off the leading system and developer messages, whose texts belong in the developer message."""
    texts: list[str] = []
    for index, item in enumerate(items):
        if not isinstance(item, InputMessage) or item.role not in ("system", "developer"):
            return texts, items[index:]
        texts.append(_text_of(item.content))
    return texts, ()


def _join(parts: Iterable[str | None]) -> str | None:
    return "\n\n".join(part for part in parts if part) or None


def _unavailable_servers(unavailable: Mapping[str, str]) -> str:
    servers = "".join(f"\n- {label}: {one_line(reason)}" for label, reason in unavailable.items())
    return f"# Unavailable tool servers\n{servers}" if servers else ""


def _response_formats(text: Any, *, are_lines_comments: bool) -> str | None:
    """Returns the guide's section for structured answers, or None; the engine enforces the format."""
    match (text or {}).get("format"):
        case {"type": "json_schema", "name": name, "schema": schema, **rest}:
            described = str(rest.get("description") or "")
            lines = described.splitlines() if are_lines_comments else [described]
            about = "".join(f"// {line}\n" for line in lines) if described else ""
            return f"# Response Formats\n\n## {name}\n\n{about}{json.dumps(schema, ensure_ascii=False)}"
        case _:
            return None


def _wanted_json(text: Any) -> str | None:
    is_wanted = ((text or {}).get("format") or {}).get("type") == "json_object"
    return "Answer with one JSON object and nothing else." if is_wanted else None


# --- items --------------------------------------------------------------------------------------


def _render_items(items: Sequence[InputItem]) -> list[ChatMessage]:
    """Renders items in order.

    An output belongs to the last call before it with its id, since clients repeat ids in later turns.
    """
    called: dict[tuple[type[InputItem], str], str] = {}
    refused = _refused_in(items)
    answers = set(answers_in(items))
    rendered: list[Sequence[ChatMessage]] = []
    for index, item in enumerate(items):
        if isinstance(item, InputFunctionCall | ClientCall):
            called[type(item), item.call_id] = _recipient_of(item)
        rendered.append(_render_item(item, called, refused.get(index), is_answer=index in answers))
    return in_order(items, rendered, _call_and_answer)


def _with_heading(message: ChatMessage) -> ChatMessage:
    """Returns the message as the format guide writes it: instructions have a heading wherever they stand."""
    if message.role != "developer" or not message.text:
        return message
    return replace(message, text=f"# Instructions\n\n{message.text}")


def _refused_in(items: Sequence[InputItem]) -> dict[int, InputMcpApprovalRequest]:
    """Returns the index of each refusal that counts -> the call that it refuses.

    As in `approved_calls_in`, the last answer counts, and none for a call that was made. So no call is
    rendered twice, however often it was answered.
    """
    requests = {item.id: item for item in items if isinstance(item, InputMcpApprovalRequest)}
    done = {item.approval_request_id for item in items if isinstance(item, InputMcpCall)}
    last = {
        item.approval_request_id: (index, item.approve)
        for index, item in enumerate(items)
        if isinstance(item, McpApprovalResponse)
    }
    return {
        index: request
        for request_id, (index, is_approved) in last.items()
        if not is_approved and (request := requests.get(request_id)) and request_id not in done
    }


def _render_item(
    item: InputItem,
    called: Mapping[tuple[type[InputItem], str], str],
    refused: InputMcpApprovalRequest | None,
    *,
    is_answer: bool,
) -> Sequence[ChatMessage]:
    """Renders one item. `called`: the recipients of the calls before it; `refused`: the call that the item
    refuses, or None."""
    match item:
        case InputMessage():
            return _render_message(item, is_answer=is_answer)
        case InputReasoning():
            text = _text_of(item.content or item.summary)
            return [ChatMessage("assistant", text, "analysis")] if text else []
        case InputCompaction(summary=summary):
            return [ChatMessage("user", f"{_SUMMARY_HEADING}\n\n{_SUMMARY_NOTE}\n\n{summary or ''}")]
        case InputFunctionCall() | ClientCall():
            return [call_message(_recipient_of(item), item.arguments)]
        case FunctionCallOutput() | CustomToolCallOutput():
            recipient = called.get((CALLS[type(item)], item.call_id or "")) or _named_by(item)
            return [tool_message(recipient, _text_of(item.output))]
        case ClientAnswer():
            recipient = f"{FUNCTIONS}.{client_tools.answered_by(item).type}"
            return [tool_message(recipient, item.text)]
        case InputMcpCall():
            recipient = recipient_of(item.server_label, item.name)
            return _call_and_answer(recipient, _written_in(item), item.output or "")
        case HostedToolCall():
            call = item.render()
            recipient = hosted_tools.by_item(item).recipient_of(call.function)
            return _call_and_answer(recipient, call.written, call.answer)
        case CallElsewhere():
            told = tell_elsewhere(item)
            recipient = f"{FUNCTIONS}.{told.function}"
            written = [] if told.written is None else [call_message(recipient, told.written)]
            return written if told.answer is None else [*written, tool_message(recipient, told.answer)]
        case McpApprovalResponse():
            return _render_refusal(item, refused) if refused is not None else ()
        case InputMcpListTools() | InputMcpApprovalRequest():
            return ()  # rendered by what follows from them
        case never:
            assert_never(never)


def _named_by(output: FunctionCallOutput | CustomToolCallOutput) -> str:
    """Returns the recipient that an output names itself."""
    name = output.name if isinstance(output, FunctionCallOutput) else None
    return f"{client_tools.namespace_of(output) or FUNCTIONS}.{name or 'unknown'}"


def _recipient_of(call: InputFunctionCall | ClientCall) -> str:
    match call:
        case InputFunctionCall(name=name) | CustomToolCall(name=name):
            return f"{client_tools.namespace_of(call) or FUNCTIONS}.{name}"
        case _:
            return f"{FUNCTIONS}.{client_tools.by_item(call).type}"


def _render_message(item: InputMessage, *, is_answer: bool) -> Sequence[ChatMessage]:
    text = _text_of(item.content)
    match item.role:
        case "assistant":
            return [ChatMessage("assistant", text, "final" if is_answer else "commentary")] if text else []
        case "user":
            return [ChatMessage("user", text)]
        case "system" | "developer":
            return [ChatMessage("developer", text)]
        case never:
            assert_never(never)


def _call_and_answer(recipient: str, arguments: str, answer: str) -> list[ChatMessage]:
    return [call_message(recipient, arguments), tool_message(recipient, answer)]


def _render_refusal(item: McpApprovalResponse, request: InputMcpApprovalRequest) -> Sequence[ChatMessage]:
    recipient = recipient_of(request.server_label, request.name)
    reason = f" Reason: {item.reason}" if item.reason else ""
    answer = f"The user did not approve this call; it was not made.{reason}"
    return _call_and_answer(recipient, _written_in(request), answer)


def _written_in(item: InputMcpCall | InputMcpApprovalRequest) -> str:
    return read_written(item.server_label, item.arguments)


def _text_of(content: str | Sequence[MessagePart | SummaryText | EarlierThought]) -> str:
    """Returns the text of a content; parts that a text model cannot see are mentioned, not dropped."""
    if isinstance(content, str):
        return content
    return "\n".join(map(_text_of_part, content))


def _text_of_part(part: MessagePart | SummaryText | EarlierThought) -> str:
    match part:
        case InputImage():
            return "[An image was attached here; this model reads text only.]"
        case InputFile():
            name = part.filename or "unnamed"
            return f"[A file was attached here ({name}); this model reads text only.]"
        case Refusal(refusal):
            return refusal
        case InputText(text) | EarlierText(text) | SummaryText(text) | EarlierThought(text):
            return text
        case never:
            assert_never(never)


def _drop_old_analysis(messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    """Drops the reasoning before the last final answer, except calls."""
    finals = [i for i, message in enumerate(messages) if message.channel == "final"]
    last_final = finals[-1] if finals else -1
    return [
        message
        for i, message in enumerate(messages)
        if i > last_final or message.channel != "analysis" or message.recipient is not None
    ]
