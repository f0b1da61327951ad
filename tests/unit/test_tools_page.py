"""The page of tools and the code agree, and a tool of every type is offered, refused, or left out."""

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from openai.types.responses import Tool

from api.bodies.client_tools import CLIENT_SHAPES
from api.bodies.containers import check_continued
from api.bodies.requests import Birth, Creation, RequestLimits, read_create
from api.bodies.tools import TOOLS, UNSUPPORTED, UnsupportedTools
from api.errors import ClientError
from shared.hosted_tools import BROWSER
from worker.asking.constraint import constraint_of
from worker.asking.offer import make_offer

PAGE = (Path(__file__).parents[2] / "docs" / "tools.md").read_text()
ROWS = dict(
    re.findall(r"^\| `(\w+)` \| (client runs it|runs here|not yet|refused) \| .+ \|$", PAGE, re.MULTILINE)
)


def status_of(kind: str) -> str:
    if kind in UNSUPPORTED:
        return "refused"
    return "client runs it" if kind in CLIENT_SHAPES else "runs here"


def create(
    tools: list[dict[str, Any]],
    unsupported: UnsupportedTools = "refuse",
    *,
    has_search: bool = True,
    **fields: Any,
) -> Creation:
    body = msgspec.json.encode({"input": "Hello", "tools": tools, **fields})
    limits = RequestLimits(100, 100, 10_000, unsupported_tools=unsupported, has_search=has_search)
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


def test_what_asks_for_fields_of_a_tool_that_is_left_out_is_left_out_with_it() -> None:
    fields: Any = {"include": ["file_search_call.results"]}
    create([{"type": "file_search"}], "ignore", **fields)
    with pytest.raises(ClientError) as refused:
        create([], **fields)
    assert (refused.value.param, refused.value.code) == ("include", "unsupported_parameter")


def test_what_was_left_out_can_be_neither_chosen_nor_required() -> None:
    tools = [{"type": "image_generation"}]
    for choice in ("required", {"type": "image_generation"}):
        with pytest.raises(ClientError) as refused:
            create(tools, "ignore", tool_choice=choice)
        assert (refused.value.param or "").startswith("tool_choice")


def test_what_was_left_out_is_left_out_of_the_allowed_tools_too() -> None:
    function = {"type": "function", "name": "f"}
    search: dict[str, Any] = {"type": "file_search"}
    for mode in ("auto", "required"):
        choice = {"type": "allowed_tools", "mode": mode, "tools": [search, function, {"type": "web_search"}]}
        tools = [function, search, {"type": "web_search_preview"}]
        creation = create(tools, "ignore", has_search=False, tool_choice=choice)
        assert creation.request.response.tool_choice == choice | {"tools": [function]}
        assert creation.ignored_tools == ("file_search", "web_search_preview")
        for allowed, param in (([search], "tools"), ([function, {"type": "computer"}], "tools[1].type")):
            with pytest.raises(ClientError) as refused:
                create(tools, "ignore", has_search=False, tool_choice=choice | {"tools": allowed})
            assert refused.value.param == f"tool_choice.{param}"


def test_errors_name_the_places_as_sent_although_tools_before_them_were_left_out() -> None:
    function = {"type": "function", "name": "f"}
    with pytest.raises(ClientError) as refused:
        create([{"type": "computer"}, function, function], "ignore")
    assert refused.value.param == "tools[2].name"


def test_a_container_is_named_by_its_place_as_sent_although_a_tool_before_it_was_left_out() -> None:
    tools = [{"type": "computer"}, {"type": "code_interpreter", "container": "cntr_gone"}]
    creation = create(tools, "ignore")
    with pytest.raises(ClientError) as refused:
        check_continued(creation.request, creation.tool_places)
    assert refused.value.param == "tools[1].container"


LEAST: dict[str, dict[str, Any]] = {
    **{kind: {} for kind in TOOLS},
    "function": {"name": "f"},
    "custom": {"name": "c", "format": {"type": "text"}},
    "namespace": {"name": "n", "tools": [{"type": "function", "name": "f"}]},
    "shell": {"environment": {"type": "local", "skills": [{"name": "s", "description": "", "path": "/s"}]}},
    "code_interpreter": {"container": {"type": "auto"}},
    "mcp": {
        "server_label": "s",
        "allowed_tools": {"tool_names": ["a"]},
        "require_approval": {"never": {"read_only": True}},
    },
    "web_search": {"filters": {"allowed_domains": ["a.example"]}, "user_location": {"type": "approximate"}},
}
"""What a tool of each type needs, and every object that it may hold."""


def objects_in(value: Any, place: str = "tools[0]") -> Iterator[tuple[str, dict[str, Any]]]:
    match value:
        case dict():
            yield place, value
            for name, member in value.items():
                yield from objects_in(member, f"{place}.{name}")
        case list():
            for index, member in enumerate(value):
                yield from objects_in(member, f"{place}[{index}]")
        case _:
            pass


