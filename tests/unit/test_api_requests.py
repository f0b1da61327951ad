import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from openai.types import responses as openai_types

from api.bodies.input_items import read_input
from api.bodies.json_body import NESTING_MAX, decode_object
from api.bodies.requests import Birth, CreateBody, Creation, RequestLimits, read_create
from api.bodies.server_urls import strip_url
from api.bodies.tools import ApprovalDefaults
from api.bodies.validation import Shape
from api.errors import ClientError
from shared.responses import Response, ResponseRequest, SamplingOptions, ServerSecrets
from tests.items import shown

BIRTH = Birth("resp_0_" + "0" * 32, 1_763_769_600)
LIMITS = RequestLimits(items_max=100, tools_max=100, values_max=1_000_000)
MODELS = ["openai/gpt-oss-20b", "openai/gpt-oss-120b"]

SEED_TOOL = {
    "type": "mcp",
    "server_label": "code_interpreter",
    "headers": {"test": "test"},
    "server_url": "IGNORED",
}

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from(sorted(CreateBody.model_fields))


def create(body: dict[str, Any]) -> Creation:
    return read_create(json.dumps({"input": "Hello"} | body).encode(), BIRTH, MODELS, LIMITS)


def echo(body: dict[str, Any]) -> dict[str, Any]:
    """The response as a client reads it."""
    echoed: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(create(body).request.response))
    return echoed


# --- the echo -----------------------------------------------------------------------------------


def test_a_request_that_says_nothing_is_echoed_with_every_default() -> None:
    assert echo({}) == {
        "id": BIRTH.response_id,
        "object": "response",
        "created_at": BIRTH.created_at_s,
        "status": "in_progress",
        "completed_at": None,
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "max_tool_calls": None,
        "model": "openai/gpt-oss-20b",
        "output": [],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "prompt_cache_key": None,
        "prompt_cache_retention": None,
        "reasoning": {"effort": "medium", "summary": None},
        "safety_identifier": None,
        "service_tier": "auto",
        "store": True,
        "temperature": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": None,
        "user": None,
        "metadata": {},
    }


@pytest.mark.parametrize(
    ("field", "value", "echoed"),
    [
        ("instructions", "Be brief.", "Be brief."),
        ("max_output_tokens", 1, 1),
        ("max_tool_calls", 3, 3),
        ("metadata", {"k": "v"}, {"k": "v"}),
        ("model", "default", "openai/gpt-oss-20b"),
        ("model", "openai/gpt-oss-120b", "openai/gpt-oss-120b"),
        ("parallel_tool_calls", False, False),
        ("presence_penalty", -2, -2.0),
        ("frequency_penalty", 0.5, 0.5),
        ("prompt_cache_key", "k", "k"),
        ("prompt_cache_retention", "in-memory", "in_memory"),
        ("reasoning", {"effort": "high"}, {"effort": "high", "summary": None}),
        ("reasoning", {"effort": "max"}, {"effort": "max", "summary": None}),
        ("reasoning", {"summary": "auto"}, {"effort": "medium", "summary": "auto"}),
        ("reasoning", {"generate_summary": "concise"}, {"effort": "medium", "summary": "concise"}),
        ("safety_identifier", "s", "s"),
        ("service_tier", "flex", "flex"),
        ("store", False, False),
        ("temperature", 0, 0.0),
        ("temperature", None, 1.0),
        ("top_p", 0.5, 0.5),
        ("top_logprobs", 20, 20),
        ("truncation", "auto", "auto"),
        ("user", "u", "u"),
        ("text", {"verbosity": "low"}, {"format": {"type": "text"}, "verbosity": "low"}),
        (
            "text",
            {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}},
            {
                "format": {
                    "type": "json_schema",
                    "name": "n",
                    "description": None,
                    "schema": {"type": "object"},
                    "strict": True,
                },
                "verbosity": "medium",
            },
        ),
    ],
)
def test_a_field_is_echoed(field: str, value: object, echoed: object) -> None:
    assert echo({field: value})[field] == echoed


