"""Requests that are hard on a node, beside a streaming neighbour: `python -m tests.stalls` prints the table.

Owns the requests and what is measured of an API node and a worker that serve them; what may be is the tests'.
A row is added to `ROWS`. Needs nothing of the code that it measures but its HTTP interface, so that other
commits can be measured with it as well.
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from local.ports import find_free
from local.valkey import Valkey
from tests.patience import PATIENCE_S, until, wait_until

ROOT = Path(__file__).resolve().parents[1]
CONTEXT_TOKENS = 131_072
_SETTINGS = {
    "ANTIPHON_CONTEXT_TOKENS_MAX": str(CONTEXT_TOKENS),
    # However slow the machine, no call is refused because of Redis, and no response changes its owner.
    "ANTIPHON_REDIS_TIMEOUT_S": str(PATIENCE_S),
    "ANTIPHON_LEASE_TTL_S": "60",
    # A row's responses end when its readers have left, so that none runs into the next row.
    "ANTIPHON_DISCONNECT_GRACE_S": "0",
    # Far beyond the defaults, since a request refused for its number alone would show nothing.
    "ANTIPHON_ITEMS_MAX": "200000",
    "ANTIPHON_TOOLS_MAX": "50000",
    "ANTIPHON_BODY_BYTES_MAX": str(40 * 2**20),
}
_WIDE = {"ANTIPHON_JSON_VALUES_MAX": "10000000"}
_NEIGHBOUR = {"model": "default", "input": "Count from 1 to 100000", "stream": True}
_ALONE_S = 2.0
_WITHIN_S = 240.0


_Maker = Callable[[httpx.AsyncClient], Awaitable[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Row:
    """`make` gives the body of a POST to `path`; what it needs before may be asked of the client.

    `is_wide`: it has more values than are accepted by default, and is sent to a cluster that takes them. What
    a decoder holds the interpreter for there is not asserted: that is what the default is for.
    """

    name: str
    make: _Maker
    statuses: tuple[int, ...] = (200,)
    path: str = "/v1/responses"
    is_wide: bool = False


@dataclass(frozen=True, slots=True)
class Held:
    """What one process reported about a row: how long its loop's thread had the processor at a stretch, and
    how long others while that had no turn. `chars_at_once`: of the longest text encoded in one call."""

    held_s: float
    kept_out_s: float
    encodes: int
    chars: int
    chars_at_once: int


@dataclass(frozen=True, slots=True)
class Measured:
    row: Row
    status: int
    body_bytes: int
    took_s: float
    api: Held
    worker: Held
    gap_ratio: float
    """The ratio of the neighbour's longest gap between two pieces of its stream to its longest gap alone."""


# --- the requests -------------------------------------------------------------------------------


def _message(text: str, role: str = "user") -> dict[str, Any]:
    return {"type": "message", "role": role, "content": text}


def _simply(**body: Any) -> _Maker:
    async def make(_client: httpx.AsyncClient) -> dict[str, Any]:
        return {"model": "default", "input": "Hello!", **body}

    return make


def _body(**body: Any) -> _Maker:
    async def make(_client: httpx.AsyncClient) -> dict[str, Any]:
        return body

    return make


def _function(name: str = "f", **more: Any) -> dict[str, Any]:
    return {"type": "function", "name": name, "parameters": {"type": "object"}, **more}


def _with_schema(schema: dict[str, Any]) -> _Maker:
    return _simply(tools=[_function(parameters={"type": "object", **schema})])


def _nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema, "b": {"type": "string"}}}
    return schema


def _listed(description: str) -> _Maker:
    tool = {"name": "ask", "input_schema": {"type": "object"}, "description": description}
    listing = {"type": "mcp_list_tools", "server_label": "wiki", "tools": [tool]}
    server = {"type": "mcp", "server_label": "wiki", "server_url": "http://127.0.0.1:9/mcp"}
    return _simply(tools=[server], input=[listing, _message("Hello!")])


async def _references(client: httpx.AsyncClient) -> dict[str, Any]:
    earlier = {"model": "default", "input": "-" * 1_000_000}
    answer = await client.post("/v1/responses", json=earlier)
    items = await client.get(f"/v1/responses/{answer.json()['id']}/input_items")
    reference = {"type": "item_reference", "id": items.json()["data"][0]["id"]}
    return {"model": "default", "input": [reference] * 200}


_CHOICE = {"type": "allowed_tools", "mode": "auto"}
_LETTERS = "a" * 100_000
_NAMES = [f"p{i}" for i in range(20_000)]
_ENUM = {"type": "string", "enum": [_LETTERS]}
_PART = {"type": "input_text", "text": ""}

