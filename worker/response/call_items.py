"""The item and the events of a call that runs here, one class for each item type.

Pure. A call's target names the type of its item; the translator decides when each event is due. Source of the
order of events: the public OpenAI types and recorded streams.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, Self

from msgspec import UNSET, UnsetType, structs

from shared import events as ev
from shared.containers import container_of, with_outputs
from shared.delta_frames import quote
from shared.events import StreamEvent, TextDelta
from shared.hosted_tools import MCP_CALL, CallItem, CodeInterpreterCall, CodeOutput, WebSearchCall
from shared.record_format import RECORD_FORMAT
from shared.responses import ItemStatus, McpCall, ResponseRequest, ServerCall
from shared.tool_calls import ToolFailure, ToolOutput, describe, parse_failure
from shared.web_search import Displays, action_of
from worker.asking.arguments import read_arguments, text_argument_of
from worker.asking.routing import McpTarget


@dataclass(frozen=True, slots=True)
class CallStyle:
    """What the forms of a response's calls depend on, besides the tool."""

    record_format: int = RECORD_FORMAT
    """The format that the record began with; a response keeps its event shapes."""
    has_messages: bool = False
    """The client requested the Harmony messages too (`enable_response_messages`)."""
    shows_outputs: bool = False
    """The client requested what its code prints (`include`)."""
    container_id: str = ""
    """Where the response's code runs."""
    shows_sources: bool = False
    """The client requested what its searches found (`include`)."""

    @classmethod
    def of(cls, request: ResponseRequest, record_format: int) -> Self:
        return cls(
            record_format,
            request.enable_response_messages,
            OUTPUTS in request.include,
            container_of(request),
            SOURCES in request.include,
        )


OUTPUTS = "code_interpreter_call.outputs"
"""The value of `include` with which items have what their code printed."""
SOURCES = "web_search_call.action.sources"
"""The value of `include` with which the items of searches have what was found."""
PRESENT_STYLE = CallStyle()
"""That of a request without wishes, in the present format."""


class CallForm(Protocol):
    """Makes the item and events of one call, also of one that is cut off or fails.

    `index`: its output_index.
    """

    prefix: str
    """The prefix of the item's id; the item type's own, if it has one."""
    around: tuple[str, str] | None
    """What stands before and after the text in the deltas, in which it is then a string of JSON. None: the
    deltas are the text itself."""

    def make(
        self,
        id_: str,
        target: McpTarget,
        written: str | None,
        status: ItemStatus,
        approved_by: str | None = None,
    ) -> ServerCall:
        """Returns the item without a result.

        `written`: the call's text, None before the model has begun it; `approved_by`: the id of the approval
        request, if there was one. The item keeps it as its `approval_request_id`, or the next response would
        run the call again.
        """

    def begin(self, index: int, id_: str) -> list[StreamEvent]:
        """Returns the events that follow `response.output_item.added`."""

    def extend(self, index: int, id_: str, text: str) -> TextDelta | None:
        """Returns the event for another piece of the call's text, quoted if there is something `around` it;
        None if the item does not show it."""

    def end_text(self, index: int, id_: str, text: str, *, is_run: bool) -> list[StreamEvent]:
        """Returns the events for the end of the call's text, after the deltas. `is_run`: the tool runs."""

    def finish(
        self, index: int, item: CallItem, result: ToolOutput | ToolFailure
    ) -> tuple[ServerCall, list[StreamEvent]]:
        """Returns the item with its whole result, and the events that announce it.

        Where clients are shown less of it (`show`), the log keeps the item besides (`unshown.py`).
        """

    def show(self, item: ServerCall) -> ServerCall:
        """Returns the item as events and the response have it."""


