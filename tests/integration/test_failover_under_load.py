"""The primary is lost under creates, closes, tool calls and conversations: what was answered stays so.

With `durable_writes=replica`. The short form is part of `make test`; `make failover` loses it in every way.
"""

import asyncio
import itertools
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import httpx
import pytest

from tests.chaos.mcp_server import read_counted, serving
from tests.failover import WatchedValkeys
from tests.patience import PATIENCE_S, until
from tests.running import RunningCluster, ask, start_cluster
from tests.streams import read_frames

SCRIPT = Path(__file__).parents[1] / "chaos" / "script.toml"
TOOLS = [{"type": "mcp", "server_label": "chaos", "require_approval": "never"}]
WORDS = ("tell 20", "count", "quick")
Strike = Literal["killed", "hangs", "replaced"]
ENDED = ("completed", "failed", "incomplete", "cancelled")
BEFORE, AFTER = 20, 30
"""The number of responses accepted before the failover, and after it."""


@dataclass
class Load:
    """Clients that create, read and reconnect, and what they received."""

    urls: list[str]
    accepted: list[str] = field(default_factory=list)
    conversations: list[str] = field(default_factory=list)
    ended: dict[str, bytes] = field(default_factory=dict)
    """The response when its end was first reported."""
    terminal_frames: dict[str, bytes] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    is_over: bool = False
    numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    async def serve_one(self, client: httpx.AsyncClient) -> None:
        while not self.is_over:
            number = next(self.numbers)
            if number % 5 == 0:
                await self._converse(client, number)
            else:
                await self._respond(client, number)

    async def _respond(self, client: httpx.AsyncClient, number: int) -> None:
        body = {"input": f"{WORDS[number % 3]} [k{number}]", "tools": TOOLS, "background": True}
        answer = await self._ask(client, number, "POST", "/v1/responses", body)
        response_id = answer.json()["id"]
        self.accepted.append(response_id)
        if number % 2:
            await self._read_stream(client, number, response_id)
        await self._poll(client, number, response_id)

    async def _converse(self, client: httpx.AsyncClient, number: int) -> None:
        body = {"items": [{"type": "message", "role": "user", "content": f"number {number}"}]}
        answer = await self._ask(client, number, "POST", "/v1/conversations", body)
        self.conversations.append(answer.json()["id"])

    async def _poll(self, client: httpx.AsyncClient, number: int, response_id: str) -> None:
        while True:
            answer = await self._ask(client, number, "GET", f"/v1/responses/{response_id}")
            if answer.json().get("status") in ENDED:
                self.ended[response_id] = answer.content
                return
            await asyncio.sleep(0.1)

    async def _read_stream(self, client: httpx.AsyncClient, number: int, response_id: str) -> None:
        url = f"{self._node(number)}/v1/responses/{response_id}"
        try:
            answer = await client.get(url, params={"stream": "true"}, timeout=120)
        except httpx.HTTPError:
            return  # cut: the poll goes on
        if answer.status_code == 404:
            self.wrong.append(f"{response_id} was accepted, and its stream is 404")
        if answer.status_code == 200:
            self.terminal_frames[response_id] = read_frames(answer.content)[-1].raw_data

    async def _ask(
        self, client: httpx.AsyncClient, number: int, method: str, path: str, body: Any = None
    ) -> httpx.Response:
        """Asks node after node until one answers."""
        headers = {"idempotency-key": f"key {number}"}
        for turn in itertools.count(number):
            try:
                answer = await client.request(
                    method, f"{self._node(turn)}{path}", json=body, headers=headers, timeout=30
                )
            except httpx.HTTPError:
                continue
            if answer.status_code == 200:
                return answer
            if answer.status_code != 503:
                self.wrong.append(f"{method} {path}: {answer.status_code} {answer.text[:200]}")
                break
            await asyncio.sleep(0.05)
        raise AssertionError(self.wrong)

    def _node(self, turn: int) -> str:
        return self.urls[turn % len(self.urls)]


@asynccontextmanager
async def under_load(load: Load, clients: int = 8) -> AsyncIterator[None]:
    async with httpx.AsyncClient() as client, asyncio.timeout(240):
        tasks = [asyncio.create_task(load.serve_one(client)) for _ in range(clients)]
        yield
        load.is_over = True
        await asyncio.gather(*tasks)


def strike(valkeys: WatchedValkeys, how: Strike, primary: int) -> None:
    match how:
        case "killed":
            valkeys.signal(primary, signal.SIGKILL)
        case "hangs":
            valkeys.signal(primary, signal.SIGSTOP)
        case "replaced":
            valkeys.begin_failover()


def check(load: Load, counted: Path) -> None:
    """Checks that what was reported is what there is now, however it is read."""
    assert load.wrong == []
    with httpx.Client(base_url=load.urls[0], timeout=PATIENCE_S) as client:
        for conversation_id in load.conversations:
            listed = ask(client, "GET", f"/v1/conversations/{conversation_id}/items")
            assert (listed.status_code, len(listed.json()["data"])) == (200, 1)
        for response_id in load.accepted:
            answer = ask(client, "GET", f"/v1/responses/{response_id}")
            assert answer.status_code == 200
            assert answer.json()["status"] == "completed", answer.json()["error"]
            assert answer.content == load.ended[response_id]
            stream = ask(client, "GET", f"/v1/responses/{response_id}?stream=true")
            frames = read_frames(stream.content)
            assert [frame.id for frame in frames] == list(range(len(frames)))
            assert [frame.event for frame in frames].count("response.completed") == 1
            assert load.terminal_frames.get(response_id, frames[-1].raw_data) == frames[-1].raw_data
    executed = read_counted(counted)
    assert executed
    assert max(executed.values()) == 1


@pytest.mark.timeout(420)
@pytest.mark.parametrize(
    ("how", "replicas"),
    [
        pytest.param("replaced", 2, marks=pytest.mark.slow),
        *(
            pytest.param(how, replicas, marks=pytest.mark.failover)
            for how in get_args(Strike)
            for replicas in (1, 2)
            if (how, replicas) != ("replaced", 2)
        ),
    ],
)
async def test_nothing_that_was_answered_is_lost_or_done_twice_when_the_primary_is(
    tmp_path: Path, how: Strike, replicas: int
) -> None:
    counted = tmp_path / "counted"
    with serving(counted, 1.0) as url, WatchedValkeys(tmp_path / "valkeys", replicas) as valkeys:
        (tmp_path / "servers.json").write_text(json.dumps({"chaos": {"url": f"{url}/mcp"}}))
        cluster = start(tmp_path, valkeys)
        try:
            load = Load(cluster.urls)
            primary = valkeys.primary()
            async with under_load(load):
                await until(lambda: bool(load.wrong) or len(load.accepted) >= BEFORE)
                strike(valkeys, how, primary)
                await until(lambda: valkeys.primary() != primary)
                accepted = len(load.accepted)
                await until(lambda: bool(load.wrong) or len(load.accepted) >= accepted + AFTER)
            check(load, counted)
        finally:
            cluster.stop()


def start(folder: Path, valkeys: WatchedValkeys) -> RunningCluster:
    environment = {
        "ANTIPHON_DURABLE_WRITES": "replica",
        "ANTIPHON_SCRIPT": str(SCRIPT),
        "ANTIPHON_MCP_SERVERS": str(folder / "servers.json"),
        "ANTIPHON_REDIS_OUTAGE_MAX_S": "100",
    }
    options = ("--apis", "2", "--workers", "2", "--redis-url", valkeys.url)
    return start_cluster(folder / "data", *options, **environment)