@pytest.mark.parametrize(
    "field",
    [
        "access_programs",
        "background_options",
        "client_metadata",
        "prompt_cache_options",
    ],
)
def test_a_field_without_meaning_here_is_ignored(field: str) -> None:
    assert echo({field: {"any": ["thing"]}}) == echo({})


def test_null_is_the_same_as_nothing() -> None:
    names = set(Response.__struct_fields__) - {"input_messages", "output_messages"}
    nulls = dict.fromkeys(names | {"include", "stream", "stream_options", "conversation"})
    nulls |= dict.fromkeys(SamplingOptions.__struct_fields__)
    assert echo(nulls) == echo({})
    assert create(nulls).request.sampling == SamplingOptions()


def test_the_messages_are_null_at_birth_when_they_are_asked_for() -> None:
    asked = echo({"enable_response_messages": True})
    assert (asked["input_messages"], asked["output_messages"]) == (None, None)


def test_the_public_client_reads_the_echo_strictly() -> None:
    body = {
        "tools": [
            SEED_TOOL | {"server_label": "wiki"},
            {"type": "function", "name": "f"},
            {"type": "code_interpreter"},
            {"type": "web_search"},
        ],
        "tool_choice": {"type": "function", "name": "f"},
        "text": {"format": {"type": "json_schema", "name": "n", "schema": {}}},
        "prompt_cache_retention": "in-memory",
    }
    raw = msgspec.json.encode(create(body).request.response)
    assert openai_types.Response.model_validate_json(raw).tools[1].type == "function"


def test_the_stored_request_is_read_back_as_it_was_written() -> None:
    request = create({"tools": [SEED_TOOL], "seed": 7, "include": ["message.output_text.logprobs"]}).request
    assert msgspec.json.decode(msgspec.json.encode(request), type=ResponseRequest) == request
    assert (request.sampling.seed, request.include) == (7, ["message.output_text.logprobs"])


def test_sampling_options_reach_the_worker_and_are_not_echoed() -> None:
    asked = {"seed": 7, "top_k": 40, "min_p": 0.05, "repetition_penalty": 1.1, "logit_bias": {"200005": -100}}
    request = create(asked).request
    assert request.sampling == SamplingOptions(7, 40, 0.05, 1.1, {200_005: -100.0})
    assert msgspec.json.decode(msgspec.json.encode(request), type=ResponseRequest) == request
    assert echo(asked) == echo({})


@pytest.mark.parametrize("disabled", [None, 0, -1])
def test_a_top_k_that_disables_itself_is_none(disabled: int | None) -> None:
    assert create({"top_k": disabled}).request.sampling == SamplingOptions()


@pytest.mark.parametrize("asked", [{"min_p": 0.05}, {"logit_bias": {"5": 1}}], ids=str)
def test_what_the_engine_is_configured_without_is_refused_by_name(asked: dict[str, Any]) -> None:
    limits = replace(LIMITS, refused=("min_p", "logit_bias"))
    (name,) = asked
    with pytest.raises(ClientError) as refused:
        read_create(json.dumps({"input": "Hello"} | asked).encode(), BIRTH, MODELS, limits)
    assert (refused.value.status, refused.value.code) == (400, "unsupported_parameter")
    assert refused.value.param == name
    for nothing in ({"min_p": 0, "logit_bias": {}}, {"min_p": None}, {"temperature": 0}):
        read_create(json.dumps({"input": "Hello"} | nothing).encode(), BIRTH, MODELS, limits)


def test_stream_is_off_unless_it_is_asked_for() -> None:
    assert [create(body).is_streamed for body in ({}, {"stream": False}, {"stream": True})] == [
        False,
        False,
        True,
    ]


# --- input --------------------------------------------------------------------------------------


def items_of(value: object) -> Any:
    return shown(read_input(value, LIMITS.items_max, is_continuing=False))


def test_a_string_becomes_one_user_message() -> None:
    assert items_of("Hi") == [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]}
    ]


