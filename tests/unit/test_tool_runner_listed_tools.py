from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.types import ListToolsResult
from mcp.types.methods import validate_server_result

from api.bodies.json_body import decode_object
from shared.responses import LeftOutTool, McpTool
from shared.tool_calls import ToolFailure, ToolsListed, describe
from tool_runner.answers import make_listing
from tool_runner.listed_tools import Listing, mend_page

OBJECT = {"type": "object", "properties": {}}
VERSIONS = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28"]


def mend(tool: Any) -> Any:
    """Returns the tool as it is kept, or why it is not."""
    page, left_out = mend_page({"tools": [tool]})
    return page["tools"][0] if page["tools"] else left_out[0].reason


@pytest.mark.parametrize(
    ("schema", "mended"),
    [
        (None, OBJECT),
        ({}, OBJECT),
        (True, OBJECT),
        (
            {"properties": {"a": {"type": "string"}}},
            {"properties": {"a": {"type": "string"}}, "type": "object"},
        ),
        ({"anyOf": [{"required": ["a"]}]}, {"anyOf": [{"required": ["a"]}], "type": "object"}),
        ({"type": ["object", "null"]}, {"type": "object"}),
        ({"type": "object", "required": "a", "$schema": 7}, {"type": "object"}),
        ({"type": "object", "required": None, "properties": None}, {"type": "object"}),
        ({"properties": {"a": None, "b": True}}, {"properties": {"a": {}, "b": True}, "type": "object"}),
        ([], "its schema is not an object"),
        ("object", "its schema is not an object"),
        ({"type": "string"}, "its schema does not describe an object"),
        ({"type": ["string", "null"]}, "its schema does not describe an object"),
    ],
)
def test_a_schema_is_mended_where_its_meaning_is_clear(schema: Any, mended: Any) -> None:
    kept = mend({"name": "t", "inputSchema": schema})
    assert (kept if isinstance(mended, str) else kept["inputSchema"]) == mended


def test_a_tool_without_a_schema_takes_any_arguments() -> None:
    assert mend({"name": "t"})["inputSchema"] == OBJECT


@pytest.mark.parametrize(
    ("tool", "reason"),
    [
        (7, "it is not an object"),
        ({}, "it has no name"),
        ({"name": ["t"]}, "it has no name"),
        ({"name": "n" * 5000}, "its name is longer than 4096 characters"),
    ],
)
def test_what_cannot_be_called_is_left_out(tool: Any, reason: str) -> None:
    assert mend(tool) == reason


def test_what_is_said_about_a_tool_is_kept_only_in_the_form_that_it_should_have() -> None:
    hints = {"readOnlyHint": True, "idempotentHint": "yes", "title": "T", "else": 1}
    tool = mend({"name": "t", "description": 3, "annotations": hints, "outputSchema": 7, "title": []})
    assert tool == {"name": "t", "inputSchema": OBJECT, "annotations": {"readOnlyHint": True, "title": "T"}}


def test_the_good_tools_of_a_page_stay_and_the_bad_ones_are_named() -> None:
    page, left_out = mend_page({"tools": [{"name": "a"}, None, {"name": "b", "inputSchema": 3}], "x": 1})
    assert [tool["name"] for tool in page["tools"]] == ["a"]
    assert page["x"] == 1
    assert left_out == [
        LeftOutTool("(number 2)", "it is not an object"),
        LeftOutTool("b", "its schema is not an object"),
    ]


def test_without_a_list_of_tools_there_is_no_page() -> None:
    with pytest.raises(ValueError, match="no list of tools"):
        mend_page({"tools": {}})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)
SCHEMAS = JSON | st.dictionaries(
    st.sampled_from(["type", "properties", "required", "$schema", "anyOf"]), JSON
)
TOOLS = JSON | st.fixed_dictionaries(
    {"name": st.text() | JSON},
    optional={
        "inputSchema": SCHEMAS,
        "description": JSON,
        "annotations": JSON | st.dictionaries(st.sampled_from(["title", "readOnlyHint", "x"]), JSON),
        "outputSchema": JSON,
        "icons": JSON,
        "execution": JSON,
    },
)


