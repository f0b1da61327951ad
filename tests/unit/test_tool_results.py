"""A replay takes results from the log, and makes only calls that have none there."""

from collections import deque
from typing import Any

import pytest

from shared.events import OutputItemAdded, OutputItemDone
from shared.frames import frame
from shared.responses import (
    FunctionCall,
    HttpError,
    Item,
    LeftOutTool,
    McpApprovalRequest,
    McpCall,
    McpListTools,
    McpProtocolError,
    McpTool,
    McpToolExecutionError,
)
from shared.tool_calls import ToolCall, ToolFailure, ToolOutput, ToolResult, ToolsListed, describe
from tests.memory import MemoryTools, lease_of
from tests.requests import make_request
from worker.response.history import History
from worker.response.tool_results import ToolResults, logged_results

FAILURES = [
    McpProtocolError(-32602, "no object"),
    HttpError(503, "it is away"),
    HttpError(0, "no connection"),
    McpToolExecutionError([{"type": "text", "text": "no such page"}]),
]
TOOLS = (McpTool("ask", {"type": "object"}),)
TASK = ToolCall("wiki", "ask", "{}")


def call(status: Any, **more: Any) -> McpCall:
    return McpCall("mcp_1", status, "wiki", "ask", "{}", **more)


def result_of(item: Item) -> ToolResult | None:
    logged = logged_results([frame(OutputItemAdded(3, item), 7), frame(OutputItemDone(3, item), 8)])
    assert set(logged) <= {3}
    return logged.get(3)


@pytest.mark.parametrize("output", ["56088\n", ""])
def test_a_call_that_was_completed_has_its_output(output: str) -> None:
    assert result_of(call("completed", output=output)) == ToolOutput(output)


@pytest.mark.parametrize("error", FAILURES)
def test_a_call_that_failed_has_its_error(error: Any) -> None:
    assert result_of(call("failed", error=error)) == ToolFailure(error)


def test_a_listing_has_its_tools_and_those_left_out() -> None:
    assert result_of(McpListTools("mcpl_1", "wiki", TOOLS)) == ToolsListed(TOOLS)
    left_out = (LeftOutTool("edit", "it has no name"),)
    item = McpListTools("mcpl_1", "wiki", TOOLS, left_out=left_out)
    assert result_of(item) == ToolsListed(TOOLS, left_out)


@pytest.mark.parametrize("error", FAILURES)
def test_a_listing_that_failed_is_told_in_the_same_words_again(error: Any) -> None:
    result = result_of(McpListTools("mcpl_1", "wiki", (), describe(error)))
    assert isinstance(result, ToolFailure)
    assert describe(result.error) == describe(error)


@pytest.mark.parametrize(
    "item",
    [
        call("incomplete"),
        McpApprovalRequest("mcpr_1", "wiki", "ask", "{}"),
        FunctionCall("fc_1", "completed", "call_1", "mcp_call", "{}"),
    ],
)
def test_an_item_that_no_tool_has_answered_has_no_result(item: Item) -> None:
    assert result_of(item) is None


async def test_what_the_log_has_is_not_asked_for() -> None:
    tools, request = MemoryTools(), make_request()
    frames = [frame(OutputItemDone(2, call("completed", output="It is 42.")), 8)]
    results = ToolResults(tools, lease_of(request), History(deque(frames), deque()))
    assert await results.get(2, TASK, is_repeatable=False) == ToolOutput("It is 42.")
    assert tools.asked == []
    assert await results.get(4, TASK, is_repeatable=True) == ToolOutput("ask ran")
    assert (tools.asked, tools.repeatable) == ([TASK], [True])
