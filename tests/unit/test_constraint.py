"""Which constraint a request calls for."""

import json
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from shared.responses import McpTool
from tests.requests import make_request
from worker.asking.constraint import constraint_of
from worker.asking.offer import make_offer
from worker.engines.protocol import Body, Constraint, Unfulfillable
from worker.engines.vllm.json_schema import make_enforceable
from worker.harmony.tokens import CHANNEL, CONSTRAIN, MESSAGE, encode

CITY: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER: dict[str, Any] = {"type": "function", "name": "weather", "parameters": CITY}
STRICT: dict[str, Any] = {**WEATHER, "name": "strict_weather", "strict": True}
CLOCK = {"type": "function", "name": "clock"}
PYTHON: dict[str, Any] = {"type": "code_interpreter", "container": {"type": "auto"}}
BROWSER = {"type": "mcp", "server_label": "web_search_preview"}
WIKI = {"type": "mcp", "server_label": "wiki", "server_url": "http://wiki.example/mcp"}
LISTED = {"wiki": (McpTool("ask", CITY), McpTool("edit", {"type": "object"}))}
TOOLS: list[dict[str, Any]] = [WEATHER, CLOCK, PYTHON, BROWSER, WIKI]
EVERY_RECIPIENT = {
    "functions.weather",
    "functions.clock",
    "python",
    "browser.search",
    "browser.open",
    "browser.find",
    "wiki.ask",
    "wiki.edit",
}
SCHEMA_FORMAT: dict[str, Any] = {
    "format": {"type": "json_schema", "name": "city", "schema": CITY, "strict": True}
}


def constrain(
    tools: Sequence[dict[str, Any]], *, has_called: bool = False, budget: int = 10_000, **response: Any
) -> Constraint | None:
    request = make_request(tools=[*tools])
    request = msgspec.structs.replace(request, response=msgspec.structs.replace(request.response, **response))
    offer = make_offer(request, LISTED)
    return constraint_of(request, offer, has_called=has_called, budget=budget, reserved=1_000)


def recipients(constraint: Constraint | None) -> set[str]:
    assert constraint is not None
    return {call.recipient for call in constraint.calls}


def arguments_of(constraint: Constraint | None, recipient: str) -> Body:
    assert constraint is not None
    return next(call.arguments for call in constraint.calls if call.recipient == recipient)


@pytest.mark.parametrize("choice", ["auto", None])
def test_a_request_that_asks_for_nothing_has_no_constraint(choice: str | None) -> None:
    for text in (None, {"format": {"type": "text"}}):
        assert constrain(TOOLS, tool_choice=choice, text=text) is None


def test_a_format_constrains_the_final_message_and_keeps_room_for_it() -> None:
    constraint = constrain([], text=SCHEMA_FORMAT)
    assert constraint == Constraint((), Body(True, json.dumps(CITY), True), 9_000)


def test_at_most_half_of_a_turn_is_kept_for_its_answer() -> None:
    constraint = constrain([], text=SCHEMA_FORMAT, budget=100)
    assert constraint is not None
    assert constraint.free_tokens_max == 50


def test_a_schema_that_is_not_strict_is_followed_as_far_as_it_can_be() -> None:
    text = {"format": {**SCHEMA_FORMAT["format"], "strict": False}}
    constraint = constrain([], text=text)
    assert constraint is not None
    assert constraint.final == Body(True, json.dumps(CITY), False)


def test_json_object_is_any_object_and_calls_stay_possible() -> None:
    constraint = constrain(TOOLS, text={"format": {"type": "json_object"}})
    assert constraint is not None
    assert constraint.final == Body(True)
    assert recipients(constraint) == EVERY_RECIPIENT


