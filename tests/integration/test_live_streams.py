"""Events that are sent as they are published: over real sockets, to clients of every kind, byte for byte."""

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from shared.settings import Settings
from shared.store import keys
from shared.store.keys import ResponseKey
from shared.store.log import event_log
from shared.store.log.appender import Appender
from shared.store.log.response_log import Closing, NewEntry
from shared.store.owning import lease
from shared.store.owning.lease import Acquired, Lease
from shared.store.redis.client import RedisClient
from tests.appending import append_through
from tests.nodes import Node, node
from tests.patience import PATIENCE_S
from tests.requests import accept
from tests.streams import without_comments

CLOSING = Closing("completed", b"{}", 60)
_RECEIVE_BUFFER_BYTES = 65_536
"""Little more is taken from the network than is read, so that a stuck client holds up its server."""
END = b"\r\n0\r\n\r\n"


@pytest_asyncio.fixture
async def api(redis: RedisClient, settings: Settings) -> AsyncIterator[Node]:
    async with node(settings, ANTIPHON_KEEP_ALIVE_S="0.2", ANTIPHON_CLIENT_BUFFER_BYTES_MAX="100000") as api:
        yield api
        status, said = await api.stop()
        assert status == 0
        assert "Traceback" not in said


@pytest_asyncio.fixture
async def held(redis: RedisClient, settings: Settings) -> Lease:
    acquired = await lease.acquire(redis, settings, await accept(redis, settings), "a")
    assert isinstance(acquired, Acquired)
    return acquired.lease


class Client:
    """A connection that reads no more than it is asked to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer
        self.body = bytearray()

    @classmethod
    async def ask(cls, api: Node, key: ResponseKey, version: str = "1.1", more: str = "") -> "Client":
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
        connection.connect(("127.0.0.1", api.port))
        client = cls(*await asyncio.open_connection(sock=connection))
        path = f"/v1/responses/{key.response_id}?stream=true"
        client.writer.write(f"GET {path} HTTP/{version}\r\nhost: localhost\r\n{more}\r\n".encode())
        async with asyncio.timeout(PATIENCE_S):
            head = await client._reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        return client

    async def read_until(self, end: bytes) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while end not in self.body[-65_536:]:
                some = await self._reader.read(65_536)
                assert some
                self.body += some

    async def read_chunks(self) -> bytes:
        """The whole answer, without its chunks and comments."""
        await self.read_until(END)
        whole, rest = b"", bytes(self.body)
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            chunk, rest = rest[: int(size, 16)], rest[int(size, 16) + 2 :]
            whole += chunk
        return without_comments(whole)


async def write(appender: Appender, held: Lease, first: int, count: int, size_bytes: int) -> int:
    """One append for each event; returns the number that follows."""
    for number in range(first, first + count):
        frame = b"event: x\nid: %d\ndata: %0*d\n\n" % (number, size_bytes, number)
        await append_through(appender, held, number, [NewEntry(frame)])
    return first + count


async def stored(redis: RedisClient, key: ResponseKey) -> bytes:
    pages = [page async for page in event_log.pages(redis, key)]
    return b"".join(entry.frame for page in pages for entry in page.entries)


async def test_a_client_that_stops_reading_now_and_then_gets_every_byte_once(
    redis: RedisClient, appender: Appender, api: Node, held: Lease
) -> None:
    """Beside one that reads: what does not pass by goes through the buffer, or the log if that overflows."""
    slow, quick = await Client.ask(api, held.key), await Client.ask(api, held.key)
    reading = asyncio.create_task(quick.read_chunks())
    following = 1
    for size_bytes in (10, 2_000, 10, 100_000, 10):
        following = await write(appender, held, following, 60, size_bytes)
        await slow.read_until(b"id: %d\n" % (following - 30))
    await append_through(appender, held, following, [NewEntry(b"event: end\nid: 0\ndata: 0\n\n")], CLOSING)
    whole = await stored(redis, held.key)
    assert await reading == whole
    assert await slow.read_chunks() == whole
    for client in (slow, quick):
        client.writer.close()


async def test_a_client_of_http_1_0_is_sent_live_events_without_chunks(
    redis: RedisClient, appender: Appender, api: Node, held: Lease
) -> None:
    client = await Client.ask(api, held.key, "1.0")
    following = await write(appender, held, 1, 20, 10)
    await client.read_until(b"id: 20\n")
    await append_through(appender, held, following, [NewEntry(b"event: end\nid: 21\ndata: 0\n\n")], CLOSING)
    await client.read_until(b"id: 21\ndata: 0\n\n")
    assert without_comments(bytes(client.body)) == await stored(redis, held.key)
    assert await client._reader.read() == b""
    client.writer.close()


@pytest.mark.parametrize("more", ["", "content-length: 200000\r\n"])
async def test_a_client_that_leaves_is_missed_at_once(
    redis: RedisClient, appender: Appender, api: Node, held: Lease, more: str
) -> None:
    """Also one that never got round to sending the body that it has announced."""
    client = await Client.ask(api, held.key, more=more)
    await write(appender, held, 1, 5, 10)
    await client.read_until(b"id: 5\n")
    client.writer.write(b" " * 100_000 if more else b"")
    readers = keys.readers(held.key)
    assert await redis.command("ZCARD", readers) == 1
    client.writer.transport.abort()
    async with asyncio.timeout(PATIENCE_S):
        while await redis.command("ZCARD", readers):
            await asyncio.sleep(0.01)


async def test_the_head_of_a_stream_is_answered_without_one(api: Node, held: Lease) -> None:
    for _ in range(3):
        answer = await api.client.head(f"/v1/responses/{held.key.response_id}?stream=true")
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"


async def test_an_idle_stream_is_kept_alive_and_goes_on(
    redis: RedisClient, appender: Appender, api: Node, held: Lease
) -> None:
    client = await Client.ask(api, held.key)
    for number in range(1, 4):
        for _ in range(2):
            client.body += b"\r\n"  # not the comment that was read before
            await client.read_until(b"\r\n: keep-alive\n\r\n")
            client.body = client.body.replace(b": keep-alive\n", b": kept\n")
        await write(appender, held, number, 1, 10)
        await client.read_until(b"id: %d\n" % number)
    client.writer.close()
