"""Translates segments into events. Pure: the same segments always give the same events.

Owns which item a message becomes and the legal order of its events; knows nothing of tokens, sequence
numbers, Redis or how tools run. Ids derive from (response_id, output_index).

The pieces of an open item's text are lists that grow in place, so each state is advanced once. A new state
and a link of a chain for each piece would be left to the garbage collector to walk until the item is done
(docs/adr/0033-a-step-is-a-function-call.md).
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import assert_never

from shared import events as ev
from shared.delta_frames import DeltaFrames, QuotedFrames, quote
from shared.events import TextDelta
from shared.ids import item_id
from shared.responses import (
    ItemStatus,
    Logprob,
    McpApprovalRequest,
    Message,
    OutputText,
    Phase,
    ServerCall,
)
from shared.tool_calls import ToolFailure, ToolOutput
from shared.web_search import Displays
from worker.asking.routing import ClientTarget, McpTarget, Routing, find_target
from worker.harmony.parser import MessageClosed, MessageCut, MessageOpened, TextContinued
from worker.response.call_items import PRESENT_STYLE, CallForm, CallStyle, delta_around, form_of, to_approve
from worker.response.citations import CitationMarks, displays_after, may_end_mark
from worker.response.client_calls import FORMS as CLIENT_FORMS
from worker.response.client_calls import ClientCallForm, Events, Place
from worker.response.reasoning_items import TEXT_ALONE, ReasoningStyle, begin_reasoning, end_reasoning
from worker.response.running_call import RunningCall
from worker.response.segments import CallApproved, Segment, TextWithLogprobs, ToolReturned
from worker.response.summary import Summary

# --- the open item: at most one at a time ---------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OpenReasoning:
    pieces: list[str] = field(default_factory=list)
    unknown_recipient: str | None = None
    """Set if the message is a call to a recipient that no offered tool has."""
    summary: Summary | None = None
    """None if none is wanted, and for what is not a thought but such a call."""


@dataclass(frozen=True, slots=True)
class OpenMessage:
    phase: Phase | None
    """None if the record's format is older than `phase` on answers."""
    pieces: list[str] = field(default_factory=list)
    logprobs: list[tuple[Logprob, ...]] = field(default_factory=list)
    marks: CitationMarks | None = None
    """None if there is nothing to cite."""


@dataclass(frozen=True, slots=True)
class OpenClientCall:
    """A call that the client is to run. `form`: advanced with each piece."""

    target: ClientTarget
    form: ClientCallForm
    pieces: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class OpenMcpCall:
    target: McpTarget
    pieces: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class OpenSpentCall:
    """A call beyond `max_tool_calls`: it is not made and leaves no item; the model reads a refusal."""

    target: McpTarget
    pieces: list[str] = field(default_factory=list)


OpenItem = OpenReasoning | OpenMessage | OpenClientCall | OpenMcpCall | OpenSpentCall


@dataclass(frozen=True, slots=True)
class Translation:
    """The state of a response's translation. `output_index`: the open item's, or else the next one's."""

    response_id: str
    routing: Routing
    output_index: int = 0
    open_item: OpenItem | None = None
    running: tuple[RunningCall, ...] = ()
    """The calls that wait for their results, in the order in which they were written."""
    style: CallStyle = PRESENT_STYLE
    calls_left: int = sys.maxsize
    """The number of calls that may still be made in this response, those that run included."""
    displays: Displays = field(default_factory=dict)
    """What the browser has shown so far, for this response and those that it continues."""
    unshown: Mapping[int, ServerCall] = field(default_factory=dict)
    """The calls of which clients are shown less, by output_index: each as it is."""
    reasoning: ReasoningStyle = TEXT_ALONE

    def refuses(self, target: McpTarget) -> bool:
        """Returns True if a call of this tool exceeds the limit; asking for an approval never does."""
        made = sum(call.arguments is not None for call in self.running)
        return made >= self.calls_left and not target.needs_approval


class OutOfOrder(Exception):
    """A segment that cannot follow the last one: a bug in the code that drives the translation."""


def step(now: Translation, segment: Segment) -> tuple[Translation, Events]:
    """Advances by one segment; returns the new state and the events.

    Raises OutOfOrder, which nothing that a model writes can cause.
    """
    match segment, now.open_item:
        case TextContinued(text), (
            OpenReasoning() | OpenMessage() | OpenClientCall() | OpenMcpCall() | OpenSpentCall()
        ) as item:
            return _extend(now, item, text)
        case TextWithLogprobs() as delta, OpenMessage() as item:
            return _extend_with_logprobs(now, item, delta)
        case MessageOpened() as opened, None:
            return _open(now, opened)
        case MessageClosed(), (OpenReasoning() | OpenMessage() | OpenClientCall() | OpenSpentCall()) as item:
            return _close(now, item, "completed")
        case MessageClosed(), OpenMcpCall() as item:
            return _close_arguments(now, item)
        case MessageCut(), (
            OpenReasoning() | OpenMessage() | OpenClientCall() | OpenMcpCall() | OpenSpentCall()
        ) as item:
            return _close(now, item, "incomplete")
        case ToolReturned(result), None if now.running:
            return _finish_call(now, result)
        case CallApproved() as approved, None:
            return _begin_approved_call(now, approved)
        case _:
            raise OutOfOrder(f"{segment} while {now.open_item} is open")


