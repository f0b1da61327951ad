"""How a call is shown: what clients read of it is well-formed wherever it is cut, and reads back exactly."""

import json
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.bodies.input_items import read_input
from shared import events as ev
from shared.delta_frames import quote
from shared.events import StreamEvent
from shared.lifecycle import fold
from shared.responses import McpApprovalRequest, McpCall, Response
from shared.tool_calls import ToolOutput
from tests.memory import MemoryTools, attempt
from tests.requests import make_request
from worker.asking.arguments import read_arguments, read_written
from worker.asking.conversation import approved_calls_in, build_conversation
from worker.asking.offer import make_offer
from worker.asking.routing import McpTarget, Routing
from worker.harmony.parser import MessageClosed, MessageCut, MessageOpened, TextContinued
from worker.harmony.tokens import ChatMessage
from worker.response.call_items import PRESENT_STYLE, CallStyle
from worker.response.segments import ToolReturned
from worker.response.translator import Translation, step

RESPONSE = Response(id="resp_0_" + "a" * 32, created_at=1, status="in_progress", model="default")
LABELLED: Any = {"type": "mcp", "server_label": "code_interpreter"}
CALLED = MessageOpened("analysis", "python", "code")
ODD = '"\\/\x00\x1f\x7f\x85\u2028\u2029\ufeff\ufffd<>&é\r\n\t😀{}[]:,'
codes = st.text(max_size=20) | st.text(ODD, max_size=20)
pieces = st.lists(codes.filter(bool), max_size=6)


def translate(
    segments: Sequence[Any], style: CallStyle = PRESENT_STYLE, *, needs_approval: bool = False
) -> list[StreamEvent]:
    target = McpTarget("python", "code_interpreter", "python", needs_approval=needs_approval)
    routing: Routing = {"python": target}
    now, events = Translation(RESPONSE.id, routing, style=style), []
    for segment in segments:
        now, made = step(now, segment)
        events += made
    return events


def call_in(events: Sequence[StreamEvent]) -> McpCall:
    (item,) = fold([ev.ResponseCreated(RESPONSE), ev.ResponseInProgress(RESPONSE), *events]).output
    assert isinstance(item, McpCall)
    return item


def joined(events: Sequence[StreamEvent]) -> str:
    return "".join(event.delta for event in events if isinstance(event, ev.McpCallArgumentsDelta))


@given(pieces)
def test_pieces_of_a_text_may_be_quoted_one_by_one(texts: list[str]) -> None:
    assert json.loads(f'"{"".join(map(quote, texts))}"') == "".join(texts)


@given(pieces, st.sampled_from(["made", "cut"]))
def test_the_arguments_of_python_are_json_also_in_a_call_that_was_cut_off(texts: list[str], end: str) -> None:
    code, said = "".join(texts), [CALLED, *map(TextContinued, texts)]
    ending = [MessageClosed(True), ToolReturned(ToolOutput("1"))] if end == "made" else [MessageCut()]
    events = translate([*said, *ending])
    done = [event for event in events if isinstance(event, ev.McpCallArgumentsDone)]
    assert json.loads(joined(events)) == {"code": code}
    assert joined(events) == done[0].arguments == call_in(events).arguments
    assert done[0].arguments == read_arguments("code_interpreter", code)


@given(pieces, st.integers(0, 9))
def test_what_is_shown_of_a_call_that_goes_on_is_the_beginning_of_its_json(
    texts: list[str], length: int
) -> None:
    segments = [CALLED, *map(TextContinued, texts), MessageClosed(True)]
    events = translate(segments)
    some = translate(segments[: length + 1])
    assert call_in(some).arguments in (joined(some), joined(events))
    assert joined(events).startswith(joined(some))


@given(pieces)
def test_who_requests_the_harmony_messages_reads_the_code_as_it_is(texts: list[str]) -> None:
    segments = [CALLED, *map(TextContinued, texts), MessageClosed(True), ToolReturned(ToolOutput("1"))]
    for style in (CallStyle(has_messages=True), CallStyle(record_format=2)):
        events = translate(segments, style)
        assert call_in(events).arguments == joined(events) == "".join(texts)


@given(codes)
def test_python_is_approved_as_json_and_runs_exactly_that(code: str) -> None:
    segments = [CALLED, *([TextContinued(code)] if code else []), MessageClosed(True)]
    for style in (PRESENT_STYLE, CallStyle(has_messages=True)):
        _, done = translate(segments, style, needs_approval=True)
        assert isinstance(done, ev.OutputItemDone)
        assert isinstance(done.item, McpApprovalRequest)
        assert json.loads(done.item.arguments) == {"code": code}
        answer = {
            "type": "mcp_approval_response",
            "approval_request_id": done.item.id,
            "approve": True,
        }
        history = [json.loads(msgspec.json.encode(done.item)), answer]
        items: Any = read_input(history, 2, is_continuing=False)
        request = msgspec.structs.replace(make_request(), input=items)
        assert approved_calls_in(request) == [("code_interpreter", "python", code, done.item.id)]


@pytest.mark.parametrize("arguments", ["6*7\n", '{"code":"6*7\\n"}', '{ "code" : "6*7\\u000a" }'])
def test_a_call_in_the_history_is_told_as_the_code_whichever_form_it_has(arguments: str) -> None:
    call = {
        "type": "mcp_call",
        "server_label": "code_interpreter",
        "name": "python",
        "arguments": arguments,
        "output": "42\n",
    }
    refused = call | {"type": "mcp_approval_request", "id": "mcpr_1"}
    refused.pop("output")
    answer = {"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": False}
    items: Any = read_input([call, refused, answer], 3, is_continuing=False)
    request = msgspec.structs.replace(make_request(tools=[LABELLED]), input=items)
    told = [m for m in build_conversation(request, make_offer(request, {})) if isinstance(m, ChatMessage)]
    assert [m.text for m in told if m.recipient == "python"] == ["6*7\n", "6*7\n"]


@pytest.mark.parametrize(
    "arguments", ["", "1", '"x"', "[]", "{}", '{"code":1}', '{"code":"1","more":2}', '{"a":"1"}', '{"code":']
)
def test_code_that_is_no_such_json_is_the_code(arguments: str) -> None:
    assert read_written("code_interpreter", arguments) == arguments
    assert read_written("wiki", '{"code":"1"}') == '{"code":"1"}'


async def test_a_whole_response_runs_the_code_and_shows_json() -> None:
    tools = MemoryTools()
    log = await attempt(make_request("Multiply 123*456", tools=[LABELLED]), tools=tools)
    calls = [event.item for event in log.events if isinstance(event, ev.OutputItemDone)]
    (call,) = [item for item in calls if isinstance(item, McpCall)]
    assert json.loads(call.arguments) == {"code": "123*456\n"}
    assert json.loads(joined(log.events)) == {"code": "123*456\n"}
    assert [task.arguments for task in tools.asked if hasattr(task, "arguments")] == ['{"code":"123*456\\n"}']
    assert call.output == "56088\n"
