"""Gets the result of a tool call: from the log if it is there, else from a tool runner.

A replay takes results from the log, not the journal: a failover can take the journal's entry back while the
surviving owner appends the log's again. The attempt decides when a result is needed.
"""

from collections.abc import Iterable
from typing import Protocol

from shared.events import OutputItemDone
from shared.frames import decode
from shared.hosted_tools import CallItem
from shared.responses import Item, McpListTools
from shared.store.owning.lease import Lease
from shared.tool_calls import ToolResult, ToolsListed, ToolTask, parse_failure
from worker.response.call_items import FORMS, result_in
from worker.response.history import History


class ToolCaller(Protocol):
    """What has calls made; implemented by `remote_tools.RemoteTools`."""

    async def call(
        self, lease: Lease, call_index: int, task: ToolTask, *, is_repeatable: bool
    ) -> ToolResult: ...


class ToolResults:
    def __init__(self, tools: ToolCaller, lease: Lease, history: History) -> None:
        """`history`: what earlier attempts have written to the log."""
        self._tools = tools
        self._lease = lease
        self._logged = logged_results(history.frames)
        for index, item in history.unshown.items():
            if (result := result_in(item)) is not None:
                self._logged[index] = result

    async def get(self, call_index: int, task: ToolTask, *, is_repeatable: bool) -> ToolResult:
        """Returns the result of a call.

        `call_index`: its item's output_index. Raises LeaseLost, REDIS_AWAY.
        """
        if (logged := self._logged.pop(call_index, None)) is not None:
            return logged
        return await self._tools.call(self._lease, call_index, task, is_repeatable=is_repeatable)


def logged_results(frames: Iterable[bytes]) -> dict[int, ToolResult]:
    """Returns the results of logged calls and listings by output_index."""
    logged: dict[int, ToolResult] = {}
    for frame in frames:
        if not frame.startswith(_DONE) or not any(kind in frame for kind in _KINDS):
            continue
        event = decode(frame)
        if isinstance(event, OutputItemDone) and (result := _result_in(event.item)) is not None:
            logged[event.output_index] = result
    return logged


_DONE = b"event: response.output_item.done\n"
_KINDS = [f'"{kind}"'.encode() for kind in (*FORMS, "mcp_list_tools")]
"""Frames that do not name one of these are not decoded."""


def _result_in(item: Item) -> ToolResult | None:
    match item:
        case CallItem():
            return result_in(item)
        case McpListTools(tools=tools, error=None, left_out=left_out):
            return ToolsListed(tools, left_out)
        case McpListTools(error=str(error)):
            return parse_failure(error)
        case _:
            return None