def test_none_leaves_no_call() -> None:
    assert constrain(TOOLS, tool_choice="none") == Constraint((), Body())


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("required", EVERY_RECIPIENT),
        ({"type": "function", "name": "weather"}, {"functions.weather"}),
        ({"type": "mcp", "server_label": "wiki", "name": "ask"}, {"wiki.ask"}),
        ({"type": "mcp", "server_label": "wiki"}, {"wiki.ask", "wiki.edit"}),
        ({"type": "code_interpreter"}, {"python"}),
        ({"type": "web_search_preview"}, {"browser.search", "browser.open", "browser.find"}),
        (
            {
                "type": "allowed_tools",
                "mode": "required",
                "tools": [{"type": "function", "name": "clock"}, {"type": "code_interpreter"}],
            },
            {"functions.clock", "python"},
        ),
    ],
)
def test_a_demanded_call_leaves_no_other_end_of_the_turn_until_one_was_made(
    choice: Any, expected: set[str]
) -> None:
    before = constrain(TOOLS, tool_choice=choice)
    assert recipients(before) == expected
    assert before is not None
    assert before.final is None
    after = constrain(TOOLS, tool_choice=choice, has_called=True)
    if choice == "required":
        assert after is None
    else:
        assert recipients(after) == expected
        assert after is not None
        assert after.final == Body()
        assert after.free_tokens_max is None


def test_allowed_tools_without_demand_leaves_these_and_an_answer() -> None:
    choice = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "mcp", "server_label": "wiki"}]}
    constraint = constrain(TOOLS, tool_choice=choice)
    assert recipients(constraint) == {"wiki.ask", "wiki.edit"}
    assert constraint is not None
    assert constraint.final == Body()


def test_a_demand_that_no_tool_can_meet_is_refused() -> None:
    with pytest.raises(Unfulfillable, match="tool_choice"):
        constrain([WIKI], tool_choice={"type": "mcp", "server_label": "wiki", "name": "unknown"})


@pytest.mark.parametrize(
    ("tools", "choice", "said"),
    [
        (
            [WIKI],
            {"server_label": "wiki", "name": "erase"},
            "the tool 'erase', which the server 'wiki' does not",
        ),
        (
            [WIKI | {"allowed_tools": []}],
            {"server_label": "wiki"},
            "a tool of the server 'wiki', which has none",
        ),
    ],
)
def test_a_demand_that_no_tool_can_meet_names_the_tool(tools: Any, choice: Any, said: str) -> None:
    with pytest.raises(Unfulfillable, match=said):
        constrain(tools, tool_choice={"type": "mcp", **choice})


def test_a_strict_function_alone_calls_for_a_constraint() -> None:
    constraint = constrain([STRICT, CLOCK, PYTHON])
    assert arguments_of(constraint, "functions.strict_weather") == Body(True, json.dumps(CITY), True)
    assert arguments_of(constraint, "functions.clock") == Body(True)
    assert arguments_of(constraint, "python") == Body()
    assert constraint is not None
    assert constraint.free_tokens_max is None, "no answer is demanded"


def test_arguments_of_a_demanded_call_follow_their_schema_as_far_as_it_can_be() -> None:
    constraint = constrain(TOOLS, tool_choice="required")
    assert arguments_of(constraint, "functions.weather") == Body(True, json.dumps(CITY), False)
    assert arguments_of(constraint, "wiki.ask") == Body(True, json.dumps(CITY), False)


def test_the_browser_has_the_arguments_that_the_model_was_trained_on() -> None:
    constraint = constrain(TOOLS, tool_choice="required")
    schema = arguments_of(constraint, "browser.search").schema
    assert schema is not None
    assert json.loads(schema)["required"] == ["query"]


def test_a_call_has_the_header_that_the_model_writes() -> None:
    constraint = constrain(TOOLS, tool_choice={"type": "function", "name": "weather"})
    assert constraint is not None
    (call,) = constraint.calls
    beginning = (CHANNEL, *encode("commentary to=functions.weather"), *encode(" "))
    assert call.header == (*beginning, CONSTRAIN, *encode("json"), MESSAGE)


# --- what of a schema can be enforced ------------------------------------------------------------