@pytest.mark.parametrize("kind", TOOLS)
@pytest.mark.parametrize("value", [1, False, [], "", {}], ids=repr)
def test_an_unknown_member_of_any_tool_is_refused_by_name_however_deep(kind: str, value: Any) -> None:
    number = len(list(objects_in(LEAST[kind])))
    for which in range(number):
        tool = {"type": kind, **copy.deepcopy(LEAST[kind])}
        place, holder = list(objects_in(tool))[which]
        holder["unheard_of"] = None
        create([tool])
        holder["unheard_of"] = value
        with pytest.raises(ClientError) as refused:
            create([tool])
        error = refused.value
        assert (error.status, error.code, error.param) == (400, "unknown_parameter", f"{place}.unheard_of")


@pytest.mark.parametrize("kind", ["mcp", "code_interpreter", "function", "custom", "shell", "apply_patch"])
def test_a_tool_for_calls_from_code_only_is_refused_whoever_runs_it(kind: str) -> None:
    tool = {"type": kind, **LEAST[kind]}
    create([tool | {"allowed_callers": ["direct", "programmatic"]}])
    with pytest.raises(ClientError) as refused:
        create([tool | {"allowed_callers": ["programmatic"]}])
    assert (refused.value.code, refused.value.param) == ("unsupported_parameter", "tools[0].allowed_callers")


def test_a_tool_with_a_million_unknown_members_is_refused_for_the_first_of_them() -> None:
    tool = {"type": "apply_patch", **{f"x{number}": number for number in range(9_000)}}
    with pytest.raises(ClientError) as refused:
        create([tool])
    assert refused.value.param == "tools[0].x0"


@pytest.mark.parametrize("kind", sorted(BROWSER.types))
def test_a_web_search_that_nobody_answers_is_refused_or_left_out(kind: str) -> None:
    assert create([{"type": kind}]).request.tools == [{"type": kind}]
    with pytest.raises(ClientError) as refused:
        create([{"type": kind}], has_search=False)
    assert (refused.value.code, refused.value.param) == ("unsupported_tool", "tools[0].type")
    assert create([{"type": kind}], "ignore", has_search=False).ignored_tools == (kind,)


LOCATION = {"type": "approximate", "city": None, "country": None, "region": None, "timezone": None}


@pytest.mark.parametrize(
    ("tool", "echoed"),
    [
        ({}, {}),
        ({"search_context_size": "low"}, {"search_context_size": "low"}),
        (
            {"user_location": {"type": "approximate", "city": "Oslo"}},
            {"user_location": LOCATION | {"city": "Oslo"}},
        ),
        ({"filters": {"allowed_domains": ["a.example"]}}, {"filters": {"allowed_domains": ["a.example"]}}),
        ({"external_web_access": False}, {"external_web_access": False}),
        ({"search_content_types": ["text"]}, {"search_content_types": ["text"]}),
        ({"filters": None, "user_location": None}, {}),
    ],
)
def test_a_web_search_is_echoed_with_what_it_left_out(tool: dict[str, Any], echoed: dict[str, Any]) -> None:
    created = create([{"type": "web_search", **tool}])
    whole = {"type": "web_search", "search_context_size": "medium", "user_location": None, "filters": None}
    assert created.request.response.tools == (whole | echoed,)
    assert created.request.tools == [{"type": "web_search", **tool}]


@pytest.mark.parametrize(
    ("tool", "param", "code"),
    [
        ({"depth": 3}, "depth", "unknown_parameter"),
        ({"filters": {"blocked_domains": []}}, "filters.blocked_domains", "unknown_parameter"),
        ({"user_location": {"type": "approximate", "zip": "1"}}, "user_location.zip", "unknown_parameter"),
        ({"user_location": {"city": "Oslo"}}, "user_location.type", "missing_required_parameter"),
        ({"user_location": {"type": "exact"}}, "user_location.type", "invalid_value"),
        (
            {"user_location": {"type": "approximate", "city": "a<|end|>"}},
            "user_location.city",
            "invalid_value",
        ),
        ({"search_context_size": "huge"}, "search_context_size", "invalid_value"),
        ({"search_content_types": ["text", "image"]}, "search_content_types", "unsupported_parameter"),
        ({"filters": {"allowed_domains": "a"}}, "filters.allowed_domains", "invalid_type"),
        ({"filters": {"allowed_domains": ["https://a/"]}}, "filters.allowed_domains[0]", "invalid_value"),
        ({"filters": {"allowed_domains": ["a"] * 101}}, "filters.allowed_domains", "array_above_max_length"),
        ({"external_web_access": "no"}, "external_web_access", "invalid_type"),
    ],
)
def test_what_a_web_search_cannot_do_is_refused_by_name(tool: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(ClientError) as refused:
        create([{"type": "web_search", **tool}])
    assert (refused.value.param, refused.value.code) == (f"tools[0].{param}", code)


@pytest.mark.parametrize("choice", [*sorted(BROWSER.types), "required"])
def test_a_web_search_can_be_chosen_and_is_then_called(choice: str) -> None:
    asked: Any = choice if choice == "required" else {"type": choice}
    request = create([{"type": "web_search"}, {"type": "function", "name": "f"}], tool_choice=asked).request
    offer = make_offer(request, {})
    is_chosen = choice != "required"
    assert ("functions.f" not in offer.routing) == is_chosen
    constraint = constraint_of(request, offer, has_called=False, budget=100, reserved=10)
    assert constraint is not None
    assert {call.recipient for call in constraint.calls} == set(offer.routing)
    assert {"browser.search", "browser.open", "browser.find"} <= set(offer.routing)