def test_an_easy_message_gets_its_type() -> None:
    assert items_of([{"role": "developer", "content": "Be brief."}]) == [
        {"type": "message", "role": "developer", "content": "Be brief."}
    ]


def test_a_bare_id_is_a_reference() -> None:
    assert items_of([{"id": "msg_1", "type": None}]) == [{"type": "item_reference", "id": "msg_1"}]


ACCEPTED_ITEMS: list[dict[str, Any]] = [
    {"type": "message", "role": "system", "content": [{"type": "input_text", "text": "t"}]},
    {"type": "message", "role": "user", "content": [{"type": "input_image", "image_url": "data:,"}]},
    {"type": "message", "role": "user", "content": [{"type": "input_file", "file_data": "x"}]},
    {
        "type": "message",
        "role": "assistant",
        "id": "msg_1",
        "status": "completed",
        "phase": "final_answer",
        "content": [
            {"type": "output_text", "text": "t", "annotations": [], "logprobs": []},
            {"type": "refusal", "refusal": "no"},
        ],
    },
    {"type": "function_call", "arguments": "{}", "call_id": "c", "name": "f", "id": None, "status": None},
    {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [{"type": "summary_text", "text": "s"}],
        "content": [{"type": "reasoning_text", "text": "t"}],
        "encrypted_content": None,
        "status": "completed",
    },
    {"type": "reasoning", "summary": [], "content": None},
    {
        "type": "code_interpreter_call",
        "id": "ci_1",
        "container_id": "c",
        "status": "completed",
        "code": None,
        "outputs": [{"type": "logs", "logs": "1"}],
    },
    {
        "type": "mcp_list_tools",
        "id": "mcpl_1",
        "server_label": "s",
        "tools": [{"name": "t", "input_schema": {}}],
    },
    {"type": "mcp_approval_request", "id": "mcpr_1", "arguments": "{}", "name": "t", "server_label": "s"},
    {"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": True},
    {
        "type": "mcp_call",
        "id": "mcp_1",
        "arguments": "{}",
        "name": "a.b/c",
        "server_label": "s",
        "output": "1",
    },
    {"type": "mcp_call", "arguments": "{}", "name": "t", "server_label": "s", "error": "it broke"},
    {
        "type": "mcp_call",
        "arguments": "{}",
        "name": "t",
        "server_label": "s",
        "error": {"type": "http_error", "code": 500, "message": "m"},
    },
    {"type": "item_reference", "id": "msg_1"},
    {"type": "custom_tool_call", "call_id": "c", "input": "i", "name": "n"},
    {"type": "custom_tool_call_output", "call_id": "c", "output": "o"},
    {"type": "function_call_output", "name": "f", "output": "o"},
]


@pytest.mark.parametrize("item", ACCEPTED_ITEMS, ids=lambda item: item["type"])
def test_an_item_is_kept_as_it_came(item: dict[str, Any]) -> None:
    assert items_of([item]) == [item]


@pytest.mark.parametrize("output", ["72", [{"type": "input_text", "text": "72"}], []])
def test_the_output_of_a_function_is_text_or_parts(output: object) -> None:
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    answer = {"type": "function_call_output", "call_id": "c", "output": output}
    assert items_of([call, answer]) == [call, answer]


def test_an_output_may_belong_to_a_referenced_call() -> None:
    items = [
        {"type": "item_reference", "id": "fc_1"},
        {"type": "function_call_output", "call_id": "c", "output": "o"},
    ]
    assert items_of(items) == items


def test_every_item_of_a_request_has_an_id() -> None:
    items = create(
        {"input": [{"role": "user", "content": "Hi"}, {"id": "msg-mine", "role": "user", "content": "t"}]}
    )
    assert [item.id for item in items.items] == ["msg_0_" + "0" * 32 + "_i0", "msg-mine"]


# --- tools --------------------------------------------------------------------------------------


