"""The contract of the Python tool, which each of its sandboxes keeps, over stdio as the tool runner uses it.

What is particular to one of them is in `test_tool_runner_python.py` and `test_cpython_sandbox.py`.
"""

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Literal

import pytest
import pytest_asyncio

from local.ports import HOST, find_free
from shared.settings import Settings
from shared.tool_calls import ToolCall, ToolListing, ToolOutput, ToolsListed
from tests.integration.mcp_servers import ROOT
from tests.patience import PATIENCE_S, outlast
from tests.sandboxing import need_bubblewrap
from tool_runner import servers
from tool_runner.run_tool import Outcome, Tools
from tool_runner.stdio_servers import StdioServers

OUTPUT_BYTES_MAX = 20_000


MODULES = {"monty": "tool_runner.builtin.python", "cpython": "tool_runner.builtin.cpython"}
CALLS_AT_ONCE = {"monty": 100, "cpython": 12}
"""Enough to exceed what may run at a time."""
TRANSPORTS = [("monty", "stdio"), ("cpython", "stdio"), ("cpython", "http")]


@dataclass(frozen=True)
class Served:
    """A sandbox, as a tool runner has it."""

    tools: Tools
    python_tool: Literal["monty", "cpython"]


def make_settings(python_tool: Literal["monty", "cpython"], mcp_servers: Path | None = None) -> Settings:
    return Settings(
        python_tool=python_tool,
        mcp_servers=mcp_servers,
        egress_networks=[ip_network("127.0.0.0/8")],
        tool_timeout_s=60.0,
        tool_session_bytes_max=10_000,
        tool_output_bytes_max=OUTPUT_BYTES_MAX,
    )


@asynccontextmanager
async def serving(python_tool: str) -> AsyncIterator[str]:
    """Runs a sandbox's server over HTTP; yields its URL."""
    port = find_free(1)[0]
    options = ("--http", str(port), "--output-bytes-max", str(OUTPUT_BYTES_MAX))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", MODULES[python_tool], *options, cwd=ROOT
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not await _is_listening(port):
                assert process.returncode is None
        yield f"http://{HOST}:{port}/mcp"
    finally:
        process.kill()
        await process.wait()


async def _is_listening(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(HOST, port)
    except OSError:
        await asyncio.sleep(0.05)
        return False
    writer.close()
    await writer.wait_closed()
    return True


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=TRANSPORTS, ids="-".join)
async def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Served]:
    python_tool, transport = request.param
    if python_tool == "cpython":
        await asyncio.to_thread(need_bubblewrap)
    async with AsyncExitStack() as stack:
        path = None
        if transport == "http":
            url = await stack.enter_async_context(serving(python_tool))
            path = tmp_path_factory.mktemp("servers") / "servers.json"
            path.write_text(json.dumps({"code_interpreter": {"url": url}}))
        settings, stdio = make_settings(python_tool, path), StdioServers(60.0)
        tools = Tools(settings, servers.load(settings), stdio)
        yield Served(tools, python_tool)
        await tools.close()
        await stdio.close()


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def run(served: Served, code: str, session: str | None = None, name: str = "") -> Outcome:
    call = ToolCall("code_interpreter", "python", json.dumps({"code": code}), "IGNORED")
    return await served.tools.run(call, None, session, call=name)


async def show(served: Served, *cells: str) -> str:
    """What the last of the cells shows, run one after another."""
    session, shown = None, ""
    for code in cells:
        outcome = await run(served, code, session)
        assert isinstance(outcome.result, ToolOutput), outcome
        session, shown = outcome.session or session, outcome.result.output
    return shown


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ("123*456\n", "56088\n"),
        ("print(123*456)", "56088\n"),
        ("print('a')\nprint('b', end='')\n'c'", "a\nb\n'c'\n"),
        ("x = 1", ""),
        ("None", ""),
        ("'text'", "'text'\n"),
        ("1 + 2; 3 + 4", "7\n"),
        (
            "class A:\n    def __repr__(self): return 'an A'\n[A(), {'a': (1, 2.5)}]",
            "[an A, {'a': (1, 2.5)}]\n",
        ),
        ("import math\nmath.factorial(20)", "2432902008176640000\n"),
        ("print('é\\u4e2d')", "é中\n"),
    ],
)
async def test_a_cell_shows_what_it_prints_and_then_the_value_of_its_last_expression(
    served: Served, code: str, shown: str
) -> None:
    assert await show(served, code) == shown