ROWS = (
    Row(
        "`truncation: auto`, 1,000 messages of 1 KB",
        _simply(input=[_message("word " * 200)] * 1_000, truncation="auto"),
    ),
    Row(
        "`truncation: auto`, 6,000 calls with outputs",
        _simply(
            input=[
                _message("Hello!"),
                *(
                    item
                    for i in range(6_000)
                    for item in (
                        {"type": "function_call", "call_id": f"c{i}", "name": "f", "arguments": "{}"},
                        {"type": "function_call_output", "call_id": f"c{i}", "output": "word " * 50},
                    )
                ),
            ],
            truncation="auto",
        ),
    ),
    Row("a message of 7.9 MB", _simply(input="word " * 1_580_000), (200, 400)),
    Row("the same, streamed", _simply(input="word " * 1_580_000, stream=True)),
    Row("the same, counted", _simply(input="word " * 1_580_000), path="/v1/responses/input_tokens"),
    Row("100,000 letters in `instructions`", _simply(instructions=_LETTERS)),
    Row("40,000 letters of Thai in `instructions`", _simply(instructions="ก" * 40_000)),
    Row("40,000 letters of Chinese in `instructions`", _simply(instructions="中" * 40_000)),
    Row("100,000 blanks in `instructions`", _simply(instructions=f"a{' ' * 100_000}b")),
    Row("100,000 letters in a developer message", _simply(input=[_message(_LETTERS, "developer")])),
    Row("100,000 letters in a tool's description", _simply(tools=[_function(description=_LETTERS)])),
    Row("100,000 letters in a schema's description", _with_schema({"description": _LETTERS})),
    Row("100,000 letters in a schema's enumeration", _with_schema({"properties": {"a": _ENUM}})),
    Row("100,000 letters in a property's name", _with_schema({"properties": {_LETTERS: {}}})),
    Row("100,000 letters in a listed tool's description", _listed(_LETTERS)),
    Row(
        "a schema of 20,000 properties",
        _with_schema({"properties": {name: {"type": "string"} for name in _NAMES}, "required": _NAMES}),
    ),
    Row(
        "schemas nested as deep as is allowed, 500 times",
        _simply(tools=[_function(name, parameters=_nested(9)) for name in _NAMES[:500]]),
    ),
    Row("200 references to an item of 1 MB", _references, (400,)),
    Row(
        "20,000 tools, 20,000 of them allowed",
        _simply(
            tools=[_function(name) for name in _NAMES],
            tool_choice={**_CHOICE, "tools": [{"type": "function", "name": name} for name in _NAMES]},
        ),
        (200, 400),
        is_wide=True,
    ),
    Row(
        "a tool of two million lists, echoed to a poll",
        _simply(tools=[_function(parameters={"type": "object", "x": [[]] * 2_000_000})], background=True),
        is_wide=True,
    ),
    Row("100,000 empty messages", _simply(input=[_message("")] * 100_000), (200, 400), is_wide=True),
    Row(
        "the same, `truncation: auto`",
        _simply(input=[_message("")] * 100_000, truncation="auto"),
        (200, 400),
        is_wide=True,
    ),
    Row(
        "a conversation of 200,000 parts",
        _body(items=[_message("") | {"content": [_PART] * 200_000}]),
        path="/v1/conversations",
        is_wide=True,
    ),
    Row(
        "a conversation's body of a million lists",
        _body(items=[_message("") | {"unknown": [[]] * 1_000_000}]),
        path="/v1/conversations",
        is_wide=True,
    ),
    Row(
        "the same, refused",
        _body(unknown=[[]] * 1_000_000),
        (400,),
        path="/v1/conversations",
        is_wide=True,
    ),
    Row("32 MB of empty lists", _simply(input=[[]] * 8_000_000), (400,)),
    Row("the same, counted", _simply(input=[[]] * 8_000_000), (400,), "/v1/responses/input_tokens"),
    Row("8 MB of numbers in a tool", _with_schema({"enum": [0] * 2_600_000}), (400,)),
    Row(
        "as many values as are accepted, parts of a message",
        _simply(input=[_message("") | {"content": [_PART] * 66_000}]),
        (200, 400),
    ),
    Row(
        "the same, counted",
        _simply(input=[_message("") | {"content": [_PART] * 66_000}]),
        path="/v1/responses/input_tokens",
    ),
    Row(
        "as many values as are accepted, a schema's enumeration",
        _with_schema({"properties": {"a": {"enum": [[]] * 99_000}}}),
        (200, 400),
    ),
    Row(
        "as many values as are accepted, a schema's properties",
        _with_schema({"properties": {f"p{i}": {} for i in range(99_000)}}),
        (200, 400),
    ),
    Row(
        "as many values as are accepted, in 9,500 messages",
        _simply(input=[_message("") | {"content": [_PART] * 5}] * 9_500),
        (200, 400),
    ),
    Row(
        "an output of 400 KB of a function",
        _simply(
            input=[
                _message("Hello!"),
                {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "c", "output": "ก" * 130_000},
            ]
        ),
        (200, 400),
    ),
)


# --- measuring ----------------------------------------------------------------------------------