def test_headers_and_authorization_travel_apart_from_the_request() -> None:
    tool = SEED_TOOL | {"headers": {"X-Key": "s3cret-header"}, "authorization": "s3cret-token"}
    creation = create({"tools": [tool]})
    assert creation.secrets == {"code_interpreter": ServerSecrets({"X-Key": "s3cret-header"}, "s3cret-token")}
    assert b"s3cret" not in msgspec.json.encode(creation.request)
    kept = {"type": "mcp", "server_label": "code_interpreter", "server_url": "IGNORED"}
    assert creation.request.tools == [kept | {"require_approval": "never"}]


def test_the_echoed_server_shows_neither_headers_nor_the_path_of_its_address() -> None:
    url = "https://user:s3cret@host.example:8443/s3cret?key=s3cret#s3cret"
    tool = {"type": "mcp", "server_label": "s", "server_url": url, "headers": {"a": "s3cret"}}
    creation = create({"tools": [tool]})
    assert creation.request.response.tools == (
        {
            "type": "mcp",
            "server_label": "s",
            "server_url": "https://host.example:8443",
            "server_description": None,
            "allowed_tools": None,
            "require_approval": "always",
            "headers": {"a": "<redacted>"},
        },
    )
    assert creation.request.tools[0]["server_url"] == "https://host.example:8443"
    assert creation.secrets == {"s": ServerSecrets({"a": "s3cret"}, url=url)}
    assert b"s3cret" not in msgspec.json.encode(creation.request)


@pytest.mark.parametrize(
    ("tool", "shown"),
    [
        ({"server_label": "code_interpreter", "server_url": "IGNORED"}, {"require_approval": "never"}),
        ({"server_label": "s"}, {"require_approval": "never", "headers": None}),
        ({"server_label": "s", "server_url": "https://h/mcp"}, {"require_approval": "always"}),
        ({"server_label": "s", "require_approval": {"never": {}}}, {"require_approval": {"never": {}}}),
        ({"server_label": "s", "authorization": "s3cret"}, {"authorization": "<redacted>"}),
        ({"server_label": "s", "headers": {}}, {"headers": None}),
    ],
)
def test_the_echoed_server_says_what_was_sent_and_what_was_decided(
    tool: dict[str, Any], shown: dict[str, Any]
) -> None:
    (echoed,) = create({"tools": [{"type": "mcp"} | tool]}).request.response.tools
    assert {name: echoed[name] for name in shown} == shown
    assert ("authorization" in echoed) == ("authorization" in tool)


@pytest.mark.parametrize(
    ("tool", "rule"),
    [
        ({"server_label": "s"}, "always"),
        ({"server_label": "code_interpreter", "server_url": "IGNORED"}, "always"),
        ({"server_label": "s", "server_url": "https://h/mcp"}, "never"),
        ({"server_label": "s", "require_approval": None}, "always"),
        ({"server_label": "s", "require_approval": {"never": {}}}, {"never": {}}),
    ],
)
def test_the_operator_says_which_servers_need_approval_where_a_request_does_not(
    tool: dict[str, Any], rule: object
) -> None:
    limits = replace(LIMITS, approvals=ApprovalDefaults("always", "never"))
    body = json.dumps({"input": "Hello", "tools": [{"type": "mcp"} | tool]}).encode()
    request = read_create(body, BIRTH, MODELS, limits).request
    assert request.tools[0]["require_approval"] == request.response.tools[0]["require_approval"] == rule


