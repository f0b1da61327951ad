"""The tools that the client runs: what is refused, how they are offered, and how calls are replayed."""

import json
from typing import Any

import msgspec
import pytest
from openai.types.conversations import ConversationItem
from openai.types.responses import ResponseItem
from pydantic import TypeAdapter

from api.bodies.input_items import adopt_items, read_items
from api.bodies.requests import Birth, Creation, RequestLimits, read_create
from api.errors import ClientError
from shared.client_tools import CLIENT_TOOLS, AnyClientAnswer, AnyClientCall
from shared.input_items import InputItem
from tests.items import items_of
from tests.requests import make_request
from worker.asking.constraint import constraint_of
from worker.asking.conversation import build_conversation
from worker.asking.offer import Offer, make_offer
from worker.asking.routing import ClientTarget
from worker.harmony.tokens import ChatMessage, decode, render

FUNCTION: dict[str, Any] = {"type": "function", "name": "f", "parameters": {"type": "object"}}
GRAMMAR = {"type": "grammar", "syntax": "lark", "definition": 'start: "a"\nb: "c"'}
CUSTOM: dict[str, Any] = {"type": "custom", "name": "edit", "description": "Edits.", "format": GRAMMAR}
DOCS: dict[str, Any] = {
    "type": "namespace",
    "name": "docs",
    "description": "Docs.",
    "tools": [FUNCTION, CUSTOM],
}
SKILL = {"name": "pdf", "description": "Reads PDFs.", "path": "/skills/pdf"}
SHELL = {"type": "shell", "environment": {"type": "local", "skills": [SKILL]}}
TOOLS = [FUNCTION, CUSTOM, DOCS, SHELL, {"type": "local_shell"}, {"type": "apply_patch"}]

ALL = {
    *("functions.f", "functions.edit", "docs.f", "docs.edit"),
    *("functions.shell", "functions.local_shell", "functions.apply_patch"),
}


LISTED: TypeAdapter[Any] = TypeAdapter(ResponseItem)
LISTED_IN_CONVERSATIONS: TypeAdapter[Any] = TypeAdapter(ConversationItem)


def create(*tools: dict[str, Any], **fields: Any) -> Creation:
    body = msgspec.json.encode({"input": "Hello", "tools": list(tools), **fields})
    return read_create(body, Birth("resp_1", 0), ["default"], RequestLimits(100, 100, 10_000))


def refusal_of(*tools: dict[str, Any], **fields: Any) -> tuple[str | None, str | None]:
    with pytest.raises(ClientError) as refused:
        create(*tools, **fields)
    assert refused.value.status == 400
    return refused.value.param, refused.value.code


def offer_of(*tools: dict[str, Any], record_format: int = 3, **fields: Any) -> Offer:
    return make_offer(create(*tools, **fields).request, {}, (), record_format)


UNSUPPORTED, MISSING = "unsupported_parameter", "missing_required_parameter"


def shell_in(**environment: Any) -> dict[str, Any]:
    return {"type": "shell", "environment": environment}


