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
from shared.store.owning.lease import Lease
from shared.store.redis.client import RedisClient
from tests.appending import append_through, begin
from tests.nodes import Node, node
from tests.patience import PATIENCE_S, until
from tests.streams import without_comments

CLOSING = Closing("completed", b"{}", 60)
_RECEIVE_BUFFER_BYTES = 65_536
"""Little more is taken from the network than is read, so that a stuck client holds up its server."""
END = b"\r\n0\r\n\r\n"
HEALTHY = b'{"status":"ok"}'


def stream_of(key: ResponseKey) -> str:
    return f"/v1/responses/{key.response_id}?stream=true"


@pytest_asyncio.fixture
async def api(redis: RedisClient, settings: Settings) -> AsyncIterator[Node]:
    async with node(settings, ANTIPHON_KEEP_ALIVE_S="0.2", ANTIPHON_CLIENT_BUFFER_BYTES_MAX="100000") as api:
        yield api
        status, said = await api.stop()
        assert status == 0
        assert "Traceback" not in said


@pytest_asyncio.fixture
async def held(redis: RedisClient, settings: Settings) -> Lease:
    return await begin(redis, settings)


def head_of(path: str, *more: str, method: str = "GET", version: str = "1.1") -> bytes:
    """Returns a request without a body."""
    return "\r\n".join((f"{method} {path} HTTP/{version}", "host: localhost", *more, "", "")).encode()


