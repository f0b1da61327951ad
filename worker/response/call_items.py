"""The item and the events of a call that runs here, one class for each item type.

Pure. A tool's row in `shared/hosted_tools.py` gives the type of its calls; the translator decides when each
event is due. Source of the order of events: the public OpenAI types and recorded streams.
"""

from collections.abc import Mapping
from typing import Protocol

from msgspec import structs

from shared import events as ev
from shared import hosted_tools
from shared.events import StreamEvent, TextDelta
from shared.hosted_tools import MCP_CALL, CallItem
from shared.responses import ItemStatus, McpCall, ServerCall
from shared.tool_calls import ToolFailure, ToolOutput
from worker.asking.routing import McpTarget


class CallForm(Protocol):
    """Makes the item and events of one call, also of one that is cut off or fails.

    `index`: its output_index.
    """

    prefix: str
    """The prefix of the item's id; the item type's own, if it has one."""

    def make(
        self, id_: str, target: McpTarget, written: str, status: ItemStatus, approved_by: str | None = None
    ) -> ServerCall:
        """Returns the item without a result.

        `written`: the call's text so far; `approved_by`: the id of the approval request, if there was one.
        The item keeps it as its `approval_request_id`, or the next response would run the call again.
        """

    def begin(self, index: int, id_: str) -> list[StreamEvent]:
        """Returns the events that follow `response.output_item.added`."""

    def extend(self, index: int, id_: str, text: str) -> TextDelta | None:
        """Returns the event for another piece of the call's text; None if the item does not show it."""

    def end_text(self, index: int, id_: str, text: str, *, is_run: bool) -> list[StreamEvent]:
        """Returns the events for the end of the call's text. `is_run`: the tool now runs."""

    def finish(
        self, index: int, item: CallItem, result: ToolOutput | ToolFailure
    ) -> tuple[ServerCall, list[StreamEvent]]:
        """Returns the item with its result, and the events that announce it."""

    def result_in(self, item: CallItem) -> ToolOutput | ToolFailure | None:
        """Returns the result that `finish` was given, read back from the item, or None if it has none.

        A replay after a failover may find the item in the log and nothing in the tool journal. `finish` must
        make the same item and events from what this returns, and what the model reads in the next turn
        (`describe`, for a failure) must not differ. Of a failure, the sentence of `describe` is enough,
        which `parse_failure` reads.
        """


class McpCallForm:
    prefix = "mcp"

    def make(
        self, id_: str, target: McpTarget, written: str, status: ItemStatus, approved_by: str | None = None
    ) -> McpCall:
        label, name = target.server_label, target.name
        return McpCall(id_, status, label, name, written, approval_request_id=approved_by)

    def begin(self, index: int, id_: str) -> list[StreamEvent]:
        return [ev.McpCallInProgress(index, id_)]

    def extend(self, index: int, id_: str, text: str) -> TextDelta:
        return ev.McpCallArgumentsDelta(index, id_, text)

    def end_text(self, index: int, id_: str, text: str, *, is_run: bool) -> list[StreamEvent]:
        return [ev.McpCallArgumentsDone(index, id_, text)]

    def finish(
        self, index: int, item: CallItem, result: ToolOutput | ToolFailure
    ) -> tuple[McpCall, list[StreamEvent]]:
        assert isinstance(item, McpCall)
        match result:
            case ToolOutput(output):
                done = structs.replace(item, status="completed", output=output)
                return done, [ev.McpCallCompleted(index, item.id)]
            case ToolFailure(error):
                done = structs.replace(item, status="failed", error=error)
                return done, [ev.McpCallFailed(index, item.id)]

    def result_in(self, item: CallItem) -> ToolOutput | ToolFailure | None:
        match item:
            case McpCall(status="completed", output=output):
                return ToolOutput(output or "")
            case McpCall(status="failed", error=error) if error is not None:
                return ToolFailure(error)
            case _:
                return None


FORMS: Mapping[str, CallForm] = {MCP_CALL: McpCallForm()}
"""The item type of each call that may run here -> its form."""


def form_of(target: McpTarget) -> CallForm:
    return FORMS[hosted_tools.item_type_of(target.server_label)]


def result_in(item: CallItem) -> ToolOutput | ToolFailure | None:
    """Returns the result that an item holds, or None if it has none or its call does not run here."""
    form = FORMS.get(str(item.__struct_config__.tag))
    return form.result_in(item) if form else None
