"""A stream that a node cannot finish is cut, so that no client takes it for complete."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import httpx
import openai
import pytest
import requests

from shared.settings import Settings
from shared.store import keys
from shared.store.keys import ResponseKey
from shared.store.redis.client import RedisClient
from tests.nodes import node
from tests.patience import PATIENCE_S, until
from tests.streams import read_frames

BODY: dict[str, Any] = {"input": "Hello", "stream": True}
Reader = Callable[[str, asyncio.Event], Coroutine[Any, Any, None]]


async def read_with_httpx(url: str, begun: asyncio.Event) -> None:
    async def read() -> None:
        async with (
            httpx.AsyncClient(timeout=PATIENCE_S) as client,
            client.stream("POST", f"{url}/v1/responses", json=BODY) as answer,
        ):
            async for some in answer.aiter_raw():
                read_frames(some)
                begun.set()

    with pytest.raises(httpx.RemoteProtocolError):
        await read()


async def read_with_openai(url: str, begun: asyncio.Event) -> None:
    async def read() -> None:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="any") as client:
            async for _ in await client.responses.create(input="Hello", stream=True):
                begun.set()

    with pytest.raises((openai.APIError, httpx.RemoteProtocolError)):
        await read()


async def read_with_requests(url: str, begun: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()

    def read() -> None:
        with requests.post(f"{url}/v1/responses", json=BODY, stream=True, timeout=PATIENCE_S) as answer:
            for _ in answer.iter_lines():
                loop.call_soon_threadsafe(begun.set)

    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        await asyncio.to_thread(read)


async def read_with_http_1_0(url: str, begun: asyncio.Event) -> None:
    """A client that does not know chunks gets none, and notices the cut by a reset."""
    reader, writer = await asyncio.open_connection(*url.removeprefix("http://").split(":"))
    raw = json.dumps(BODY).encode()
    head = "POST /v1/responses HTTP/1.0\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    writer.write(f"{head}content-length: {len(raw)}\r\n\r\n".encode() + raw)
    answer = await reader.readuntil(b"\r\n\r\n")
    assert b"transfer-encoding" not in answer
    assert answer.count(b"connection: close") == 1
    assert b"keep-alive" not in answer
    assert (await reader.readuntil(b"\n\n")).startswith(b"event: response.created\n")
    begun.set()
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()


async def read_with(command: list[str], begun: asyncio.Event) -> tuple[int, str]:
    """A program that writes the stream to its standard output: its exit status, and what it complained of."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        assert await process.stdout.readline() == b"event: response.created\n"
        begun.set()
        await process.stdout.read()
        complaint = (await process.stderr.read()).decode()
        return await process.wait(), complaint
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def read_with_curl(url: str, begun: asyncio.Event) -> None:
    curl = find("curl")
    options = ["-sSN", "-H", "content-type: application/json", "-d", json.dumps(BODY)]
    status, complaint = await read_with([curl, *options, f"{url}/v1/responses"], begun)
    assert status == 18, complaint  # a transfer that is known to be partial


async def read_with_curl_1_0(url: str, begun: asyncio.Event) -> None:
    curl = find("curl")
    options = ["-0sSN", "-H", "content-type: application/json", "-d", json.dumps(BODY)]
    status, complaint = await read_with([curl, *options, f"{url}/v1/responses"], begun)
    assert status == 56, complaint  # the connection was reset


async def read_with_node(url: str, begun: asyncio.Event) -> None:
    script = f"""
        const answer = await fetch("{url}/v1/responses", {{
          method: "POST",
          headers: {{"content-type": "application/json"}},
          body: JSON.stringify({json.dumps(BODY)}),
        }});
        for await (const some of answer.body) process.stdout.write(some);
    """
    command = [find("node"), "--input-type=module", "--eval", script]
    status, complaint = await read_with(command, begun)
    assert status == 1
    assert "terminated" in complaint


