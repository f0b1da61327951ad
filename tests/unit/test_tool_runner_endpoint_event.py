"""How a server over HTTP with SSE says where messages are posted: each shape of its stream, in what time."""

import asyncio
from collections.abc import AsyncIterator

import httpx2
import pytest

from tests.virtual_time import run_in_virtual_time
from tool_runner.endpoint_event import Listening, NoEndpoint, find_fault

URL = "http://one.example/sse"
WAIT_S = 10.0
EVENT = b"event: endpoint\ndata: /messages?session=1\n\n"


class Body(httpx2.AsyncByteStream):
    """Chunks of a stream, each after the same time; it ends with them, or never."""

    def __init__(self, *chunks: bytes, lasts: bool = True, every_s: float = 1.0) -> None:
        self._chunks, self._lasts, self._every_s = chunks, lasts, every_s

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self._chunks:
            await asyncio.sleep(self._every_s)
            yield chunk
        if self._lasts:
            await asyncio.Event().wait()


class Way(httpx2.AsyncBaseTransport):
    def __init__(self, body: Body, kind: str = "text/event-stream", after_s: float = 0.0) -> None:
        self._body, self._kind, self._after_s = body, kind, after_s

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        await asyncio.sleep(self._after_s)
        return httpx2.Response(200, headers={"content-type": self._kind}, stream=self._body, request=request)


def listen(way: Way) -> tuple[bytes | str, float]:
    """What has been read when the beginning is over, or what is said of it; and at which second."""

    async def begin() -> tuple[bytes | str, float]:
        listening = Listening(URL, WAIT_S)
        try:
            response = await listening.begin(way, httpx2.Request("GET", URL))
            assert listening.is_open
            assert isinstance(response.stream, httpx2.AsyncByteStream)
            chunks = listening.read(response.stream)
            read: bytes | str = await anext(chunks)
            async for chunk in chunks:
                assert isinstance(read, bytes)
                read += chunk
        except NoEndpoint as refused:
            read = str(refused).removeprefix("over HTTP with SSE, the server ")
        return read, asyncio.get_running_loop().time()

    return run_in_virtual_time(begin)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("size", [2, 7, 1_000])
def test_a_stream_is_passed_on_as_it_came_once_it_has_said_where_messages_go(end: bytes, size: int) -> None:
    whole = (b": hello\n\nevent: ping\ndata: 1\n\n" + EVENT + b"data: {}\n\n: rest").replace(b"\n", end)
    chunks = [whole[at : at + size] for at in range(0, len(whole), size)]
    body = Body(*chunks, lasts=False, every_s=0.125)
    assert listen(Way(body)) == (whole, len(chunks) / 8)


@pytest.mark.parametrize(
    ("way", "said", "at_s"),
    [
        (Way(Body()), "sent no `endpoint` event within 10 s", 10),
        (Way(Body(*(b": still here\n\n",) * 60)), "sent no `endpoint` event within 10 s", 10),
        (Way(Body(), after_s=60.0), "did not answer GET within 10 s", 10),
        (Way(Body(), after_s=4.0), "sent no `endpoint` event within 10 s", 10),
        (
            Way(Body(b"event: endpoint\ndata: /m", lasts=False)),
            "ended its stream before an `endpoint` event",
            1,
        ),
        (Way(Body(b": " + b"x" * 70_000)), "sent 65536 bytes without an `endpoint` event", 1),
        (Way(Body(b"data: {}\n\n")), "sent a message before an `endpoint` event", 1),
        (
            Way(Body(), kind="application/json"),
            "answered GET with content of application/json, not text/event-stream",
            0,
        ),
        (Way(Body(), kind=""), "answered GET with content of another type, not text/event-stream", 0),
    ],
)
def test_what_a_server_does_instead_is_said_and_waited_for_ten_seconds_at_most(
    way: Way, said: str, at_s: float
) -> None:
    assert listen(way) == (said, at_s)


@pytest.mark.parametrize(
    ("endpoint", "fault"),
    [
        ("/messages", None),
        ("messages?session=1", None),
        ("http://one.example/m", None),
        ("", "names no URL in its `endpoint` event"),
        ("  ", "names no URL in its `endpoint` event"),
        ("http://[", "names no URL in its `endpoint` event"),
        ("http://one.example:x/", "names no URL in its `endpoint` event"),
        ("https://one.example/m", "leads to another origin in its `endpoint` event (another scheme)"),
        ("//two.example:81/m", "leads to another origin in its `endpoint` event (another host, port)"),
        ("http://u:p@one.example/", "leads to another origin in its `endpoint` event (another user)"),
        ("file:///etc/passwd", "leads to another origin in its `endpoint` event (another scheme, host)"),
    ],
)
def test_a_place_for_messages_is_one_of_the_servers_own(endpoint: str, fault: str | None) -> None:
    assert find_fault(URL, endpoint) == fault