UNENFORCEABLE = [
    ({"type": "integer", "multipleOf": 2}, "multipleOf"),
    ({"type": "array", "uniqueItems": True}, "uniqueItems"),
    ({"oneOf": [{"type": "string"}, {"type": "null"}]}, "oneOf"),
    ({"allOf": [{"type": "string"}, {"maxLength": 3}]}, "allOf"),
    ({"not": {"type": "string"}}, "not"),
    ({"type": "string", "format": "phone"}, "format"),
    ({"type": "string", "format": "json-pointer"}, "format"),
    ({"type": "string", "format": "relative-json-pointer"}, "format"),
    ({"type": "string", "maxLength": 129}, "maxLength"),
    ({"type": "string", "minLength": 129}, "minLength"),
    ({"type": "string", "pattern": "^a\tb$"}, "pattern"),
    ({"type": "string", "pattern": "^((a{100}){100}){100}$"}, "pattern"),
    ({"type": "string", "pattern": "^a$", "minLength": 2}, "minLength"),
    ({"type": "string", "pattern": "a"}, "pattern"),
    ({"type": "string", "pattern": "^(?=a).*$"}, "pattern"),
    ({"type": "string", "pattern": '^"$'}, "pattern"),
    ({"type": "string", "pattern": "^.{0,500}$"}, "pattern"),
    ({"type": "string", "anyOf": [{"const": "a"}]}, "type"),
    ({"$ref": "#/$defs/a", "minLength": 3}, "minLength"),
    ({"$ref": "http://elsewhere.example/schema"}, r"\$ref"),
    ({"$ref": "#name"}, r"\$ref"),
    ({"maxLength": 3}, "maxLength"),
    ({"type": "object", "properties": {}, "required": ["a"]}, "required"),
    ({"type": "object", "patternProperties": {"^a": {}}}, "patternProperties"),
]


@pytest.mark.parametrize(("schema", "keyword"), UNENFORCEABLE, ids=lambda value: str(value)[:50])
def test_what_cannot_be_enforced_is_refused_in_its_place_or_left_out(schema: Any, keyword: str) -> None:
    whole = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    with pytest.raises(Unfulfillable, match=f"^#/properties/a: .*{keyword}"):
        make_enforceable(whole, is_strict=True)
    kept = make_enforceable(whole, is_strict=False)
    assert keyword.removeprefix("\\") not in kept["properties"]["a"]
    make_enforceable(kept, is_strict=True)


def test_what_can_be_enforced_stays_as_it_is() -> None:
    schema = {
        "type": "object",
        "title": "All",
        "properties": {
            "not": {"type": ["string", "null"]},
            "items": {"type": "array", "items": {"$ref": "#/$defs/n"}, "minItems": 1},
            "either": {"anyOf": [{"const": 1}, {"type": "string", "enum": ["a"]}]},
            "name": {"type": "string", "pattern": "^[a-z]+$"},
        },
        "required": ["not"],
        "additionalProperties": False,
        "$defs": {"n": {"type": "integer", "minimum": 0}},
    }
    assert make_enforceable(schema, is_strict=True) == schema


def test_short_lengths_become_a_pattern() -> None:
    schema = {"type": "string", "minLength": 2, "maxLength": 30}
    made = {"type": "string", "pattern": r'^[^"\\\x00-\x1f]{2,30}$'}
    assert make_enforceable(schema, is_strict=True) == made


def test_more_different_lengths_than_can_be_compiled_are_refused_or_left_out() -> None:
    lengths = {f"p{n}": {"type": "string", "maxLength": 20 + n} for n in range(9)}
    schema = {"type": "object", "properties": lengths}
    with pytest.raises(Unfulfillable, match=r"^#/properties/p8: "):
        make_enforceable(schema, is_strict=True)
    assert make_enforceable(schema, is_strict=False)["properties"]["p8"] == {"type": "string"}


def test_a_length_that_can_be_enforced_stays_when_the_other_cannot() -> None:
    schema = {"type": "string", "minLength": 1, "maxLength": 500}
    made = {"type": "string", "pattern": r'^[^"\\\x00-\x1f]{1,}$'}
    assert make_enforceable(schema, is_strict=False) == made


@pytest.mark.parametrize(
    ("schema", "possible"),
    [
        ({"type": "string", "enum": ["x", 1, None, True]}, ["x"]),
        ({"type": ["integer", "null"], "enum": ["x", 1, 1.5, None, True]}, [1, None]),
        ({"type": "number", "enum": [1, 1.5, True]}, [1, 1.5]),
        ({"type": "boolean", "enum": [0, False]}, [False]),
        ({"type": ["array", "object"], "enum": [[1], {"a": 1}, "x"]}, [[1], {"a": 1}]),
    ],
    ids=str,
)
def test_values_that_the_type_beside_them_excludes_are_taken_out(schema: Any, possible: list[Any]) -> None:
    assert repr(make_enforceable(schema, is_strict=True)["enum"]) == repr(possible)