def _open(now: Translation, opened: MessageOpened) -> tuple[Translation, Events]:
    index, response_id = now.output_index, now.response_id
    match _item_for(opened, now):
        case OpenReasoning() as item:
            id_ = item_id("rs", response_id, index)
            return replace(now, open_item=item), begin_reasoning(index, id_, now.reasoning)
        case OpenMessage(phase) as item:
            id_ = item_id("msg", response_id, index)
            return replace(now, open_item=item), [
                ev.OutputItemAdded(index, Message(id_, "in_progress", "assistant", (), phase)),
                ev.ContentPartAdded(index, 0, id_, OutputText("")),
            ]
        case OpenClientCall(form=client_form) as item:
            return replace(now, open_item=item), client_form.begin()
        case OpenSpentCall() as item:
            return replace(now, open_item=item), []
        case OpenMcpCall(target) as item if target.needs_approval:
            return replace(now, open_item=item), []
        case OpenMcpCall(target) as item:
            form, id_ = _form_of(now, target)
            call = form.make(id_, target, None, "in_progress")
            return replace(now, open_item=item), [
                ev.OutputItemAdded(index, form.show(call)),
                *form.begin(index, id_),
                *delta_around(form, index, id_, 0),
            ]
        case never:
            assert_never(never)


def _item_for(opened: MessageOpened, now: Translation) -> OpenItem:
    """Returns the item that a message becomes.

    A call to an unknown recipient becomes reasoning and never runs.
    """
    if opened.recipient is not None and opened.is_call:
        match find_target(now.routing, opened.recipient):
            case ClientTarget() as target:
                place = Place(now.response_id, now.output_index)
                return OpenClientCall(target, CLIENT_FORMS[target.item_type](place, target))
            case McpTarget() as target:
                return OpenSpentCall(target) if now.refuses(target) else OpenMcpCall(target)
            case None:
                return OpenReasoning(unknown_recipient=opened.recipient)
    match opened.channel:
        case "analysis":
            index, id_ = now.output_index, item_id("rs", now.response_id, now.output_index)
            return OpenReasoning(summary=now.reasoning.begin_summary(index, id_))
        case "commentary":
            return _open_message(now, "commentary")
        case _:
            return _open_message(now, "final_answer" if now.style.record_format > 1 else None)


def _open_message(now: Translation, phase: Phase | None) -> OpenMessage:
    return OpenMessage(phase, marks=CitationMarks(now.displays) if now.displays else None)


def _extend(now: Translation, item: OpenItem, text: str) -> tuple[Translation, Events]:
    item.pieces.append(text)
    if isinstance(item, OpenClientCall):
        return now, item.form.extend(text)
    delta = _delta(now, item, text)
    if delta is None:
        return now, []
    match item:
        case OpenMessage():
            return now, [delta, *_cite(now, item, text)]
        case OpenReasoning(summary=Summary() as summary) if summary.is_due(text):
            return now, [delta, *summary.read(item.pieces)]
        case _:
            return now, [delta]


def _extend_with_logprobs(
    now: Translation, item: OpenMessage, delta: TextWithLogprobs
) -> tuple[Translation, Events]:
    item.pieces.append(delta.text)
    item.logprobs.append(delta.logprobs)
    id_ = item_id("msg", now.response_id, now.output_index)
    event = ev.OutputTextDelta(now.output_index, 0, id_, delta.text, delta.logprobs)
    return now, [event, *_cite(now, item, delta.text)]


def _cite(now: Translation, item: OpenMessage, text: str) -> Events:
    """Returns the events for the citations that end with the last piece of a message, `text`."""
    if item.marks is None or not may_end_mark(text):
        return []
    id_, first = item_id("msg", now.response_id, now.output_index), len(item.marks.found)
    return [
        ev.OutputTextAnnotationAdded(now.output_index, 0, id_, place, citation)
        for place, citation in enumerate(item.marks.read(item.pieces), first)
    ]


OpenText = tuple[list[str], DeltaFrames, Callable[[str], bool] | None]


def open_text(now: Translation) -> OpenText | None:
    """Returns where the pieces of the open item's text go, and what makes the frames of its deltas.

    None if no item is open whose text is streamed. To add a piece there is to take the step of its segment,
    except for a piece for which the third part, if there is one, returns True: more comes of it than a delta.
    """
    item = now.open_item
    if item is None:
        return None
    delta = _delta(now, item, "")
    if delta is None:
        return None
    is_quoted = isinstance(item, OpenMcpCall) and _form_of(now, item.target)[0].around is not None
    frames = QuotedFrames(delta) if is_quoted else DeltaFrames(delta)
    summary = item.summary if isinstance(item, OpenReasoning) else None
    return item.pieces, frames, None if summary is None else summary.is_due