@given(st.lists(TOOLS), JSON)
def test_a_mended_page_is_what_every_version_of_mcp_allows(tools: list[Any], cursor: Any) -> None:
    page, left_out = mend_page({"tools": tools, "nextCursor": cursor})
    assert len(page["tools"]) + len(left_out) == len(tools)
    for version in VERSIONS:
        versioned = page
        if version >= "2026":
            versioned = {**page, "resultType": "complete", "ttlMs": 0, "cacheScope": "private"}
        validate_server_result("tools/list", version, versioned)
        ListToolsResult.model_validate(versioned, by_name=False)


def add_all(tools: list[McpTool], bytes_max: int = 10**6, schema_bytes_max: int = 10**6) -> Listing:
    listing = Listing(bytes_max, schema_bytes_max)
    listing.add(tools, [], 0)
    return listing


def test_a_name_that_is_given_twice_is_kept_once_also_on_another_page() -> None:
    listing = Listing(10**6, 10**6)
    listing.add([McpTool("a", OBJECT, "first"), McpTool("a", OBJECT, "second")], [], 0)
    listing.add([McpTool("a", OBJECT, "third"), McpTool("b", OBJECT)], [], 0)
    assert make_listing(listing) == ToolsListed(
        (McpTool("a", OBJECT, "first"), McpTool("b", OBJECT)),
        (LeftOutTool("a", "an earlier tool has its name"),) * 2,
    )


def test_a_tool_with_too_large_a_schema_is_left_out_and_the_others_stay() -> None:
    large = McpTool("large", {"type": "object", "description": "x" * 1000})
    listed = make_listing(add_all([large, McpTool("small", OBJECT)], schema_bytes_max=500))
    assert isinstance(listed, ToolsListed)
    assert [tool.name for tool in listed.tools] == ["small"]
    assert listed.left_out == (LeftOutTool("large", "its schema takes 1034 bytes, over 500"),)


def test_the_tools_that_can_be_offered_are_all_listed_or_none() -> None:
    tools = [McpTool(f"tool_{i}", {"type": "object"}) for i in range(100)]
    assert make_listing(add_all(tools, 10_000)) == ToolsListed(tuple(tools))
    listing = add_all(tools, 1000)
    assert listing.is_full
    failure = make_listing(listing)
    assert isinstance(failure, ToolFailure)
    assert "the server's list of tools takes at least" in describe(failure.error)


def test_no_more_is_read_of_tools_that_are_left_out_than_a_multiple_of_what_is_kept() -> None:
    listing = Listing(1000, 1000)
    for _ in range(16):
        assert not listing.is_full
        listing.add([], [LeftOutTool("t", "why")], 1001)
    assert listing.is_full
    failure = make_listing(listing)
    assert isinstance(failure, ToolFailure)
    assert "takes over 16000 bytes with those left out" in describe(failure.error)


def test_only_so_many_of_the_tools_that_are_left_out_are_named() -> None:
    listing = add_all([McpTool("t", OBJECT)] * 1000)
    assert len(listing.left_out) == 100


def test_a_schema_that_could_not_be_sent_back_to_us_is_left_out() -> None:
    """A request is nested 128 levels deep at most, and an item stands a few levels down in it."""

    def nested(levels: int) -> dict[str, Any]:
        schema: dict[str, Any] = {}
        for _ in range(levels - 1):
            schema = {"items": schema}
        return schema

    fitting = McpTool("t", nested(101))
    listed = make_listing(add_all([fitting, McpTool("u", nested(102))]))
    assert listed == ToolsListed((fitting,), (LeftOutTool("u", "its schema has over 100 levels"),))
    item = msgspec.json.encode({"input": [{"type": "mcp_list_tools", "tools": [fitting]}]})
    assert decode_object(item, 1_000_000)