@pytest.mark.parametrize("values", [{"enum": [1, None]}, {"const": 1}], ids=str)
def test_a_choice_of_which_the_type_leaves_nothing_is_refused(values: Any) -> None:
    schema = {"type": "array", "items": {"type": "string", **values}}
    for is_strict in (True, False):
        with pytest.raises(Unfulfillable, match=r"^#/items: no value of"):
            make_enforceable(schema, is_strict=is_strict)


NOT_SCHEMAS: list[Any] = [
    {"type": "string", "minLength": "5"},
    {"type": "string", "maxLength": None},
    {"type": "object", "required": [{}]},
    {"type": "object", "required": "a"},
    {"type": "object", "properties": ["a"]},
    {"type": "string", "pattern": 5},
    {"type": "string", "format": {}},
    {"type": "array", "items": [{"type": "string"}]},
    {"type": {}},
    {"type": [[]]},
    {"type": "text"},
    {"enum": 5},
    {"$ref": 5},
    {"anyOf": {}},
    {"anyOf": [5]},
    5,
    None,
]


@pytest.mark.parametrize("schema", NOT_SCHEMAS, ids=str)
@pytest.mark.parametrize("is_strict", [True, False])
def test_what_is_not_a_json_schema_is_refused_in_words(schema: Any, is_strict: bool) -> None:
    with pytest.raises(Unfulfillable, match=r"^#/properties/a.* is not a JSON schema"):
        make_enforceable({"type": "object", "properties": {"a": schema}}, is_strict=is_strict)


def an_object(count: int, *, is_required: bool, name: str = "p") -> dict[str, Any]:
    properties = {f"{name}{n}": {"type": "boolean"} for n in range(count)}
    return {"type": "object", "properties": properties, "required": list(properties) if is_required else []}


@pytest.mark.parametrize(
    ("largest", "too_large", "bound"),
    [
        (an_object(500, is_required=False), an_object(501, is_required=False), "not required"),
        (an_object(2_000, is_required=True), an_object(2_001, is_required=True), "properties and other"),
        ({"enum": [*range(1_000)]}, {"enum": [*range(1_001)]}, "'enum'"),
        ({"const": "x" * 49_000}, {"const": "x" * 50_001}, "characters"),
        ({"anyOf": [{"type": "null"}] * 2_000}, {"anyOf": [{"type": "null"}] * 2_001}, "other parts"),
    ],
    ids=["optional", "required", "enum", "characters", "alternatives"],
)
def test_a_schema_too_large_to_compile_is_refused_by_its_size(
    largest: Any, too_large: Any, bound: str
) -> None:
    make_enforceable(largest, is_strict=True)
    for is_strict in (True, False):
        with pytest.raises(Unfulfillable, match=rf"^it has [\d,]+ .*{bound}.*; at most"):
            make_enforceable(too_large, is_strict=is_strict)


def test_the_size_of_a_schema_is_that_of_all_its_parts() -> None:
    halves = {name: an_object(251, is_required=False, name=name) for name in ("a", "b")}
    with pytest.raises(Unfulfillable, match="not required"):
        make_enforceable({"type": "array", "prefixItems": [*halves.values()]}, is_strict=True)
    with pytest.raises(Unfulfillable, match="not required"):
        make_enforceable({"$ref": "#/$defs/a", "$defs": halves}, is_strict=True)


def test_many_repeats_in_different_patterns_are_refused_or_left_out() -> None:
    patterns = {f"p{n}": {"type": "string", "pattern": f"^[a-z]{{{128 - n}}}$"} for n in range(10)}
    schema = {"type": "object", "properties": patterns}
    with pytest.raises(Unfulfillable, match=r"^#/properties/p8: .*repeats"):
        make_enforceable(schema, is_strict=True)
    assert make_enforceable(schema, is_strict=False)["properties"]["p9"] == {"type": "string"}