def _delta(now: Translation, item: OpenItem, text: str) -> TextDelta | None:
    """Returns the event for another piece of an item's text, or None if nothing is streamed of it."""
    index, response_id = now.output_index, now.response_id
    match item:
        case OpenReasoning():
            return now.reasoning.events.delta(index, 0, item_id("rs", response_id, index), text)
        case OpenMessage():
            return ev.OutputTextDelta(index, 0, item_id("msg", response_id, index), text)
        case OpenClientCall(form=client_form):
            return client_form.delta_of(text)
        case OpenMcpCall(target) if not target.needs_approval:
            form, id_ = _form_of(now, target)
            return form.extend(index, id_, text if form.around is None else quote(text))
        case OpenMcpCall() | OpenSpentCall():
            return None


def _close(now: Translation, item: OpenItem, status: ItemStatus) -> tuple[Translation, Events]:
    index, text = now.output_index, "".join(item.pieces)
    closed = replace(now, output_index=index + 1, open_item=None)
    match item:
        case OpenReasoning():
            place = index, item_id("rs", now.response_id, index)
            return closed, end_reasoning(place, item.pieces, status, item.summary, now.reasoning)
        case OpenMessage(phase):
            id_ = item_id("msg", now.response_id, index)
            logprobs = tuple(chain.from_iterable(item.logprobs))
            citations = tuple(item.marks.found) if item.marks is not None else ()
            output = OutputText(text, citations, logprobs)
            return closed, [
                ev.OutputTextDone(index, 0, id_, text, logprobs),
                ev.ContentPartDone(index, 0, id_, output),
                ev.OutputItemDone(index, Message(id_, status, "assistant", (output,), phase)),
            ]
        case OpenClientCall(form=client_form):
            events = client_form.end(text, status)
            if client_form.complaint is None:
                return closed, events
            return _keep_unmade_call(replace(now, open_item=None), text)
        case OpenSpentCall():
            return replace(now, open_item=None), []
        case OpenMcpCall(target) if target.needs_approval:
            return _keep_unmade_call(replace(now, open_item=None), text)
        case OpenMcpCall(target):
            form, id_ = _form_of(now, target)
            return closed, [
                *delta_around(form, index, id_, 1),
                *form.end_text(index, id_, text, is_run=False),
                ev.OutputItemDone(index, form.show(form.make(id_, target, text, status))),
            ]
        case never:
            assert_never(never)


def _keep_unmade_call(now: Translation, arguments: str) -> tuple[Translation, Events]:
    """Turns the text of a call into reasoning, if it was cut off before the client could be asked, or cannot
    be read."""
    events: Events = []
    if arguments:
        for segment in (MessageOpened("analysis", None, None), TextContinued(arguments), MessageCut()):
            now, made = step(now, segment)
            events += made
    return now, events


def _close_arguments(now: Translation, item: OpenMcpCall) -> tuple[Translation, Events]:
    """Ends a call's arguments: the call runs, or the client is asked to approve it."""
    index, text, target = now.output_index, "".join(item.pieces), item.target
    if target.needs_approval:
        id_, arguments = (
            item_id("mcpr", now.response_id, index),
            to_approve(now.style, target, text),
        )
        request = McpApprovalRequest(id_, target.server_label, target.name, arguments)
        return replace(now, output_index=index + 1, open_item=None), [
            ev.OutputItemAdded(index, request),
            ev.OutputItemDone(index, request),
        ]
    form, id_ = _form_of(now, target)
    call = form.make(id_, target, text, "in_progress")
    return _run(now, RunningCall.of(index, call, target, text)), [
        *delta_around(form, index, id_, 1),
        *form.end_text(index, id_, text, is_run=True),
    ]


def _begin_approved_call(now: Translation, approved: CallApproved) -> tuple[Translation, Events]:
    index, target, written = now.output_index, approved.target, approved.written
    form, id_ = _form_of(now, target)
    call = form.make(id_, target, written, "in_progress", approved.approval_request_id)
    return _run(now, RunningCall.of(index, call, target, written)), [
        ev.OutputItemAdded(index, form.show(call)),
        *form.begin(index, id_),
        *form.end_text(index, id_, written, is_run=True),
    ]


def _run(now: Translation, call: RunningCall) -> Translation:
    return replace(now, output_index=call.index + 1, open_item=None, running=(*now.running, call))


def _finish_call(now: Translation, result: ToolOutput | ToolFailure) -> tuple[Translation, Events]:
    """Ends the first of the running calls: items end in the order in which they began, whichever tool
    answers first."""
    call, *others = now.running
    form = form_of(now.style, call.target, now.displays)
    done, announced = form.finish(call.index, call.item, result)
    shown = form.show(done)
    unshown = now.unshown if shown == done else {**now.unshown, call.index: done}
    ended = replace(now, running=tuple(others), unshown=unshown, displays=displays_after(now.displays, done))
    return ended, [*announced, ev.OutputItemDone(call.index, shown)]


def _form_of(now: Translation, target: McpTarget) -> tuple[CallForm, str]:
    """Returns the form of the open call, and its item's id."""
    form = form_of(now.style, target, now.displays)
    return form, item_id(form.prefix, now.response_id, now.output_index)
