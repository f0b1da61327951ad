from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp import MCPError

from shared.responses import McpProtocolError, McpToolExecutionError
from shared.tool_calls import ToolFailure, ToolOutput, describe
from tool_runner.answers import Answer, cut, make_encodable, make_failure, make_result
from tool_runner.mcp_client import LastStatus, ServerFailed, as_server_failures

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
        ({"type": "image", "data": "aGVsbG8="}, "[image, 5 bytes]"),
        ({"type": "text", "text": 5}, '[text]\n{"text":5}'),
        ({"type": "text"}, "[text]"),
        (
            {"type": "resource", "resource": {"uri": "file:///n", "blob": "aGk="}},
            "[resource file:///n, 2 bytes]",
        ),
        ({"type": "resource_link", "uri": "file:///n"}, "[resource file:///n]"),
        ({"type": "resource_link", "name": "notes", "uri": "file:///n"}, "[resource notes at file:///n]"),
        ({"type": "resource", "resource": {"uri": "file:///n", "text": "hi"}}, "[resource file:///n]\nhi"),
        (
            {"type": "resource", "resource": {"uri": "file:///n", "blob": "aGk=", "mimeType": "x/y"}},
            "[resource file:///n x/y, 2 bytes]",
        ),
        (
            {"type": "resource", "resource": {"uri": "file:///n", "blob": "aGk=", "mimeType": "text/csv"}},
            "[resource file:///n]\nhi",
        ),
        (
            {"type": "resource", "resource": {"uri": "file:///n", "blob": "!", "mimeType": "text/csv"}},
            "[resource file:///n text/csv, 0 bytes]",
        ),
        (
            {"type": "resource_link", "name": "notes", "uri": "file:///n", "description": "Of March."},
            "[resource notes at file:///n] Of March.",
        ),
        ({"type": "hologram"}, "[hologram]"),
        ({"type": "table", "rows": [[1]], "text": "one"}, '[table]\none\n{"rows":[[1]]}'),
        ({"type": "film", "data": "A" * 400}, '[film]\n{"data":"[300 bytes]"}'),
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


def test_error_content_is_cut_to_the_limit_and_what_is_no_text_is_described() -> None:
    image = {"type": "image", "data": "A" * 5000, "mimeType": "image/png"}
    result = make_result(Answer([text("why"), image, text("x" * 9000)], is_error=True), 1000)
    assert isinstance(result, ToolFailure)
    assert isinstance(result.error, McpToolExecutionError)
    first, second, third = result.error.content
    assert (first, second) == (text("why"), text("[image image/png, 3750 bytes]"))
    assert third["text"].endswith("[cut: this is the beginning of 9000 bytes]")
    assert len(msgspec.json.encode(result.error.content)) < 1100


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ({"content": [text("no such file")]}, "no such file"),
        ({"content": [], "structuredContent": {"code": 7}}, '{"code":7}'),
        ({"content": [{"type": "resource", "resource": {"uri": "u", "text": "why"}}]}, "[resource u]\nwhy"),
        ({"content": "it broke"}, "it broke"),
        ({"content": None, "reason": "it broke"}, '{"reason":"it broke"}'),
        ({"content": [text(" ")]}, "It gave no reason."),
        ({}, "It gave no reason."),
    ],
)
def test_an_error_always_says_what_the_server_said(result: dict[str, Any], said: str) -> None:
    failure = make_result(Answer.read({"isError": True, **result}), LIMIT)
    assert isinstance(failure, ToolFailure)
    assert describe(failure.error) == f"The tool reported an error: {said}"


@pytest.mark.parametrize(
    ("result", "shown"),
    [
        ({"content": ["one", 2, text("three")]}, "one\n2\nthree"),
        ({"content": {"type": "text", "text": "alone"}}, '{"type":"text","text":"alone"}'),
        ({"toolResult": {"of": "an old server"}}, '{"toolResult":{"of":"an old server"}}'),
        ({"structuredContent": [1, 2]}, "[1,2]"),
        ({"content": [{"type": "text"}]}, "[text]"),
        ({"content": [text("one")], "extra": 1, "_meta": 3}, "one"),
    ],
)
def test_a_result_of_any_form_is_read(result: dict[str, Any], shown: str) -> None:
    assert make_result(Answer.read(result), LIMIT) == ToolOutput(shown)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from(["type", "text", "data", "uri", "resource", "blob", "mimeType", "name", "x"])
BLOCKS = JSON | st.dictionaries(FIELDS, JSON | st.sampled_from(["text", "image", "resource"]))


@given(st.dictionaries(st.sampled_from(["isError", "structuredContent", "_meta"]), JSON), st.lists(BLOCKS))
def test_no_result_fails_to_be_read(result: dict[str, Any], blocks: list[Any]) -> None:
    """Whatever a block holds, its call has a result that can be encoded, and every text is in it."""
    made = make_result(Answer.read({**result, "content": [*blocks, text("the end")]}), 10**6)
    shown = made.output if isinstance(made, ToolOutput) else describe(made.error)
    assert shown.endswith("the end")
    assert msgspec.json.decode(msgspec.json.encode(made), type=ToolOutput | ToolFailure) == made


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


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (None, "bad arguments"),
        ({}, "bad arguments"),
        ("use x", "bad arguments: use x"),
        ({"issues": [{"path": ["x"], "most": 2}]}, 'bad arguments: {"issues":[{"path":["x"],"most":2}]}'),
        ({"most": 2**70}, 'bad arguments: {"most":1.1805916207174113e21}'),
    ],
)
def test_an_error_of_the_protocol_says_all_that_the_server_said(data: Any, told: str) -> None:
    with pytest.raises(ServerFailed) as failed, as_server_failures(LastStatus()):
        raise MCPError(-32602, "bad arguments", data)
    assert failed.value.error == McpProtocolError(-32602, told)