class McpCallForm:
    """A call of an MCP tool. Its arguments are what the model writes, or JSON if that is plain text.

    The client that requests the Harmony messages reads plain text as it is written, and so did every client
    before format 3.
    """

    prefix = "mcp"

    def __init__(self, style: CallStyle, target: McpTarget, shown: Displays) -> None:
        name = text_argument_of(target.server_label)
        is_quoted = name is not None and style.record_format > 2 and not style.has_messages
        self.around = (f'{{"{name}":"', '"}') if is_quoted else None

    def make(
        self,
        id_: str,
        target: McpTarget,
        written: str | None,
        status: ItemStatus,
        approved_by: str | None = None,
    ) -> McpCall:
        label, name = target.server_label, target.name
        shown = "" if written is None else self._show(written)
        return McpCall(id_, status, label, name, shown, approval_request_id=approved_by)

    def _show(self, written: str) -> str:
        return written if self.around is None else f"{self.around[0]}{quote(written)}{self.around[1]}"

    def begin(self, index: int, id_: str) -> list[StreamEvent]:
        return [ev.McpCallInProgress(index, id_)]

    def extend(self, index: int, id_: str, text: str) -> TextDelta:
        return ev.McpCallArgumentsDelta(index, id_, text)

    def end_text(self, index: int, id_: str, text: str, *, is_run: bool) -> list[StreamEvent]:
        return [ev.McpCallArgumentsDone(index, id_, self._show(text))]

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

    def show(self, item: ServerCall) -> ServerCall:
        return item


class CodeInterpreterForm:
    """A call of a `code_interpreter` tool. Its outputs are null unless the client requested them.

    What a failed call reports is a log, too, and there is no event for the failure.
    """

    prefix = CodeInterpreterCall.prefix
    around: tuple[str, str] | None = None

    def __init__(self, style: CallStyle, target: McpTarget, shown: Displays) -> None:
        self._container_id, self._shows_outputs = style.container_id, style.shows_outputs

    def make(
        self,
        id_: str,
        target: McpTarget,
        written: str | None,
        status: ItemStatus,
        approved_by: str | None = None,
    ) -> CodeInterpreterCall:
        return CodeInterpreterCall(
            id=id_,
            status=status,
            approval_request_id=UNSET if approved_by is None else approved_by,
            container_id=self._container_id,
            code=written or "",
            outputs=[],
        )

    def begin(self, index: int, id_: str) -> list[StreamEvent]:
        return [ev.CodeInterpreterCallInProgress(index, id_)]

    def extend(self, index: int, id_: str, text: str) -> TextDelta:
        return ev.CodeInterpreterCallCodeDelta(index, id_, text)

    def end_text(self, index: int, id_: str, text: str, *, is_run: bool) -> list[StreamEvent]:
        done = ev.CodeInterpreterCallCodeDone(index, id_, text)
        return [done, ev.CodeInterpreterCallInterpreting(index, id_)] if is_run else [done]

    def finish(
        self, index: int, item: CallItem, result: ToolOutput | ToolFailure
    ) -> tuple[CodeInterpreterCall, list[StreamEvent]]:
        assert isinstance(item, CodeInterpreterCall)
        match result:
            case ToolOutput(output):
                outputs = [CodeOutput("logs", output)] if output else []
                done = structs.replace(item, status="completed", outputs=outputs)
                return done, [ev.CodeInterpreterCallCompleted(index, item.id)]
            case ToolFailure(error):
                outputs = [CodeOutput("logs", describe(error))]
                return structs.replace(item, status="failed", outputs=outputs), []

    def show(self, item: ServerCall) -> CodeInterpreterCall:
        assert isinstance(item, CodeInterpreterCall)
        return with_outputs(item) if self._shows_outputs else structs.replace(item, outputs=None)


