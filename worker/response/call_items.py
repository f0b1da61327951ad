"""How a call that runs here is spoken of: its item and the events around it, one class for each item type.

Pure. Which type a tool's calls have is said in its row (`shared/hosted_tools.py`); when each event is due is
the translator's business. Source of the order of events: the public OpenAI types and recorded streams.
"""

from collections.abc import Mapping
from typing import Protocol

from msgspec import structs

from shared import events as ev
from shared import hosted_tools
from shared.events import StreamEvent
from shared.hosted_tools import MCP_CALL, CallItem
from shared.responses import HostedCallItem, ItemStatus, McpCall
from shared.tool_calls import ToolFailure, ToolOutput
from worker.asking.routing import McpTarget


class CallForm(Protocol):
    """`index` is the item's output_index. A call that is cut off or fails is told by the same class."""

    prefix: str
    """What the item's id begins with."""

    def make(
        self, id_: str, target: McpTarget, written: str, status: ItemStatus, approved_by: str | None = None
    ) -> HostedCallItem:
        """The item before any result. `approved_by`: the id of the request that the client approved."""

    def begin(self, index: int, id_: str) -> list[StreamEvent]:
        """After the item was added."""

    def extend(self, index: int, id_: str, text: str) -> StreamEvent:
        """The model has written more of the call."""

    def end_text(self, index: int, id_: str, text: str, *, is_run: bool) -> list[StreamEvent]:
        """The model has written all of it. `is_run`: the tool begins to work."""

    def finish(
        self, index: int, item: CallItem, result: ToolOutput | ToolFailure
    ) -> tuple[HostedCallItem, list[StreamEvent]]:
        """The item with its result, and what announces that."""

    def result_in(self, item: CallItem) -> ToolOutput | ToolFailure | None:
        """What `finish` was given, read back from the item; None if it had no result."""


class McpCallForm:
    prefix = "mcp"

    def make(
        self, id_: str, target: McpTarget, written: str, status: ItemStatus, approved_by: str | None = None
    ) -> McpCall:
        label, name = target.server_label, target.name
        return McpCall(id_, status, label, name, written, approval_request_id=approved_by)

    def begin(self, index: int, id_: str) -> list[StreamEvent]:
        return [ev.McpCallInProgress(index, id_)]

    def extend(self, index: int, id_: str, text: str) -> StreamEvent:
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


_FORMS: Mapping[str, CallForm] = {MCP_CALL: McpCallForm()}
ITEM_TYPES = frozenset(_FORMS)
"""Of all calls that may run here."""


def form_of(target: McpTarget) -> CallForm:
    return _FORMS[hosted_tools.item_type_of(target.server_label)]


def result_in(item: CallItem) -> ToolOutput | ToolFailure | None:
    """The result that a finished item holds; None for a call that had none, or that did not run here."""
    form = _FORMS.get(str(item.__struct_config__.tag))
    return form.result_in(item) if form else None
