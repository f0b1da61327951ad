"""The secrets of requests for their tool servers: used for the call, and stored nowhere in clear."""

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator
from ipaddress import ip_network
from typing import Any

import httpx
import pytest
import pytest_asyncio
from pydantic import SecretStr

from api.app import create_app
from api.tenants import Tenants
from local.ports import HOST, find_free
from shared.responses import McpProtocolError
from shared.settings import Settings
from shared.store import keys
from shared.store.keys import ResponseKey
from shared.store.log.response_log import Closing, NewEntry
from shared.store.owning import lease
from shared.store.owning.lease import Acquired, Lease
from shared.store.records import response_store
from shared.store.redis.client import RedisClient
from shared.store.tools import tool_journal
from shared.tenants_file import Roster
from shared.tool_calls import (
    ToolCall,
    ToolFailure,
    ToolListing,
    ToolOutput,
    ToolResult,
    ToolsListed,
    ToolTask,
)
from tests.appending import append
from tests.integration.mcp_servers import serving_http
from tests.integration.test_tool_runner import serving, start_process
from tests.patience import until

SECRET = "s3cret"


def with_key(settings: Settings, byte: int) -> Settings:
    key = SecretStr(base64.urlsafe_b64encode(bytes([byte] * 32)).decode())
    return settings.model_copy(
        update={"secrets_key": key, "egress_networks": [ip_network("127.0.0.0/8")], "tool_timeout_s": 20.0}
    )


@pytest.fixture
def sealing(settings: Settings) -> Settings:
    return with_key(settings, 1)


@pytest_asyncio.fixture
async def client(redis: RedisClient, sealing: Settings) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(sealing, Tenants())
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client,
    ):
        yield client


async def everything_in(redis: RedisClient) -> bytes:
    """Every key with what it holds."""
    found: list[Any] = []
    for name in await redis.command("KEYS", "*"):
        match await redis.command("TYPE", name):
            case b"string":
                found.append((name, await redis.command("GET", name)))
            case b"hash":
                found.append((name, await redis.command("HGETALL", name)))
            case b"stream":
                found.append((name, await redis.command("XRANGE", name, "-", "+")))
            case b"zset":
                found.append((name, await redis.command("ZRANGE", name, 0, -1)))
            case b"set":
                found.append((name, await redis.command("SMEMBERS", name)))
            case b"list":
                found.append((name, await redis.command("LRANGE", name, 0, -1)))
            case kind:
                raise AssertionError(f"a key of the kind {kind!r}")
    return repr(found).encode()


async def begin(client: httpx.AsyncClient, redis: RedisClient, settings: Settings, *tools: Any) -> Lease:
    """A response with those tools, owned by this test."""
    body = {"input": "Hello", "background": True, "tools": tools}
    answer = await client.post("/v1/responses", json=body, headers={"idempotency-key": "once"})
    assert answer.status_code == 200, answer.text
    assert SECRET not in answer.text
    key = ResponseKey("default", answer.json()["id"])
    acquired = await lease.acquire(redis, settings, key, "worker-test")
    assert isinstance(acquired, Acquired)
    assert SECRET.encode() not in await response_store.read_request(redis, key)
    return acquired.lease


async def run(redis: RedisClient, settings: Settings, held: Lease, index: int, task: ToolTask) -> ToolResult:
    await tool_journal.submit(redis, settings, held, index, task)

    async def look() -> ToolResult | None:
        (state,) = await tool_journal.read_states(redis, settings, [(held.key, index)])
        return state.result

    async def is_in() -> bool:
        return await look() is not None

    await until(is_in)
    result = await look()
    assert result is not None
    return result


async def test_no_secret_of_a_request_lies_open_in_redis(
    client: httpx.AsyncClient, redis: RedisClient, sealing: Settings
) -> None:
    basic = base64.b64encode(f"user:{SECRET}".encode()).decode()
    with serving_http("--require-header", f"authorization=Basic {basic}") as url:
        origin = url.removesuffix("/mcp")
        whole = url.replace("://", f"://user:{SECRET}@") + f"?key={SECRET}"
        tool = {"type": "mcp", "server_label": "mine", "server_url": whole, "headers": {"x-key": SECRET}}
        held = await begin(client, redis, sealing, tool)
        async with serving(sealing):
            listed = await run(redis, sealing, held, 0, ToolListing("mine", origin))
            assert isinstance(listed, ToolsListed), listed
            asked = ToolCall("mine", "add", json.dumps({"a": 2, "b": 3}), origin)
            assert await run(redis, sealing, held, 1, asked) == ToolOutput("5")
            assert SECRET.encode() not in await everything_in(redis)
    closing = Closing("cancelled", b"{}", 60)
    await append(redis, sealing, held, 2, [NewEntry(b"data: {}\n\n")], closing)
    assert await redis.command("EXISTS", keys.secrets(held.key)) == 0
    assert SECRET.encode() not in await everything_in(redis)


