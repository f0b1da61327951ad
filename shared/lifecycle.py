"""The life of a response: its legal transitions, and the fold of its events.

Pure. Everything reported about a response (status, output, usage) is the `fold` of its log. Knows nothing of
who generates the events, or where they are kept.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, cast

import msgspec

from shared import events as ev
from shared.client_tools import ShellCall
from shared.context_length import TOO_LONG, TOO_LONG_PARAM
from shared.events import StreamEvent
from shared.hosted_tools import CallItem
from shared.input_items import InputItem, SummaryText
from shared.responses import (
    TERMINAL,
    Compaction,
    IncompleteDetails,
    IncompleteReason,
    Item,
    McpApprovalRequest,
    McpListTools,
    Message,
    Part,
    Reasoning,
    ReasoningText,
    Response,
    ResponseError,
    ResponseStatus,
    Usage,
)
from shared.service_tiers import served_tier

TRANSITIONS: dict[ResponseStatus, frozenset[ResponseStatus]] = {
    "queued": frozenset({"queued", "in_progress", "failed", "cancelled"}),
    "in_progress": frozenset({"in_progress", "completed", "incomplete", "failed", "cancelled"}),
    "completed": frozenset(),
    "incomplete": frozenset(),
    "failed": frozenset(),
    "cancelled": frozenset(),
}


class IllegalEvent(Exception):
    """The event cannot follow those before it: a bug in its producer."""


def begin(response: Response) -> list[StreamEvent]:
    """Returns the events that a log begins with, before any worker has acquired the response."""
    if response.status == "queued":
        return [ev.ResponseCreated(response), ev.ResponseQueued(response)]
    return [ev.ResponseCreated(response)]


def fold(events: Iterable[StreamEvent]) -> Response:
    """Returns the response of a log, from entry 0 to its last entry.

    Raises IllegalEvent if the first event carries no response or a later one does not fit.
    """
    joined = _join_deltas(events)
    first = next(joined, None)
    if not isinstance(first, ev.ResponseCreated):
        raise IllegalEvent(f"a log begins with response.created, not {type(first).__name__}")
    return _apply_all(first.response, joined)


def fold_on(response: Response, events: Iterable[StreamEvent]) -> Response:
    """Returns the fold of a log, given that of its beginning and the events after it. Raises IllegalEvent."""
    return _apply_all(response, _join_deltas(events))


def _apply_all(response: Response, events: Iterable[StreamEvent]) -> Response:
    for event in events:
        response = apply(response, event)
    return response


def apply(response: Response, event: StreamEvent) -> Response:
    """Returns the response after one more event. Raises IllegalEvent."""
    if response.status in TERMINAL:
        raise IllegalEvent(f"{type(event).__name__} after the response has {response.status}")
    match event:
        case (
            ev.ResponseCreated(after)
            | ev.ResponseQueued(after)
            | ev.ResponseInProgress(after)
            | ev.ResponseCompleted(after)
            | ev.ResponseIncomplete(after)
            | ev.ResponseFailed(after)
        ):
            if after.status not in TRANSITIONS[response.status]:
                raise IllegalEvent(f"from {response.status} to {after.status}")
            return after
        case ev.Error():
            return response  # the event that follows puts the error into the response
        case ev.OutputItemAdded(output_index, item):
            if output_index != len(response.output):
                raise IllegalEvent(f"item {output_index} added after {len(response.output)}")
            return msgspec.structs.replace(response, output=(*response.output, item))
        case _:
            index = event.output_index
            if index >= len(response.output):
                raise IllegalEvent(f"{type(event).__name__} for item {index}, which was not added")
            item = _apply_to_item(response.output[index], event)
            output = (*response.output[:index], item, *response.output[index + 1 :])
            return msgspec.structs.replace(response, output=output)


def _apply_to_item(item: Item, event: ev.ItemEvent | ev.TextDelta) -> Item:
    match event, item:
        case ev.OutputItemDone(item=done), _:
            return done
        case (ev.ContentPartAdded() | ev.ContentPartDone(), Reasoning() | Message()):
            return _with_part(item, event.content_index, event.part)
        case (ev.ReasoningTextDelta(), Reasoning()):
            thought = item.content[event.content_index]
            return _with_part(item, event.content_index, _with_text(thought, thought.text + event.delta))
        case (ev.ReasoningTextDone(), Reasoning()):
            thought = item.content[event.content_index]
            return _with_part(item, event.content_index, _with_text(thought, event.text))
        case (
            (
                ev.ReasoningSummaryPartAdded()
                | ev.ReasoningSummaryTextDelta()
                | ev.ReasoningSummaryTextDone()
                | ev.ReasoningSummaryPartDone()
            ) as told,
            Reasoning(),
        ):
            return _with_summary(item, told)
        case (ev.OutputTextDelta(), Message()):
            said = item.content[event.content_index]
            logprobs = said.logprobs + event.logprobs
            said = msgspec.structs.replace(said, text=said.text + event.delta, logprobs=logprobs)
            return _with_part(item, event.content_index, said)
        case (ev.OutputTextAnnotationAdded(), Message()):
            said = item.content[event.content_index]
            said = msgspec.structs.replace(said, annotations=(*said.annotations, event.annotation))
            return _with_part(item, event.content_index, said)
        case (ev.OutputTextDone(), Message()):
            said = item.content[event.content_index]
            said = msgspec.structs.replace(said, text=event.text, logprobs=event.logprobs)
            return _with_part(item, event.content_index, said)
        case ((ev.CallDelta() | ev.CallWritten()), CallItem()):
            return _with_written(item, event)
        case ((ev.ShellCommandAdded() | ev.ShellCommandDelta() | ev.ShellCommandDone()), ShellCall()):
            return _with_command(item, event)
        case ev.Announcement(), _:
            return item
        case _:
            raise IllegalEvent(f"{type(event).__name__} for a {type(item).__name__}")


def _with_written(call: CallItem, event: ev.CallDelta | ev.CallWritten) -> Item:
    written = (
        call.written + event.delta if isinstance(event, ev.CallDelta) else getattr(event, call.written_as)
    )
    return cast(Item, call.with_written(written))


def _with_command(
    call: ShellCall, event: ev.ShellCommandAdded | ev.ShellCommandDelta | ev.ShellCommandDone
) -> ShellCall:
    index = event.command_index
    if isinstance(event, ev.ShellCommandDelta):
        return call.with_command(index, call.action.commands[index] + event.delta)
    return call.with_command(index, event.command)


def _with_part(item: Reasoning | Message, index: int, part: Part) -> Reasoning | Message:
    if index > len(item.content):
        raise IllegalEvent(f"content part {index} of {len(item.content)}")
    return msgspec.structs.replace(item, content=(*item.content[:index], part, *item.content[index + 1 :]))


def _with_summary(item: Reasoning, event: ev.SummaryEvent) -> Reasoning:
    index, summary = event.summary_index, item.summary
    if index > len(summary) or (
        index == len(summary) and not isinstance(event, ev.ReasoningSummaryPartAdded)
    ):
        raise IllegalEvent(f"summary part {index} of {len(summary)}")
    match event:
        case ev.ReasoningSummaryPartAdded(part=part) | ev.ReasoningSummaryPartDone(part=part):
            pass
        case ev.ReasoningSummaryTextDelta(delta=delta):
            part = SummaryText(summary[index].text + delta)
        case ev.ReasoningSummaryTextDone(text=text):
            part = SummaryText(text)
    return msgspec.structs.replace(item, summary=(*summary[:index], part, *summary[index + 1 :]))


def _with_text(thought: ReasoningText, text: str) -> ReasoningText:
    return msgspec.structs.replace(thought, text=text)


def _join_deltas(events: Iterable[StreamEvent]) -> Iterator[StreamEvent]:
    """Joins the deltas of one text between two other events, so that folding a long text takes linear time.

    Those of reasoning and of its summary alternate, so their order among each other is not kept.
    """
    held: dict[_TextName, list[ev.TextDelta]] = {}
    for event in events:
        if isinstance(event, ev.TextDelta):
            held.setdefault(_text_of(event), []).append(event)
            continue
        yield from map(_join, held.values())
        held.clear()
        yield event
    yield from map(_join, held.values())


_TextName = tuple[type[ev.TextDelta], int, int]


def _text_of(delta: ev.TextDelta) -> _TextName:
    """Returns what names the text that a delta continues."""
    part = delta.command_index if isinstance(delta, ev.ShellCommandDelta) else 0
    return type(delta), delta.output_index, part


def _join(deltas: Sequence[ev.TextDelta]) -> ev.TextDelta:
    text = "".join(delta.delta for delta in deltas)
    first = deltas[0]
    if isinstance(first, ev.OutputTextDelta):
        logprobs = chain.from_iterable(d.logprobs for d in deltas if isinstance(d, ev.OutputTextDelta))
        return msgspec.structs.replace(first, delta=text, logprobs=tuple(logprobs))
    return msgspec.structs.replace(first, delta=text)


def abandon(events: Sequence[StreamEvent]) -> list[StreamEvent]:
    """Returns the events that end the items which a log has added but not ended, each item as it is."""
    added = {event.output_index for event in events if isinstance(event, ev.OutputItemAdded)}
    done = {event.output_index for event in events if isinstance(event, ev.OutputItemDone)}
    output = fold(events).output
    return [ev.OutputItemDone(index, _interrupt(output[index])) for index in sorted(added - done)]


def _interrupt(item: Item) -> Item:
    match item:
        case McpListTools():
            return msgspec.structs.replace(item, error="The listing was interrupted.")
        case McpApprovalRequest() | Compaction():
            return item
        case Reasoning() | Message() | CallItem():
            return msgspec.structs.replace(item, status="incomplete")


def lasting(output: Sequence[Item]) -> list[Item]:
    """Returns what later responses read of an output: all items except calls and compactions that were cut
    off, `without_unread`."""
    return without_unread([item for item in output if not _is_cut_off(item)])


def without_unread(output: Sequence[Item]) -> list[Item]:
    """Omits what no model reads: logprobs, which are many times as long as their text, and sealed reasoning,
    which says what `content` does."""
    return list(map(_without_unread, output))


def as_input(output: Sequence[Item]) -> list[InputItem]:
    """Returns the items of an output as input items."""
    return msgspec.convert(msgspec.to_builtins(output), list[InputItem])


def _is_cut_off(item: Item) -> bool:
    if isinstance(item, Compaction):
        return not item.encrypted_content
    return isinstance(item, CallItem) and item.status not in ("completed", "failed")


def _without_unread(item: Item) -> Item:
    if isinstance(item, Reasoning):
        return msgspec.structs.replace(item, encrypted_content=msgspec.UNSET)
    if not isinstance(item, Message) or not any(part.logprobs for part in item.content):
        return item
    parts = tuple(msgspec.structs.replace(part, logprobs=()) for part in item.content)
    return msgspec.structs.replace(item, content=parts)


# --- the terminal events ------------------------------------------------------------------------

TerminalEvent = ev.ResponseCompleted | ev.ResponseIncomplete | ev.ResponseFailed


def _end(response: Response, status: ResponseStatus, **changes: Any) -> Response:
    tier = served_tier(response.service_tier)
    return msgspec.structs.replace(response, status=status, service_tier=tier, **changes)


def complete(response: Response, usage: Usage, completed_at_s: int) -> ev.ResponseCompleted:
    return ev.ResponseCompleted(_end(response, "completed", usage=usage, completed_at=completed_at_s))


def cut_short(response: Response, usage: Usage, reason: IncompleteReason) -> ev.ResponseIncomplete:
    return ev.ResponseIncomplete(
        _end(response, "incomplete", usage=usage, incomplete_details=IncompleteDetails(reason))
    )


def fail(response: Response, error: ResponseError) -> ev.ResponseFailed:
    """Returns the event that ends a response as failed; the caller has set its usage."""
    return ev.ResponseFailed(_end(response, "failed", error=error))


def error_events(error: ResponseError) -> list[StreamEvent]:
    """Returns the events that precede a failure: an `error` event, where the hosted API sends one."""
    if error != TOO_LONG:
        return []
    body = ev.ErrorBody(error.type, error.code, error.message, TOO_LONG_PARAM)
    return [ev.Error(error.code, error.message, TOO_LONG_PARAM, body)]


def cancel(response: Response) -> ev.ResponseFailed:
    """Returns the event that ends a response as cancelled: `response.failed`, without output."""
    return ev.ResponseFailed(_end(response, "cancelled", output=()))
