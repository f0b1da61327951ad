"""WebSockets of a node: who may open one, what it may be asked for, and how it ends. No worker runs here."""

import asyncio
import hashlib
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from api.offload import Offload
from api.tenants import Tenants
from shared.settings import Settings
from shared.store import keys
from shared.store.keys import ResponseKey
from shared.store.log import closing
from shared.store.log.response_log import NewEntry
from shared.store.owning import lease
from shared.store.owning.lease import Acquired
from shared.store.records import response_store
from shared.store.redis.client import RedisClient
from tests.appending import append
from tests.nodes import node
from tests.patience import PATIENCE_S, until
from tests.serving import serving
from tests.sockets import socket_to


@pytest_asyncio.fixture
async def url(redis: RedisClient, settings: Settings) -> AsyncIterator[str]:
    """Yields the address of a node with narrow limits, in this thread."""
    async with served(
        settings,
        sockets_max=2,
        socket_lanes_max=2,
        socket_responses_max=2,
        socket_waiting_max=2,
        body_bytes_max=100_000,
    ) as url:
        yield url


@asynccontextmanager
async def served(settings: Settings, tenants: Tenants | None = None, **limits: Any) -> AsyncIterator[str]:
    async with serving(settings.model_copy(update=limits), tenants) as port:
        yield f"http://127.0.0.1:{port}"


async def refused(url: str, **headers: str) -> tuple[int, str, dict[str, str]]:
    """Status and code of the answer to an upgrade, and its headers."""
    with pytest.raises(InvalidStatus) as refusal:
        async with socket_to(url, **headers):
            pass
    answer = refusal.value.response
    return answer.status_code, json.loads(answer.body)["error"]["code"], dict(answer.headers)


async def test_an_upgrade_is_refused_as_a_call_is(
    redis: RedisClient, settings: Settings, tmp_path: Path
) -> None:
    tenants = tmp_path / "tenants.json"
    tenants.write_text(json.dumps({hashlib.sha256(b"right").hexdigest(): "one"}))
    async with served(settings, Tenants.load(tenants)) as url:
        assert (await refused(url))[:2] == (401, "invalid_api_key")
        assert (await refused(url, authorization="Bearer wrong"))[:2] == (401, "invalid_api_key")
        async with socket_to(url, authorization="Bearer right") as socket:
            assert socket.connection.response is not None
            assert socket.connection.response.headers["x-request-id"].startswith("req_")
            tenants.write_text("{}")
            await until(lambda: _is_refused(socket))
    async with served(settings, sockets_max=0) as url:
        status, code, headers = await refused(url)
        assert (status, code, headers["upgrade"]) == (426, "websocket_not_supported", "HTTP/1.1")


async def _is_refused(socket: Any) -> bool:
    """A key that is taken away is refused from the next call on."""
    await socket.create(model="nobody's")
    return bool((await socket.refusal())[0] == 401)


async def test_without_keys_foreign_pages_and_hosts_are_refused(url: str) -> None:
    assert (await refused(url, origin="https://evil.example"))[:2] == (403, "origin_not_allowed")
    with pytest.raises(InvalidStatus) as refusal:
        await connect(
            url.replace("http://127.0.0.1", "ws://evil.example") + "/v1/responses",
            host="127.0.0.1",
            proxy=None,
        )
    assert refusal.value.response.status_code == 403
    async with socket_to(url, origin=url) as socket:
        await socket.send(type="response.create", model="nobody's", input="Hello")
        assert await socket.refusal() == (404, "model_not_found")


async def test_a_node_with_enough_of_them_asks_others_to_wait(url: str) -> None:
    async with socket_to(url), socket_to(url):
        status, code, headers = await refused(url)
        assert (status, code, headers["retry-after"]) == (429, "rate_limit_exceeded", "1")
        async with httpx.AsyncClient(base_url=url) as client:
            assert (await client.get("/v1/models")).status_code == 200


async def test_a_socket_is_held_to_its_tenants_limits_a_minute(
    redis: RedisClient, settings: Settings
) -> None:
    async with served(settings, tenant_requests_per_minute_max=1) as url, socket_to(url) as socket:
        await socket.create(stream_id="a")
        assert (await socket.event())["type"] == "response.created"
        await socket.create(stream_id="b")
        assert await socket.refusal() == (429, "rate_limit_exceeded")


async def test_another_path_is_answered_without_an_upgrade(url: str) -> None:
    upgrade = {"connection": "upgrade", "upgrade": "websocket"}
    async with httpx.AsyncClient(base_url=url) as client:
        assert (await client.get("/v1/models", headers=upgrade)).status_code == 200