@pytest.mark.parametrize(
    ("allowed", "kept"),
    [
        (["*"], None),
        (["a", "*"], None),
        (["a"], ["a"]),
        ([], []),
        ({"tool_names": ["*"]}, {"tool_names": None}),
        ({"tool_names": ["*"], "read_only": True}, {"tool_names": None, "read_only": True}),
    ],
)
def test_a_star_allows_all_tools_and_is_echoed_as_sent(allowed: object, kept: object) -> None:
    tool = {"type": "mcp", "server_label": "s", "allowed_tools": allowed}
    request = create({"tools": [tool]}).request
    assert request.tools[0]["allowed_tools"] == kept
    assert request.response.tools[0]["allowed_tools"] == allowed


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        ({"always": {"tool_names": ["*"]}}, "always"),
        ({"never": {"tool_names": ["a", "*"]}}, "never"),
        ({"always": {"tool_names": ["*"]}, "never": {"tool_names": ["a"]}}, "always"),
        ({"never": {"tool_names": ["*"]}, "always": {"tool_names": ["*"]}}, "always"),
        (
            {"never": {"tool_names": ["*"]}, "always": {"tool_names": ["a"]}},
            {"never": {"tool_names": None}, "always": {"tool_names": ["a"]}},
        ),
        (
            {"never": {"tool_names": ["*"], "read_only": True}},
            {"never": {"tool_names": None, "read_only": True}},
        ),
        ({"never": {"tool_names": ["a"]}, "always": None}, {"never": {"tool_names": ["a"]}, "always": None}),
        ({"never": {}}, {"never": {}}),
    ],
)
def test_a_star_in_a_rule_of_approval_stands_for_all_tools_too(rule: Any, kept: object) -> None:
    """Else `always` with a star would require an approval of no call."""
    tool = {"type": "mcp", "server_label": "s", "require_approval": rule}
    request = create({"tools": [tool]}).request
    assert request.tools[0]["require_approval"] == kept
    assert request.response.tools[0]["require_approval"] == rule


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://h:8443", None),
        ("https://h/", None),
        ("https://h/mcp", None),
        ("https://h/sse/", None),
        ("IGNORED", None),
        ("https://h/mcp/", None),
        ("https://h/s3cret/mcp", "https://h"),
        ("https://h/mcp?key=s3cret", "https://h"),
        ("https://h/mcp#s3cret", "https://h"),
        ("https://s3cret@h/mcp", "https://h"),
        ("https://u:s3cret@h:81/mcp", "https://h:81"),
        ("h/s3cret", "h"),
        ("https://h?s3cret", "https://h"),
    ],
)
def test_what_of_an_address_may_be_secret_is_kept_apart(url: str, kept: str | None) -> None:
    creation = create({"tools": [{"type": "mcp", "server_label": "s", "server_url": url}]})
    assert creation.request.tools[0]["server_url"] == (kept or url)
    assert creation.secrets == ({"s": ServerSecrets(url=url)} if kept else {})
    assert creation.secret_param == ("tools[0].server_url" if kept else None)


def test_what_of_a_tool_server_nobody_reads_is_refused_and_not_repeated() -> None:
    tool = {"type": "mcp", "server_label": "s", "server_url": "https://h/mcp", "oauth": {"token": "s3cret"}}
    with pytest.raises(ClientError) as refused:
        create({"tools": [tool]})
    assert (refused.value.param, refused.value.code) == ("tools[0].oauth", "unknown_parameter")
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"authorization": "t", "server_url": "https://u:p@h/mcp"}, "tools[0].authorization"),
        ({"authorization": "t", "headers": {"AUTHORIZATION": "Bearer t"}}, "tools[0].authorization"),
        ({"headers": {"Authorization": "t"}, "server_url": "https://u@h/mcp"}, "tools[0].server_url"),
    ],
)
def test_two_words_on_who_is_asking_are_refused(more: dict[str, Any], param: str) -> None:
    tool = {"type": "mcp", "server_label": "s", "server_url": "https://h/mcp"} | more
    with pytest.raises(ClientError) as refused:
        create({"tools": [tool]})
    assert (refused.value.status, refused.value.param) == (400, param)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("IGNORED", "IGNORED"),
        ("http://h/p", "http://h"),
        ("http://h\\p@q", "http://h"),
        ("host.example/p?q", "host.example"),
        ("http://a@b@h/", "http://h"),
        ("http://[::1]:80/p", "http://[::1]:80"),
        ("", ""),
    ],
)
def test_an_address_is_shown_without_what_may_be_secret(url: str, shown: str) -> None:
    assert strip_url(url) == shown


