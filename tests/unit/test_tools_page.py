"""The page of tools and the code agree, and a tool of every type is offered, refused, or left out."""

import re
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from openai.types.responses import Tool

from api.bodies.client_tools import CLIENT_SHAPES
from api.bodies.requests import Birth, Creation, RequestLimits, read_create
from api.bodies.tools import TOOLS, UNSUPPORTED, UnsupportedTools
from api.errors import ClientError
from shared import hosted_tools

PAGE = (Path(__file__).parents[2] / "docs" / "tools.md").read_text()
ROWS = dict(
    re.findall(r"^\| `(\w+)` \| (client runs it|runs here|not yet|refused) \| .+ \|$", PAGE, re.MULTILINE)
)


def status_of(kind: str) -> str:
    if kind in UNSUPPORTED:
        return "refused"
    if (hosted := hosted_tools.meant_by(kind)) is not None:
        return "runs here" if kind in hosted.types else "not yet"
    return "client runs it" if kind in CLIENT_SHAPES else "runs here"


def create(tools: list[dict[str, Any]], unsupported: UnsupportedTools = "refuse", **fields: Any) -> Creation:
    body = msgspec.json.encode({"input": "Hello", "tools": tools, **fields})
    limits = RequestLimits(100, 100, 10_000, unsupported_tools=unsupported)
    return read_create(body, Birth("resp_1", 0), ["default"], limits)


def test_the_page_has_a_row_for_every_type_with_what_the_code_does() -> None:
    assert {kind: status_of(kind) for kind in (*TOOLS, *UNSUPPORTED)} == ROWS


def test_every_type_of_the_public_types_has_a_row() -> None:
    union, _ = get_args(Tool)
    kinds = [get_args(tool.model_fields["type"].annotation) for tool in get_args(union)]
    assert len(kinds) > 10
    assert {kind for named in kinds for kind in named} <= set(ROWS)


@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_an_unsupported_tool_is_refused_by_its_place_with_the_reason(kind: str) -> None:
    with pytest.raises(ClientError) as refused:
        create([{"type": "function", "name": "f"}, {"type": kind}])
    error = refused.value
    assert (error.status, error.code, error.param) == (400, "unsupported_tool", "tools[1].type")
    assert UNSUPPORTED[kind] in str(error)


@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_an_operator_may_have_it_left_out_and_said(kind: str) -> None:
    function = {"type": "function", "name": "f"}
    creation = create([{"type": kind}, function, {"type": kind}], "ignore")
    assert creation.request.tools == [function]
    assert [tool["type"] for tool in creation.request.response.tools] == ["function"]
    assert creation.ignored_tools == (kind,)


def test_what_was_left_out_can_be_neither_chosen_nor_required() -> None:
    tools = [{"type": "image_generation"}]
    for choice in ("required", {"type": "image_generation"}):
        with pytest.raises(ClientError) as refused:
            create(tools, "ignore", tool_choice=choice)
        assert (refused.value.param or "").startswith("tool_choice")


def test_errors_name_the_places_as_sent_although_tools_before_them_were_left_out() -> None:
    function = {"type": "function", "name": "f"}
    with pytest.raises(ClientError) as refused:
        create([{"type": "computer"}, function, function], "ignore")
    assert refused.value.param == "tools[2].name"
