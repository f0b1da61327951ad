"""What precedes a request: bytes on a socket, in any order and at any pace."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from shared.settings import Settings
from shared.store import keys
from shared.store.keys import ResponseKey
from shared.store.log.response_log import NewEntry
from shared.store.owning import lease
from shared.store.owning.lease import Acquired
from shared.store.redis.client import RedisClient
from tests.appending import append
from tests.nodes import Node, node
from tests.patience import PATIENCE_S, until
from tests.requests import accept

HEALTH = b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
HASTY = {
    "ANTIPHON_HTTP_HEAD_TIMEOUT_S": "3",
    "ANTIPHON_HTTP_BODY_TIMEOUT_S": "3",
    "ANTIPHON_HTTP_IDLE_TIMEOUT_S": "4",
    "ANTIPHON_HTTP_SEND_TIMEOUT_S": "2",
}
"""For tests of these times only: any other test may itself be kept waiting for longer."""


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        """The error of an answer that keeps the promises of one."""
        assert self.headers["content-type"] == "application/json"
        assert self.headers["x-request-id"].startswith("req_")
        error: dict[str, Any] = json.loads(self.body)["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        return error


class Socket:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> Answer:
        async with asyncio.timeout(PATIENCE_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.split(": ", 1) for line in head[1:] if line)
            body = await self.reader.readexactly(int(headers["content-length"]))
        return Answer(int(head[0].split()[1]), headers, body)

    async def is_closed(self) -> bool:
        """Waits until the other side has closed. False: it has said something before."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                return await self.reader.read() == b""
            except ConnectionResetError:
                return True

    async def refusal(self) -> tuple[int, str]:
        """Status and code of a refusal, after which the connection closes."""
        answer = await self.answer()
        assert answer.headers["connection"] == "close"
        assert await self.is_closed()
        return answer.status, answer.error["code"]


@asynccontextmanager
async def connected(api: Node) -> AsyncIterator[Socket]:
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    try:
        yield Socket(reader, writer)
    finally:
        writer.transport.abort()


@pytest_asyncio.fixture
async def api(redis: RedisClient, settings: Settings) -> AsyncIterator[Node]:
    async with node(settings) as api:
        yield api
        await check_well(api)


@pytest_asyncio.fixture
async def hasty(redis: RedisClient, settings: Settings) -> AsyncIterator[Node]:
    async with node(settings, **HASTY) as api:
        yield api
        await check_well(api)


async def check_well(api: Node) -> None:
    """Whatever was sent, it lives, has noticed, and has not failed."""
    assert (await api.client.get("/health")).status_code == 200
    status, said = await api.stop()
    assert status == 0
    assert "Traceback" not in said