class WebSearchForm:
    """A call of a `web_search` tool. Its item shows the action, once the call is written; the model's text
    and the result are kept besides. There is no event for a failure, as in the hosted API."""

    prefix = WebSearchCall.prefix
    around: tuple[str, str] | None = None

    def __init__(self, style: CallStyle, target: McpTarget, shown: Displays) -> None:
        self._shows_sources = style.shows_sources
        self._shown = shown if style.record_format > 3 else None

    def make(
        self,
        id_: str,
        target: McpTarget,
        written: str | None,
        status: ItemStatus,
        approved_by: str | None = None,
    ) -> WebSearchCall:
        return WebSearchCall(
            id=id_,
            status=status,
            approval_request_id=UNSET if approved_by is None else approved_by,
            action=UNSET if written is None else action_of(target.name, written, None, self._shown),
            name=target.name,
            arguments=written or "",
        )

    def begin(self, index: int, id_: str) -> list[StreamEvent]:
        return [ev.WebSearchCallInProgress(index, id_)]

    def extend(self, index: int, id_: str, text: str) -> None:
        return None

    def end_text(self, index: int, id_: str, text: str, *, is_run: bool) -> list[StreamEvent]:
        return [ev.WebSearchCallSearching(index, id_)] if is_run else []

    def finish(
        self, index: int, item: CallItem, result: ToolOutput | ToolFailure
    ) -> tuple[WebSearchCall, list[StreamEvent]]:
        assert isinstance(item, WebSearchCall)
        match result:
            case ToolOutput(output, display):
                done = structs.replace(
                    item,
                    status="completed",
                    action=action_of(item.name or "", item.written, display, self._shown),
                    output=output,
                    display=UNSET if display is None else display,
                )
                return done, [ev.WebSearchCallCompleted(index, item.id)]
            case ToolFailure(error):
                return structs.replace(item, status="failed", output=describe(error)), []

    def show(self, item: ServerCall) -> WebSearchCall:
        assert isinstance(item, WebSearchCall)
        return item.shown(with_sources=self._shows_sources)


FORMS: Mapping[str, Callable[[CallStyle, McpTarget, Displays], CallForm]] = {
    MCP_CALL: McpCallForm,
    str(CodeInterpreterCall.__struct_config__.tag): CodeInterpreterForm,
    str(WebSearchCall.__struct_config__.tag): WebSearchForm,
}
"""The item type of each call that may run here -> what makes its form."""


def form_of(style: CallStyle, target: McpTarget, shown: Displays) -> CallForm:
    """Returns the form of a call. Before format 3, every call was an `mcp_call`.

    `shown`: what the browser has shown before it.
    """
    return FORMS[target.item_type if style.record_format > 2 else MCP_CALL](style, target, shown)


def delta_around(form: CallForm, index: int, id_: str, side: Literal[0, 1]) -> list[StreamEvent]:
    """Returns the delta for what stands before or after the call's text, if anything does."""
    delta = form.extend(index, id_, form.around[side]) if form.around is not None else None
    return [] if delta is None else [delta]


def to_approve(style: CallStyle, target: McpTarget, written: str) -> str:
    """Returns the arguments of a request to approve a call: JSON also with Harmony messages, so that what was
    shown can mean only one thing."""
    is_text = text_argument_of(target.server_label) is not None and style.record_format > 2
    arguments = read_arguments(target.server_label, written) if is_text else None
    return written if arguments is None else arguments


def result_in(item: CallItem) -> ToolOutput | ToolFailure | None:
    """Returns the result that `finish` was given, read back from the item, or None if it has none.

    A replay after a failover may find the item in the log and nothing in the tool journal. `finish` must make
    the same item and events from what this returns, and what the model reads in the next turn (`describe`,
    for a failure) must not differ. Of a failure, the sentence of `describe` is enough, which `parse_failure`
    reads.

    An item that was shown to a client may have less than the result, which is then kept besides.
    """
    match item:
        case McpCall(status="completed", output=output):
            return ToolOutput(output or "")
        case McpCall(status="failed", error=error) if error is not None:
            return ToolFailure(error)
        case CodeInterpreterCall(status="completed", outputs=list()):
            return ToolOutput(item.logged)
        case CodeInterpreterCall(status="failed", outputs=[_, *_]):
            return parse_failure(item.logged)
        case WebSearchCall(status="completed", output=str(output), display=display):
            return ToolOutput(output, None if isinstance(display, UnsetType) else display)
        case WebSearchCall(status="failed", output=str(output)):
            return parse_failure(output)
        case _:
            return None