class Cluster:
    """A watched API node and a watched worker, and the gaps of a stream while there is no other load."""

    def __init__(self, url: str, folder: Path) -> None:
        self._url = url
        self._folder = folder
        self._alone_s: float | None = None

    async def measure(self, row: Row) -> Measured:
        headers = {"authorization": "Bearer any"}
        async with httpx.AsyncClient(base_url=self._url, headers=headers, timeout=_WITHIN_S) as client:
            if self._alone_s is None:
                async with _neighbour(client) as gaps:
                    await asyncio.sleep(_ALONE_S)
                    self._alone_s = max(gaps)
            return await self._measure(client, row, self._alone_s)

    async def _measure(self, client: httpx.AsyncClient, row: Row, alone_s: float) -> Measured:
        body = json.dumps(await row.make(client), ensure_ascii=False).encode()
        async with _neighbour(client) as gaps:
            await self._ask("api")
            await self._ask("worker")
            gaps.clear()
            begun = time.monotonic()
            answer = await client.post(row.path, content=body, headers={"content-type": "application/json"})
            took_s = time.monotonic() - begun
            api, worker = await self._ask("api"), await self._ask("worker")
            longest_s = max(gaps, default=took_s)
            await _see_to_its_end(client, answer)
        return Measured(row, answer.status_code, len(body), took_s, api, worker, longest_s / alone_s)

    async def _ask(self, role: str) -> Held:
        report = self._folder / role
        report.with_suffix(".ask").touch()
        async with asyncio.timeout(_WITHIN_S):
            while not report.exists():
                await asyncio.sleep(0.01)
        held = Held(**json.loads(report.read_text()))
        report.unlink()
        return held


async def _see_to_its_end(client: httpx.AsyncClient, answer: httpx.Response) -> None:
    """Waits for a background response, which would go on beside the next row."""
    is_json = answer.headers["content-type"].startswith("application/json")
    if not is_json or not answer.json().get("background"):
        return
    path = f"/v1/responses/{answer.json()['id']}"

    async def has_ended() -> bool:
        return (await client.get(path)).json()["status"] not in ("queued", "in_progress")

    await until(has_ended, _WITHIN_S)


@asynccontextmanager
async def _neighbour(client: httpx.AsyncClient) -> AsyncIterator[list[float]]:
    """Yields the gaps in a stream that continues meanwhile."""
    gaps: list[float] = []

    async def listen() -> None:
        async with client.stream("POST", "/v1/responses", json=_NEIGHBOUR) as answer:
            before = time.monotonic()
            async for _ in answer.aiter_raw():
                now = time.monotonic()
                gaps.append(now - before)
                before = now

    reading = asyncio.create_task(listen())
    try:
        while not gaps and not reading.done():
            await asyncio.sleep(0.01)
        yield gaps
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


@contextmanager
def watched_cluster(folder: Path, *, is_wide: bool = False) -> Iterator[Cluster]:
    with Valkey(folder) as valkey, ExitStack() as processes:
        (port,) = find_free(1)
        wider = _WIDE if is_wide else {}
        environment = {**os.environ, **_SETTINGS, **wider, "ANTIPHON_REDIS_URL": valkey.url}
        for role, arguments in {"api": ["--port", str(port)], "worker": []}.items():
            command = [sys.executable, "-m", "tests.watched", str(folder / role), role, *arguments]
            log = processes.enter_context((folder / f"{role}.log").open("w"))
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
            processes.callback(_end, process)
        url = f"http://127.0.0.1:{port}"
        _wait_until_ready(url)
        yield Cluster(url, folder)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Works however busy the process's event loop is."""
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_until_ready(url: str) -> None:
    def is_ready() -> bool:
        try:
            return httpx.get(f"{url}/ready", timeout=PATIENCE_S).status_code == 200
        except httpx.TransportError:
            return False

    wait_until(is_ready, "the cluster is ready")


STALLS = "stalls"
"""The property of a test's report that contains its row."""
TABLE_HEAD = (
    "| request | status | took (s) | loop held by itself, by other threads: API (ms) | worker (ms) "
    "| calls of the encoder | longest text (characters) | neighbour's longest gap (times its own) |\n"
    + 8 * "|---"
    + "|"
)


def write_line(measured: Measured) -> str:
    """Returns a row of the table in docs/performance.md."""
    api, worker = measured.api, measured.worker
    return (
        f"| {measured.row.name} | {measured.status} | {measured.took_s:.1f} "
        f"| {1000 * api.held_s:.0f}, {1000 * api.kept_out_s:.0f} "
        f"| {1000 * worker.held_s:.0f}, {1000 * worker.kept_out_s:.0f} "
        f"| {worker.encodes:,} | {worker.chars_at_once:,} "
        f"| {measured.gap_ratio:.0f} |"
    )


def main(names: list[str]) -> None:
    """Prints a row for each name that contains one of these texts, or for all."""
    sys.stdout.write(f"{TABLE_HEAD}\n")
    for row in ROWS:
        if names and not any(name in row.name for name in names):
            continue
        try:  # a cluster for each, so that a broken one does not affect the others
            with (
                tempfile.TemporaryDirectory() as folder,
                watched_cluster(Path(folder), is_wide=row.is_wide) as cluster,
            ):
                sys.stdout.write(f"{write_line(asyncio.run(cluster.measure(row)))}\n")
        except (httpx.HTTPError, TimeoutError) as error:
            sys.stdout.write(f"| {row.name} | {type(error).__name__} |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
