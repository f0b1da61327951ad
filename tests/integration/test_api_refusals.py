"""Bad input, one row a rule: a 400 that names the parameter, and nothing written."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from api.app import create_app
from api.tenants import Tenants
from shared.settings import Settings
from shared.store.redis_client import RedisClient

MISSING, INVALID, UNSUPPORTED = "missing_required_parameter", "invalid_value", "unsupported_parameter"

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
    # input
    ({}, "input", MISSING),
    ({"input": None}, "input", MISSING),
    ({"input": 5}, "input", INVALID),
    ({"input": {}}, "input", INVALID),
    (with_input(), "input", INVALID),
    (with_input("text"), "input[0]", INVALID),
    (with_input({}), "input[0].type", MISSING),
    (with_input({"type": 5, "role": "user", "content": "t"}), "input[0].type", INVALID),
    *[
        (with_input({"type": kind, "id": "x"}), "input[0].type", INVALID)
        for kind in (
            "file_search_call",
            "computer_call",
            "computer_call_output",
            "tool_search_call",
            "tool_search_output",
            "additional_tools",
            "configuration_update",
            "image_generation_call",
            "local_shell_call",
            "local_shell_call_output",
            "shell_call",
            "shell_call_output",
            "apply_patch_call",
            "apply_patch_call_output",
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
    (with_message(content=5), "input[0].content", INVALID),
    (with_message(content=None), "input[0].content", INVALID),
    (with_message(phase="x"), "input[0].phase", INVALID),
    (with_message(id=5), "input[0].id", INVALID),
    (with_parts("text"), "input[0].content[0]", INVALID),
    (with_parts({"text": "t"}), "input[0].content[0].type", MISSING),
    (with_parts({"type": "input_audio"}), "input[0].content[0].type", INVALID),
    (with_parts({"type": "input_text"}), "input[0].content[0].text", MISSING),
    (with_parts({"type": "input_text", "text": 5}), "input[0].content[0].text", INVALID),
    (
        with_parts({"type": "input_text", "text": "t"}, {"type": "refusal"}),
        "input[0].content[1].refusal",
        MISSING,
    ),
    (
        with_parts({"type": "input_image", "image_url": {"url": "u"}}),
        "input[0].content[0].image_url",
        INVALID,
    ),
    (with_input({"type": "function_call", "call_id": "c", "name": "f"}), "input[0].arguments", MISSING),
    (with_input({"type": "function_call", "arguments": "{}", "name": "f"}), "input[0].call_id", MISSING),
    (with_input({"type": "function_call", "arguments": "{}", "call_id": "c"}), "input[0].name", MISSING),
    (
        with_input({"type": "function_call", "arguments": {}, "call_id": "c", "name": "f"}),
        "input[0].arguments",
        INVALID,
    ),
    (
        with_input({"type": "function_call", "arguments": "", "call_id": "c", "name": "f<|"}),
        "input[0].name",
        INVALID,
    ),
    (with_input({"type": "function_call_output", "call_id": "c"}), "input[0].output", MISSING),
    (with_input({"type": "function_call_output", "output": "o"}), "input[0].call_id", MISSING),
    (with_input({"type": "function_call_output", "call_id": "c", "output": 5}), "input[0].output", INVALID),
    (
        with_input({"type": "function_call_output", "name": "f", "output": [{"type": "output_text"}]}),
        "input[0].output[0].type",
        INVALID,
    ),
    (with_input({"type": "reasoning", "id": "r"}), "input[0].summary", MISSING),
    (with_input({"type": "reasoning", "summary": "s"}), "input[0].summary", INVALID),
    (with_input({"type": "reasoning", "summary": [{"text": "t"}]}), "input[0].summary[0].type", MISSING),
    (
        with_input({"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text"}]}),
        "input[0].content[0].text",
        MISSING,
    ),
    (with_input({"type": "web_search_call", "status": "completed"}), "input[0].action", MISSING),
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
        INVALID,
    ),
    (with_input({"type": "mcp_call", "arguments": "{}", "server_label": "s"}), "input[0].name", MISSING),
    (
        with_input({"type": "mcp_call", "arguments": "{}", "name": "t", "server_label": "s", "error": 5}),
        "input[0].error",
        INVALID,
    ),
    (with_input({"type": "item_reference"}), "input[0].id", MISSING),
    (with_input({"type": "custom_tool_call", "call_id": "c", "name": "n"}), "input[0].input", MISSING),
    (with_input({"type": "custom_tool_call_output", "call_id": "c"}), "input[0].output", MISSING),
    (with_input({"type": "compaction"}), "input[0].encrypted_content", MISSING),
    # plain fields
    (with_field("model", 5), "model", INVALID),
    (with_field("instructions", ["i"]), "instructions", INVALID),
    (with_field("temperature", -0.1), "temperature", INVALID),
    (with_field("temperature", 2.1), "temperature", INVALID),
    (with_field("temperature", "1"), "temperature", INVALID),
    (with_field("temperature", True), "temperature", INVALID),
    (with_field("top_p", 1.1), "top_p", INVALID),
    (with_field("top_p", -1), "top_p", INVALID),
    (with_field("max_output_tokens", 0), "max_output_tokens", INVALID),
    (with_field("max_output_tokens", 1.5), "max_output_tokens", INVALID),
    (with_field("max_output_tokens", 10**20), "max_output_tokens", INVALID),
    (with_field("max_tool_calls", 0), "max_tool_calls", INVALID),
    (with_field("top_logprobs", 21), "top_logprobs", INVALID),
    (with_field("presence_penalty", 3), "presence_penalty", INVALID),
    (with_field("frequency_penalty", -3), "frequency_penalty", INVALID),
    (with_field("seed", "s"), "seed", INVALID),
    (with_field("seed", 2**63), "seed", INVALID),
    (with_field("top_k", -2), "top_k", INVALID),
    (with_field("top_k", 1.5), "top_k", INVALID),
    (with_field("top_k", 2**31), "top_k", INVALID),
    (with_field("min_p", -0.1), "min_p", INVALID),
    (with_field("min_p", 1.1), "min_p", INVALID),
    (with_field("repetition_penalty", 0), "repetition_penalty", INVALID),
    (with_field("repetition_penalty", 101), "repetition_penalty", INVALID),
    (with_field("logit_bias", [5]), "logit_bias", INVALID),
    (with_field("logit_bias", {"5": 101}), "logit_bias.5", INVALID),
    (with_field("logit_bias", {"five": 1}), "logit_bias.five", INVALID),
    (with_field("logit_bias", {"-1": 1}), "logit_bias.-1", INVALID),
    (with_field("logit_bias", {"201088": 1}), "logit_bias.201088", INVALID),
    (with_field("logit_bias", {str(i): 1 for i in range(1025)}), "logit_bias", INVALID),
    (with_field("top_logprobs", -1), "top_logprobs", INVALID),
    (with_field("metadata", []), "metadata", INVALID),
    (with_field("metadata", {str(i): "v" for i in range(17)}), "metadata", INVALID),
    (with_field("metadata", {"k" * 65: "v"}), "metadata." + "k" * 65, INVALID),
    (with_field("metadata", {"k": "v" * 513}), "metadata.k", INVALID),
    (with_field("metadata", {"k": 5}), "metadata.k", INVALID),
    (with_field("reasoning", "high"), "reasoning", INVALID),
    (with_field("reasoning", {"effort": "huge"}), "reasoning.effort", INVALID),
    (with_field("reasoning", {"summary": 5}), "reasoning.summary", INVALID),
    (with_field("truncation", "sometimes"), "truncation", INVALID),
    (with_field("service_tier", "gold"), "service_tier", INVALID),
    (with_field("include", "message.output_text.logprobs"), "include", INVALID),
    (with_field("include", ["everything"]), "include[0]", INVALID),
    (with_field("stream", "true"), "stream", INVALID),
    (with_field("stream_options", []), "stream_options", INVALID),
    (
        with_field("stream_options", {"include_obfuscation": "no"}),
        "stream_options.include_obfuscation",
        INVALID,
    ),
    (with_field("store", 1), "store", INVALID),
    (with_field("parallel_tool_calls", "yes"), "parallel_tool_calls", INVALID),
    (with_field("user", 5), "user", INVALID),
    (with_field("enable_response_messages", "yes"), "enable_response_messages", INVALID),
    (with_field("text", "plain"), "text", INVALID),
    (with_field("text", {"verbosity": "loud"}), "text.verbosity", INVALID),
    (with_field("text", {"format": "json"}), "text.format", INVALID),
    (with_format(), "text.format.type", MISSING),
    (with_format(type="xml"), "text.format.type", INVALID),
    (with_format(**SCHEMA | {"name": None}), "text.format.name", INVALID),
    (with_format(**SCHEMA | {"name": "a b"}), "text.format.name", INVALID),
    (with_format(type="json_schema", name="n"), "text.format.schema", MISSING),
    # tools
    (with_field("tools", {}), "tools", INVALID),
    (with_tools("function"), "tools[0]", INVALID),
    (with_tools({}), "tools[0].type", MISSING),
    (with_tools({"type": "teleport"}), "tools[0].type", INVALID),
    (with_tools({"type": "function"}), "tools[0].name", MISSING),
    (with_tools({"type": "function", "function": {"name": "f"}}), "tools[0].name", MISSING),
    (with_tools({"type": "function", "name": "a b"}), "tools[0].name", INVALID),
    (with_tools(FUNCTION | {"parameters": []}), "tools[0].parameters", INVALID),
    (with_tools(FUNCTION | {"strict": "yes"}), "tools[0].strict", INVALID),
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
    (with_tools({"type": "custom", "name": "a<|end|>"}), "tools[0].name", INVALID),
    (
        with_input({"type": "custom_tool_call", "call_id": "c", "input": "i", "name": "a b"}),
        "input[0].name",
        INVALID,
    ),
    (with_tools(SERVER, FUNCTION, SERVER), "tools[2].server_label", INVALID),
    (with_tools(SERVER | {"server_url": 5}), "tools[0].server_url", INVALID),
    (with_tools(SERVER | {"server_url": "ftp://h/"}), "tools[0].server_url", INVALID),
    (with_tools(SERVER | {"server_url": "http://:80/"}), "tools[0].server_url", INVALID),
    (with_tools(SERVER | {"server_url": "http://h:99999/"}), "tools[0].server_url", INVALID),
    (with_tools(SERVER | {"headers": "x"}), "tools[0].headers", INVALID),
    (with_tools(SERVER | {"headers": {"a": 5}}), "tools[0].headers.a", INVALID),
    (with_tools(SERVER | {"headers": {"a": "b\r\nc: d"}}), "tools[0].headers.a", INVALID),
    (with_tools(SERVER | {"headers": {"a b": "c"}}), "tools[0].headers.a b", INVALID),
    (with_tools(SERVER | {"authorization": 5}), "tools[0].authorization", INVALID),
    (with_tools(SERVER | {"allowed_tools": "a"}), "tools[0].allowed_tools", INVALID),
    (with_tools(SERVER | {"allowed_tools": [5]}), "tools[0].allowed_tools", INVALID),
    (
        with_tools(SERVER | {"allowed_tools": {"tool_names": "a"}}),
        "tools[0].allowed_tools.tool_names",
        INVALID,
    ),
    (with_tools(SERVER | {"require_approval": "sometimes"}), "tools[0].require_approval", INVALID),
    (with_tools(SERVER | {"require_approval": {"never": "a"}}), "tools[0].require_approval.never", INVALID),
    (with_tools(SERVER | {"connector_id": "c"}), "tools[0].connector_id", UNSUPPORTED),
    # tool_choice
    (with_field("tool_choice", "maybe"), "tool_choice", INVALID),
    (with_field("tool_choice", 5), "tool_choice", INVALID),
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
    (with_field("background", "yes"), "background", INVALID),
    (with_field("previous_response_id", 5), "previous_response_id", INVALID),
    (with_field("previous_response_id", "foo"), "previous_response_id", "invalid_id_prefix"),
    (with_field("previous_response_id", ""), "previous_response_id", "invalid_id_prefix"),
    (with_field("previous_response_id", "resp_{x}"), "previous_response_id", INVALID),
    (with_message(id="item_1"), "input[0].id", INVALID),
    (with_field("conversation", 5), "conversation", INVALID),
    (with_field("conversation", {}), "conversation.id", MISSING),
    (with_field("conversation", {"id": 5}), "conversation.id", INVALID),
    (with_field("conversation", "conv_1") | {"previous_response_id": "resp_1"}, "conversation", INVALID),
    (with_field("prompt", {"id": "p"}), "prompt", UNSUPPORTED),
]


@pytest_asyncio.fixture
async def client(redis: RedisClient, settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(settings, Tenants())
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
    ):
        yield client


async def check_nothing_written(redis: RedisClient) -> None:
    assert await redis.command("DBSIZE") == 0


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
    assert param in error["message"]
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
            None,
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
