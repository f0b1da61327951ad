"""The item and the events of one listing of a server's tools. Pure.

Kept apart from `translator.py`, since listings come before the model's first token, when the tools on offer
are not yet known.
"""

from shared import events as ev
from shared.events import StreamEvent
from shared.ids import item_id
from shared.responses import McpListTools
from shared.tool_calls import ToolFailure, ToolsListed, describe


def begin_listing(response_id: str, output_index: int, server_label: str) -> list[StreamEvent]:
    """Returns the events that add the item and announce the listing."""
    id_ = item_id("mcpl", response_id, output_index)
    return [
        ev.OutputItemAdded(output_index, McpListTools(id_, server_label, ())),
        ev.McpListToolsInProgress(output_index, id_),
    ]


def end_listing(
    response_id: str, output_index: int, server_label: str, result: ToolsListed | ToolFailure
) -> tuple[McpListTools, list[StreamEvent]]:
    """Returns the finished item and the events that announce it."""
    id_ = item_id("mcpl", response_id, output_index)
    announced: StreamEvent
    match result:
        case ToolsListed(tools, left_out):
            announced = ev.McpListToolsCompleted(output_index, id_)
            item = McpListTools(id_, server_label, tools, left_out=left_out)
        case ToolFailure(error):
            announced = ev.McpListToolsFailed(output_index, id_)
            item = McpListTools(id_, server_label, (), describe(error))
    return item, [announced, ev.OutputItemDone(output_index, item)]
