"""Crowds: clients that drop and come back on any node, one that stops reading, nodes that restart."""

import asyncio
import os
import random
import secrets
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.conformance.test_background import open_responses
from tests.patience import PATIENCE_S, wait_until
from tests.running import PATIENT, RunningCluster, start_cluster
from tests.streams import Frame, read_frames

PYTHON: Any = {"type": "mcp", "server_label": "code_interpreter"}
SCRIPT = Path(__file__).parent / "phases.toml"
CLIENTS = 300
_TERMINAL = {"response.completed", "response.incomplete", "response.failed"}


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    """Three API nodes that may be restarted; nothing may be left open in the end."""
    data = tmp_path_factory.mktemp("busy") / "data"
    running = start_cluster(
        data,
        *("--apis", "3", "--script", str(SCRIPT)),
        ANTIPHON_ARCHIVE_AFTER_S="0",
        ANTIPHON_DISCONNECT_GRACE_S="60",  # a client of a crowd may be slow to come back
        ANTIPHON_CONTEXT_TOKENS_MAX="1000000",
        **PATIENT,
    )
    yield running
    try:
        wait_until(lambda: open_responses(running) == [])
    finally:
        running.stop()


class Wanderer:
    """A client that reads a bit of a stream, drops it, and goes on at another node."""

    def __init__(self, nodes: list[httpx.AsyncClient], seed: int) -> None:
        self._nodes = nodes
        self._random = random.Random(seed)
        self._name = secrets.token_hex(16)
        self._frames: list[Frame] = []
        self.response_id = ""
        self.drops = 0

    async def run(self, body: dict[str, Any]) -> list[Frame]:
        """The frames that it has seen, each once, to the terminal one."""
        while not self._frames:  # the key makes asking again safe
            await self._read("POST", "/v1/responses", json=body, headers={"Idempotency-Key": self._name})
        self.response_id = self._frames[0].data["response"]["id"]
        while self._frames[-1].event not in _TERMINAL:
            self.drops += 1
            params = {"stream": "true", "starting_after": self._frames[-1].id}
            await self._read("GET", f"/v1/responses/{self.response_id}", params=params)
        return self._frames

    async def replay(self) -> list[Frame]:
        """The whole log, from the first node that has it to give."""
        while True:
            node = self._random.choice(self._nodes)
            try:
                whole = await node.get(f"/v1/responses/{self.response_id}", params={"stream": "true"})
            except httpx.TransportError:
                await asyncio.sleep(0.05)
                continue
            if whole.status_code == 200:
                return read_frames(whole.content)
            assert whole.status_code == 503, whole.text
            await asyncio.sleep(0.05)

    async def _read(self, method: str, path: str, **request: Any) -> None:
        """Reads frames until the end, or until chance or a dying node breaks the connection."""
        node = self._random.choice(self._nodes)
        frames_max = self._random.randint(1, 40)
        seen = b""
        try:
            async with node.stream(method, path, **request) as stream:
                assert stream.status_code in (200, 503), await stream.aread()
                async for chunk in stream.aiter_bytes():
                    seen += chunk
                    if seen.count(b"\n\n") >= frames_max:
                        break
        except httpx.TransportError:
            await asyncio.sleep(0.05)  # a node that restarts is not asked again at once
        if seen.startswith(b"{"):
            return
        whole = seen[: seen.rindex(b"\n\n") + 2] if b"\n\n" in seen else b""
        self._frames += read_frames(whole)


async def wander(cluster: RunningCluster, count: int, body_of: Any) -> list[tuple[Wanderer, list[Frame]]]:
    limits = httpx.Limits(max_connections=2 * count)
    nodes = [httpx.AsyncClient(base_url=url, limits=limits, timeout=PATIENCE_S) for url in cluster.urls]
    try:
        wanderers = [Wanderer(nodes, seed) for seed in range(count)]
        async with asyncio.timeout(2 * PATIENCE_S):
            seen = await asyncio.gather(*(w.run(body_of(i)) for i, w in enumerate(wanderers)))
            for wanderer, frames in zip(wanderers, seen, strict=True):
                assert frames == await wanderer.replay()
        return list(zip(wanderers, seen, strict=True))
    finally:
        for node in nodes:
            await node.aclose()


