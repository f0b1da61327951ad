"""The examples do what they promise, run as a user runs them, over connections that are really cut."""

import asyncio
import json
import os
import re
import shutil
import socket
import struct
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.patience import PATIENCE_S
from tests.running import ROOT, RunningCluster
from tests.streams import Frame, read_frames

EXAMPLES = ROOT / "examples"
COUNT = "Count slowly to 60"
COUNTED = ", ".join(str(n) for n in range(1, 61))
IN_THE_HEADERS, IN_THE_FIRST_EVENT = 40, 700


class CuttingProxy:
    """Passes connections on to an API node and cuts them, one after so many bytes of the answer each.

    Once `cuts` are used up, everything passes. Every second cut is a reset, which also loses what is
    under way; the others just close.
    """

    def __init__(self, target_url: str, cuts: Sequence[int]) -> None:
        self._target = urlsplit(target_url)
        self.cuts = list(cuts)
        self.port = 0
        self._passed = bytearray()

    @property
    def response_ids(self) -> set[bytes]:
        """Of every response that an answer named, whether or not the client read so far."""
        return set(re.findall(rb"resp_[a-z0-9]{1,8}_[0-9a-f]{32}", self._passed))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        node, to_node = await asyncio.open_connection(self._target.hostname, self._target.port)
        asking = asyncio.create_task(self._pass_questions(client, to_node))
        try:
            await self._pass_answers(node, to_client)
        finally:
            asking.cancel()
            to_node.transport.abort()
            to_client.close()

    async def _pass_questions(self, client: asyncio.StreamReader, to_node: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while some := await client.read(65_536):
                to_node.write(some)
            to_node.transport.abort()  # the client has left: so do we, as its network would

    async def _pass_answers(self, node: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        left = self.cuts.pop(0) if self.cuts else sys.maxsize
        with suppress(ConnectionError):
            while some := await node.read(min(left, 65_536)):
                self._passed += some
                to_client.write(some)
                await to_client.drain()
                left -= len(some)
                if left == 0:
                    self._cut(to_client)
                    return

    def _cut(self, to_client: asyncio.StreamWriter) -> None:
        if len(self.cuts) % 2:
            client: socket.socket = to_client.get_extra_info("socket")
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        to_client.transport.abort()


@asynccontextmanager
async def cutting(url: str, *cuts: int) -> AsyncIterator[CuttingProxy]:
    proxy = CuttingProxy(url, cuts)
    async with await asyncio.start_server(proxy.serve, "127.0.0.1") as server:
        proxy.port = server.sockets[0].getsockname()[1]
        yield proxy


async def run(*command: str) -> tuple[str, str]:
    """stdout and stderr of a command that ends well within a bound."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        env=os.environ | {"NO_PROXY": "127.0.0.1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, err.decode()
    return out.decode(), err.decode()


async def run_example(name: str, *arguments: str) -> tuple[str, str]:
    return await run(sys.executable, str(EXAMPLES / name), *arguments)


async def run_node(script: str) -> str:
    node = shutil.which("node")
    if node is None:
        pytest.skip("the browser example runs in node (20 or newer), which is not installed")
    out, _ = await run(node, "--input-type=module", "--eval", script)
    return out


async def replay(cluster: RunningCluster, response_id: str) -> list[Frame]:
    async with httpx.AsyncClient(base_url=cluster.urls[0], timeout=PATIENCE_S) as node:
        return read_frames(
            (await node.get(f"/v1/responses/{response_id}", params={"stream": "true"})).content
        )


# --- Python ---------------------------------------------------------------------------------------


async def test_a_python_client_holds_every_event_once_though_two_nodes_cut_it_off_again_and_again(
    cluster: RunningCluster,
) -> None:
    first_cuts, second_cuts = (IN_THE_HEADERS, IN_THE_FIRST_EVENT, 2_500, 900), (300, 3_500, 750, 3_000)
    async with cutting(cluster.urls[0], *first_cuts) as one, cutting(cluster.urls[1], *second_cuts) as two:
        urls = ("--url", one.url, "--url", two.url)
        out, err = await run_example("reconnecting_client.py", *urls, "--events", COUNT)
        assert (one.cuts, two.cuts) == ([], [])
    (response_id,) = re.findall(r"^\[(resp_\w+)\]$", err, re.MULTILINE)
    assert one.response_ids | two.response_ids == {response_id.encode()}
    frames = await replay(cluster, response_id)
    assert out.split("\n")[:-2] == [f"{frame.id} {frame.event}" for frame in frames]
    assert [frame.id for frame in frames] == list(range(len(frames)))


async def test_a_python_client_shows_the_whole_text_across_the_cuts(cluster: RunningCluster) -> None:
    async with cutting(cluster.urls[0], 2_500, 3_000) as one, cutting(cluster.urls[1], 2_000, 2_500) as two:
        out, _ = await run_example("reconnecting_client.py", "--url", one.url, "--url", two.url, COUNT)
        assert (one.cuts, two.cuts) == ([], [])
    assert out == f"{COUNTED}\n"


async def test_a_response_in_the_background_is_polled_to_its_answer(cluster: RunningCluster) -> None:
    out, err = await run_example("background_and_poll.py", "--url", cluster.urls[1], "--every", "0.05")
    assert "56,088" in out
    told = [line.split() for line in err.splitlines()]
    assert told[0][1] == "queued"
    assert told[-1][1] == "completed"
    assert len({response_id for response_id, _ in told}) == 1


async def test_a_chain_over_two_nodes_keeps_what_python_remembers(cluster: RunningCluster) -> None:
    urls = [argument for url in cluster.urls for argument in ("--url", url)]
    out, _ = await run_example("chained_conversation.py", *urls)
    answers = re.findall(r"```\n(.*?)\n```", out, re.DOTALL)
    assert answers[-2:] == ["15", "328"]


# --- the browser ----------------------------------------------------------------------------------


def follow_with(base: str) -> str:
    """A script that prints every event that the page would be given."""
    module = json.dumps(str(EXAMPLES / "browser" / "follow.mjs"))
    request = json.dumps({"model": "default", "input": COUNT})
    return (
        f"const {{ follow }} = await import({module});"
        f"for await (const event of follow({json.dumps(base)}, {request}, {{ retryMs: 20 }}))"
        " console.log(JSON.stringify(event));"
    )


def assert_whole(events: list[dict[str, Any]], frames: list[Frame]) -> None:
    assert events == [{"id": str(frame.id), "type": frame.event, "data": frame.data} for frame in frames]
    assert [frame.id for frame in frames] == list(range(len(frames)))
    assert events[-1]["type"] == "response.completed"
    assert COUNTED in json.dumps(events[-1]["data"])


async def test_the_pages_script_holds_every_event_once_across_the_cuts(cluster: RunningCluster) -> None:
    cuts = (IN_THE_HEADERS, IN_THE_FIRST_EVENT, 2_500, 300, 900, 3_000, 3_500, 750)
    async with cutting(cluster.urls[0], *cuts) as proxy:
        out = await run_node(follow_with(proxy.url))
        assert proxy.cuts == []
    events = [json.loads(line) for line in out.splitlines()]
    response_id = events[0]["data"]["response"]["id"]
    assert proxy.response_ids == {response_id.encode()}
    assert_whole(events, await replay(cluster, response_id))


@asynccontextmanager
async def serving_the_page(api_url: str) -> AsyncIterator[str]:
    """The page's origin, as `serve.py` makes it."""
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, str(EXAMPLES / "browser" / "serve.py"), "--api", api_url, "--port", "0"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        assert server.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            line = (await server.stdout.readline()).decode()
        yield line.removeprefix("open ").strip().rstrip("/")
    finally:
        server.kill()
        await server.wait()


async def test_the_page_and_its_stream_come_from_one_origin(cluster: RunningCluster) -> None:
    async with cutting(cluster.urls[1], 2_500, 3_000) as proxy, serving_the_page(proxy.url) as origin:
        async with httpx.AsyncClient(base_url=origin) as browser:
            assert "./follow.mjs" in (await browser.get("/")).text
            assert "text/javascript" in (await browser.get("/follow.mjs")).headers["content-type"]
        out = await run_node(follow_with(origin))
        assert proxy.cuts == []
    events = [json.loads(line) for line in out.splitlines()]
    assert_whole(events, await replay(cluster, events[0]["data"]["response"]["id"]))


PAGE = """
const elements = {};
const make = () => ({ value: "", textContent: "", addEventListener(_, ask) { this.ask = ask; } });
globalThis.document = { getElementById: (id) => (elements[id] ??= make()) };
const { fetch } = globalThis;
globalThis.fetch = (path, ...rest) => fetch(ORIGIN + path, ...rest);
await import(SCRIPT);
elements.input.value = INPUT;
await elements.form.ask({ preventDefault() {} });
console.log(JSON.stringify([elements.answer.textContent, elements.state.textContent]));
"""


@pytest.mark.parametrize("cuts", [(), (2_500, 3_000)])
async def test_the_page_shows_the_whole_text(
    cluster: RunningCluster, tmp_path: Path, cuts: tuple[int, ...]
) -> None:
    page = (EXAMPLES / "browser" / "index.html").read_text()
    (script,) = re.findall(r'<script type="module">(.*?)</script>', page, re.DOTALL)
    (tmp_path / "page.mjs").write_text(script)
    shutil.copy(EXAMPLES / "browser" / "follow.mjs", tmp_path)
    async with cutting(cluster.urls[0], *cuts) as proxy:
        known = {"ORIGIN": proxy.url, "SCRIPT": str(tmp_path / "page.mjs"), "INPUT": COUNT}
        constants = "".join(f"const {name} = {json.dumps(value)};" for name, value in known.items())
        answer, state = json.loads(await run_node(constants + PAGE))
        assert proxy.cuts == []
    assert answer == COUNTED
    assert state.endswith("response.completed")