async def test_a_client_whose_upgrade_a_proxy_has_removed_is_told_to_use_http(url: str) -> None:
    async with httpx.AsyncClient(base_url=url) as client:
        answer = await client.get("/v1/responses", headers={"sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ=="})
    assert (answer.status_code, answer.headers["upgrade"]) == (426, "websocket")


def _handshake(line: str = "/v1/responses", **changed: str) -> bytes:
    """A request for a WebSocket; a header that is changed to '' is left out."""
    headers = {
        "host": "127.0.0.1",
        "connection": "upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    } | {name.replace("_", "-"): value for name, value in changed.items()}
    lines = [f"GET {line} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items() if value)]
    return "\r\n".join([*lines, "", ""]).encode()


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (_handshake(content_length="5") + b"hello", 400),
        (_handshake(content_length="5"), 400),
        (_handshake(transfer_encoding="chunked") + b"5\r\nhello\r\n0\r\n\r\n", 400),
        (_handshake("/v1/responses?" + "x" * 9_000), 414),
        (_handshake(sec_websocket_key=""), 400),
        (_handshake(sec_websocket_key="short"), 400),
        (_handshake(sec_websocket_version="8"), 400),
    ],
    ids=["body", "body to come", "chunks", "long line", "no key", "short key", "version"],
)
async def test_a_handshake_that_is_none_is_refused_and_its_connection_closed(
    url: str, sent: bytes, status: int
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    try:
        writer.write(sent)
        async with asyncio.timeout(PATIENCE_S):
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        writer.transport.abort()
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"\r\nx-request-id: req_" in head
    assert json.loads(body)["error"]["code"] == "invalid_handshake"


async def test_a_message_that_is_refused_ends_nothing(url: str) -> None:
    refusals: list[tuple[Any, tuple[int, str]]] = [
        ("{", (400, "invalid_json")),
        ("[]", (400, "invalid_json")),
        ("{}", (400, "missing_required_parameter")),
        (b'{"type": "session.update"}', (400, "unknown_event_type")),
        ('{"type": 1}', (400, "invalid_type")),
        ('{"type": "response.create", "stream_id": ""}', (400, "invalid_stream_id")),
        ('{"type": "response.create", "stream_id": "a b"}', (400, "invalid_stream_id")),
        ('{"type": "response.create", "generate": "no"}', (400, "invalid_type")),
        ('{"type": "response.create", "input": "x", "stream": false}', (400, "invalid_value")),
        ('{"type": "response.create", "input": "x", "background": true}', (400, "unsupported_parameter")),
        ('{"type": "response.create", "input": "x", "generate": false, "conversation": "conv_1"}', (404, "")),
        (
            '{"type": "response.create", "generate": false, "input": [{"type": "mcp_approval_response", '
            '"approval_request_id": "mcpr_1", "approve": true}]}',
            (400, "invalid_value"),
        ),
        ('{"type": "response.create", "inputs": "x"}', (400, "unknown_parameter")),
        ('{"type": "response.create"}', (400, "missing_required_parameter")),
        ('{"type": "response.cancel"}', (404, "response_not_found")),
        ('{"type": "response.cancel", "response_id": "resp_1"}', (404, "response_not_found")),
        ('{"type": "response.cancel", "id": "resp_1"}', (400, "unknown_parameter")),
    ]
    async with socket_to(url) as socket:
        for message, (status, code) in refusals:
            await socket.connection.send(message)
            got = await socket.refusal()
            assert got[0] == status or code == ""
            assert code in ("", got[1]), message
        await socket.send(type="response.processed", response_id="resp_1")
        await socket.send(type="response.steer", previous_response_id="resp_1", input="More")
        steer = await socket.event()
        assert (steer["type"], steer["error"]["code"]) == ("response.steer.failed", "steering_not_supported")
        assert steer["steer"] == {"previous_response_id": "resp_1", "input": "More"}
        await socket.create(previous_response_id="resp_unknown")
        assert await socket.refusal() == (400, "previous_response_not_found")


async def test_in_vllms_dialect_an_unknown_response_has_vllms_status(url: str) -> None:
    async with socket_to(url, antiphon_dialect="vllm") as socket:
        await socket.create(previous_response_id="resp_unknown")
        assert await socket.refusal() == (404, "previous_response_not_found")


async def test_lanes_run_side_by_side_and_wait_within_their_limits(url: str) -> None:
    async with socket_to(url) as socket:
        for lane in (None, "a", "b"):
            await socket.create(**({"stream_id": lane} if lane else {}))
        events = [await socket.event(), await socket.event()]
        assert [event["type"] for event in events] == ["response.created"] * 2
        created = {event.get("stream_id"): event["response"]["id"] for event in events}
        assert created.keys() == {None, "a"}
        await socket.create(stream_id="c")
        event = await socket.event()
        assert (event["status"], event["stream_id"]) == (400, "c")
        assert event["error"]["code"] == "websocket_stream_limit_reached"
        await socket.create(stream_id="a")  # the second that waits
        await socket.create(stream_id="a")
        event = await socket.event()
        assert (event["status"], event["stream_id"]) == (429, "a")
        await socket.send(type="response.cancel")  # the first, in the lane without a name
        event = await socket.event()
        assert (event["type"], event["response"]["status"]) == ("response.failed", "cancelled")
        assert event["response"]["id"] == created[None]
        event = await socket.event()
        assert (event["type"], event["stream_id"]) == ("response.created", "b")
        await socket.send(type="response.cancel", response_id=created["a"])
        assert (await socket.event())["stream_id"] == "a"
        event = await socket.event()
        assert (event["type"], event["stream_id"]) == ("response.created", "a")


async def test_a_connection_takes_no_more_calls_after_its_time_and_ends_with_its_last_response(
    redis: RedisClient, settings: Settings
) -> None:
    async with served(settings, socket_age_max_s=0.5) as url, socket_to(url) as idle:
        assert await idle.closing() == 1001
        async with socket_to(url) as socket:
            await socket.create()
            created = await socket.event()

            async def is_too_late() -> bool:
                await socket.create(stream_id="late", model="nobody's")
                return (await socket.refusal()) == (400, "websocket_connection_limit_reached")

            await until(is_too_late)
            await socket.send(type="response.cancel", response_id=created["response"]["id"])
            assert (await socket.event())["type"] == "response.failed"
            assert await socket.closing() == 1001
            assert "60" not in (socket.connection.close_reason or "")


async def test_a_node_that_stops_closes_its_connections_and_leaves_their_readers_time(
    redis: RedisClient, settings: Settings
) -> None:
    async with node(settings) as api, socket_to(api.url) as socket:
        await socket.create(store=False)
        key = ResponseKey("default", (await socket.event())["response"]["id"])
        api.process.send_signal(signal.SIGTERM)
        assert await socket.closing() == 1012
        assert (await api.stop())[0] == 0
        assert await redis.command("ZCARD", keys.readers(key)) == 1  # not withdrawn
        async with node(settings) as another:
            resumed = another.client.stream(
                "GET", f"/v1/responses/{key.response_id}?stream=true&starting_after=0"
            )
            async with resumed as answer:
                assert answer.status_code == 200
                assert await closing.cancel(redis, settings, key, "another", Offload().run) == "ended"
                assert b"event: response.failed\nid: 1\n" in await answer.aread()


async def test_a_client_that_leaves_is_a_reader_that_leaves(url: str, redis: RedisClient) -> None:
    async with socket_to(url) as socket:
        await socket.create()
        key = ResponseKey("default", (await socket.event())["response"]["id"])
        assert await redis.command("ZCARD", keys.readers(key)) == 1
        socket.cut()
        await until(lambda: _has_none(redis, key))


async def _has_none(redis: RedisClient, key: ResponseKey) -> bool:
    return bool(await redis.command("ZCARD", keys.readers(key)) == 0)


async def test_a_message_that_is_too_large_ends_the_connection(url: str) -> None:
    async with socket_to(url) as socket:
        await socket.create("x" * 100_001)
        with pytest.raises(ConnectionClosed):
            await socket.event()
        assert await socket.closing() == 1009


async def test_a_client_that_goes_on_sending_too_large_a_message_reads_why_it_is_cut_off(
    settings: Settings,
) -> None:
    """What it sends meanwhile would reset the connection, and take the reason with it."""
    head = (
        "GET /v1/responses HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    async with served(settings, http_linger_s=PATIENCE_S) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(head.encode())
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        writer.write(bytes([0x81, 0xFF]) + (10_000_000).to_bytes(8, "big") + b"mask")
        for _ in range(100):
            writer.write(b"x" * 65_536)
            await writer.drain()
        answer = await reader.read()
        writer.close()
        assert answer[:1] == b"\x88"
        assert int.from_bytes(answer[2:4], "big") == 1009


async def test_what_is_not_to_be_generated_ends_at_once_and_is_in_nobodys_queue(
    url: str, redis: RedisClient
) -> None:
    async with socket_to(url) as socket:
        for stored in (True, False):
            await socket.create("Remember this", generate=False, store=stored)
            messages = [json.loads(message) for message in await socket.messages()]
            assert [message["type"] for message in messages] == ["response.created", "response.completed"]
            response = messages[-1]["response"]
            assert (response["output"], response["usage"]["total_tokens"]) == ([], 0)
            assert await redis.command("ZCARD", keys.RESPONSES_QUEUE) == 0
            await socket.create("What?", previous_response_id=response["id"], store=False)
            key = ResponseKey("default", (await socket.event())["response"]["id"])
            stored_record = await response_store.read_stored(redis, key)
            assert stored_record is not None
            assert len(stored_record.open().request.context) == 1
            await socket.send(type="response.cancel")
            assert (await socket.response())["status"] == "cancelled"
            await redis.command("DEL", keys.RESPONSES_QUEUE)


async def test_a_tool_that_is_left_out_is_named_after_the_first_event(
    redis: RedisClient, settings: Settings
) -> None:
    tools = [{"type": "function", "name": "f"}, {"type": "image_generation"}, {"type": "computer"}]
    async with served(settings, unsupported_tools="ignore") as url, socket_to(url) as socket:
        for lane in ({}, {"stream_id": "a"}):
            await socket.create(tools=tools, generate=False, **lane)
            created, said, *_ = [json.loads(message) for message in await socket.messages()]
            assert created["type"] == "response.created"
            headers = {"antiphon-ignored-tools": "computer, image_generation"}
            assert said == {"type": "response.metadata", "headers": headers} | lane
        await socket.create(tools=tools[:1], generate=False)
        kinds = [json.loads(message)["type"] for message in await socket.messages()]
        assert "response.metadata" not in kinds


async def test_an_unstored_response_is_continued_by_its_own_connection_alone_and_lost_by_a_failed_try(
    url: str, redis: RedisClient
) -> None:
    async with socket_to(url) as socket, socket_to(url) as other:
        first = await socket.say("Remember this", generate=False, store=False)
        await other.create(previous_response_id=first["id"])
        assert await other.refusal() == (400, "previous_response_not_found")
        await redis.command("FLUSHALL")  # its grace is over
        fork: dict[str, Any] = {"generate": False, "store": False, "previous_response_id": first["id"]}
        assert (await socket.say("On", stream_id="fork", **fork))["previous_response_id"] == first["id"]
        await socket.create("On", **fork, stream_id="fork2", temperature=9)
        assert (await socket.refusal())[0] == 400
        await socket.create("On", **fork, temperature=9)
        assert (await socket.refusal())[0] == 400
        await socket.create("On", **fork)
        assert await socket.refusal() == (400, "previous_response_not_found")


async def test_sockets_of_one_node_are_told_apart(url: str) -> None:
    async with socket_to(url) as one, socket_to(url) as two:
        said = await asyncio.gather(
            one.say("One", generate=False, metadata={"of": "one"}),
            two.say("Two", generate=False, metadata={"of": "two"}),
        )
    assert [response["metadata"]["of"] for response in said] == ["one", "two"]


async def test_a_client_that_answers_no_ping_is_gone(redis: RedisClient, settings: Settings) -> None:
    async with served(settings, socket_ping_s=0.1, http_linger_s=0.1) as url, socket_to(url) as socket:
        await socket.create()
        key = ResponseKey("default", (await socket.event())["response"]["id"])
        socket.connection.transport.pause_reading()
        await until(lambda: _has_none(redis, key))
        socket.cut()


async def test_a_client_that_reads_late_gets_every_byte_and_the_node_keeps_its_bound(
    redis: RedisClient, settings: Settings
) -> None:
    body = b'{"type":"x","text":"%b"}' % (b"x" * 65_536)
    frames = [b"event: x\nid: %d\ndata: %b\n\n" % (number, body) for number in range(1, 201)]
    async with served(settings, client_buffer_bytes_max=100_000) as url, socket_to(url) as socket:
        await socket.create()
        key = ResponseKey("default", (await socket.event())["response"]["id"])
        acquired = await lease.acquire(redis, settings, key, "worker")
        assert isinstance(acquired, Acquired)
        socket.connection.transport.pause_reading()
        for first in range(0, len(frames), 10):
            entries = [NewEntry(each) for each in frames[first : first + 10]]
            await append(redis, settings, acquired.lease, first + 1, entries)
        socket.connection.transport.resume_reading()
        assert [await socket.receive() for _ in frames] == [body] * len(frames)