def test_a_server_without_secrets_keeps_none() -> None:
    tool: dict[str, Any] = {"type": "mcp", "server_label": "s", "headers": {}, "authorization": None}
    assert create({"tools": [tool]}).secrets == {}


PYTHON_BY_TYPE: Any = {"type": "code_interpreter"}
PYTHON_BY_LABEL: Any = {
    "type": "mcp",
    "server_label": "code_interpreter",
    "require_approval": "always",
}


@pytest.mark.parametrize(
    ("container", "param", "code"),
    [
        ({"type": "auto", "file_ids": ["file-1"]}, ".file_ids", "unsupported_parameter"),
        ({"type": "auto", "memory_limit": "4g"}, ".memory_limit", "unsupported_parameter"),
        (
            {"type": "auto", "network_policy": {"type": "allowlist"}},
            ".network_policy",
            "unsupported_parameter",
        ),
        (
            {"type": "auto", "network_policy": {"type": "disabled", "domain_secrets": [{"value": "s"}]}},
            ".network_policy",
            "unsupported_parameter",
        ),
        ({"type": "auto", "skills": [{}]}, ".skills", "unsupported_parameter"),
        ({"type": "auto", "gpu": True}, ".gpu", "unknown_parameter"),
        ({"type": "secure"}, ".type", "invalid_value"),
        ({}, ".type", "missing_required_parameter"),
        ("box", "", "invalid_value"),
        (5, "", "invalid_type"),
    ],
)
def test_what_a_container_cannot_be_is_refused_by_name(container: Any, param: str, code: str) -> None:
    with pytest.raises(ClientError) as refused:
        create({"tools": [{"type": "code_interpreter", "container": container}]})
    assert (refused.value.param, refused.value.code) == (f"tools[0].container{param}", code)


@pytest.mark.parametrize(
    "container",
    [
        {"type": "auto"},
        {"type": "auto", "file_ids": [], "memory_limit": None},
        {"type": "auto", "network_policy": {"type": "disabled"}},
        None,
    ],
)
def test_a_container_that_is_made_as_it_is_needed_is_accepted(container: Any) -> None:
    tool = {"type": "code_interpreter", "container": container}
    assert echo({"tools": [tool]})["tools"] == [tool]


@pytest.mark.parametrize(
    ("tools", "param"),
    [
        ([PYTHON_BY_TYPE, PYTHON_BY_LABEL], "tools[1].server_label"),
        ([PYTHON_BY_LABEL, PYTHON_BY_TYPE], "tools[1].type"),
        ([PYTHON_BY_LABEL, PYTHON_BY_LABEL], "tools[1].server_label"),
        ([PYTHON_BY_TYPE, PYTHON_BY_TYPE], None),
    ],
)
def test_a_tool_is_requested_by_its_type_or_by_its_label(tools: list[Any], param: str | None) -> None:
    """Else the rules of one of the two, such as `require_approval`, would be lost."""
    if param is None:
        create({"tools": tools})
        return
    with pytest.raises(ClientError) as refused:
        create({"tools": tools})
    assert (refused.value.status, refused.value.param) == (400, param)


def test_a_function_is_echoed_with_what_it_left_out() -> None:
    assert echo({"tools": [{"type": "function", "name": "f"}]})["tools"] == [
        {"type": "function", "name": "f", "description": None, "parameters": None, "strict": None}
    ]


ACCEPTED_TOOLS: list[dict[str, Any]] = [
    {"type": "function", "name": "f", "parameters": None, "strict": True},
    {"type": "mcp", "server_label": "s", "require_approval": "never", "allowed_tools": ["a"]},
    {
        "type": "mcp",
        "server_label": "s",
        "require_approval": {"never": {"read_only": True}, "always": {"tool_names": ["x"]}},
        "allowed_tools": {"tool_names": ["a"], "read_only": True},
    },
    {"type": "mcp", "server_label": "s", "require_approval": "never", "connector_id": None},
    {"type": "code_interpreter", "container": {"type": "auto"}},
    {"type": "web_search"},
    {"type": "web_search_preview_2025_03_11", "search_context_size": "low"},
]