@pytest.mark.parametrize(
    ("tools", "param", "code"),
    [
        ([FUNCTION, CUSTOM | {"name": "f"}], "tools[1].name", "invalid_value"),
        ([FUNCTION | {"name": "shell"}, SHELL], "tools[1].type", "invalid_value"),
        ([SHELL, SHELL], "tools[1].type", "invalid_value"),
        ([DOCS, DOCS], "tools[1].name", "invalid_value"),
        ([{"type": "mcp", "server_label": "docs"}, DOCS], "tools[1].name", "invalid_value"),
        ([DOCS | {"name": "Python"}], "tools[0].name", "invalid_value"),
        ([DOCS | {"name": "functions"}], "tools[0].name", "invalid_value"),
        ([DOCS | {"name": "a.b"}], "tools[0].name", "invalid_value"),
        ([DOCS | {"tools": []}], "tools[0].tools", "invalid_value"),
        ([DOCS | {"tools": [FUNCTION, FUNCTION]}], "tools[0].tools[1].name", "invalid_value"),
        ([DOCS | {"tools": [SHELL]}], "tools[0].tools[0].type", "invalid_value"),
        ([DOCS | {"tools": [{"type": "function"}]}], "tools[0].tools[0].name", MISSING),
        ([DOCS | {"tools": None}], "tools[0].tools", "invalid_type"),
        ([DOCS | {"async": True}], "tools[0].async", "unknown_parameter"),
        ([SHELL | {"async": False}], "tools[0].async", "unknown_parameter"),
        ([FUNCTION | {"stict": True}], "tools[0].stict", "unknown_parameter"),
        ([DOCS | {"tools": [FUNCTION | {"x": 1}]}], "tools[0].tools[0].x", "unknown_parameter"),
        ([FUNCTION | {"async": True}], "tools[0].async", UNSUPPORTED),
        ([FUNCTION | {"allowed_callers": ["programmatic"]}], "tools[0].allowed_callers", UNSUPPORTED),
        ([CUSTOM | {"format": {"type": "grammar"}}], "tools[0].format.syntax", MISSING),
        ([CUSTOM | {"format": {"type": "xml"}}], "tools[0].format.type", "invalid_value"),
        ([shell_in(type="container_auto")], "tools[0].environment.type", UNSUPPORTED),
        ([shell_in(skills=[{}])], "tools[0].environment.skills[0].name", MISSING),
        ([shell_in(network_policy={})], "tools[0].environment.network_policy", "unknown_parameter"),
        ([{"type": "custom", "name": "a<|end|>"}], "tools[0].name", "invalid_value"),
    ],
)
def test_what_cannot_be_done_is_refused_by_its_place(tools: list[Any], param: str, code: str) -> None:
    assert refusal_of(*tools) == (param, code)


def test_one_name_may_be_used_in_several_namespaces() -> None:
    assert set(offer_of(FUNCTION, DOCS, DOCS | {"name": "other"}).routing) == {
        *("functions.f", "docs.f", "docs.edit", "other.f", "other.edit"),
    }


def test_what_is_left_out_is_echoed_with_its_default() -> None:
    bare = {"type": "custom", "name": "c"}
    named = {"type": "function", "name": "f"}
    space = {"type": "namespace", "name": "n", "description": "d", "tools": [named]}
    echoed = create(bare, space).request.response.tools
    assert echoed[0] == bare | {"description": None, "format": {"type": "text"}}
    member = named | {"description": None, "parameters": None, "strict": None}
    assert echoed[1] == space | {"tools": [member]}


def test_each_kind_is_offered_as_a_function_and_routed_to_its_item() -> None:
    assert set(offer_of(*TOOLS).routing) == ALL
    assert offer_of(*TOOLS).routing == {
        "functions.f": ClientTarget("f"),
        "functions.edit": ClientTarget("edit", "custom_tool_call"),
        "docs.f": ClientTarget("f", "function_call", "docs"),
        "docs.edit": ClientTarget("edit", "custom_tool_call", "docs"),
        "functions.shell": ClientTarget("shell", "shell_call"),
        "functions.local_shell": ClientTarget("local_shell", "local_shell_call"),
        "functions.apply_patch": ClientTarget("apply_patch", "apply_patch_call"),
    }


def test_the_model_reads_every_kind_with_what_the_request_says_of_it() -> None:
    request = create(*TOOLS).request
    text = decode(render(build_conversation(request, make_offer(request, {}))))
    for words in (
        "// Edits.\n",
        '// `input` has to match this Lark grammar:\n// start: "a"\n// b: "c"\ntype edit = (_: {\n',
        "input: string,\n}) => any;",
        "## docs\n\n// Docs.\nnamespace docs {",
        "// - pdf (/skills/pdf): Reads PDFs.\ntype shell = (_: {\n",
        "type local_shell = (_: {\n",
        "type apply_patch = (_: {\n",
    ):
        assert words in text, words


def test_a_record_of_an_earlier_format_is_offered_functions_alone() -> None:
    assert set(offer_of(*TOOLS, record_format=2).routing) == {"functions.f"}


def test_what_an_earlier_version_accepted_in_a_namespace_does_no_harm() -> None:
    members: list[Any] = [{}, 5, {"type": "function"}, {"type": "shell", "name": "s"}, FUNCTION]
    spaces: list[Any] = [{"type": "namespace"}, {"type": "namespace", "name": "n", "tools": members}]
    request = make_request(tools=[*spaces, FUNCTION | {"strict": True}])
    offer = make_offer(request, {}, (), 2)
    assert set(offer.routing) == {"functions.f"}
    assert constraint_of(request, offer, has_called=False, budget=100, reserved=10) is not None


