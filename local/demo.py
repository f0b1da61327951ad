"""`python -m local demo`: cuts a stream in the middle, resumes it on another API node, and proves it
complete.

Owns the requests and what is printed; `proof.py` judges whether the two parts are the whole log.
"""

import asyncio
import http.client
import re
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import httpx2
from openai import AsyncOpenAI, AsyncStream
from openai.types.responses import ResponseStreamEvent

from local import seed
from local.cluster import Cluster
from local.proof import Evidence, find_faults, split_frames
from local.up import cancel_on_signal
from worker.engines.scripted.script import SHIPPED

_CUT_AT = "response.mcp_call_arguments.delta"
_TIMEOUT_S = 60.0
_WIDTH = 100
_TOKENS_PER_S = 25
_PACE = re.compile(r"^tokens_per_s\s*=\s*\S+", re.M)


class Recorder(httpx2.AsyncHTTPTransport):
    """The transport of one client; records every byte of the response bodies."""

    def __init__(self) -> None:
        super().__init__()
        self.received = bytearray()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await super().handle_async_request(request)
        response.stream = _Tee(cast(httpx2.AsyncByteStream, response.stream), self.received)
        return response


class _Tee(httpx2.AsyncByteStream):
    def __init__(self, source: httpx2.AsyncByteStream, received: bytearray) -> None:
        self._source = source
        self._received = received

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._source:
            self._received += chunk
            yield chunk

    async def aclose(self) -> None:
        await self._source.aclose()


async def run() -> int:
    """Runs the demo; returns 0 only if both parts together are the whole log. Raises what Cluster does."""
    task = asyncio.current_task()
    assert task is not None
    cancel_on_signal(task, ends_with_parent=False)
    folder = Path(tempfile.mkdtemp(prefix="antiphon-demo-"))
    print("starting a cluster: 2 API nodes, a worker, a tool runner, a Valkey …", flush=True)
    faults = ["the demo was ended early"]
    try:
        settings = {"ANTIPHON_ENGINE": "scripted", "ANTIPHON_SCRIPT": str(write_paced_script(folder))}
        async with Cluster(folder, apis=2, settings=settings) as cluster:
            faults = await _show_and_judge(cluster.urls)
    except asyncio.CancelledError:
        pass
    if faults:
        print(f"\nNOT PROVEN: {'; '.join(faults)}\nlogs are in {folder / 'logs'}")
        return 1
    shutil.rmtree(folder)
    print("\nPROVEN: both parts together are the whole log, byte for byte, from either API node.")
    print("Everything is stopped.")
    return 0


def write_paced_script(folder: Path) -> Path:
    """Writes the shipped script at a slower pace, so that the cut falls among tokens; returns its path."""
    text, changed = _PACE.subn(f"tokens_per_s = {_TOKENS_PER_S}", SHIPPED.read_text("utf-8"), count=1)
    if not changed:
        raise ValueError(f"{SHIPPED} sets no tokens_per_s")
    path = folder / "script.toml"
    path.write_text(text, "utf-8")
    return path


async def _show_and_judge(urls: list[str]) -> list[str]:
    first, second = Recorder(), Recorder()
    print(f"\nPOST {urls[0]}/v1/responses   {seed.REQUEST['input']}")
    response_id, cursor = await _stream_until_cut(urls[0], first)
    print(f"\n--- connection cut after event {cursor} ---\n")
    print(f"GET {urls[1]}/v1/responses/{response_id}?stream=true&starting_after={cursor}")
    text = await _resume(urls[1], second, response_id, cursor)
    replays = {url: await asyncio.to_thread(_replay, url, response_id) for url in urls}
    evidence = Evidence(bytes(first.received), cursor, bytes(second.received), replays)
    _summarize(evidence)
    faults = find_faults(evidence)
    if seed.ANSWER not in text:
        faults.append(f"the answer {text!r} does not contain {seed.ANSWER}")
    return faults


async def _stream_until_cut(url: str, recorder: Recorder) -> tuple[str, int]:
    """Streams a response up to the cut; returns its id and the sequence number of the last event handled."""
    response_id, cursor = "", -1
    async with _connect(url, recorder) as client:
        known = dict(seed.REQUEST)
        extra = {"enable_response_messages": known.pop("enable_response_messages")}
        stream: AsyncStream[ResponseStreamEvent] = await cast(Any, client.responses).create(
            **known, extra_body=extra
        )
        async for event in stream:
            _show(event)
            cursor = event.sequence_number
            if event.type == "response.created":
                response_id = event.response.id
            if event.type == _CUT_AT:
                break
        await stream.close()
    return response_id, cursor


async def _resume(url: str, recorder: Recorder, response_id: str, cursor: int) -> str:
    """Streams the rest of the response; returns its final text."""
    text = ""
    async with _connect(url, recorder) as client:
        stream = await client.responses.retrieve(response_id, stream=True, starting_after=cursor)
        async for event in stream:
            _show(event)
            if event.type == "response.completed":
                text = event.response.output_text
    return text


def _connect(url: str, recorder: Recorder) -> AsyncOpenAI:
    http_client = httpx2.AsyncClient(transport=recorder, timeout=_TIMEOUT_S)
    return AsyncOpenAI(base_url=f"{url}/v1", api_key="demo", max_retries=0, http_client=http_client)


def _replay(url: str, response_id: str) -> bytes:
    """Returns the whole log as bytes, from event 0, without using a client library."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=_TIMEOUT_S)
    try:
        headers = {"Authorization": "Bearer demo"}
        connection.request("GET", f"/v1/responses/{response_id}?stream=true", headers=headers)
        return connection.getresponse().read()
    finally:
        connection.close()


def _show(event: ResponseStreamEvent) -> None:
    print(describe(event), flush=True)


def describe(event: ResponseStreamEvent) -> str:
    """Describes an event in one line: its number, its type and what it adds."""
    match event:
        case _ if hasattr(event, "delta"):
            added = repr(event.delta)
        case _ if hasattr(event, "item"):
            added = f"{event.item.type} {getattr(event.item, 'output', None) or ''}"
        case _ if hasattr(event, "response"):
            added = f"{event.response.id} {event.response.status}"
        case _:
            added = ""
    line = f"{event.sequence_number:4}  {event.type:<42} {added}".rstrip()
    return line if len(line) <= _WIDTH else line[: _WIDTH - 1] + "…"


def _summarize(evidence: Evidence) -> None:
    print(f"\n{len(evidence.first)} events before the cut, {len(evidence.second)} after it")
    for node, replay in evidence.replays.items():
        print(f"the whole log again, from {node}: {len(split_frames(replay))} events, {len(replay)} bytes")
