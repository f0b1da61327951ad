"""Whether a call that the model has written is made, and what the model reads if it is not. Pure.

Owns the limits (calls of a response, refusals in a row) and the words of a refusal. Running a call is
`remote_tools`' business, the order of things `attempt`'s.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from shared.responses import McpProtocolError, ResponseError
from shared.tool_calls import ToolCall, ToolFailure
from worker.asking.arguments import read_arguments
from worker.asking.routing import Routing
from worker.response.hopeless import Hopeless
from worker.response.translator import RunningCall

_REFUSALS_MAX = 3
"""After this many refused calls in a row, one more fails the response."""
_INVALID_PARAMS, _REFUSED = -32602, -32000


@dataclass(frozen=True, slots=True)
class Run:
    """The call is made."""

    task: ToolCall
    is_repeatable: bool


@dataclass(frozen=True, slots=True)
class Refuse:
    """The call is not made; `failure` is its outcome, which the model reads."""

    failure: ToolFailure
    complaint: str | None
    """What the response fails with if the model keeps making such calls; None: the client made this one."""


@dataclass(frozen=True, slots=True)
class Tally:
    """The calls of a response so far. `refused`: those in a row that were not made."""

    calls_max: int
    made: int = 0
    refused: int = 0

    @property
    def is_spent(self) -> bool:
        return self.made >= self.calls_max

    def after(self, decision: Run | Refuse) -> "Tally":
        """Raises Hopeless if the model has made too many calls in a row that had to be refused."""
        match decision:
            case Run():
                return replace(self, made=self.made + 1, refused=0)
            case Refuse(complaint=complaint):
                return self if complaint is None else self.after_complaint(complaint)

    def after_complaint(self, complaint: str) -> "Tally":
        """As `after`, for a call that has no item and so no outcome."""
        if self.refused >= _REFUSALS_MAX:
            raise Hopeless(ResponseError("server_error", complaint))
        return replace(self, refused=self.refused + 1)


def decide(call: RunningCall, tally: Tally, offered: Routing) -> Run | Refuse:
    """Whether this call is made. `offered`: by recipient; an approved call may name a tool that is not."""
    if tally.is_spent:
        return refuse_spent(tally)
    target, written = call.target, call.item.written
    if target.recipient not in offered:
        return Refuse(_failure("the tool is not offered in this request", _REFUSED), None)
    arguments = read_arguments(target.server_label, written)
    if arguments is None:
        complaint = f"The model kept calling {target.recipient!r} with arguments that are not a JSON object."
        return Refuse(_failure("the arguments are not a JSON object", _INVALID_PARAMS), complaint)
    task = ToolCall(target.server_label, target.name, arguments, target.server_url)
    return Run(task, target.is_repeatable)


def refuse_spent(tally: Tally) -> Refuse:
    """For a call beyond the limit."""
    reason = f"no more than {tally.calls_max} tool calls are allowed in this response"
    complaint = f"The model kept calling tools after {tally.calls_max} calls."
    return Refuse(_failure(reason, _REFUSED), complaint)


def listed_for_a_call() -> ToolFailure:
    return _failure("the server answered a call with a listing", _INVALID_PARAMS)


def nothing_listed() -> ToolFailure:
    return _failure("the server listed no tools", _INVALID_PARAMS)


def describe_unknown(recipient: str, known: Iterable[str]) -> str:
    """What the model reads. `recipient`: "" if the call names none that could be read."""
    tools = ", ".join(sorted(known)) or "none"
    if not recipient:
        return f"This call names no tool; nothing was run. Tools: {tools}."
    return f"There is no tool {recipient!r}. Tools: {tools}."


def complain_of_unknown(recipient: str) -> str:
    """What the response fails with if the model keeps making such calls."""
    if not recipient:
        return "The model kept making calls that name no tool."
    return f"The model kept calling {recipient!r}, which does not exist."


def _failure(message: str, code: int) -> ToolFailure:
    return ToolFailure(McpProtocolError(code, message))