@pytest.mark.parametrize(
    ("choice", "offered"),
    [
        ({"type": "custom", "name": "edit"}, {"functions.edit"}),
        ({"type": "function", "name": "f"}, {"functions.f"}),
        ({"type": "function", "name": "f", "namespace": "docs"}, {"docs.f"}),
        ({"type": "shell"}, {"functions.shell"}),
        ({"type": "local_shell"}, {"functions.local_shell"}),
        ({"type": "apply_patch"}, {"functions.apply_patch"}),
        (
            {
                "type": "allowed_tools",
                "mode": "required",
                "tools": [{"type": "namespace", "name": "docs"}, {"type": "shell"}],
            },
            {"docs.f", "docs.edit", "functions.shell"},
        ),
        ("required", ALL),
    ],
)
def test_a_forced_choice_offers_what_it_names_and_constrains_the_turn_to_it(
    choice: Any, offered: set[str]
) -> None:
    request = create(*TOOLS, tool_choice=choice).request
    offer = make_offer(request, {})
    assert set(offer.routing) == offered
    constraint = constraint_of(request, offer, has_called=False, budget=100, reserved=10)
    assert constraint is not None
    assert constraint.final is None
    assert {call.recipient for call in constraint.calls} == offered
    for call in constraint.calls:
        if call.recipient.endswith("edit"):
            assert json.loads(call.arguments.schema or "")["required"] == ["input"]


def test_a_member_is_chosen_by_its_bare_name_if_no_other_tool_has_it() -> None:
    choice = {"type": "custom", "name": "edit"}
    assert set(offer_of(FUNCTION, DOCS, tool_choice=choice).routing) == {"docs.edit"}


def test_a_bare_name_that_several_tools_have_chooses_the_one_outside_or_none() -> None:
    other = DOCS | {"name": "other"}
    choice = {"type": "function", "name": "f"}
    assert set(offer_of(FUNCTION, DOCS, other, tool_choice=choice).routing) == {"functions.f"}
    refused = refusal_of(DOCS, other, tool_choice=choice)
    assert refused == ("tool_choice.name", "invalid_value")
    assert set(offer_of(DOCS, other, tool_choice=choice | {"namespace": "other"}).routing) == {"other.f"}
    custom_outside = {"type": "custom", "name": "f"}
    assert refusal_of(custom_outside, DOCS, tool_choice=choice) == ("tool_choice.name", "invalid_value")


@pytest.mark.parametrize(
    "choice",
    [
        {"type": "custom", "name": "f"},
        {"type": "function", "name": "edit"},
        {"type": "function", "name": "f", "namespace": "other"},
        {"type": "namespace", "name": "other"},
        {"type": "custom", "name": "other"},
    ],
)
def test_a_choice_that_no_tool_satisfies_is_refused(choice: dict[str, Any]) -> None:
    assert refusal_of(FUNCTION, CUSTOM, DOCS, tool_choice=choice) == ("tool_choice.name", "invalid_value")


SERVER: dict[str, Any] = {"type": "mcp", "server_label": "s", "allowed_tools": ["a"]}
PYTHON: dict[str, Any] = {"type": "mcp", "server_label": "code_interpreter"}


@pytest.mark.parametrize(
    ("tools", "choice", "param"),
    [
        ([SERVER], {"type": "mcp", "server_label": "s", "name": "b"}, "tool_choice.name"),
        ([SERVER | {"allowed_tools": []}], {"type": "mcp", "server_label": "s"}, "tool_choice.server_label"),
        ([SERVER | {"allowed_tools": {"tool_names": []}}], "required", "tool_choice"),
        ([PYTHON], PYTHON | {"name": "ruby"}, "tool_choice.name"),
        ([FUNCTION], {"type": "allowed_tools", "mode": "required", "tools": []}, "tool_choice.tools"),
    ],
)
def test_a_choice_that_cannot_be_satisfied_is_refused_as_far_as_the_request_shows_it(
    tools: list[dict[str, Any]], choice: Any, param: str
) -> None:
    assert refusal_of(*tools, tool_choice=choice) == (param, "invalid_value")