async def test_variables_functions_and_imports_stay_for_the_next_call(served: Served) -> None:
    first = "import math\nroot = 3\ndef square(x):\n    return x * x"
    assert await show(served, first, "y = square(root)", "y + math.floor(0.5)") == "9\n"


async def test_without_its_session_a_call_knows_nothing_of_others(served: Served) -> None:
    await run(served, "secret = 1")
    outcome = await run(served, "secret")
    assert isinstance(outcome.result, ToolOutput)
    assert "NameError: name 'secret' is not defined" in outcome.result.output


async def test_an_exception_is_shown_as_a_traceback_of_the_code_as_written(served: Served) -> None:
    shown = await show(served, "x = 0", "print('before')\n1 / x")
    assert shown.startswith("before\nTraceback (most recent call last):\n  File ")
    assert re.search(
        r", line 2, in <module>\n    1 / x\n    [~^]+\nZeroDivisionError: division by zero\n$", shown
    )
    assert shown.count("  File ") == 1


async def test_what_a_failing_cell_had_done_before_stays(served: Served) -> None:
    assert await show(served, "x = 5\n1/0", "x") == "5\n"


async def test_code_that_is_no_python_shows_a_syntax_error(served: Served) -> None:
    assert "SyntaxError" in await show(served, "x = (")


async def test_a_flood_of_output_is_cut_and_still_ends_with_the_error(served: Served) -> None:
    shown = await show(served, "for i in range(100_000):\n    print('line', i)\n1/0")
    assert len(shown.encode()) <= OUTPUT_BYTES_MAX
    assert shown.startswith("line 0\nline 1\n")
    assert "more bytes were printed]\n" in shown
    assert shown.endswith("ZeroDivisionError: division by zero\n")


async def test_the_tool_says_truthfully_that_it_changes_nothing(served: Served) -> None:
    listed = (await served.tools.run(ToolListing("code_interpreter"), None, None)).result
    assert isinstance(listed, ToolsListed)
    (tool,) = listed.tools
    assert tool.name == "python"
    assert tool.annotations is not None
    assert tool.annotations["read_only"] is True
    assert tool.annotations["idempotentHint"] is True


async def test_a_session_that_cannot_be_read_is_said_to_be_lost(served: Served) -> None:
    for unknown in ("bm90IGEgc2Vzc2lvbg==", "no-session.3", "."):
        outcome = await run(served, "1 + 1", unknown)
        assert isinstance(outcome.result, ToolOutput)
        assert "earlier calls are lost: " in outcome.result.output
        assert "\n2\n" in f"\n{outcome.result.output}"


async def test_a_call_that_is_made_again_has_the_same_answer_and_counts_once(served: Served) -> None:
    first = await run(served, "x = 1")
    (once, again), last = [await run(served, "x += 1\nx", first.session) for _ in range(2)], None
    assert once.result == again.result == ToolOutput("2\n")
    last = await run(served, "x", again.session)
    assert last.result == ToolOutput("2\n")


async def test_a_call_that_is_made_again_after_others_has_the_same_answer(served: Served) -> None:
    first = await run(served, "x = 1", name="first")
    second = await run(served, "x += 1\nx", first.session, name="second")
    assert (await run(served, "x", second.session, name="third")).result == ToolOutput("2\n")
    assert (await run(served, "x += 1\nx", first.session, name="second")).result == second.result
    if served.python_tool == "cpython":  # where a first call would begin another session
        assert await run(served, "x = 1", name="first") == first


async def test_code_that_never_ends_ends_with_its_call(served: Served) -> None:
    endless = [asyncio.create_task(run(served, "while True: pass")) for _ in range(6)]
    await outlast(0.5)  # some have begun, the rest wait
    for task in endless:
        task.cancel()
    await asyncio.gather(*endless, return_exceptions=True)
    assert await show(served, "'free'") == "'free'\n"


async def test_more_calls_than_may_run_at_a_time_each_get_their_own_answer(served: Served) -> None:
    outcomes = await asyncio.gather(
        *(run(served, f"{i} * 2") for i in range(CALLS_AT_ONCE[served.python_tool]))
    )
    expected = [ToolOutput(f"{i * 2}\n") for i in range(CALLS_AT_ONCE[served.python_tool])]
    assert [outcome.result for outcome in outcomes] == expected


async def test_the_server_of_a_request_may_be_a_sandbox_over_http(served: Served) -> None:
    async with serving(served.python_tool) as url:
        call = ToolCall("mine", "python", '{"code": "6*7"}', url)
        outcome = await served.tools.run(call, None, None)
        assert outcome.result == ToolOutput("42\n")
        await served.tools.close()