def find(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed")
    return found


@asynccontextmanager
async def all_reading(url: str, *readers: Reader) -> AsyncIterator[None]:
    """Within, every reader has had its first event; afterwards each of them must have noticed the cut."""
    begun = [asyncio.Event() for _ in readers]
    tasks = [asyncio.create_task(read(url, event)) for read, event in zip(readers, begun, strict=True)]
    try:
        async with asyncio.timeout(PATIENCE_S):
            for task, event in zip(tasks, begun, strict=True):
                waiting = asyncio.create_task(event.wait())
                await asyncio.wait([waiting, task], return_when=asyncio.FIRST_COMPLETED)
                if task.done():
                    task.result()
                assert not task.done()
        yield
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


READERS: list[Reader] = [
    read_with_httpx,
    read_with_openai,
    read_with_requests,
    read_with_http_1_0,
    read_with_curl,
    read_with_curl_1_0,
    read_with_node,
]


async def test_a_node_that_ends_cuts_its_streams_and_every_client_notices(
    redis: RedisClient, settings: Settings
) -> None:
    async with node(settings) as api:
        async with all_reading(api.url, *READERS):
            status, said = await api.stop()
        assert status == 0
        assert "Traceback" not in said
        assert said.count("this node is shutting down") == len(READERS)


@pytest.mark.parametrize("read", [read_with_openai, read_with_http_1_0])
async def test_a_node_that_is_killed_leaves_no_answer_that_looks_whole(
    redis: RedisClient, settings: Settings, read: Reader
) -> None:
    async with node(settings) as api, all_reading(api.url, read):
        api.process.kill()


async def test_a_call_that_waits_is_asked_to_come_again_when_its_node_ends(
    redis: RedisClient, settings: Settings
) -> None:
    async with node(settings) as api:
        call = asyncio.create_task(api.client.post("/v1/responses", json={"input": "Hello"}))
        await until_watched(redis)
        await api.stop()
        answer = await call
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.headers["connection"] == "close"
    assert answer.json()["error"]["code"] == "service_unavailable"


async def test_a_stream_is_cut_when_redis_is_away_for_too_long(
    redis: RedisClient, settings: Settings
) -> None:
    """Seen from the node, behind a door that closes."""
    async with (
        door_to(settings) as (url, close),
        node(settings.model_copy(update={"redis_url": url}), ANTIPHON_REDIS_OUTAGE_MAX_S="0.5") as api,
    ):
        async with all_reading(api.url, read_with_openai, read_with_http_1_0):
            await close()
        assert api.process.returncode is None


async def test_a_whole_answer_ends_in_order_for_a_client_of_http_1_0(
    redis: RedisClient, settings: Settings
) -> None:
    async with node(settings) as api:
        for request, status in (
            (b"GET /v1/models HTTP/1.0\r\n\r\n", b"200"),
            (b"GET /x HTTP/1.0\r\n\r\n", b"404"),
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
            writer.write(request)
            async with asyncio.timeout(PATIENCE_S):
                answer = await reader.read()
            assert answer.split()[1] == status
            assert b"transfer-encoding" not in answer
            writer.close()


async def until_watched(redis: RedisClient) -> None:
    """Waits until the only response has a reader."""

    async def is_watched() -> bool:
        members = await redis.command("ZRANGE", keys.ACTIVE, 0, -1)
        watched = [keys.readers(ResponseKey.parse(member.decode())) for member in members]
        return any([await redis.command("ZCARD", readers) for readers in watched])

    await until(is_watched)


@asynccontextmanager
async def door_to(settings: Settings) -> AsyncIterator[tuple[str, Callable[[], Coroutine[Any, Any, None]]]]:
    """Another address of the tests' Valkey, and how to close it: its connections break and none is taken."""
    host, port = settings.redis_url.removeprefix("redis://").split("/")[0].split(":")
    open_ones: set[asyncio.StreamWriter] = set()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while some := await reader.read(65_536):
            writer.write(some)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, to_there = await asyncio.open_connection(host, int(port))
        open_ones.update((writer, to_there))
        await asyncio.gather(pass_on(reader, to_there), pass_on(there, writer), return_exceptions=True)

    async def close() -> None:
        server.close()
        for writer in open_ones:
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        own_port = server.sockets[0].getsockname()[1]
        yield f"redis://127.0.0.1:{own_port}/0", close
    finally:
        await close()