@pytest.mark.parametrize(
    ("tools", "choice"),
    [
        ([SERVER], {"type": "mcp", "server_label": "s", "name": "a"}),
        ([SERVER | {"allowed_tools": ["*"]}], {"type": "mcp", "server_label": "s", "name": "b"}),
        ([SERVER | {"allowed_tools": {"read_only": True}}], "required"),
        ([PYTHON], PYTHON | {"name": "python"}),
        ([{"type": "code_interpreter", "container": {"type": "auto"}}], "required"),
        ([FUNCTION], {"type": "allowed_tools", "mode": "auto", "tools": []}),
    ],
)
def test_a_choice_that_a_server_might_satisfy_is_accepted(tools: list[dict[str, Any]], choice: Any) -> None:
    assert create(*tools, tool_choice=choice).request.response.tool_choice == choice


AUTO = {"type": "code_interpreter", "container": {"type": "auto"}}
ANYWHERE = {"type": "web_search"}
ONE_DOMAIN = {"type": "web_search", "filters": {"allowed_domains": ["a.example"]}}


@pytest.mark.parametrize(
    ("one", "other", "is_accepted"),
    [
        (ANYWHERE, {"type": "web_search_preview"}, True),
        (ANYWHERE, {"type": "web_search_2025_08_26", "search_context_size": "medium", "filters": None}, True),
        (ONE_DOMAIN, ONE_DOMAIN, True),
        ({"type": "code_interpreter"}, AUTO, True),
        (ANYWHERE, ONE_DOMAIN, False),
        (ONE_DOMAIN, {"type": "web_search_preview"}, False),
        (ANYWHERE, {"type": "web_search", "external_web_access": False}, False),
        (AUTO, {"type": "code_interpreter", "container": "cntr_1"}, False),
    ],
)
def test_a_hosted_tool_is_asked_for_twice_in_the_same_words_or_refused(
    one: dict[str, Any], other: dict[str, Any], is_accepted: bool
) -> None:
    if is_accepted:
        assert len(create(one, other).request.tools) == 2
    else:
        assert refusal_of(one, other) == ("tools[1].type", "invalid_value")


@pytest.mark.parametrize("name", ["Host", "content-type", "MCP-Session-Id"])
def test_a_header_of_the_transport_is_refused_before_anything_is_written(name: str) -> None:
    server = {**SERVER, "headers": {"X-Key": "k", name: "v"}}
    assert refusal_of(server) == (f"tools[0].headers.{name}", "invalid_value")


CHOICES: list[dict[str, Any]] = [
    {"type": "function", "name": "f"},
    {"type": "custom", "name": "edit", "namespace": "docs"},
    {"type": "namespace", "name": "docs"},
    {"type": "mcp", "server_label": "s", "name": None},
    {"type": "shell"},
    {"type": "local_shell"},
    {"type": "apply_patch"},
    {"type": "code_interpreter"},
    {"type": "web_search"},
    {"type": "web_search_preview"},
]
CHOSEN = [FUNCTION, DOCS, SERVER, {"type": "shell"}, {"type": "local_shell"}, {"type": "apply_patch"}]
CHOSEN += [{"type": "code_interpreter"}, {"type": "web_search"}]


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: choice["type"])
def test_what_a_choice_would_ignore_is_refused_by_its_path(choice: dict[str, Any]) -> None:
    """What else a tool has stands in `tools`: what a choice said of it would have no effect."""
    several = {"type": "allowed_tools", "mode": "auto", "tools": [choice]}
    for accepted in (choice, several, {**choice, "x": None}, {**several, "x": None}):
        assert create(*CHOSEN, tool_choice=accepted).request.response.tool_choice == accepted
    unknown = "unknown_parameter"
    assert refusal_of(*CHOSEN, tool_choice={**choice, "x": 1}) == ("tool_choice.x", unknown)
    assert refusal_of(*CHOSEN, tool_choice={**several, "x": 1}) == ("tool_choice.x", unknown)
    more = {**several, "tools": [choice, {**choice, "headers": {"X-Key": "secret"}}]}
    assert refusal_of(*CHOSEN, tool_choice=more) == ("tool_choice.tools[1].headers", unknown)


