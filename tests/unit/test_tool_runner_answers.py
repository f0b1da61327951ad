from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.bodies.json_body import decode_object
from shared.responses import McpProtocolError, McpTool, McpToolExecutionError
from shared.tool_calls import ToolFailure, ToolOutput, ToolsListed, describe
from tool_runner.answers import Answer, cut, make_encodable, make_failure, make_listing, make_result

LIMIT = 10_000


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def test_text_blocks_are_joined_by_lines() -> None:
    assert make_result(Answer([text("one"), text("two")]), LIMIT) == ToolOutput("one\ntwo")


@pytest.mark.parametrize(
    ("block", "shown"),
    [
        ({"type": "image", "data": "aGVsbG8=", "mimeType": "image/png"}, "[image image/png, 5 bytes]"),
        ({"type": "audio", "data": "aGVsbG8h", "mimeType": "audio/wav"}, "[audio audio/wav, 6 bytes]"),
        ({"type": "resource_link", "name": "notes", "uri": "file:///n"}, "[resource notes at file:///n]"),
        ({"type": "resource", "resource": {"uri": "file:///n", "text": "hi"}}, "[resource file:///n]\nhi"),
        (
            {"type": "resource", "resource": {"uri": "file:///n", "blob": "aGk=", "mimeType": "x/y"}},
            "[resource file:///n x/y, 2 bytes]",
        ),
        ({"type": "hologram"}, "[hologram]"),
        ({}, "[unknown content]"),
    ],
)
def test_what_is_not_text_is_described_in_brackets(block: dict[str, Any], shown: str) -> None:
    assert make_result(Answer([block]), LIMIT) == ToolOutput(shown)


def test_structured_content_is_shown_only_when_there_is_no_text() -> None:
    assert make_result(Answer([], structured={"a": 1}), LIMIT) == ToolOutput('{"a":1}')
    assert make_result(Answer([text("one")], structured={"a": 1}), LIMIT) == ToolOutput("one")


def test_no_content_at_all_is_an_empty_output() -> None:
    assert make_result(Answer([]), LIMIT) == ToolOutput("")


def test_an_error_of_the_tool_keeps_its_content_blocks() -> None:
    block = text("no such file")
    assert make_result(Answer([block], is_error=True), LIMIT) == ToolFailure(McpToolExecutionError([block]))


def test_error_content_is_cut_to_the_limit_and_what_does_not_fit_is_described() -> None:
    image = {"type": "image", "data": "A" * 5000, "mimeType": "image/png"}
    result = make_result(Answer([text("why"), image, text("x" * 9000)], is_error=True), 1000)
    assert isinstance(result, ToolFailure)
    assert isinstance(result.error, McpToolExecutionError)
    first, second, *rest = result.error.content
    assert (first, second) == (text("why"), text("[image image/png, 3750 bytes]"))
    assert rest == []


@given(st.text(), st.integers(min_value=1, max_value=200))
def test_a_cut_text_never_exceeds_its_limit_and_never_splits_a_character(words: str, bytes_max: int) -> None:
    shown = cut(words, bytes_max)
    assert len(shown.encode()) <= bytes_max
    if len(words.encode()) <= bytes_max:
        assert shown == words


def test_a_cut_text_says_so_and_how_much_there_was() -> None:
    shown = cut("é" * 1000, 101)
    assert shown.startswith("éé")
    assert shown.endswith("\n[cut: this is the beginning of 2000 bytes]")
    assert len(shown.encode()) in (100, 101)


def test_a_broken_character_does_not_break_the_result() -> None:
    assert cut("a\ud800b", LIMIT) == "a?b"


def test_a_failure_has_a_message_of_bounded_length() -> None:
    failure = make_failure(-1, "x" * 100_000)
    assert isinstance(failure.error, McpProtocolError)
    assert len(failure.error.message) == 4096


def test_a_listing_is_whole_or_a_failure() -> None:
    tools = [McpTool(f"tool_{i}", {"type": "object"}) for i in range(100)]
    assert make_listing(tools, LIMIT) == ToolsListed(tuple(tools))
    assert isinstance(make_listing(tools, 1000), ToolFailure)


@given(
    st.recursive(
        st.integers() | st.text(st.characters(codec="utf-8")) | st.booleans() | st.none(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    )
)
def test_every_json_value_becomes_one_that_can_be_encoded(value: Any) -> None:
    encodable = make_encodable(value)
    assert msgspec.json.decode(msgspec.json.encode(encodable)) == encodable


def test_only_numbers_that_are_too_large_are_changed() -> None:
    assert make_encodable({"a": [2**64 - 1, -(2**63), True]}) == {"a": [2**64 - 1, -(2**63), True]}
    assert make_encodable([2**64, 10**400]) == [2.0**64, "1" + "0" * 400]


def test_a_listing_that_could_not_be_sent_back_to_us_is_a_failure() -> None:
    """A request is nested 128 levels deep at most, and an item stands a few levels down in it."""

    def nested(levels: int) -> dict[str, Any]:
        schema: dict[str, Any] = {}
        for _ in range(levels - 1):
            schema = {"items": schema}
        return schema

    fitting = McpTool("t", nested(101))
    assert make_listing([fitting], 10**6) == ToolsListed((fitting,))
    item = msgspec.json.encode({"input": [{"type": "mcp_list_tools", "tools": [fitting]}]})
    assert decode_object(item, 1_000_000)
    refused = make_listing([fitting, McpTool("u", nested(102))], 10**6)
    assert isinstance(refused, ToolFailure)
    assert "'u' has over 100 levels" in describe(refused.error)
