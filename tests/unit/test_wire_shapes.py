"""The shapes on the wire, key by key, where validating clients would reject anything else."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shared.events import (
    OutputItemAdded,
    OutputItemDone,
    OutputTextDelta,
    StreamEvent,
)
from shared.frames import data_of, decode, frame
from shared.lifecycle import cancel
from shared.responses import McpProtocolError, McpTool, Message, Response, ResponseError
from shared.settings import Settings
from shared.store.log.closing import closing_of
from shared.tool_calls import ToolFailure, ToolsListed
from worker.harmony.parser import MessageClosed, MessageOpened, TextContinued
from worker.response.listing import begin_listing, end_listing
from worker.response.translator import Translation, step
from worker.response.usage import Turn, usage_of

RESPONSE_ID = "resp_0_" + "a" * 32


def items_in(events: Sequence[StreamEvent]) -> list[dict[str, Any]]:
    """The items as `added` and `done` carry them, in the order of their events."""
    return [
        msgspec.json.decode(data_of(frame(event, 0)))["item"]
        for event in events
        if isinstance(event, OutputItemAdded | OutputItemDone)
    ]


def items_of(*segments: Any) -> list[dict[str, Any]]:
    now, items = Translation(RESPONSE_ID, {}), []
    for segment in segments:
        now, events = step(now, segment)
        items += items_in(events)
    return items


def listing(result: ToolsListed | ToolFailure) -> list[dict[str, Any]]:
    _, ended = end_listing(RESPONSE_ID, 0, "wiki", result)
    return items_in([*begin_listing(RESPONSE_ID, 0, "wiki"), *ended])


LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
"""All that Python's own `splitlines`, and with it many a client, takes for the end of a line."""


@given(st.text(st.sampled_from(LINE_ENDS + "aé\x05¨©…—“一😀")))
@example(LINE_ENDS)
def test_a_frame_has_three_lines_for_every_reader_whatever_it_says(text: str) -> None:
    event = OutputTextDelta(0, 0, "msg_1", text)
    stored = frame(event, 7)
    assert [line.split(":")[0] for line in stored.decode().splitlines()] == ["event", "id", "data", ""]
    assert decode(stored) == event


def test_a_snapshot_is_one_line_for_every_reader() -> None:
    born = Response(id="resp_1", created_at=1, status="in_progress", model="m", instructions=LINE_ENDS)
    snapshot = closing_of(cancel(born), "default", Settings()).snapshot
    assert len(snapshot.decode().splitlines()) == 1
    assert msgspec.json.decode(snapshot)["instructions"] == LINE_ENDS


def wire(value: object) -> dict[str, Any]:
    decoded: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(value))
    return decoded


def test_a_listing_that_worked_has_no_error_not_even_null() -> None:
    tool = McpTool("ask", {"type": "object"}, "Asks.", {"read_only": True})
    added, done = listing(ToolsListed((tool,)))
    assert added.keys() == done.keys() == {"id", "type", "server_label", "tools"}
    assert (added["tools"], done["tools"]) == ([], [wire(tool)])


def test_a_tool_of_which_its_server_says_little_has_no_null() -> None:
    assert wire(McpTool("ask", {})) == {"name": "ask", "input_schema": {}}


def test_a_listing_that_failed_says_why() -> None:
    _, done = listing(ToolFailure(McpProtocolError(-1, "no")))
    assert done["error"] == "The tool call failed: no (code -1)."


def test_reasoning_says_nothing_of_an_encrypted_content_that_it_has_not() -> None:
    items = items_of(MessageOpened("analysis", None, None), TextContinued("Hm."), MessageClosed(False))
    assert [item.keys() for item in items] == [{"id", "type", "status", "summary", "content"}] * 2


@pytest.mark.parametrize(
    ("channel", "phase"),
    [("commentary", "commentary"), ("final", "final_answer"), (None, "final_answer"), ("x", "final_answer")],
)
def test_a_message_has_its_phase_from_its_first_event_on(channel: str | None, phase: str) -> None:
    items = items_of(MessageOpened(channel, None, None), TextContinued("Hello"), MessageClosed(False))
    assert [item["phase"] for item in items] == [phase, phase]


def test_a_message_that_was_kept_without_a_phase_is_still_read() -> None:
    kept = {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": []}
    assert msgspec.convert(kept, Message).phase is None


def test_usage_has_numbers_only_unless_turns_are_asked_for() -> None:
    turns = [Turn(10, output=3, reasoning=1), Turn(20, tool_output=7, cached=10, output=4)]
    plain, told = wire(usage_of(turns, with_turns=False)), wire(usage_of(turns, with_turns=True))
    assert plain["input_tokens_details"] == {"cached_tokens": 10, "cache_write_tokens": 0}
    assert plain["output_tokens_details"] == {"reasoning_tokens": 1, "tool_output_tokens": 7}
    assert told["input_tokens_details"]["input_tokens_per_turn"] == [10, 20]
    assert told["output_tokens_details"]["tool_output_tokens_per_turn"] == [0, 7]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("server_error", "server_error"),
        ("rate_limit_exceeded", "rate_limit_error"),
        ("invalid_prompt", "invalid_request_error"),
    ],
)
def test_an_error_names_its_type_also_when_it_was_kept_without(code: Any, kind: str) -> None:
    error = ResponseError(code, "No.")
    assert wire(error) == {"code": code, "message": "No.", "type": kind}
    kept = msgspec.json.encode({"code": code, "message": "No."})
    assert msgspec.json.decode(kept, type=ResponseError) == error