async def test_three_hundred_clients_that_drop_and_resume_anywhere_hold_the_exact_log(
    busy: RunningCluster,
) -> None:
    def body_of(i: int) -> dict[str, Any]:
        text = f"Multiply {i}*1000" if i % 3 else "Hello"
        return {
            "model": "default",
            "input": text,
            "tools": [PYTHON],
            "stream": True,
            "background": i % 2 == 0,
        }

    seen = await wander(busy, CLIENTS, body_of)
    assert sum(wanderer.drops for wanderer, _ in seen) > CLIENTS / 2
    for i, (_, frames) in enumerate(seen):
        assert [frame.id for frame in frames] == list(range(len(frames)))
        assert frames[-1].event == "response.completed"
        if i % 3:
            assert f"{i * 1000:,}" in frames[-1].data["response"]["output"][-1]["content"][0]["text"]


async def test_clients_that_reconnect_lose_nothing_when_every_api_node_restarts(busy: RunningCluster) -> None:
    def body_of(i: int) -> dict[str, Any]:
        return {"model": "default", "input": f"Hello number {i}", "stream": True, "background": True}

    async def restart_all() -> None:
        for number in range(3):
            pid = busy.kill("api", signal.SIGTERM if number else signal.SIGKILL, number)
            await asyncio.to_thread(wait_until_restarted, busy, number, pid)

    restarting = asyncio.create_task(restart_all())
    rounds = 0
    while not restarting.done():
        for _, frames in await wander(busy, 20, body_of):
            assert frames[-1].event == "response.completed"
        rounds += 1
    await restarting
    assert rounds


def wait_until_restarted(cluster: RunningCluster, number: int, old_pid: int) -> None:
    wait_until(lambda: pid_of(cluster, number) not in (None, old_pid))
    wait_until(lambda: is_healthy(cluster.urls[number]))


def pid_of(cluster: RunningCluster, number: int) -> int | None:
    (pid,) = [r["pid"] for r in cluster.record["roles"] if (r["kind"], r["number"]) == ("api", number)]
    return int(pid) if pid is not None else None


def is_healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").status_code == 200
    except httpx.TransportError:
        return False


async def test_a_reader_that_stops_reading_costs_its_bound_and_still_gets_every_byte(
    busy: RunningCluster,
) -> None:
    body = {"model": "default", "input": "Count to 30000", "background": True}
    async with httpx.AsyncClient(base_url=busy.urls[1], timeout=PATIENCE_S) as node:
        created = (await node.post("/v1/responses", json=body)).json()
        path = f"/v1/responses/{created['id']}?stream=true"
        before_bytes = memory_of(busy, 1)
        with connect(busy.urls[1], path) as stuck:
            whole = (await node.get(path)).content
            assert read_frames(whole)[-1].event == "response.completed"
            assert len(whole) > 10_000_000
            grown_bytes = memory_of(busy, 1) - before_bytes
            received = await asyncio.to_thread(read_all, stuck)
    assert without_keep_alives(received) == without_keep_alives(whole)
    assert grown_bytes < len(whole) / 2


def connect(url: str, path: str) -> socket.socket:
    """A reader with a small window that has asked and reads nothing yet."""
    address = urlsplit(url)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8_192)
    connection.connect((address.hostname, address.port))
    connection.sendall(f"GET {path} HTTP/1.1\r\nhost: {address.netloc}\r\nconnection: close\r\n\r\n".encode())
    return connection


def without_keep_alives(body: bytes) -> bytes:
    """Leaves out the comments that a reader gets only if it is kept waiting."""
    return body.replace(b": keep-alive\n", b"")


def read_all(connection: socket.socket) -> bytes:
    """The body of the answer, out of its chunks."""
    connection.settimeout(PATIENCE_S)
    received = bytearray()
    while chunk := connection.recv(1 << 20):
        received += chunk
    _, _, rest = bytes(received).partition(b"\r\n\r\n")
    body = bytearray()
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        body += rest[: int(size, 16)]
        rest = rest[int(size, 16) + 2 :] if int(size, 16) else b""
    return bytes(body)


def memory_of(cluster: RunningCluster, number: int) -> int:
    """Resident bytes of an API node."""
    pages = int(Path(f"/proc/{pid_of(cluster, number)}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
