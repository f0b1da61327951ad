"""What is counted of each task of a tool runner. Owns the words for how one ends.

A server that a request names by its address counts as `url`: its label is the client's choice.
"""

from shared import metrics
from shared.responses import HttpError, McpError, McpProtocolError, McpToolExecutionError
from shared.tool_calls import (
    ToolCall,
    ToolFailure,
    ToolListing,
    ToolOutput,
    ToolResult,
    ToolsListed,
    ToolTask,
)
from tool_runner.answers import TIMED_OUT


def count(task: ToolTask, result: ToolResult | None, took_s: float, *, is_configured: bool) -> None:
    """Counts a task. `result`: None if it was cancelled; `is_configured`: the operator gave the label."""
    server = metrics.server_label(task.server_label) if is_configured else metrics.URL
    metrics.TOOL_CALLS.labels(server, _outcome_of(result)).inc()
    metrics.TOOL_DURATION.labels(_method_of(task), server).observe(took_s)


def _method_of(task: ToolTask) -> str:
    match task:
        case ToolCall():
            return "tools/call"
        case ToolListing():
            return "tools/list"


def _outcome_of(result: ToolResult | None) -> str:
    match result:
        case None:
            return "cancelled"
        case ToolOutput() | ToolsListed():
            return "completed"
        case ToolFailure(error):
            return _fault_of(error)


def _fault_of(error: McpError) -> str:
    match error:
        case McpProtocolError(code=code):
            return "timed_out" if code == TIMED_OUT else "protocol_error"
        case McpToolExecutionError():
            return "tool_error"
        case HttpError():
            return "http_error"