class Client:
    """A connection that reads no more than it is asked to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer
        self.body = bytearray()

    @classmethod
    async def connect(cls, api: Node) -> "Client":
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
        connection.connect(("127.0.0.1", api.port))
        return cls(*await asyncio.open_connection(sock=connection))

    @classmethod
    async def ask(cls, api: Node, key: ResponseKey, *more: str, version: str = "1.1") -> "Client":
        client = await cls.connect(api)
        client.send(stream_of(key), *more, version=version)
        await client.read_head()
        return client

    def send(self, path: str, *more: str, method: str = "GET", version: str = "1.1") -> None:
        self.writer.write(head_of(path, *more, method=method, version=version))

    async def _receive(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            some = await self._reader.read(65_536)
        assert some
        self.body += some

    async def _take(self, size: int) -> bytes:
        while len(self.body) < size:
            await self._receive()
        taken = bytes(self.body[:size])
        del self.body[:size]
        return taken

    async def read_head(self) -> None:
        while b"\r\n\r\n" not in self.body:
            await self._receive()
        head = await self._take(self.body.index(b"\r\n\r\n") + 4)
        assert head.startswith(b"HTTP/1.1 200 OK\r\n"), head

    async def read_health(self) -> None:
        await self.read_head()
        assert await self._take(len(HEALTHY)) == HEALTHY

    async def read_until(self, end: bytes) -> None:
        while end not in self.body[-2 * 65_536 :]:
            await self._receive()

    async def read_chunks(self) -> bytes:
        """The rest of a whole answer, without its chunks and comments."""
        await self.read_until(END)
        whole, rest = b"", await self._take(self.body.index(END) + len(END))
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            chunk, rest = rest[: int(size, 16)], rest[int(size, 16) + 2 :]
            whole += chunk
        return without_comments(whole)

    async def read_to_the_end(self) -> bytes:
        """The rest of an answer that ends where its connection does."""
        async with asyncio.timeout(PATIENCE_S):
            while some := await self._reader.read(65_536):
                self.body += some
        return without_comments(bytes(self.body))


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
    client = await Client.ask(api, held.key, version="1.0")
    following = await write(appender, held, 1, 20, 10)
    await client.read_until(b"id: 20\n")
    await append_through(appender, held, following, [NewEntry(b"event: end\nid: 21\ndata: 0\n\n")], CLOSING)
    assert await client.read_to_the_end() == await stored(redis, held.key)
    client.writer.close()


@pytest.mark.parametrize("more", [(), ("content-length: 200000",)])
async def test_a_client_that_leaves_is_missed_at_once(
    redis: RedisClient, appender: Appender, api: Node, held: Lease, more: tuple[str, ...]
) -> None:
    """Also one that never got round to sending the body that it has announced."""
    client = await Client.ask(api, held.key, *more)
    await write(appender, held, 1, 5, 10)
    await client.read_until(b"id: 5\n")
    client.writer.write(b" " * 100_000 if more else b"")
    readers = keys.readers(held.key)
    assert await redis.command("ZCARD", readers) == 1
    client.writer.transport.abort()
    async with asyncio.timeout(PATIENCE_S):
        while await redis.command("ZCARD", readers):
            await asyncio.sleep(0.01)


async def end(appender: Appender, held: Lease, number: int, size_bytes: int = 1) -> None:
    frame = b"event: end\nid: %d\ndata: %0*d\n\n" % (number, size_bytes, 0)
    await append_through(appender, held, number, [NewEntry(frame)], CLOSING)


async def are_reading(redis: RedisClient, held: Lease, count: int) -> None:
    async def are() -> bool:
        return bool(await redis.command("ZCARD", keys.readers(held.key)) == count)

    await until(are)


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


# --- slow clients -------------------------------------------------------------------------------


@pytest.mark.parametrize("last_bytes", [10, 3_000_000])
async def test_a_client_that_is_slow_at_the_last_frame_gets_it_and_the_end(
    redis: RedisClient, appender: Appender, api: Node, held: Lease, last_bytes: int
) -> None:
    """Of a log that is closed while much, or only its last frame, waits for the client."""
    slow, quick = await Client.ask(api, held.key), await Client.ask(api, held.key)
    reading = asyncio.create_task(quick.read_chunks())
    following = await write(appender, held, 1, 10, 500_000 if last_bytes < 500_000 else 10)
    await end(appender, held, following, last_bytes)
    whole = await stored(redis, held.key)
    assert await reading == whole  # so the end has reached this node
    for client in (slow, quick):
        if client is slow:
            assert await client.read_chunks() == whole
        client.send("/health")
        await client.read_health()
        client.writer.close()


async def test_a_node_that_ends_cuts_the_stream_of_a_client_that_reads_nothing(
    redis: RedisClient, appender: Appender, api: Node, held: Lease
) -> None:
    stuck = await Client.ask(api, held.key)
    await write(appender, held, 1, 60, 100_000)
    status, said = await api.stop()
    assert (status, "Cancel 1 running task" in said, "was cut" in said) == (0, False, True), said
    with pytest.raises(AssertionError):
        await stuck.read_until(END)
    stuck.writer.close()


async def test_a_client_of_http_1_0_that_stops_reading_gets_every_byte_and_the_end(
    redis: RedisClient, appender: Appender, api: Node, held: Lease
) -> None:
    slow, quick = await Client.ask(api, held.key, version="1.0"), await Client.ask(api, held.key)
    reading = asyncio.create_task(quick.read_chunks())
    following = await write(appender, held, 1, 30, 100_000)
    await slow.read_until(b"id: 5\n")
    following = await write(appender, held, following, 30, 100_000)
    await end(appender, held, following)
    assert await reading == await stored(redis, held.key)
    assert await slow.read_to_the_end() == await stored(redis, held.key)
    for client in (slow, quick):
        client.writer.close()


# --- cursors ------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["Last-Event-ID", "starting_after"])
async def test_readers_that_resume_at_every_number_of_a_live_log_get_the_rest_of_it(
    redis: RedisClient, appender: Appender, api: Node, held: Lease, by: str
) -> None:
    """Also at numbers that are not there yet, as after a failover."""
    clients: list[Client] = []

    async def resume(after: int) -> None:
        if by == "starting_after":
            client = await Client.connect(api)
            client.send(f"{stream_of(held.key)}&starting_after={after}")
            await client.read_head()
        else:
            client = await Client.ask(api, held.key, f"{by}: {after}")
        clients.append(client)

    following = 1
    for after in range(24):  # every other one is at the last number, and the others ahead of it
        await resume(after)
        if after % 2:
            following = await write(appender, held, following, 1, 10 if after % 4 else 100_000)
    await resume(-1)
    following = await write(appender, held, following, 24, 10)
    await end(appender, held, following)
    frames = [entry.frame async for page in event_log.pages(redis, held.key) for entry in page.entries]
    for after, client in zip((*range(24), -1), clients, strict=True):
        assert await client.read_chunks() == b"".join(frames[after + 1 :]), after
        client.writer.close()


# --- connections --------------------------------------------------------------------------------


async def test_a_head_is_followed_by_nothing_of_the_stream(
    redis: RedisClient, appender: Appender, api: Node, held: Lease
) -> None:
    """The connection is free for the next request at once, though the stream goes on."""
    client = await Client.connect(api)
    client.send(stream_of(held.key), method="HEAD")
    await client.read_head()
    await write(appender, held, 1, 5, 10)
    client.send("/health")
    await client.read_health()
    client.writer.close()


async def test_a_connection_serves_what_follows_a_stream_also_if_it_was_asked_for_before_its_end(
    redis: RedisClient, appender: Appender, api: Node, settings: Settings, held: Lease
) -> None:
    """Three streams and what is between them, each of which is live when its turn comes."""
    logs = [held, await begin(redis, settings), await begin(redis, settings)]
    client = await Client.connect(api)
    client.send(stream_of(logs[0].key))
    client.send("/health")
    client.send(stream_of(logs[1].key))
    for each in logs[:2]:
        await client.read_head()
        following = await write(appender, each, 1, 3, 10)
        await client.read_until(b"id: 3\n")
        await end(appender, each, following)
        assert await client.read_chunks() == await stored(redis, each.key)
        if each is logs[0]:
            await client.read_health()
    client.send(stream_of(logs[2].key))
    await client.read_head()
    await write(appender, logs[2], 1, 3, 10)
    await client.read_until(b"id: 3\n")
    await are_reading(redis, logs[2], 1)
    client.writer.transport.abort()
    await are_reading(redis, logs[2], 0)


async def test_a_client_that_leaves_with_a_request_behind_its_stream_is_missed(
    redis: RedisClient, appender: Appender, api: Node, held: Lease
) -> None:
    """Nothing is read from its connection meanwhile, so a keep-alive has to find out."""
    client = await Client.ask(api, held.key)
    client.send("/health")
    await write(appender, held, 1, 3, 10)
    await client.read_until(b"id: 3\n")
    await are_reading(redis, held, 1)
    client.writer.transport.abort()
    await are_reading(redis, held, 0)
    status, said = await api.stop()
    assert (status, "without completing response" in said) == (0, False), said


async def test_a_client_that_is_refused_before_its_stream_begins_leaves_no_reader_and_no_error(
    redis: RedisClient, appender: Appender, api: Node, held: Lease
) -> None:
    """Nonsense behind two requests, the second of which waits for the end of the first."""
    client = await Client.connect(api)
    try:
        # In one write, or the first request might be answered before the nonsense arrives.
        client.writer.write(head_of(stream_of(held.key)) + head_of("/health") + b"nonsense\r\n\r\n")
        assert await client.read_to_the_end() == b""
    finally:
        client.writer.close()
    other = await Client.ask(api, held.key)
    await write(appender, held, 1, 1, 10)
    await other.read_until(b"id: 1\n")
    await are_reading(redis, held, 1)
    other.writer.transport.abort()
    await are_reading(redis, held, 0)