@pytest.mark.parametrize("kind", ["shell", "local_shell", "apply_patch"])
def test_a_kind_that_is_not_among_the_tools_cannot_be_chosen(kind: str) -> None:
    assert refusal_of(FUNCTION, tool_choice={"type": kind}) == ("tool_choice.type", "invalid_value")


# --- histories ----------------------------------------------------------------------------------

HISTORY: list[tuple[dict[str, Any], dict[str, Any], str, str, str]] = [
    (
        {"type": "custom_tool_call", "id": "ctc_1", "call_id": "c", "name": "edit", "input": 'é "x"'},
        {"type": "custom_tool_call_output", "call_id": "c", "output": "Done"},
        "functions.edit",
        '{"input": "é \\"x\\""}',
        "Done",
    ),
    (
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", "namespace": "docs"},
        {"type": "function_call_output", "call_id": "c", "output": "Done"},
        "docs.f",
        "{}",
        "Done",
    ),
    (
        {
            "type": "shell_call",
            "id": "sh_1",
            "call_id": "c",
            "action": {"commands": ["ls"], "max_output_length": None, "timeout_ms": 5},
            "environment": {"type": "container_reference", "container_id": "cntr_1"},
            "status": "completed",
        },
        {
            "type": "shell_call_output",
            "call_id": "c",
            "max_output_length": 5,
            "output": [
                {"stdout": "a\n", "stderr": "", "outcome": {"type": "exit", "exit_code": 0}},
                {"stdout": "", "stderr": "no", "outcome": {"type": "timeout"}},
            ],
        },
        "functions.shell",
        '{"commands": ["ls"], "timeout_ms": 5}',
        "a\n[exit code 0]\nno\n[timed out]",
    ),
    (
        {
            "type": "local_shell_call",
            "id": "lsh_1",
            "call_id": "c",
            "action": {"type": "exec", "command": ["ls", "-l"], "env": {}},
            "status": "completed",
        },
        {"type": "local_shell_call_output", "id": "c", "output": "a"},
        "functions.local_shell",
        '{"command": ["ls", "-l"]}',
        "a",
    ),
    (
        {
            "type": "apply_patch_call",
            "id": "apc_1",
            "call_id": "c",
            "operation": {"type": "delete_file", "path": "a"},
            "status": "completed",
        },
        {"type": "apply_patch_call_output", "call_id": "c", "status": "failed", "output": "No such file."},
        "functions.apply_patch",
        '{"type": "delete_file", "path": "a"}',
        "The patch was not applied.\nNo such file.",
    ),
]


@pytest.mark.parametrize(
    ("call", "answer", "recipient", "written", "told"), HISTORY, ids=[case[0]["type"] for case in HISTORY]
)
def test_a_call_and_its_answer_are_told_as_what_they_were(
    call: dict[str, Any], answer: dict[str, Any], recipient: str, written: str, told: str
) -> None:
    items: list[InputItem] = items_of([call, answer])
    request = msgspec.structs.replace(make_request(), input=items)
    said = build_conversation(request, make_offer(request, {}))[-2:]
    assert said == [
        ChatMessage("assistant", written, "commentary", recipient, "json"),
        ChatMessage("tool", told, "commentary", "assistant", None, recipient),
    ]


@pytest.mark.parametrize("case", HISTORY, ids=[case[0]["type"] for case in HISTORY])
def test_calls_and_answers_are_listed_as_the_public_types_have_them(case: Any) -> None:
    for item in adopt_items(read_items([case[0], case[1]], "input", 10), "0_" + "a" * 32):
        shown = msgspec.json.encode(item)
        for listed in (LISTED, LISTED_IN_CONVERSATIONS):
            assert listed.validate_json(shown).type == json.loads(shown)["type"]


def test_every_item_of_the_table_has_an_example_in_a_history() -> None:
    kinds = {case[0]["type"] for case in HISTORY} | {case[1]["type"] for case in HISTORY}
    assert kinds == {kind for tool in CLIENT_TOOLS for kind in (tool.item_type, tool.answer_type)}
    assert {
        str(k.__struct_config__.tag) for u in (AnyClientCall, AnyClientAnswer) for k in u.__args__
    } <= kinds
