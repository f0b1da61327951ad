"""Two cells behind a router, each with a Valkey of its own: what is kept where, what a death costs."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from local.ports import find_free
from shared.ids import cell_of
from tests.patience import PATIENCE_S, until
from tests.running import ROOT, RunningCluster, start_cluster

pytestmark = pytest.mark.slow
"""`test_router.py` is the short form, with stand-ins for API nodes."""


@dataclass
class TwoCells:
    """The shared cluster, which is the cell 0, and the cell `b`, which a test may end and begin again."""

    other: RunningCluster
    port: int
    router: "subprocess.Popen[bytes]"
    url: str

    def kill_other(self) -> None:
        """Kills the launcher of `b`, whose warden then ends all that it runs."""
        pids = [role["pid"] for role in self.other.record["roles"]]
        self.other.launcher.kill()
        self.other.launcher.communicate(timeout=PATIENCE_S)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def begin_other(self) -> None:
        self.other = start_other(self.other.data, self.port)


def start_other(data: Path, port: int) -> RunningCluster:
    return start_cluster(data, "--port", str(port), ANTIPHON_CELL="b")


@pytest.fixture(scope="module")
def two(cluster: RunningCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoCells]:
    port, router_port = find_free(2)
    other = start_other(tmp_path_factory.mktemp("cell") / "data", port)
    cells = {"0": {"nodes": cluster.urls}, "b": {"nodes": [f"http://127.0.0.1:{port}"]}}
    router = subprocess.Popen(
        [sys.executable, "-m", "api.cells", "--port", str(router_port)],
        cwd=ROOT,
        env=os.environ | {"ANTIPHON_CELLS": json.dumps(cells), "ANTIPHON_CELL_PROBE_S": "0.2"},
    )
    running = TwoCells(other, port, router, f"http://127.0.0.1:{router_port}")
    yield running
    router.terminate()
    router.wait(timeout=PATIENCE_S)
    running.other.stop()


@pytest_asyncio.fixture
async def client(two: TwoCells) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=two.url, timeout=PATIENCE_S) as client:
        await until(lambda: cells_ready(client, 2))
        yield client


async def cells_ready(client: httpx.AsyncClient, number: int) -> bool:
    try:
        cells = (await client.get("/ready")).json()["cells"].values()
    except httpx.ConnectError:
        return False
    return [cell["ready"] > 0 for cell in cells].count(True) == number


async def create(client: httpx.AsyncClient, **fields: object) -> str:
    body = {"model": "default", "input": "Count from 1 to 3", "metadata": {"test": "cells"}, **fields}
    answer = await client.post("/v1/responses", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["status"] == "completed"
    return str(answer.json()["id"])


async def create_in(client: httpx.AsyncClient, cell: str) -> str:
    for _ in range(100):
        if cell_of(made := await create(client)) == cell:
            return made
    raise AssertionError(f"no response in cell {cell}")


async def listed(client: httpx.AsyncClient) -> tuple[list[str], str | None]:
    ids: list[str] = []
    query = {"metadata[test]": "cells", "limit": "3"}
    while True:
        answer = await client.get("/v1/responses", params=query)
        assert answer.status_code == 200, answer.text
        ids += [entry["id"] for entry in answer.json()["data"]]
        if not answer.json()["has_more"]:
            return ids, answer.headers.get("antiphon-cells-missing")
        query["after"] = ids[-1]


async def events_of(client: httpx.AsyncClient, response_id: str) -> bytes:
    answer = await client.get(f"/v1/responses/{response_id}", params={"stream": "true"})
    assert answer.status_code == 200, answer.text
    return answer.content


async def test_a_dead_cell_costs_what_it_keeps_until_it_is_back_and_nothing_else(
    two: TwoCells, client: httpx.AsyncClient
) -> None:
    first, other = await create_in(client, "0"), await create_in(client, "b")
    chained = await create(client, previous_response_id=other)
    assert cell_of(chained) == "b"
    mixed = {
        "model": "default",
        "input": "x",
        "previous_response_id": first,
        "conversation": "conv_b_" + "0" * 32,
    }
    refused = await client.post("/v1/responses", json=mixed)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "conversation")
    before, missing = await listed(client)
    assert before[0] == chained
    assert {first, other} <= set(before)
    assert (len(before), missing) == (len(set(before)), None)
    events = await events_of(client, other)

    two.kill_other()
    # Until then a create may meet a connection that has just been lost, and get 502 (`test_router.py`).
    await until(lambda: cells_ready(client, 1))
    made = [await create(client) for _ in range(6)]
    assert {cell_of(each) for each in made} == {"0"}
    gone = await client.get(f"/v1/responses/{other}")
    assert (gone.status_code, gone.json()["error"]["code"]) == (503, "service_unavailable")
    assert cell_of(await create(client, previous_response_id=first)) == "0"
    during, missing = await listed(client)
    assert missing == "b"
    assert during == [each for each in during if cell_of(each) == "0"]

    await asyncio.to_thread(two.begin_other)
    await until(lambda: cells_ready(client, 2))
    assert await events_of(client, other) == events
    assert cell_of(await create(client, previous_response_id=chained)) == "b"
    after, missing = await listed(client)
    assert missing is None
    assert after[-len(before) :] == before