async def test_a_call_whose_secrets_cannot_be_read_is_not_made(
    client: httpx.AsyncClient, redis: RedisClient, sealing: Settings
) -> None:
    with serving_http() as url:
        tool = {"type": "mcp", "server_label": "mine", "server_url": url, "authorization": SECRET}
        held = await begin(client, redis, sealing, tool)
        for index, other in enumerate(
            (with_key(sealing, 2), sealing.model_copy(update={"secrets_key": None}))
        ):
            async with serving(other):
                result = await run(redis, other, held, index, ToolListing("mine", url))
            assert isinstance(result, ToolFailure)
            assert isinstance(result.error, McpProtocolError)
            assert "a key that is not here" in result.error.message


async def _redirect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """To a place that has the secret in it, as servers do that only add a slash."""
    asked = (await reader.readuntil(b"\r\n")).decode().split(" ")[1]
    where = f"location: http://other.invalid{asked}/\r\n"
    writer.write(f"HTTP/1.1 307 Temporary Redirect\r\n{where}content-length: 0\r\n\r\n".encode())
    await writer.drain()
    writer.close()


async def test_no_log_of_a_tool_runner_repeats_a_secret(
    client: httpx.AsyncClient, redis: RedisClient, sealing: Settings
) -> None:
    """At the level of debugging; whether the server serves, refuses, redirects or is not there."""
    assert sealing.secrets_key is not None
    runner = await start_process(
        sealing,
        ANTIPHON_LOG_LEVEL="DEBUG",
        ANTIPHON_SECRETS_KEY=sealing.secrets_key.get_secret_value(),
        ANTIPHON_EGRESS_NETWORKS='["127.0.0.0/8"]',
    )
    redirecting = await asyncio.start_server(_redirect, HOST, 0)
    ports = [redirecting.sockets[0].getsockname()[1], *find_free(1)]
    try:
        with serving_http() as serves, serving_http("--require-header", "x-a=b") as refuses:
            urls = [serves, refuses, *(f"http://{HOST}:{port}/mcp" for port in ports)]
            tools = [
                {
                    "type": "mcp",
                    "server_label": f"s{place}",
                    "server_url": url.replace("://", f"://user:{SECRET}@") + f"?key={SECRET}",
                    "headers": {"x-key": SECRET},
                }
                for place, url in enumerate(urls)
            ]
            held = await begin(client, redis, sealing, *tools)
            results = [
                await run(redis, sealing, held, place, ToolListing(f"s{place}", url.removesuffix("/mcp")))
                for place, url in enumerate(urls)
            ]
    finally:
        redirecting.close()
        runner.terminate()
        _, said = await runner.communicate()
    assert isinstance(results[0], ToolsListed), results[0]
    assert all(isinstance(result, ToolFailure) for result in results[1:])
    assert SECRET not in repr(results)
    assert b"tool_runner" in said
    basic = base64.b64encode(f"user:{SECRET}".encode())
    assert SECRET.encode() not in said
    assert basic not in said


TOOL = {"type": "mcp", "server_label": "mine", "server_url": "https://h/mcp"}


@pytest.mark.parametrize("door", ["keys", "hosts"])
@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"headers": {"x-key": SECRET}}, "tools[1].headers"),
        ({"authorization": SECRET}, "tools[1].authorization"),
        ({"server_url": f"https://h/{SECRET}"}, "tools[1].server_url"),
    ],
)
async def test_without_a_key_a_request_with_secrets_is_refused(
    redis: RedisClient, settings: Settings, more: dict[str, Any], param: str, door: str
) -> None:
    """Wherever others than the developer can come in: with keys, and without them by a host that is named."""
    digest = hashlib.sha256(b"a-key").hexdigest()
    tenants = Tenants(Roster({digest: "acme"})) if door == "keys" else Tenants()
    open_hosts = ["antiphon.internal"] if door == "hosts" else []
    app = create_app(settings.model_copy(update={"open_hosts": open_hosts}), tenants)
    body: dict[str, Any] = {"input": "Hello", "background": True}
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        headers = {"authorization": "Bearer a-key"}
        async with httpx.AsyncClient(
            transport=transport, base_url="http://127.0.0.1", headers=headers
        ) as client:
            refused = await client.post(
                "/v1/responses", json=body | {"tools": [{"type": "code_interpreter"}, TOOL | more]}
            )
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)
            assert SECRET not in refused.text
            assert await redis.command("KEYS", "*state") == []
            assert (await client.post("/v1/responses", json=body | {"tools": [TOOL]})).status_code == 200
