"""Bad input, one row a rule: a 400 that names the parameter, and nothing written."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import pytest_asyncio

from api.app import create_app
from api.tenants import Tenants
from shared.settings import Settings
from shared.store import keys
from shared.store.records import token_count
from shared.store.redis.client import RedisClient
from tests.kept import count_kept
from tests.patience import until

MISSING, INVALID, UNSUPPORTED = "missing_required_parameter", "invalid_value", "unsupported_parameter"
TYPE = "invalid_type"
TOO_MANY = "object_above_max_properties"
TOO_SMALL, TOO_LARGE = "integer_below_min_value", "integer_above_max_value"
TOO_LOW, TOO_HIGH = "decimal_below_min_value", "decimal_above_max_value"
UNKNOWN = "unknown_parameter"

JSON = {"content-type": "application/json"}
FUNCTION = {"type": "function", "name": "f"}
SERVER = {"type": "mcp", "server_label": "s"}
SCHEMA = {"type": "json_schema", "name": "n", "schema": {}}


def with_input(*items: object) -> dict[str, Any]:
    return {"input": list(items)}


def with_message(**message: object) -> dict[str, Any]:
    return with_input({"type": "message", "role": "user", "content": "t"} | message)


def with_parts(*parts: object) -> dict[str, Any]:
    return with_message(content=list(parts))


def with_tools(*tools: object, **fields: object) -> dict[str, Any]:
    return {"input": "Hello", "tools": list(tools), **fields}


def with_field(name: str, value: object) -> dict[str, Any]:
    return {"input": "Hello", name: value}


def with_format(**form: object) -> dict[str, Any]:
    return with_field("text", {"format": form})


REFUSALS: list[tuple[dict[str, Any], str, str]] = [
    # members of options
    (with_field("reasoning", {"efort": "low"}), "reasoning.efort", UNKNOWN),
    (with_field("stream_options", {"include_usage": True}), "stream_options.include_usage", UNKNOWN),
    (with_field("text", {"verbose": "low"}), "text.verbose", UNKNOWN),
    (with_format(**SCHEMA, strct=True), "text.format.strct", UNKNOWN),
    (with_format(type="text", schema={}), "text.format.schema", UNKNOWN),
    (with_field("conversation", {"id": "conv_1", "limit": 5}), "conversation.limit", UNKNOWN),
    # input
    ({}, "input", MISSING),
    ({"input": None}, "input", MISSING),
    ({"input": 5}, "input", TYPE),
    ({"input": {}}, "input", TYPE),
    (with_input(), "input", INVALID),
    (with_input("text"), "input[0]", TYPE),
    (with_input({}), "input[0].type", MISSING),
    (with_input({"type": 5, "role": "user", "content": "t"}), "input[0].type", TYPE),
    *[
        (with_input({"type": kind, "id": "x"}), "input[0].type", INVALID)
        for kind in (
            "additional_tools",
            "configuration_update",
            "program",
            "program_output",
            "no_such_item",
        )
    ],
    (with_input({"role": "user"}), "input[0].content", MISSING),
    (with_input({"content": "t"}), "input[0].role", MISSING),
    (
        with_input({"role": "user", "content": "t"}, {"role": "robot", "content": "t"}),
        "input[1].role",
        INVALID,
    ),
    (with_message(content=5), "input[0].content", TYPE),
    (with_message(content=None), "input[0].content", TYPE),
    (with_message(phase="x"), "input[0].phase", INVALID),
    (with_message(id=5), "input[0].id", TYPE),
    (with_parts("text"), "input[0].content[0]", TYPE),
    (with_parts({"text": "t"}), "input[0].content[0].type", MISSING),
    (with_parts({"type": "input_audio"}), "input[0].content[0].type", INVALID),
    (with_parts({"type": "input_text"}), "input[0].content[0].text", MISSING),
    (with_parts({"type": "input_text", "text": 5}), "input[0].content[0].text", TYPE),
    (
        with_parts({"type": "input_text", "text": "t"}, {"type": "refusal"}),
        "input[0].content[1].refusal",
        MISSING,
    ),
    (
        with_parts({"type": "input_image", "image_url": {"url": "u"}}),
        "input[0].content[0].image_url",
        TYPE,
    ),
    (with_input({"type": "function_call", "call_id": "c", "name": "f"}), "input[0].arguments", MISSING),
    (with_input({"type": "function_call", "arguments": "{}", "name": "f"}), "input[0].call_id", MISSING),
    (with_input({"type": "function_call", "arguments": "{}", "call_id": "c"}), "input[0].name", MISSING),
    (
        with_input({"type": "function_call", "arguments": {}, "call_id": "c", "name": "f"}),
        "input[0].arguments",
        TYPE,
    ),
    (
        with_input({"type": "function_call", "arguments": "", "call_id": "c", "name": "f<|"}),
        "input[0].name",
        INVALID,
    ),
    (with_input({"type": "function_call_output", "call_id": "c"}), "input[0].output", MISSING),
    (with_input({"type": "function_call_output", "output": "o"}), "input[0].call_id", MISSING),
    (with_input({"type": "function_call_output", "call_id": "c", "output": 5}), "input[0].output", TYPE),
    (
        with_input({"type": "function_call_output", "name": "f", "output": [{"type": "output_text"}]}),
        "input[0].output[0].type",
        INVALID,
    ),
    (with_input({"type": "reasoning", "id": "r"}), "input[0].summary", MISSING),
    (with_input({"type": "reasoning", "summary": "s"}), "input[0].summary", TYPE),
    (with_input({"type": "reasoning", "summary": [{"text": "t"}]}), "input[0].summary[0].type", MISSING),
    (
        with_input({"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text"}]}),
        "input[0].content[0].text",
        MISSING,
    ),
    (with_input({"type": "code_interpreter_call", "status": "completed"}), "input[0].container_id", MISSING),
    (with_input({"type": "mcp_list_tools", "tools": []}), "input[0].server_label", MISSING),
    (
        with_input({"type": "mcp_list_tools", "server_label": "s", "tools": [{"name": "t"}]}),
        "input[0].tools[0].input_schema",
        MISSING,
    ),
    (
        with_input({"type": "mcp_approval_request", "arguments": "{}", "name": "t", "server_label": "s"}),
        "input[0].id",
        MISSING,
    ),
    (with_input({"type": "mcp_approval_response", "approve": True}), "input[0].approval_request_id", MISSING),
    (
        with_input({"type": "mcp_approval_response", "approval_request_id": "a", "approve": "yes"}),
        "input[0].approve",
        TYPE,
    ),
    (with_input({"type": "mcp_call", "arguments": "{}", "server_label": "s"}), "input[0].name", MISSING),
    (
        with_input({"type": "mcp_call", "arguments": "{}", "name": "t", "server_label": "s", "error": 5}),
        "input[0].error",
        TYPE,
    ),
    (with_input({"type": "item_reference"}), "input[0].id", MISSING),
    (with_input({"type": "custom_tool_call", "call_id": "c", "name": "n"}), "input[0].input", MISSING),
    (with_input({"type": "custom_tool_call_output", "call_id": "c"}), "input[0].output", MISSING),
    (with_input({"type": "compaction"}), "input[0].encrypted_content", MISSING),
    # plain fields
    (with_field("model", 5), "model", TYPE),
    (with_field("instructions", ["i"]), "instructions", TYPE),
    (with_field("temperature", -0.1), "temperature", TOO_LOW),
    (with_field("temperature", 2.1), "temperature", TOO_HIGH),
    (with_field("temperature", "1"), "temperature", TYPE),
    (with_field("temperature", True), "temperature", TYPE),
    (with_field("top_p", 1.1), "top_p", TOO_HIGH),
    (with_field("top_p", -1), "top_p", TOO_LOW),
    (with_field("max_output_tokens", 0), "max_output_tokens", TOO_SMALL),
    (with_field("max_output_tokens", 1.5), "max_output_tokens", TYPE),
    (with_field("max_output_tokens", 10**20), "max_output_tokens", TOO_LARGE),
    (with_field("max_tool_calls", 0), "max_tool_calls", TOO_SMALL),
    (with_field("top_logprobs", 21), "top_logprobs", TOO_LARGE),
    (with_field("presence_penalty", 3), "presence_penalty", TOO_HIGH),
    (with_field("frequency_penalty", -3), "frequency_penalty", TOO_LOW),
    (with_field("seed", "s"), "seed", TYPE),
    (with_field("seed", 2**63), "seed", TOO_LARGE),
    (with_field("top_k", -2), "top_k", TOO_SMALL),
    (with_field("top_k", 1.5), "top_k", TYPE),
    (with_field("top_k", 2**31), "top_k", TOO_LARGE),
    (with_field("min_p", -0.1), "min_p", TOO_LOW),
    (with_field("min_p", 1.1), "min_p", TOO_HIGH),
    (with_field("repetition_penalty", 0), "repetition_penalty", TOO_LOW),
    (with_field("repetition_penalty", 101), "repetition_penalty", TOO_HIGH),
    (with_field("logit_bias", [5]), "logit_bias", TYPE),
    (with_field("logit_bias", {"5": 101}), "logit_bias.5", TOO_HIGH),
    (with_field("logit_bias", {"five": 1}), "logit_bias.five", INVALID),
    (with_field("logit_bias", {"-1": 1}), "logit_bias.-1", INVALID),
    (with_field("logit_bias", {"201088": 1}), "logit_bias.201088", INVALID),
    (with_field("logit_bias", {str(i): 1 for i in range(1025)}), "logit_bias", TOO_MANY),
    (with_field("top_logprobs", -1), "top_logprobs", TOO_SMALL),
    (with_field("metadata", []), "metadata", TYPE),
    (with_field("metadata", {str(i): "v" for i in range(17)}), "metadata", TOO_MANY),
    (with_field("metadata", {"k" * 65: "v"}), "metadata." + "k" * 65, "property_name_above_max_length"),
    (with_field("metadata", {"k": "v" * 513}), "metadata.k", "string_above_max_length"),
    (with_field("metadata", {"k": 5}), "metadata.k", TYPE),
    (with_field("reasoning", "high"), "reasoning", TYPE),
    (with_field("reasoning", {"effort": "huge"}), "reasoning.effort", INVALID),
    (with_field("reasoning", {"summary": "long"}), "reasoning.summary", INVALID),
    (with_field("reasoning", {"generate_summary": "long"}), "reasoning.generate_summary", INVALID),
    (
        with_field("reasoning", {"summary": "auto", "generate_summary": "concise"}),
        "reasoning.generate_summary",
        INVALID,
    ),
    (with_field("reasoning", {"summary": 5}), "reasoning.summary", TYPE),
    (with_field("truncation", "sometimes"), "truncation", INVALID),
    (with_field("service_tier", "gold"), "service_tier", INVALID),
    (with_field("include", "message.output_text.logprobs"), "include", TYPE),
    (with_field("include", ["everything"]), "include[0]", INVALID),
    (with_field("include", ["file_search_call.results"]), "include", UNSUPPORTED),
    (with_field("include", ["web_search_call.results"]), "include", UNSUPPORTED),
    (with_field("include", ["computer_call_output.output.image_url"]), "include", UNSUPPORTED),
    (with_field("stream", "true"), "stream", TYPE),
    (with_field("stream_options", []), "stream_options", TYPE),
    (
        with_field("stream_options", {"include_obfuscation": "no"}),
        "stream_options.include_obfuscation",
        TYPE,
    ),
    (with_field("store", 1), "store", TYPE),
    (with_field("parallel_tool_calls", "yes"), "parallel_tool_calls", TYPE),
    (with_field("user", 5), "user", TYPE),
    (with_field("enable_response_messages", "yes"), "enable_response_messages", TYPE),
    (with_field("text", "plain"), "text", TYPE),
    (with_field("text", {"verbosity": "loud"}), "text.verbosity", INVALID),
    (with_field("text", {"format": "json"}), "text.format", TYPE),
    (with_format(), "text.format.type", MISSING),
    (with_format(type="xml"), "text.format.type", INVALID),
    (with_format(**SCHEMA | {"name": None}), "text.format.name", TYPE),
    (with_format(**SCHEMA | {"name": "a b"}), "text.format.name", INVALID),
    (with_format(type="json_schema", name="n"), "text.format.schema", MISSING),
    # tools
    (with_field("tools", {}), "tools", TYPE),
    (with_tools("function"), "tools[0]", TYPE),
    (with_tools({}), "tools[0].type", MISSING),
    (with_tools({"type": "teleport"}), "tools[0].type", INVALID),
    (with_tools({"type": "function"}), "tools[0].name", MISSING),
    (with_tools({"type": "function", "function": {"name": "f"}}), "tools[0].name", MISSING),
    (with_tools({"type": "function", "name": "a b"}), "tools[0].name", INVALID),
    (with_tools(FUNCTION | {"parameters": []}), "tools[0].parameters", TYPE),
    (with_tools(FUNCTION | {"strict": "yes"}), "tools[0].strict", TYPE),
    (with_tools(FUNCTION, FUNCTION), "tools[1].name", INVALID),
    (with_tools({"type": "mcp"}), "tools[0].server_label", MISSING),
    (with_tools({"type": "mcp", "server_label": ""}), "tools[0].server_label", INVALID),
    (with_tools({"type": "mcp", "server_label": "a.b"}), "tools[0].server_label", INVALID),
    (with_tools({"type": "mcp", "server_label": "a" * 65}), "tools[0].server_label", INVALID),
    *(
        (with_tools({"type": "mcp", "server_label": label}), "tools[0].server_label", INVALID)
        for label in ("functions", "python", "Python", "browser", "container", "assistant", "final", "a\n")
    ),
    (with_tools({"type": "function", "name": "a\n"}), "tools[0].name", INVALID),
    (with_tools(FUNCTION, {"type": "file_search"}), "tools[1].type", "unsupported_tool"),
    (
        with_input({"type": "custom_tool_call", "call_id": "c", "input": "i", "name": "a b"}),
        "input[0].name",
        INVALID,
    ),
    (with_tools(SERVER, FUNCTION, SERVER), "tools[2].server_label", INVALID),
    (with_tools(SERVER | {"server_url": 5}), "tools[0].server_url", TYPE),
    (with_tools(SERVER | {"server_url": "ftp://h/"}), "tools[0].server_url", INVALID),
    (with_tools(SERVER | {"server_url": "http://:80/"}), "tools[0].server_url", INVALID),
    (with_tools(SERVER | {"server_url": "http://h:99999/"}), "tools[0].server_url", INVALID),
    (with_tools(SERVER | {"headers": "x"}), "tools[0].headers", TYPE),
    (with_tools(SERVER | {"headers": {"a": 5}}), "tools[0].headers.a", TYPE),
    (with_tools(SERVER | {"headers": {"a": "b\r\nc: d"}}), "tools[0].headers.a", INVALID),
    (with_tools(SERVER | {"headers": {"a b": "c"}}), "tools[0].headers.a b", INVALID),
    (with_tools(SERVER | {"headers": {"a": "b", "Host": "c"}}), "tools[0].headers.Host", INVALID),
    (
        with_tools({"type": "code_interpreter"}, {"type": "code_interpreter", "container": "cntr_1"}),
        "tools[1].type",
        INVALID,
    ),
    (with_tools(SERVER | {"authorization": 5}), "tools[0].authorization", TYPE),
    (with_tools(SERVER | {"allowed_tools": "a"}), "tools[0].allowed_tools", TYPE),
    (with_tools(SERVER | {"allowed_tools": [5]}), "tools[0].allowed_tools", INVALID),
    (
        with_tools(SERVER | {"allowed_tools": {"tool_names": "a"}}),
        "tools[0].allowed_tools.tool_names",
        TYPE,
    ),
    (with_tools(SERVER | {"require_approval": "sometimes"}), "tools[0].require_approval", INVALID),
    (with_tools(SERVER | {"require_approval": {"never": "a"}}), "tools[0].require_approval.never", TYPE),
    (with_tools(SERVER | {"connector_id": "c"}), "tools[0].connector_id", UNSUPPORTED),
    # tool_choice
    (with_field("tool_choice", "maybe"), "tool_choice", INVALID),
    (with_field("tool_choice", 5), "tool_choice", TYPE),
    (with_field("tool_choice", "required"), "tool_choice", INVALID),
    (with_field("tool_choice", {}), "tool_choice.type", MISSING),
    (with_field("tool_choice", {"type": "teleport"}), "tool_choice.type", INVALID),
    (with_field("tool_choice", {"type": "code_interpreter"}), "tool_choice.type", INVALID),
    (with_tools(FUNCTION, tool_choice={"type": "function"}), "tool_choice.name", MISSING),
    (with_tools(FUNCTION, tool_choice={"type": "function", "name": "g"}), "tool_choice.name", INVALID),
    (
        with_tools(SERVER, tool_choice={"type": "mcp", "server_label": "t"}),
        "tool_choice.server_label",
        INVALID,
    ),
    (with_tools(FUNCTION, tool_choice={"type": "allowed_tools", "tools": []}), "tool_choice.mode", MISSING),
    (
        with_tools(
            FUNCTION,
            tool_choice={
                "type": "allowed_tools",
                "mode": "auto",
                "tools": [FUNCTION, FUNCTION | {"name": "g"}],
            },
        ),
        "tool_choice.tools[1].name",
        INVALID,
    ),
    # what this server does not do
    (with_field("background", True) | {"store": False}, "background", UNSUPPORTED),
    (with_field("background", "yes"), "background", TYPE),
    (with_field("previous_response_id", 5), "previous_response_id", TYPE),
    (with_field("previous_response_id", "foo"), "previous_response_id", "invalid_id_prefix"),
    (with_field("previous_response_id", ""), "previous_response_id", "invalid_id_prefix"),
    (with_field("previous_response_id", "resp_{x}"), "previous_response_id", INVALID),
    (with_message(id="item_1"), "input[0].id", INVALID),
    (with_field("conversation", 5), "conversation", TYPE),
    (with_field("conversation", {}), "conversation.id", MISSING),
    (with_field("conversation", {"id": 5}), "conversation.id", TYPE),
    (with_field("conversation", "thread_1"), "conversation", "invalid_id_prefix"),
    (with_field("conversation", {"id": ""}), "conversation", "invalid_id_prefix"),
    (with_field("conversation", "conv_{x}"), "conversation", INVALID),
    (with_field("prompt", {"id": "p"}), "prompt", UNSUPPORTED),
    (with_field("moderation", {"model": "m"}), "moderation", UNSUPPORTED),
    (with_field("max_ouput_tokens", 5), "max_ouput_tokens", UNKNOWN),
    (with_field("stop", ["x"]), "stop", UNKNOWN),
    (with_field("response_format", {"type": "json_object"}), "response_format", UNSUPPORTED),
    (with_field("max_tokens", 5), "max_tokens", UNSUPPORTED),
    ({"messages": [{"role": "user", "content": "Hello"}]}, "messages", UNSUPPORTED),
]


@asynccontextmanager
async def calling(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(settings, Tenants())
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
    ):
        yield client


@pytest_asyncio.fixture
async def client(redis: RedisClient, settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with calling(settings) as client:
        yield client


async def check_nothing_written(redis: RedisClient) -> None:
    assert await count_kept(redis) == 0


@pytest.mark.parametrize(
    ("body", "param", "code"),
    REFUSALS,
    ids=[f"{param}-{index}" for index, (_, param, _) in enumerate(REFUSALS)],
)
async def test_a_bad_field_is_named_and_nothing_is_written(
    client: httpx.AsyncClient, redis: RedisClient, body: dict[str, Any], param: str, code: str
) -> None:
    answer = await client.post("/v1/responses", json=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["param"], error["code"], error["type"]) == (param, code, "invalid_request_error")
    hosted = ("Supported values are: ", "Invalid property name in 'metadata': ")
    assert any(words in error["message"] for words in (param, *hosted))
    await check_nothing_written(redis)


@pytest.mark.parametrize(
    ("raw", "status", "param", "code"),
    [
        (b"", 400, None, "invalid_json"),
        (b"input=Hello", 400, None, "invalid_json"),
        (b'{"input": "Hello"', 400, None, "invalid_json"),
        (b'"Hello"', 400, None, "invalid_json"),
        (b"[]", 400, None, "invalid_json"),
        (b'{"input": "Hello", "temperature": NaN}', 400, None, "invalid_json"),
        (b'{"input": "Hello", "x": 1e999}', 400, None, "invalid_json"),
        (b'{"input": "\\ud800"}', 400, None, "invalid_json"),
        (b'{"input": "\xff"}', 400, None, "invalid_json"),
        (b'{"input": "Hello", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, None, "invalid_json"),
        (b'{"input": "' + b"x" * (8 * 2**20) + b'"}', 413, None, "request_too_large"),
        (b'{"input": "Hello", "model": "other"}', 404, "model", "model_not_found"),
        (b'{"input": "Hello", "model": ""}', 404, "model", "model_not_found"),
        (
            b'{"input": "Hello", "previous_response_id": "resp_1"}',
            400,
            "previous_response_id",
            "previous_response_not_found",
        ),
        (
            b'{"input": [{"type": "function_call_output", "call_id": "c", "output": "o"}]}',
            400,
            "input",
            None,
        ),
        (
            b'{"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": ""},'
            b'{"role": "user", "content": "also"}]}',
            400,
            "input",
            None,
        ),
        (b'{"input": [{"type": "item_reference", "id": "msg_1"}]}', 404, "input", None),
        (
            b'{"input": [{"type": "compaction", "encrypted_content": "gAAAA"}]}',
            400,
            "input[0].encrypted_content",
            "invalid_encrypted_content",
        ),
        (b'{"input": "Hello", "conversation": "conv_1"}', 404, "conversation", "conversation_not_found"),
    ],
    ids=lambda value: value[:24] if isinstance(value, bytes) else None,
)
async def test_a_bad_body_is_refused_and_nothing_is_written(
    client: httpx.AsyncClient,
    redis: RedisClient,
    raw: bytes,
    status: int,
    param: str | None,
    code: str | None,
) -> None:
    answer = await client.post("/v1/responses", content=raw, headers=JSON)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == (param, code)
    await check_nothing_written(redis)


async def test_a_secret_is_not_repeated_in_a_complaint(client: httpx.AsyncClient) -> None:
    tool = SERVER | {"headers": {"Authorization": "s3cret\n"}, "authorization": "s3cret\n"}
    answer = await client.post("/v1/responses", content=json.dumps(with_tools(tool)), headers=JSON)
    assert answer.status_code == 400
    assert "s3cret" not in answer.text


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (
            "temperature",
            -1,
            "Invalid 'temperature': decimal below minimum value. Expected a value >= 0, but got -1 instead.",
        ),
        (
            "max_tool_calls",
            0,
            "Invalid 'max_tool_calls': integer below minimum value. "
            "Expected a value >= 1, but got 0 instead.",
        ),
        (
            "max_tool_calls",
            "x",
            "Invalid type for 'max_tool_calls': expected an integer, but got a string instead.",
        ),
        (
            "max_tool_calls",
            1.5,
            "Invalid type for 'max_tool_calls': expected an integer, but got a decimal number instead.",
        ),
        (
            "max_tool_calls",
            True,
            "Invalid type for 'max_tool_calls': expected an integer, but got a boolean instead.",
        ),
        ("tools", {}, "Invalid type for 'tools': expected an array, but got an object instead."),
        ("stpo", "x", "Unknown parameter: 'stpo'."),
        (
            "response_format",
            {},
            "Unsupported parameter: 'response_format'. In the Responses API, this parameter has moved to "
            "'text.format'.",
        ),
    ],
)
async def test_a_complaint_has_the_vendors_words(
    client: httpx.AsyncClient, field: str, value: object, message: str
) -> None:
    answer = await client.post("/v1/responses", json=with_field(field, value))
    assert answer.json()["error"]["message"] == message


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tool_calls": 2**31},
        {"max_tool_calls": None},
        {"client_metadata": {"a": "b"}},
        {"moderation": None, "messages": None, "something_new": None},
        {"context_management": []},
    ],
    ids=str,
)
async def test_what_the_vendors_clients_send_without_asking_for_anything_is_accepted(
    client: httpx.AsyncClient, fields: dict[str, Any]
) -> None:
    answer = await client.post("/v1/responses", json={"input": "Hello", "background": True, **fields})
    assert answer.status_code == 200


async def test_a_tool_that_is_left_out_is_named_in_a_header(redis: RedisClient, settings: Settings) -> None:
    tools = [FUNCTION, {"type": "image_generation"}, {"type": "file_search", "vector_store_ids": ["v"]}]
    body = with_tools(*tools, background=True)
    async with calling(settings.model_copy(update={"unsupported_tools": "ignore"})) as client:
        for _ in range(2):  # also when the call is repeated
            answer = await client.post("/v1/responses", json=body, headers={"idempotency-key": "k"})
            assert answer.headers["antiphon-ignored-tools"] == "file_search, image_generation"
            assert [tool["type"] for tool in answer.json()["tools"]] == ["function"]
        answer = await client.post("/v1/responses", json=with_tools(FUNCTION, background=True))
        assert "antiphon-ignored-tools" not in answer.headers


async def test_a_count_names_what_it_left_out_in_the_same_header(
    redis: RedisClient, settings: Settings
) -> None:
    body = with_tools(FUNCTION, {"type": "image_generation"})
    async with calling(settings.model_copy(update={"unsupported_tools": "ignore"})) as client:
        asking = asyncio.create_task(client.post("/v1/responses/input_tokens", json=body))
        await until(lambda: redis.command("ZCARD", keys.RESPONSES_QUEUE))
        (job_id,) = await redis.command("ZRANGE", keys.RESPONSES_QUEUE, 0, -1)
        await token_count.answer(redis, job_id.decode().removeprefix("count/"), 7)
        answer = await asking
        assert answer.json() == {"object": "response.input_tokens", "input_tokens": 7}
        assert answer.headers["antiphon-ignored-tools"] == "image_generation"