@pytest.mark.parametrize("tool", ACCEPTED_TOOLS, ids=lambda tool: tool["type"])
def test_a_tool_is_passed_on_as_it_came(tool: dict[str, Any]) -> None:
    assert create({"tools": [tool]}).request.tools == [tool]


@pytest.mark.parametrize(
    "choice",
    [
        "none",
        "auto",
        "required",
        {"type": "function", "name": "f"},
        {"type": "mcp", "server_label": "code_interpreter"},
        {"type": "mcp", "server_label": "code_interpreter", "name": "python"},
        {"type": "code_interpreter"},
        {"type": "web_search_preview"},
        {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]},
    ],
)
def test_a_choice_may_name_what_is_offered(choice: object) -> None:
    tools = [SEED_TOOL, {"type": "function", "name": "f"}, {"type": "web_search"}]
    assert echo({"tools": tools, "tool_choice": choice})["tool_choice"] == choice


# --- any input ----------------------------------------------------------------------------------


def is_accepted_or_refused(raw: bytes) -> bool:
    """Returns a request that can be stored, or an error that says what is wrong."""
    try:
        request = read_create(raw, BIRTH, MODELS, LIMITS).request
    except ClientError as error:
        return 400 <= error.status < 500 and bool(error.code)
    return msgspec.json.decode(msgspec.json.encode(request), type=ResponseRequest) == request


@st.composite
def changed(draw: st.DrawFn, originals: list[dict[str, Any]]) -> dict[str, Any]:
    """One of the originals with one of its fields, or of its parts' fields, turned into anything."""
    copy = json.loads(json.dumps(draw(st.sampled_from(originals))))
    place = copy
    while True:
        name = draw(st.sampled_from(sorted(place)))
        inner = place[name][0] if isinstance(place[name], list) and place[name] else place[name]
        if not isinstance(inner, dict) or not inner or draw(st.booleans()):
            place[name] = draw(JSON_VALUES)
            return copy  # type: ignore[no-any-return]
        place = inner


@given(st.binary())
@example(b"")
@example(b"null")
@example(b'{"input": "\\ud800"}')
@example(b'{"input": NaN}')
@example(b'{"temperature": 1e999}')
@example(b"\xff")
@example(b"[" * 100_000)
@example(b'{"a":' * 100_000)
def test_any_bytes_are_accepted_or_refused(raw: bytes) -> None:
    assert is_accepted_or_refused(raw)


@given(st.dictionaries(FIELDS, JSON_VALUES))
def test_any_values_of_fields_are_accepted_or_refused(fields: dict[str, Any]) -> None:
    assert is_accepted_or_refused(json.dumps({"input": "Hello"} | fields).encode())


@given(changed(ACCEPTED_ITEMS), changed(ACCEPTED_TOOLS), JSON_VALUES)
def test_any_change_to_items_and_tools_is_accepted_or_refused(
    item: dict[str, Any], tool: dict[str, Any], choice: object
) -> None:
    assert is_accepted_or_refused(json.dumps({"input": [item]}).encode())
    assert is_accepted_or_refused(json.dumps({"input": "Hello", "tools": [tool]}).encode())
    assert is_accepted_or_refused(json.dumps({"input": "Hello", "tool_choice": choice}).encode())


def nested(levels: int) -> bytes:
    return b'{"a":' * levels + b"1" + b"}" * levels


def test_the_nesting_that_is_accepted_ends_at_its_bound() -> None:
    assert decode_object(nested(NESTING_MAX), 1_000)
    with pytest.raises(ClientError, match="nested too deeply"):
        decode_object(nested(NESTING_MAX + 1), 1_000)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (rb'{"input": "half of \ud83d"}', "half of a surrogate pair"),
        (rb'{"input": "\ud83d\ude00', "ends too early"),
        (b'{"input": "Hel', "Input data was truncated"),
    ],
)
def test_a_text_that_is_no_unicode_is_told_from_a_body_that_is_cut(body: bytes, reason: str) -> None:
    with pytest.raises(ClientError, match=reason):
        decode_object(body, 1_000)