def post(body: bytes, *headers: bytes) -> bytes:
    lines = [b"POST /v1/responses HTTP/1.1", b"host: 127.0.0.1", b"content-type: application/json", *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


MALFORMED = {
    "no HTTP": b"hello\r\n\r\n",
    "TLS": bytes.fromhex("160301020001"),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "an unknown method": b"FOO /v1/models HTTP/1.1\r\nhost: h\r\n\r\n",
    "a broken header": b"GET /v1/models HTTP/1.1\r\nno colon\r\n\r\n",
    "a folded name": b"GET /v1/models HTTP/1.1\r\nna me: x\r\n\r\n",
    "a zero byte": b"GET /v1/models HTTP/1.1\r\nname: a\0b\r\n\r\n",
    "two lengths": post(b"{}", b"content-length: 2", b"content-length: 2"),
    "two differing lengths": post(b"{}", b"content-length: 2", b"content-length: 3"),
    "a length and chunks": post(b"2\r\n{}\r\n0\r\n\r\n", b"content-length: 2", b"transfer-encoding: chunked"),
    "a negative length": post(b"{}", b"content-length: -1"),
    "a length that is no number": post(b"{}", b"content-length: 0x2"),
    "chunks without a size": post(b"zz\r\n{}\r\n", b"transfer-encoding: chunked"),
    "an unknown transfer": post(b"{}", b"transfer-encoding: gzip"),
    "an address that is none": b"GET http://[::1 HTTP/1.1\r\nhost: h\r\n\r\n",
    "a tunnel": b"CONNECT h:443 HTTP/1.1\r\nhost: h\r\n\r\n",
    "bytes in the address": b"GET /v1/\xff HTTP/1.1\r\nhost: h\r\n\r\n",
}


async def test_what_is_not_http_is_refused_in_the_envelope(api: Node) -> None:
    for name, sent in MALFORMED.items():
        async with connected(api) as connection:
            await connection.send(sent)
            assert await connection.refusal() == (400, "invalid_http"), name


TOO_LARGE = {
    "one header": (b"GET /v1/models HTTP/1.1\r\nx: " + b"a" * 1_000_000, 431),
    "many headers": (b"GET /v1/models HTTP/1.1\r\n" + b"x: a\r\n" * 200, 431),
    "headers together": (b"GET /v1/models HTTP/1.1\r\n" + (b"x: " + b"a" * 8000 + b"\r\n") * 20, 431),
    "a header's name": (b"GET /v1/models HTTP/1.1\r\n" + b"a" * 1_000_000, 431),
    "the address": (b"GET /v1/models/" + b"a" * 20_000, 414),
    "the query": (b"GET /v1/models?a=" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n", 414),
    "the method": (b"G" * 1_000_000, 400),
    "line breaks before a request": (b"\r\n" * 500_000, 431),
    "a chunk's extension": (post(b"1;" + b"a" * 1_000_000, b"transfer-encoding: chunked"), 431),
    "a trailer": (post(b"1\r\n{\r\n0\r\nx: " + b"a" * 1_000_000, b"transfer-encoding: chunked"), 431),
    "trailers": (post(b"1\r\n{\r\n0\r\n" + b"x: a\r\n" * 200, b"transfer-encoding: chunked"), 431),
}


async def test_what_is_too_large_is_refused_while_it_arrives(api: Node) -> None:
    for name, (sent, status) in TOO_LARGE.items():
        async with connected(api) as connection:
            with suppress(ConnectionError):  # it need not be read to its end
                await connection.send(sent)
            assert (await connection.refusal())[0] == status, name


async def test_a_header_without_an_end_costs_nothing(api: Node) -> None:
    """200 MB of one header were taken, and kept, before there were bounds."""
    before_kib = resident_kib(api)
    async with connected(api) as connection:
        await connection.send(b"GET / HTTP/1.1\r\nx: ")
        with suppress(ConnectionError):
            for _ in range(200):
                await connection.send(b"a" * 2**20)
        assert resident_kib(api) - before_kib < 16 * 1024


def resident_kib(api: Node) -> int:
    status = Path(f"/proc/{api.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


async def test_the_bounds_are_where_the_settings_put_them(api: Node) -> None:
    for length, status in ((16_384, 404), (16_385, 414)):
        async with connected(api) as connection:
            address = b"/v1/models/".ljust(length, b"a")
            await connection.send(b"GET " + address + b" HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
            answer = await connection.answer()
            assert answer.status == status
            assert len(answer.error["message"]) < 400
    for count, status in ((99, 200), (100, 431)):
        async with connected(api) as connection:
            await connection.send(HEALTH[:-2] + b"x: a\r\n" * count + b"\r\n")
            assert (await connection.answer()).status == status


async def test_a_body_in_chunks_of_one_byte_is_read(api: Node) -> None:
    body = json.dumps({"input": "Hello", "background": True, "metadata": {"a": "x" * 500}}).encode()
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    async with connected(api) as connection:
        await connection.send(post(chunks, b"transfer-encoding: chunked"))
        answer = await connection.answer()
        assert answer.status == 200
        assert json.loads(answer.body)["status"] == "queued"


async def test_head_answers_as_get_without_the_body(api: Node, redis: RedisClient) -> None:
    made = await api.client.post("/v1/responses", json={"input": "Hello", "background": True})
    response = f"/v1/responses/{made.json()['id']}"
    async with connected(api) as connection:
        for path, status in (("/health", 200), ("/v1/models", 200), ("/nowhere", 404), (response, 200)):
            await connection.send(f"HEAD {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode())
            async with asyncio.timeout(PATIENCE_S):
                head = await connection.reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 %d " % status), head
            assert b"\r\ncontent-type: application/json\r\n" in head
        # A stream's too, which opens none.
        await connection.send(f"HEAD {response}?stream=true HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode())
        await connection.send(HEALTH)
        async with asyncio.timeout(PATIENCE_S):
            assert b"text/event-stream" in await connection.reader.readuntil(b"\r\n\r\n")
        assert (await connection.answer()).body == b'{"status":"ok"}'
        await connection.send(b"HEAD /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        async with asyncio.timeout(PATIENCE_S):
            assert (await connection.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 405 ")


# --- time ---------------------------------------------------------------------------------------


async def drip(connection: Socket, first: bytes, again: bytes) -> None:
    """Sends the first bytes, and then a few at a time until the server has closed the connection."""
    with suppress(ConnectionError):
        await connection.send(first)
        while not connection.reader.at_eof():
            await connection.send(again)
            await asyncio.sleep(0.05)


async def test_a_head_and_a_body_that_never_come_to_their_end_are_given_up(hasty: Node) -> None:
    unfinished = {
        "a head": (b"GET / HTTP/1.1\r\n", b"x: a\r\n"),
        "a second head": (HEALTH + b"GET / HTTP/1.1\r\n", b"x: a\r\n"),
        "a body": (post(b"", b"content-length: 1000"), b" "),
        "chunks": (post(b"", b"transfer-encoding: chunked"), b"1\r\n \r\n"),
        "an extension": (post(b"1;", b"transfer-encoding: chunked"), b"a"),
    }

    async def send(name: str, first: bytes, again: bytes) -> None:
        async with connected(hasty) as connection:
            dripping = asyncio.create_task(drip(connection, first, again))
            if name == "a second head":
                assert (await connection.answer()).status == 200
            assert await connection.refusal() == (408, "request_timeout"), name
            dripping.cancel()
            await asyncio.gather(dripping, return_exceptions=True)

    await asyncio.gather(*(send(name, *parts) for name, parts in unfinished.items()))


async def test_a_body_that_nobody_waits_for_does_not_keep_its_connection(hasty: Node) -> None:
    refused_already = b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 1000000\r\n\r\n"
    async with connected(hasty) as connection:
        dripping = asyncio.create_task(drip(connection, refused_already, b"a"))
        assert (await connection.answer()).status == 200
        assert await connection.is_closed()
        await dripping


async def test_silent_and_idle_connections_are_closed_without_a_word(hasty: Node) -> None:
    async with connected(hasty) as silent, connected(hasty) as idle, connected(hasty) as noisy:
        for connection in (idle, noisy):
            await connection.send(HEALTH)
            assert (await connection.answer()).status == 200
        await noisy.send(b"\r\n")  # is no request, and keeps no connection
        for connection in (silent, idle, noisy):
            assert await connection.is_closed()


async def test_a_client_that_reads_nothing_is_cut_off_and_holds_nobody_up(
    hasty: Node, redis: RedisClient, settings: Settings
) -> None:
    key = await accept(redis, settings)
    acquired = await lease.acquire(redis, settings, key, "test")
    assert isinstance(acquired, Acquired)
    for first in range(1, 41, 10):
        drafts = [NewEntry(b"event: x\ndata: %0500000d\n\n" % i) for i in range(10)]
        await append(redis, settings, acquired.lease, first, drafts)
    async with connected(hasty) as connection:
        transport = connection.writer.transport
        assert isinstance(transport, asyncio.ReadTransport)
        transport.pause_reading()
        path = f"/v1/responses/{key.response_id}?stream=true"
        await connection.send(f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode())
        await until_readers(redis, key, 1)
        assert (await hasty.client.get("/health")).status_code == 200
        await until_readers(redis, key, 0)


async def until_readers(redis: RedisClient, key: ResponseKey, count: int) -> None:
    async def are_there() -> bool:
        return bool(await redis.command("ZCARD", keys.readers(key)) == count)

    await until(are_there)


STREAM = b'{"input": "Hello", "stream": true}'


async def begin_stream(connection: Socket) -> None:
    await connection.send(post(STREAM, b"content-length: %d" % len(STREAM)))
    async with asyncio.timeout(PATIENCE_S):
        assert (await connection.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        assert b"response.created" in await connection.reader.readuntil(b"\n\n\r\n")


async def test_a_client_that_closes_its_half_has_left(api: Node, redis: RedisClient) -> None:
    async with connected(api) as connection:
        await begin_stream(connection)
        (member,) = await redis.command("ZRANGE", keys.ACTIVE, 0, -1)
        key = ResponseKey.parse(member.decode())
        await until_readers(redis, key, 1)
        connection.writer.write_eof()
        await until_readers(redis, key, 0)


async def test_nonsense_behind_a_request_never_gets_into_its_answer(api: Node) -> None:
    async with connected(api) as connection:
        await begin_stream(connection)
        await connection.send(b"nonsense\r\n\r\n")
        async with asyncio.timeout(PATIENCE_S):
            rest = await connection.reader.read()
    assert not rest.endswith(b"0\r\n\r\n"), "the stream is cut"
    assert b"HTTP/1.1" not in rest


# --- order --------------------------------------------------------------------------------------


async def test_pipelined_requests_are_answered_in_order_and_not_without_end(api: Node) -> None:
    async with connected(api) as connection:
        await connection.send(b"".join(HEALTH.replace(b"/health", b"/%d" % i) for i in range(10)))
        for i in range(10):
            answer = await connection.answer()
            assert (answer.status, f"/{i})" in answer.error["message"]) == (404, True)
    async with connected(api) as connection:
        await begin_stream(connection)
        before_kib = resident_kib(api)
        connection.writer.write(HEALTH * 200_000)  # none of them is answered before the stream has ended
        for _ in range(20):
            assert (await api.client.get("/health")).status_code == 200
        assert resident_kib(api) - before_kib < 16 * 1024
    async with connected(api) as connection:
        await connection.send(HEALTH * 1000)
        answers = []
        with suppress(asyncio.IncompleteReadError):
            while True:
                answers.append(await connection.answer())
        assert 1 <= len(answers) < 100
        assert answers[-1].headers["connection"] == "close"


async def test_a_wish_for_another_protocol_is_passed_over(api: Node) -> None:
    """Clients in Java wish for HTTP/2 with their first request, and then use the connection again."""
    wish = b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAA\r\n"
    body = b'{"input": "Hello", "background": true}'
    head = post(b"", wish + b"content-length: %d" % len(body))
    async with connected(api) as connection:
        for sent in ([head + body], [head, body], [HEALTH.replace(b"host", wish + b"host")], [HEALTH]):
            for some in sent:
                await connection.send(some)
                await asyncio.sleep(0)
            assert (await connection.answer()).status == 200
        await connection.send(HEALTH.replace(b"host", b"connection: close, upgrade\r\nupgrade: h2c\r\nhost"))
        assert (await connection.answer()).headers["connection"] == "close"
        assert await connection.is_closed()


async def test_a_refused_upload_gets_its_answer_though_it_goes_on_sending(api: Node) -> None:
    async with connected(api) as connection:
        sending = asyncio.create_task(drip(connection, post(b"", b"content-length: 99999999"), b"a" * 2**16))
        assert await connection.refusal() == (413, "request_too_large")
        await sending


async def test_bodies_of_one_node_together_have_a_bound(redis: RedisClient, settings: Settings) -> None:
    """Each of 10,000 connections may bring 8 MB, and take its time."""
    bounds = {"ANTIPHON_BODY_BYTES_MAX": str(MIB), "ANTIPHON_BODIES_BYTES_MAX": str(4 * MIB)}
    async with node(settings, **bounds) as api, AsyncExitStack() as connections:
        slow = [await begin_body(api, connections) for _ in range(3)]
        await until_room(api, False)
        async with connected(api) as connection:
            await connection.send(post(b"", b"content-length: %d" % MIB))
            answer = await connection.answer()
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
            assert answer.error["code"] == "service_unavailable"
        small = await api.client.post("/v1/responses", json={"input": "Hello", "background": True})
        assert small.status_code == 200
        await slow[0].send(b" \r\n0\r\n\r\n")
        assert (await slow[0].answer()).error["code"] == "invalid_json"  # come whole, and let go
        await until_room(api, True)
        await begin_body(api, connections)
        await until_room(api, False)
        slow[1].writer.transport.abort()
        await until_room(api, True)


MIB = 2**20


async def begin_body(api: Node, connections: AsyncExitStack) -> Socket:
    """A connection that has sent its large body but for the last byte."""
    connection = await connections.enter_async_context(connected(api))
    await connection.send(post(b"100000\r\n" + b" " * (MIB - 1), b"transfer-encoding: chunked"))
    return connection


async def until_room(api: Node, has_room: bool) -> None:
    """Waits until a large body is, or is not, waited for; none is sent, so that none takes room."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            async with connected(api) as connection:
                await connection.send(post(b"", b"content-length: %d" % MIB, b"expect: 100-continue"))
                first = await connection.reader.readline()
            assert first in (b"HTTP/1.1 100 Continue\r\n", b"HTTP/1.1 503 Service Unavailable\r\n")
            if has_room == (b" 100 " in first):
                return


MODELS = HEALTH.replace(b"/health", b"/v1/models")


@asynccontextmanager
async def full_node(settings: Settings, excess: int) -> AsyncIterator[tuple[Node, Socket]]:
    """A node at its bound of connections, and one of them; silent ones stay for long."""
    bounds = {"ANTIPHON_HTTP_CONNECTIONS_MAX": "3", "ANTIPHON_HTTP_EXCESS_CONNECTIONS_MAX": str(excess)}
    async with node(settings, **bounds, ANTIPHON_HTTP_HEAD_TIMEOUT_S="60") as api:
        await api.client.aclose()
        async with connected(api) as first, connected(api) as second, connected(api) as third:
            for connection in (first, second, third):
                await connection.send(HEALTH)
                assert (await connection.answer()).status == 200
            yield api, first
        status, said = await api.stop()
    assert status == 0
    assert "Traceback" not in said


async def test_connections_are_limited_and_refused_with_a_reason(
    redis: RedisClient, settings: Settings
) -> None:
    async with full_node(settings, 64) as (api, first):
        for sent in (MODELS, post(b"", b"content-length: 1000000"), MODELS + HEALTH, b"nonsense\r\n\r\n"):
            async with connected(api) as fourth:
                await fourth.send(sent)
                answer = await fourth.answer()
                assert answer.headers["connection"] == "close"
                if sent.startswith(b"nonsense"):
                    assert answer.status == 400
                    continue
                assert (answer.status, answer.headers["retry-after"]) == (503, "1")
                assert answer.error["code"] == "service_unavailable"
        await first.send(MODELS)
        assert (await first.answer()).status == 200
        async with connected(api) as fourth:
            assert not await is_served(api)  # by now it has come, too late
            first.writer.transport.abort()
            await until(lambda: is_served(api))
            await fourth.send(MODELS + MODELS)
            assert [(await fourth.answer()).status for _ in range(2)] == [200, 200]


async def is_served(api: Node) -> bool:
    """Asked on a connection that is gone, and counted no more, when this is known."""
    async with connected(api) as connection:
        await connection.send(MODELS.replace(b"host", b"connection: close\r\nhost"))
        answer = await connection.answer()
        assert await connection.is_closed()
        return answer.status == 200


async def test_a_node_that_is_full_is_not_taken_for_dead(redis: RedisClient, settings: Settings) -> None:
    """A supervisor probes on a connection of its own, and would kill the node with its streams."""
    async with full_node(settings, 2) as (api, _), connected(api) as silent, connected(api) as half:
        await half.send(MODELS[:-2])
        for _ in range(3):
            for probe, status in ((HEALTH, 200), (HEALTH.replace(b"/health", b"/ready?full"), 503)):
                async with connected(api) as connection:
                    await connection.send(probe)
                    answer = await connection.answer()
                    assert (answer.status, answer.headers["connection"]) == (status, "close")
                    assert b"service_unavailable" not in answer.body
                    assert await connection.is_closed()
        assert await silent.is_closed()  # the oldest made way
        async with connected(api) as connection:
            await connection.send(HEALTH + MODELS)
            assert (await connection.answer()).status == 200
            assert await connection.is_closed()


async def test_a_connection_that_was_answered_early_is_not_answered_again_at_the_end(
    redis: RedisClient, settings: Settings
) -> None:
    """That raised out of the node's shutdown, and calls that were under way became 500s."""
    async with node(settings, ANTIPHON_HTTP_LINGER_S="60") as api:
        async with connected(api) as lingering, connected(api) as streaming:
            await lingering.send(post(b"", b"content-length: 99999999"))
            assert (await lingering.answer()).status == 413
            await begin_stream(streaming)
            status, said = await api.stop()
            async with asyncio.timeout(PATIENCE_S):
                assert await lingering.reader.read() == b""
        assert status == 0
        assert "Traceback" not in said


async def test_a_node_ends_in_order_whatever_its_clients_do(redis: RedisClient, settings: Settings) -> None:
    async with (
        node(settings) as api,
        connected(api),
        connected(api) as in_head,
        connected(api) as in_body,
        connected(api) as idle,
        connected(api) as streaming,
    ):
        await in_head.send(HEALTH[:20])
        await in_body.send(post(b"{", b"content-length: 10"))
        await idle.send(HEALTH)
        assert (await idle.answer()).status == 200
        await begin_stream(streaming)
        status, said = await api.stop()
    assert status == 0
    assert "Traceback" not in said


NO_GRACE = {"ANTIPHON_DISCONNECT_GRACE_S": "0"}


async def closed_as(redis: RedisClient) -> str:
    """How the one response that there is was closed; empty while it is open."""
    (name,) = await redis.command("KEYS", "antiphon:{*}:state")
    return str((await redis.command("HGET", name, "closed")).decode())


async def test_without_a_grace_a_client_that_leaves_ends_its_response_at_once(
    redis: RedisClient, settings: Settings
) -> None:
    async with node(settings, **NO_GRACE) as api:
        async with connected(api) as connection:
            await begin_stream(connection)
            assert await closed_as(redis) == ""
        await until(lambda: closed_as(redis))
        assert await closed_as(redis) == "cancelled"


@pytest.mark.parametrize("is_streamed", [True, False])
async def test_a_node_that_ends_is_no_client_that_left(
    redis: RedisClient, settings: Settings, is_streamed: bool
) -> None:
    async with node(settings, **NO_GRACE) as api, connected(api) as connection:
        if is_streamed:
            await begin_stream(connection)
        else:
            body = b'{"input": "Hello"}'
            await connection.send(post(body, b"content-length: %d" % len(body)))
        await until(lambda: redis.command("KEYS", "antiphon:{*}:readers"))
        status, _ = await api.stop()
        assert status == 0
        assert await closed_as(redis) == ""
        # Its reader counts until the announcement lapses: so long it has to come back through another node.
        (readers,) = await redis.command("KEYS", "antiphon:{*}:readers")
        assert await redis.command("ZCARD", readers) == 1
