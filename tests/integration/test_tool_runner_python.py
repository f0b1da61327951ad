"""The Python tool on Monty, in a process of its own over stdio: what is particular to this sandbox."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from ipaddress import ip_network

import pytest
import pytest_asyncio
from pydantic_monty import AsyncMonty, MontyRuntimeError, ResourceLimits

from shared.responses import McpToolExecutionError
from shared.settings import Settings
from shared.tool_calls import ToolCall, ToolFailure, ToolOutput
from tests.patience import PATIENCE_S
from tool_runner import servers
from tool_runner.builtin.cells import Ran
from tool_runner.builtin.python import LIMITS, MODULES, MontySandbox
from tool_runner.run_tool import Outcome, Tools
from tool_runner.stdio_servers import StdioServers

SETTINGS = Settings(
    egress_networks=[ip_network("127.0.0.0/8")],
    tool_timeout_s=60.0,
    tool_session_bytes_max=10_000,
    tool_output_bytes_max=20_000,
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tools() -> AsyncIterator[Tools]:
    stdio = StdioServers(60.0)
    yield Tools(SETTINGS, servers.load(SETTINGS), stdio)
    await stdio.close()


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def run(tools: Tools, code: str, session: str | None = None) -> Outcome:
    call = ToolCall("code_interpreter", "python", json.dumps({"code": code}), "IGNORED")
    return await tools.run(call, None, session)


async def show(tools: Tools, *cells: str) -> str:
    """What the last of the cells shows, run one after another."""
    session, shown = None, ""
    for code in cells:
        outcome = await run(tools, code, session)
        assert isinstance(outcome.result, ToolOutput), outcome
        session, shown = outcome.session or session, outcome.result.output
    return shown


@pytest.mark.parametrize(
    ("code", "refused"),
    [
        ("open('/etc/passwd').read()", "PermissionError"),
        ("import os\nos.system('id')", "AttributeError"),
        ("import socket", "ModuleNotFoundError"),
        ("2**100_000", "ValueError"),
    ],
)
async def test_code_reaches_nothing_outside_its_sandbox(tools: Tools, code: str, refused: str) -> None:
    assert refused in await show(tools, code)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import numpy", f"no packages, and of the standard library it has parts of: {', '.join(MODULES)}]"),
        ("del x", "[This sandbox runs a part of Python only; write the code without what it names."),
        ("class A(dict): pass", "no inheritance of classes"),
        ("def f():\n    yield 1", "no generators (yield)"),
        ("from math import *", "no `from … import *`"),
        ("open('a.txt', 'w')", "[This sandbox has no files; keep what is needed in variables]"),
    ],
)
async def test_what_this_sandbox_lacks_is_said_where_code_asks_for_it(
    tools: Tools, code: str, said: str
) -> None:
    assert said in await show(tools, code)


async def test_the_modules_that_it_names_are_those_that_it_has() -> None:
    async with AsyncMonty(max_processes=1) as pool, pool.checkout() as session:
        found = []
        for name in sorted(sys.stdlib_module_names):
            try:
                await session.feed_run(f"import {name}")
            except MontyRuntimeError:
                continue
            found.append(name)
    assert tuple(found) == MODULES


async def test_code_that_takes_too_much_memory_fails_and_its_state_stays_as_it_was(tools: Tools) -> None:
    first = await run(tools, "x = 1")
    outcome = await run(tools, "x = 2\ny = ['a' * 1_000_000 for _ in range(1000)]", first.session)
    assert isinstance(outcome.result, ToolFailure)
    assert isinstance(outcome.result.error, McpToolExecutionError)
    assert "memory limit exceeded" in outcome.result.error.content[0]["text"]
    assert outcome.session is None
    again = await run(tools, "x", first.session)
    assert again.result == ToolOutput("1\n")


async def test_code_that_never_ends_is_ended_with_its_call_and_others_go_on(tools: Tools) -> None:
    endless = [asyncio.create_task(run(tools, "while True: pass")) for _ in range(20)]
    assert await show(tools, "'free'") == "'free'\n"
    for task in endless:
        task.cancel()
    await asyncio.gather(*endless, return_exceptions=True)
    assert await show(tools, "'free again'") == "'free again'\n"


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ("print('a')\nraise SystemExit('bye')\nprint('b')", "a\nTraceback"),
        ("print('a')\nraise SystemExit(3)\nprint('b')", "a\n[The code was ended by an exception of its own"),
        ("print('a')\nraise ValueError('x', 2)\nprint('b')", "a\n[The code was ended by an exception"),
    ],
)
async def test_code_that_ends_itself_says_what_it_had_printed_and_what_ended_it(
    tools: Tools, code: str, shown: str
) -> None:
    outcome = await run(tools, f"x = 1\n{code}")
    assert isinstance(outcome.result, ToolOutput)
    assert outcome.result.output.startswith(shown)
    assert "SystemExit" in outcome.result.output
    assert "Internal error" not in outcome.result.output
    assert (await run(tools, "x", outcome.session)).result == ToolOutput("1\n")


async def test_code_sleeps_as_long_as_it_says_or_fails_saying_so() -> None:
    """Not for ten seconds only, which is what the sandbox would do by itself."""
    async with AsyncMonty(max_processes=1) as pool:
        sandbox = MontySandbox(pool, 10_000, 10_000, ResourceLimits(max_total_sleep_secs=0.2))
        ran = await sandbox.run("import time\nprint('begun')\ntime.sleep(25)\nprint('over')", None)
        assert (ran.has_failed, ran.state) == (True, None)
        assert ran.text.startswith("begun\n[TimeoutError: sleep limit exceeded: 25s > 200ms.")
        slept = "import time\nt = time.monotonic()\ntime.sleep(0.1)\ntime.monotonic() - t >= 0.1"
        assert (await sandbox.run(slept, None)).text == "True\n"


async def run_endless(limits: ResourceLimits, request_timeout_s: float) -> Ran:
    async with AsyncMonty(max_processes=1, request_timeout=request_timeout_s) as pool:
        sandbox = MontySandbox(pool, 10_000, 10_000, limits)
        ran = await sandbox.run("print('begun')\nwhile True: pass", None)
        assert (await sandbox.run("1 + 1", None)).text == "2\n"
    return ran


async def test_code_that_takes_too_long_fails_and_says_what_it_had_printed() -> None:
    ran = await run_endless(ResourceLimits(max_feed_duration_secs=1.0), PATIENCE_S)
    assert (ran.has_failed, ran.state) == (True, None)
    assert ran.text.startswith("begun\n[TimeoutError: feed time limit exceeded")
    assert ran.text.endswith("The variables are as they were before this call.]\n")


async def test_a_sandbox_that_breaks_down_fails_the_call_and_is_replaced() -> None:
    ran = await run_endless(LIMITS, 5.0)
    assert (ran.has_failed, ran.state) == (True, None)
    assert "[The sandbox broke down, or ran too long and was ended." in ran.text


async def test_variables_too_large_to_keep_are_dropped_and_reported_to_the_model(tools: Tools) -> None:
    first = await run(tools, "x = 1")
    outcome = await run(
        tools, "import random\nx = [random.random() for _ in range(5000)]\n'done'", first.session
    )
    assert isinstance(outcome.result, ToolOutput)
    assert outcome.result.output.startswith("'done'\n[The variables take ")
    assert outcome.session is None
