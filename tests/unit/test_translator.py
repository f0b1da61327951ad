"""The translator's promises, as properties: order, completeness, and bytes that never vary."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from shared import events as ev
from shared.events import StreamEvent
from shared.frames import decode, frame
from shared.frames import encode as encode_event
from shared.lifecycle import abandon, apply, fold
from shared.responses import Dialect, McpProtocolError, Reasoning, Response
from shared.tool_calls import ToolFailure, ToolOutput
from worker.asking.routing import ClientTarget, McpTarget, Routing
from worker.harmony.parser import MessageClosed, MessageCut, MessageOpened, SegmentParser, TextContinued
from worker.harmony.tokens import (
    CALL,
    CHANNEL,
    CONSTRAIN,
    END,
    ENDOFTEXT,
    MESSAGE,
    RETURN,
    START,
    STOP_TOKENS,
    encode,
)
from worker.response.reasoning_items import EVENTS, ReasoningStyle
from worker.response.segments import ToolReturned
from worker.response.translator import (
    OutOfOrder,
    Translation,
    step,
)
from worker.response.turn_reader import TurnReader
from worker.response.usage import Turn

RESPONSE = Response(id="resp_0_" + "a" * 32, created_at=1, status="in_progress", model="default")
ROUTING: Routing = {
    "python": McpTarget("python", "code_interpreter", "python"),
    "code": McpTarget("code", "code_interpreter", "python", item_type="code_interpreter_call"),
    "wiki.ask": McpTarget("wiki.ask", "wiki", "ask", needs_approval=True),
    "functions.get_weather": ClientTarget("get_weather"),
    "functions.edit": ClientTarget("edit", "custom_tool_call"),
    "functions.shell": ClientTarget("shell", "shell_call"),
    "functions.local_shell": ClientTarget("local_shell", "local_shell_call"),
    "functions.apply_patch": ClientTarget("apply_patch", "apply_patch_call"),
    "docs.search": ClientTarget("search", "function_call", "docs"),
}

words = st.text(max_size=6) | st.sampled_from(
    [
        *(
            "Hello",
            " world",
            "😀",
            "é",
            '{"a":',
            "1}",
            '{"input": "',
            '"}',
            '"',
            "\\",
            "\\n",
            "\\ud83d",
            "\\ude00",
        ),
        *('{"commands": ["ls", "', '", "pwd"], "timeout_ms": 5}', '{"command": ["ls"]}', '{"diff": "+a", '),
        *('"type": "create_file", "path": "a"', ', "diff": "+b', '{"type": "delete_file", "path": "a"}'),
    ]
)
headers = st.sampled_from(
    [
        MessageOpened("analysis", None, None),
        MessageOpened("commentary", None, None),
        MessageOpened("final", None, None),
        MessageOpened(None, None, None),
        MessageOpened("analysis", "python", "code"),
        MessageOpened("analysis", "code", "code"),
        MessageOpened("commentary", "wiki.ask", "json"),
        MessageOpened("commentary", "functions.get_weather", "json"),
        MessageOpened("commentary", "functions.unknown", "json"),
        MessageOpened("commentary", "functions.edit", "json"),
        MessageOpened("commentary", "functions.shell", "json"),
        MessageOpened("commentary", "functions.local_shell", "json"),
        MessageOpened("commentary", "functions.apply_patch", "json"),
        MessageOpened("commentary", "docs.search", "json"),
    ]
)
results = st.builds(ToolOutput, words) | st.builds(
    ToolFailure, st.builds(McpProtocolError, st.integers(), words)
)


@st.composite
def conversations(draw: st.DrawFn) -> list[Any]:
    """Legal sequences of segments: whole messages, the last one perhaps cut."""
    segments: list[Any] = []
    for _ in range(draw(st.integers(0, 5))):
        opened = draw(headers)
        segments += [opened, *(TextContinued(text) for text in draw(st.lists(words, max_size=4)) if text)]
        segments.append(MessageClosed(opened.recipient is not None))
        if opened.recipient in ("python", "code"):
            segments.append(ToolReturned(draw(results)))
    if draw(st.booleans()):
        segments += [draw(headers), TextContinued("cut"), MessageCut()]
    return segments


def translate(segments: Sequence[Any], dialect: Dialect = "openai") -> list[StreamEvent]:
    style = ReasoningStyle(summary="auto", events=EVENTS[dialect])
    now, events = Translation(RESPONSE.id, ROUTING, reasoning=style), []
    for segment in segments:
        now, made = step(now, segment)
        events += made
    return events


def started(events: Sequence[StreamEvent]) -> list[StreamEvent]:
    return [ev.ResponseCreated(RESPONSE), ev.ResponseInProgress(RESPONSE), *events]


@given(conversations())
def test_the_same_segments_give_the_same_bytes(segments: list[Any]) -> None:
    first, second = translate(segments), translate(segments)
    assert [frame(e, n) for n, e in enumerate(first)] == [frame(e, n) for n, e in enumerate(second)]


NAMED: dict[Dialect, dict[str, str]] = {
    "vllm": {
        "response.content_part.added": "response.reasoning_part.added",
        "response.content_part.done": "response.reasoning_part.done",
    },
    "open-responses": {
        "response.reasoning_text.delta": "response.reasoning.delta",
        "response.reasoning_text.done": "response.reasoning.done",
    },
}


@given(conversations(), st.sampled_from(list(NAMED)))
def test_a_dialect_gives_the_events_of_reasoning_other_names_and_changes_nothing_else(
    segments: list[Any], dialect: Dialect
) -> None:
    plain, told = translate(segments), translate(segments, dialect)
    expected = [json.loads(encode_event(event)) for event in plain]
    for event in expected:
        if event.get("item_id", "").startswith("rs_"):
            event["type"] = NAMED[dialect].get(event["type"], event["type"])
    assert [json.loads(encode_event(event)) for event in told] == expected
    assert [decode(frame(event, 0)) for event in told] == told
    assert fold(started(told)) == fold(started(plain))


@given(conversations())
def test_every_item_is_added_once_and_done_once_in_order(segments: list[Any]) -> None:
    events = translate(segments)
    added = [e.output_index for e in events if isinstance(e, ev.OutputItemAdded)]
    done = [e.output_index for e in events if isinstance(e, ev.OutputItemDone)]
    assert added == done == list(range(len(added)))
    ids = {e.item.id for e in events if isinstance(e, ev.OutputItemAdded | ev.OutputItemDone)}
    assert len(ids) == len(added)


@given(conversations())
def test_deltas_join_to_the_done_text_with_the_same_index(segments: list[Any]) -> None:
    texts: dict[str, str] = {}
    for event in translate(segments):
        match event:
            case ev.ReasoningTextDelta() | ev.OutputTextDelta():
                assert event.content_index == 0
                texts[event.item_id] = texts.get(event.item_id, "") + event.delta
            case ev.CallDelta():
                texts[event.item_id] = texts.get(event.item_id, "") + event.delta
            case ev.ReasoningTextDone() | ev.OutputTextDone():
                assert event.content_index == 0
                assert event.text == texts.pop(event.item_id, "")
            case ev.FunctionCallArgumentsDone() | ev.McpCallArgumentsDone():
                assert event.arguments == texts.pop(event.item_id, "")
            case ev.CustomToolCallInputDone(input=text) | ev.ApplyPatchDiffDone(diff=text):
                assert text == texts.pop(event.item_id, "")
            case ev.CodeInterpreterCallCodeDone(code=text):
                assert text == texts.pop(event.item_id, "")
            case ev.ShellCommandDelta():
                place = f"{event.output_index} {event.command_index}"
                texts[place] = texts.get(place, "") + event.delta
            case ev.ShellCommandDone():
                assert event.command == texts.pop(f"{event.output_index} {event.command_index}", "")
            case _:
                pass
    assert texts == {}


@given(conversations())
def test_the_folded_output_is_the_streamed_items(segments: list[Any]) -> None:
    events = translate(segments)
    done = [e.item for e in events if isinstance(e, ev.OutputItemDone)]
    assert list(fold(started(events)).output) == done


@given(conversations(), st.integers(0, 60))
def test_folding_at_once_equals_applying_one_by_one_wherever_it_is_cut(
    segments: list[Any], length: int
) -> None:
    events = started(translate(segments))[: length + 2]
    response = RESPONSE
    for event in events[1:]:
        response = apply(response, event)
    assert fold(events) == response


@given(conversations(), st.integers(0, 60))
def test_an_abandoned_log_ends_with_every_item_done(segments: list[Any], length: int) -> None:
    events = started(translate(segments))[: length + 2]
    whole = [*events, *abandon(events)]
    assert abandon(whole) == []
    assert all(getattr(item, "status", "completed") != "in_progress" for item in fold(whole).output)


@given(conversations())
def test_frames_decode_to_the_events_they_were_made_from(segments: list[Any]) -> None:
    for number, event in enumerate(translate(segments)):
        assert decode(frame(event, number)) == event


@pytest.mark.parametrize(
    "segments",
    [
        [TextContinued("a")],
        [MessageClosed(False)],
        [ToolReturned(ToolOutput("x"))],
        [MessageOpened("final", None, None), MessageOpened("final", None, None)],
    ],
)
def test_a_segment_out_of_order_is_a_bug_and_says_so(segments: list[Any]) -> None:
    with pytest.raises(OutOfOrder):
        translate(segments)


def test_a_call_that_needs_leave_becomes_a_question_and_nothing_runs() -> None:
    segments = [MessageOpened("commentary", "wiki.ask", "json"), TextContinued("{}"), MessageClosed(True)]
    added, done = translate(segments)
    assert isinstance(added, ev.OutputItemAdded)
    assert isinstance(done, ev.OutputItemDone)
    assert done.item.id.startswith("mcpr_")


def test_a_question_that_broke_off_is_not_asked_and_what_was_written_of_it_is_reasoning() -> None:
    opened = MessageOpened("commentary", "wiki.ask", "json")
    assert translate([opened, MessageCut()]) == []
    done = translate([opened, TextContinued('{"q"'), MessageCut()])[-1]
    assert isinstance(done, ev.OutputItemDone)
    assert isinstance(done.item, Reasoning)
    assert (done.item.status, done.item.content[0].text) == ("incomplete", '{"q"')


def test_completed_comes_after_the_tool_and_with_its_output() -> None:
    opened = MessageOpened("analysis", "python", "code")
    now, _ = step(Translation(RESPONSE.id, ROUTING), opened)
    now, _ = step(now, TextContinued("1"))
    now, events = step(now, MessageClosed(True))
    assert [type(e) for e in events] == [ev.McpCallArgumentsDelta, ev.McpCallArgumentsDone]
    assert [call.written for call in now.running] == ["1"]
    now, events = step(now, ToolReturned(ToolOutput("56088\n")))
    assert not now.running
    assert [type(e) for e in events] == [ev.McpCallCompleted, ev.OutputItemDone]
    assert isinstance(events[1], ev.OutputItemDone)
    assert events[1].item.output == "56088\n"  # type: ignore[union-attr]


# --- from tokens --------------------------------------------------------------------------------

specials = st.sampled_from([START, END, MESSAGE, CHANNEL, CONSTRAIN, RETURN, CALL, ENDOFTEXT])
common = st.sampled_from(
    encode("assistant analysis final commentary to=python to=functions.get_weather code json Hi 😀 é")
)
tokens = st.lists(specials | common | st.integers(0, 201_500), max_size=60)


def read_all(token_ids: Sequence[int]) -> list[StreamEvent]:
    """Reads as an attempt does: calls are answered when their turn is over."""
    reader = TurnReader(Translation(RESPONSE.id, ROUTING))
    reader.begin_turn(Turn(0))
    events: list[StreamEvent] = []
    for token in token_ids:
        events += reader.read(token)
        if reader.is_turn_over or token in STOP_TOKENS:
            events += answer_all(reader)
            reader.begin_turn(Turn(0))
    events += reader.end()
    return events + answer_all(reader)


def answer_all(reader: TurnReader) -> list[StreamEvent]:
    events: list[StreamEvent] = []
    while reader.translation.running:
        events += reader.advance(ToolReturned(ToolOutput("x")))
    return events


@hypothesis_settings(max_examples=300)
@given(tokens)
def test_random_tokens_always_end_legally(token_ids: list[int]) -> None:
    events = read_all(token_ids)
    response = fold(started(events))
    assert abandon(started(events)) == []
    done = [e for e in events if isinstance(e, ev.OutputItemDone)]
    assert [e.item for e in sorted(done, key=lambda e: e.output_index)] == list(response.output)


WHOLE = (
    [CHANNEL, *encode("analysis"), MESSAGE, *encode("Think 𓀀 hard."), END]
    + [START, *encode("assistant"), CHANNEL, *encode("analysis to=python code"), MESSAGE]
    + [*encode("1*2\n"), CALL]
    + [CHANNEL, *encode("final"), MESSAGE, *encode("It is **2** 😀."), RETURN]
)


@pytest.mark.parametrize("length", range(len(WHOLE) + 1))
def test_a_cut_at_any_token_still_ends_legally(length: int) -> None:
    whole, cut = read_all(WHOLE), read_all(WHOLE[:length])
    assert abandon(started(cut)) == []
    shared = [a == b for a, b in zip(whole, cut, strict=False)]
    until = shared.index(False) if False in shared else len(shared)
    assert all(getattr(e, "status", None) != "completed" for e in cut[until:])


def test_a_character_split_over_tokens_comes_whole_and_once() -> None:
    text = "".join(e.delta for e in read_all(WHOLE) if isinstance(e, ev.ReasoningTextDelta))
    assert text == "Think 𓀀 hard."


def test_a_character_cut_off_is_shown_as_unreadable() -> None:
    half = encode("𓀀")[:2]
    events = read_all([CHANNEL, *encode("final"), MESSAGE, *half, RETURN])
    done = [e for e in events if isinstance(e, ev.OutputTextDone)]
    assert done[0].text == "\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ([CHANNEL, *encode("analysis"), MESSAGE], MessageOpened("analysis", None, None)),
        (
            [CHANNEL, *encode("commentary to=functions.f "), CONSTRAIN, *encode("json"), MESSAGE],
            MessageOpened("commentary", "functions.f", "json"),
        ),
        ([CHANNEL, *encode("analysis to=python code"), MESSAGE], MessageOpened("analysis", "python", "code")),
        ([CHANNEL, *encode("analysis a b c d"), MESSAGE], MessageOpened("analysis", None, None)),
        ([CHANNEL, MESSAGE], MessageOpened(None, None, None)),
        ([MESSAGE], MessageOpened(None, None, None)),
    ],
)
def test_a_header_is_read_or_degrades(header: list[int], expected: MessageOpened) -> None:
    parser = SegmentParser()
    assert [segment for token in header for segment in parser.feed(token)] == [expected]
