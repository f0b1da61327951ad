"""The results of tool calls that a log tells: a replay takes them from there, whatever became of the journal.

A failover may have taken the journal's entry back while the owner, who lived, wrote the log's again. Owns the
reading of items; when a call needs its result is the attempt's business.
"""

from collections.abc import Iterable

from shared.events import OutputItemDone, decode
from shared.responses import Item, McpCall, McpListTools
from shared.tool_calls import ToolFailure, ToolOutput, ToolResult, ToolsListed, failure_told


def told_results(frames: Iterable[bytes]) -> dict[int, ToolResult]:
    """output_index -> what came of the call or listing there."""
    told: dict[int, ToolResult] = {}
    for frame in frames:
        if not frame.startswith(b"event: response.output_item.done\n") or b'"mcp_' not in frame:
            continue
        event = decode(frame)
        if isinstance(event, OutputItemDone) and (result := _result_in(event.item)) is not None:
            told[event.output_index] = result
    return told


def _result_in(item: Item) -> ToolResult | None:
    match item:
        case McpCall(status="completed", output=output):
            return ToolOutput(output or "")
        case McpCall(status="failed", error=error) if error is not None:
            return ToolFailure(error)
        case McpListTools(tools=tools, error=None):
            return ToolsListed(tools)
        case McpListTools(error=str(error)):
            return failure_told(error)
        case _:
            return None
