"""A client that sends tens of thousands of frames at once has them read a few at a time."""

import asyncio
import base64
import json
import os
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from websockets.frames import Frame, Opcode

from api import socket_protocol
from shared.settings import Settings
from shared.store.redis.client import RedisClient
from tests.patience import PATIENCE_S, until
from tests.serving import serving

PIECE_FRAMES = socket_protocol._PIECE_BYTES // 6 + 1
"""An empty frame of a client has six bytes."""


def masked(opcode: Opcode, data: bytes = b"") -> bytes:
    return Frame(opcode, data).serialize(mask=True)


@pytest_asyncio.fixture
async def streams(
    redis: RedisClient, settings: Settings
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Yields a WebSocket of a node in this thread, as its bytes."""
    async with serving(settings) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**24)
        try:
            key = base64.b64encode(os.urandom(16)).decode()
            lines = [
                "GET /v1/responses HTTP/1.1",
                "host: 127.0.0.1",
                "connection: upgrade",
                "upgrade: websocket",
                f"sec-websocket-key: {key}",
                "sec-websocket-version: 13",
            ]
            writer.write("\r\n".join([*lines, "", ""]).encode())
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
            yield reader, writer
        finally:
            writer.transport.abort()


@pytest.mark.parametrize("opcode", [Opcode.PING, Opcode.PONG, Opcode.TEXT])
async def test_between_a_few_frames_of_one_client_the_others_have_their_turn(
    streams: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    monkeypatch: pytest.MonkeyPatch,
    opcode: Opcode,
) -> None:
    """With no time for more than one piece, no turn of the loop reads more than that."""
    monkeypatch.setattr(socket_protocol, "_STEP_S", 0.0)
    read = list[int]()  # frames, by turn of the loop
    name = {Opcode.PING: "handle_ping", Opcode.PONG: "handle_pong", Opcode.TEXT: "handle_text"}[opcode]
    handle = getattr(socket_protocol.SocketProtocol, name)

    def count(self: socket_protocol.SocketProtocol, *event: Frame) -> None:
        read[-1] += 1
        handle(self, *event)

    monkeypatch.setattr(socket_protocol.SocketProtocol, name, count)
    reader, writer = streams
    loop = asyncio.get_running_loop()
    is_over = False

    def turn() -> None:
        read.append(0)
        if not is_over:
            loop.call_soon(turn)

    turn()
    number = 4_000
    writer.write(masked(opcode) * number + masked(Opcode.PING, b"last"))
    async with asyncio.timeout(PATIENCE_S):
        await reader.readuntil(bytes([0x8A, 4]) + b"last")
    is_over = True
    assert sum(read) == number + (opcode is Opcode.PING)
    assert max(read) <= 2 * PIECE_FRAMES, "a piece that was left, and one that has come"


async def test_a_client_that_leaves_before_it_has_read_an_answer_is_no_outage_of_redis(
    streams: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    stuck = list[socket_protocol.SocketProtocol]()
    pause = socket_protocol.SocketProtocol.pause_writing

    def note(self: socket_protocol.SocketProtocol) -> None:
        stuck.append(self)
        pause(self)

    monkeypatch.setattr(socket_protocol.SocketProtocol, "pause_writing", note)
    _, writer = streams
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    steer = {"type": "response.steer", "previous_response_id": "resp_0", "input": "x" * 100_000}
    for _ in range(200):  # each is given back
        writer.write(masked(Opcode.TEXT, json.dumps(steer).encode()))
    await until(lambda: stuck)
    writer.transport.abort()
    await until(lambda: not stuck[0].tasks)
    assert "Redis" not in caplog.text
