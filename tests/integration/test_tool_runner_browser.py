"""The built-in browser in a process of its own, over stdio, as the tool runner uses it."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from shared.hosted_tools import BROWSER
from shared.responses import McpToolExecutionError
from shared.settings import Settings
from shared.tool_calls import ToolCall, ToolFailure, ToolListing, ToolOutput, ToolsListed
from shared.web_search import SearchOptions
from tool_runner import servers
from tool_runner.run_tool import Outcome, Tools
from tool_runner.stdio_servers import StdioServers

SETTINGS = Settings(tool_timeout_s=60.0, web_search="local")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tools() -> AsyncIterator[Tools]:
    stdio = StdioServers(60.0)
    yield Tools(SETTINGS, servers.load(SETTINGS), stdio)
    await stdio.close()


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def call(
    tools: Tools, name: str, session: str | None = None, search: SearchOptions | None = None, **arguments: Any
) -> Outcome:
    task = ToolCall(BROWSER.server_label, name, json.dumps(arguments), search=search)
    return await tools.run(task, None, session)


async def test_its_tools_are_those_that_the_model_was_trained_on(tools: Tools) -> None:
    listed = (await tools.run(ToolListing(BROWSER.server_label), None, None)).result
    assert isinstance(listed, ToolsListed)
    assert {tool.name: set(tool.input_schema["properties"]) for tool in listed.tools} == {
        function.name: set((function.parameters or {})["properties"]) for function in BROWSER.functions
    }
    assert all(tool.annotations and tool.annotations["read_only"] for tool in listed.tools)


async def test_what_was_shown_travels_with_the_response_and_each_result_says_which_page_it_is(
    tools: Tools,
) -> None:
    found = await call(tools, "search", query="fencing token")
    opened = await call(tools, "open", found.session, id=0)
    matched = await call(tools, "find", opened.session, pattern="append")
    results = [each.result for each in (found, opened, matched)]
    assert all(isinstance(result, ToolOutput) for result in results)
    displays = [result.display for result in results if isinstance(result, ToolOutput)]
    assert [display and display.cursor for display in displays] == [0, 1, 2]
    assert displays[0] is not None
    assert displays[0].sources[0].url == "https://antiphon.example/leases"
    assert [display and display.url for display in displays[1:]] == ["https://antiphon.example/leases"] * 2


async def test_without_its_state_a_call_knows_nothing_of_others(tools: Tools) -> None:
    await call(tools, "search", query="lease")
    outcome = await call(tools, "open", id=0)
    assert isinstance(outcome.result, ToolFailure)
    assert isinstance(outcome.result.error, McpToolExecutionError)
    assert "No page has been opened yet" in str(outcome.result.error.content)


async def test_it_is_told_what_the_request_wants(tools: Tools) -> None:
    options = SearchOptions(allowed_domains=("elsewhere.example",))
    outcome = await call(tools, "search", search=options, query="lease")
    assert isinstance(outcome.result, ToolOutput)
    assert outcome.result.display is not None
    assert outcome.result.display.sources == ()


async def test_an_operators_pages_replace_ours(tmp_path: Path) -> None:
    (tmp_path / "one.md").write_text("# Soup\nurl: https://kitchen.example/soup\n\nLeeks and potatoes.\n")
    settings = Settings(tool_timeout_s=60.0, web_search="local", search_pages=tmp_path)
    stdio = StdioServers(60.0)
    try:
        outcome = await call(Tools(settings, servers.load(settings), stdio), "search", query="leeks")
        assert isinstance(outcome.result, ToolOutput)
        assert "【0†Soup†kitchen.example】" in outcome.result.output
    finally:
        await stdio.close()