@given(st.text(), st.text(alphabet="s3cret", min_size=6))
def test_what_follows_the_host_is_never_shown(host: str, secret: str) -> None:
    assert strip_url(f"http://h/{host}{secret}") == "http://h"


# --- numbers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": [{"role": "user", "content": ""}] * 101}, "input"),
        ({"tools": [{"type": "web_search"}] * 101}, "tools"),
        (
            {
                "tools": [{"type": "function", "name": "f"}],
                "tool_choice": {
                    "type": "allowed_tools",
                    "mode": "auto",
                    "tools": [{"type": "function", "name": "f"}] * 101,
                },
            },
            "tool_choice.tools",
        ),
    ],
)
def test_a_list_that_is_too_long_is_refused_with_both_lengths(body: dict[str, Any], param: str) -> None:
    with pytest.raises(ClientError, match="maximum length 100, but got an array with length 101") as refused:
        create(body)
    assert (refused.value.status, refused.value.code, refused.value.param) == (
        400,
        "array_above_max_length",
        param,
    )


def test_a_list_that_is_too_long_is_refused_before_its_members_are_checked() -> None:
    with pytest.raises(ClientError) as refused:
        create({"input": ["not an item"] * 101})
    assert refused.value.code == "array_above_max_length"


def test_members_of_namespaces_count_as_tools() -> None:
    namespaces = [{"type": "namespace", "name": f"n{i}", "tools": [{}] * 50} for i in range(2)]
    with pytest.raises(ClientError, match="102 tools") as refused:
        create({"tools": namespaces})
    assert refused.value.param == "tools"


# --- what is wrong a million times --------------------------------------------------------------


def shapes(kind: type[Shape] = Shape) -> Iterator[type[Shape]]:
    for shape in kind.__subclasses__():
        yield shape
        yield from shapes(shape)


def containers_in(schema: Any, *, is_bounded: bool = False) -> Iterator[tuple[str, bool]]:
    """Every list and mapping whose entries are checked, and whether the checking ends in time."""
    match schema:
        case {"type": "list", "items_schema": {"type": kind}, **rest} if kind != "any":
            yield "list", bool(rest.get("fail_fast"))
        case {"type": "dict", "values_schema": {"type": kind}} if kind != "any":
            yield "dict", is_bounded
    is_bounded = isinstance(schema, dict) and schema.get("type") == "function-before"
    for inner in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from containers_in(inner, is_bounded=is_bounded)


def test_a_list_is_checked_to_its_first_wrong_entry_and_a_mapping_by_its_length_first() -> None:
    """Else a body of 8 MB collects complaints for half a minute, with the interpreter's lock."""
    found = [
        (shape.__name__, *container)
        for shape in shapes()
        for container in containers_in(shape.__pydantic_core_schema__)
    ]
    assert {kind for _, kind, _ in found} == {"list", "dict"}
    assert not [name for name, _, ends_in_time in found if not ends_in_time]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"include": [1] * 1000}, "include[0]"),
        ({"metadata": {f"k{i}": 1 for i in range(1000)}}, "metadata"),
        ({"logit_bias": {str(i): "no" for i in range(2000)}}, "logit_bias"),
        ({"tools": [SEED_TOOL | {"headers": {f"h{i}": 1 for i in range(1000)}}]}, "tools[0].headers"),
        ({"input": [{"type": "reasoning", "summary": [1] * 1000}]}, "input[0].summary[0]"),
    ],
)
def test_what_is_wrong_many_times_is_reported_once(body: dict[str, Any], param: str) -> None:
    with pytest.raises(ClientError) as refused:
        create(body)
    assert refused.value.param == param
