"""Each process's connections to Redis can be cut, blocked and delayed separately."""

import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from local.ports import HOST
from tests.chaos import network
from tests.patience import PATIENCE_S


class Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while data := self.request.recv(100):
            self.request.sendall(data)


@pytest.fixture
def port() -> Iterator[int]:
    """Of a server that says everything again."""
    with socketserver.ThreadingTCPServer((HOST, 0), Echo) as server:
        threading.Thread(target=server.serve_forever).start()
        yield server.server_address[1]
        server.shutdown()


def connect(url: str) -> socket.socket:
    address = HOST, int(url.rpartition(":")[2].partition("/")[0])
    return socket.create_connection(address, timeout=PATIENCE_S)


def ask(connection: socket.socket) -> bytes:
    connection.sendall(b"x")
    return connection.recv(100)


def ask_for_ever(connection: socket.socket) -> None:
    while True:
        assert ask(connection) == b"x"


def is_gone(connection: socket.socket) -> bool:
    try:
        return connection.recv(100) == b""
    except ConnectionResetError:
        return True


def test_a_way_that_is_cut_or_held_loses_its_connections_and_takes_new_ones(
    port: int, tmp_path: Path
) -> None:
    with network.running(["worker-0", "api-0"], tmp_path / "log") as ways:
        ways.lead_to(port)
        way = ways.urls["worker-0"]
        with connect(way) as first, connect(ways.urls["api-0"]) as other:
            assert (ask(first), ask(other)) == (b"x", b"x")
            ways.cut("worker-0")
            assert is_gone(first)
            assert ask(other) == b"x"
            with connect(way) as second:
                assert ask(second) == b"x"
                ways.hold("worker-0", 0.5)
                assert is_gone(second), "when the way opens again"
            with connect(way) as third:
                assert ask(third) == b"x"


def test_a_way_that_is_reset_gives_one_more_answer_and_takes_new_connections(
    port: int, tmp_path: Path
) -> None:
    with network.running(["worker-0"], tmp_path / "log") as ways:
        ways.lead_to(port)
        with connect(ways.urls["worker-0"]) as first:
            assert ask(first) == b"x"
            ways.reset("worker-0")
            with pytest.raises(ConnectionError):
                ask_for_ever(first)  # the proxy reads its commands asynchronously
            with connect(ways.urls["worker-0"]) as second:
                assert ask(second) == b"x"


def test_a_slow_way_carries_everything_later(port: int, tmp_path: Path) -> None:
    with network.running(["worker-0"], tmp_path / "log") as ways:
        ways.lead_to(port)
        with connect(ways.urls["worker-0"]) as connection:
            assert ask(connection) == b"x"
            ways.slow(0.3, PATIENCE_S)
            ends_s = time.monotonic() + PATIENCE_S
            took_s = 0.0
            while took_s < 0.6:  # the proxy reads its commands asynchronously
                assert time.monotonic() < ends_s
                asked_s = time.monotonic()
                assert ask(connection) == b"x"
                took_s = time.monotonic() - asked_s
