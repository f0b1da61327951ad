"""No request stops another: demanding requests, each beside a running stream (`tests/stalls.py`).

What is asserted no load of the machine can change: how much is encoded, and for how long a loop's thread, or
others that hold the interpreter's lock, have the processor at a stretch. The neighbour's longest gap is told,
as a ratio to its longest when alone.
"""

import asyncio
import json
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest

from shared.settings import Settings
from shared.tool_calls import ToolCall, ToolOutput
from tests.integration.mcp_servers import serving_http, stdio_entry
from tests.patience import PATIENCE_S
from tests.stalls import ROWS, STALLS, Cluster, Measured, Row, watched_cluster, write_line
from tests.watched import Watch
from tool_runner import servers
from tool_runner.run_tool import Tools
from tool_runner.stdio_servers import StdioServers
from worker.harmony.pieces import PIECE_CHARS_MAX

pytestmark = pytest.mark.slow

HELD_MAX_S = 0.25
"""Of the processor's time, with a wide margin: it is some hundredths, and was 0.25 s to 40 s."""
_AGAIN_MAX = 2
"""What a request holds it holds each time; what a hypervisor takes away, and counts as ours, only once."""


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with watched_cluster(tmp_path_factory.mktemp("watched")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with watched_cluster(tmp_path_factory.mktemp("wide"), is_wide=True) as cluster:
        yield cluster


def longest_s(measured: Measured) -> float:
    """For how long a loop had no turn because of its own process, whichever thread it was."""
    by_loops = max(measured.api.held_s, measured.worker.held_s)
    if measured.row.is_wide:
        return by_loops
    return max(by_loops, measured.api.kept_out_s, measured.worker.kept_out_s)


@pytest.mark.timeout(900)  # for a machine that is ten times as slow
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
async def test_no_request_stops_another(
    request: pytest.FixtureRequest, row: Row, record_property: Callable[[str, object], None]
) -> None:
    cluster: Cluster = request.getfixturevalue("wide" if row.is_wide else "watched")
    measured = await cluster.measure(row)
    for _ in range(_AGAIN_MAX):
        # 503: the machine stood still for longer than an answer is waited for, whatever the request is.
        if longest_s(measured) < HELD_MAX_S and measured.status != 503:
            break
        measured = await cluster.measure(row)
    record_property(STALLS, write_line(measured))
    assert measured.status in row.statuses
    assert longest_s(measured) < HELD_MAX_S
    assert measured.worker.chars_at_once <= PIECE_CHARS_MAX
    # Each text once, in a few more words.
    assert measured.worker.chars <= 4 * measured.body_bytes + 100_000


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("word ", "there"),
        ("\N{THAI CHARACTER KO KAI}", "there"),
        ("\N{THAI CHARACTER KO KAI}", "pipe"),
    ],
)
async def test_no_answer_of_a_tool_server_stops_the_calls_of_others(
    tmp_path: Path, text: str, label: str
) -> None:
    """As JSON, it is nearly as long as is read of one."""
    (tmp_path / "servers.json").write_text(json.dumps({"pipe": stdio_entry()}))
    settings = Settings(egress_networks=[ip_network("127.0.0.0/8")], mcp_servers=tmp_path / "servers.json")
    stdio = StdioServers(PATIENCE_S)
    tools = Tools(settings, servers.load(settings), stdio)
    loop, times = asyncio.get_running_loop(), 15 * 2**20 // (len(json.dumps(text)) - 2)
    try:
        with serving_http() as url:
            call = ToolCall(label, "repeat", json.dumps({"text": text, "times": times}), url)
            for _ in range(1 + _AGAIN_MAX):
                watch = Watch(tmp_path / "report")
                loop.call_soon(watch.beat, loop)
                outcome = await tools.run(call, None, None)
                await asyncio.sleep(0.01)  # the last beat
                assert isinstance(outcome.result, ToolOutput), outcome.result
                if watch.longest_s < HELD_MAX_S:
                    break
        assert watch.longest_s < HELD_MAX_S
    finally:
        await tools.close()
        await stdio.close()
