"""Decides whether a call that the model has written is made, and what the model reads if it is not.

Pure. Owns the limits (calls in a response, refusals in a row) and the texts of refusals. `remote_tools.py`
runs the calls.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from shared.responses import McpProtocolError, ResponseError
from shared.tool_calls import ToolCall, ToolFailure, ToolOutput
from worker.asking.routing import McpTarget, Routing, Target
from worker.response.hopeless import Hopeless
from worker.response.running_call import RunningCall

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
    """The response's error message if the model keeps making such calls; None if the client made this one."""


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts a response's calls so far. `refused`: the number refused since the last one that was made."""

    calls_max: int
    made: int = 0
    refused: int = 0

    @property
    def is_spent(self) -> bool:
        return self.made >= self.calls_max

    @property
    def left(self) -> int:
        return max(0, self.calls_max - self.made)

    def after(self, decision: Run | Refuse) -> "Tally":
        """Returns the tally after this decision. Raises Hopeless after too many refusals in a row."""
        match decision:
            case Run():
                return replace(self, made=self.made + 1, refused=0)
            case Refuse(complaint=complaint):
                return self if complaint is None else self.after_complaint(complaint)

    def after_complaint(self, complaint: str) -> "Tally":
        """Like `after`, for a call that has no item."""
        if self.refused >= _REFUSALS_MAX:
            raise Hopeless(ResponseError("server_error", complaint))
        return replace(self, refused=self.refused + 1)

    def after_turn(self, made: int, complaints: Sequence[str]) -> "Tally":
        """Returns the tally after a turn. Raises Hopeless.

        `made`: the number of its calls that are made; if it is 0, all `complaints` count as one refusal, as
        the model has written the calls before it could read of any.
        """
        if made:
            return replace(self, made=self.made + made, refused=0)
        return self.after_complaint(complaints[0]) if complaints else self


def decide(call: RunningCall, tally: Tally, offered: Routing) -> Run | Refuse:
    """Decides whether to make this call.

    `offered`: the tools of this request; a call approved earlier may name a tool that is no longer among
    them.
    """
    if tally.is_spent:
        return refuse_spent(tally)
    target = call.target
    if not _is_same_tool(target, offered.get(target.recipient)):
        return Refuse(_failure("the tool is not offered in this request", _REFUSED), None)
    if call.arguments is None:
        complaint = f"The model kept calling {target.recipient!r} with arguments that are not a JSON object."
        return Refuse(_failure("the arguments are not a JSON object", _INVALID_PARAMS), complaint)
    approval = call.item.approval_request_id
    task = ToolCall(
        target.server_label,
        target.name,
        call.arguments,
        target.server_url,
        target.search,
        approval if isinstance(approval, str) else None,
    )
    return Run(task, target.is_repeatable)


def _is_same_tool(target: McpTarget, offered: Target | None) -> bool:
    """Returns True if this very tool is offered: a name that a client approved may be another's alias."""
    if not isinstance(offered, McpTarget):
        return False
    return (target.server_label, target.name) == (offered.server_label, offered.name)


def hold(target: McpTarget, result: ToolOutput | ToolFailure) -> ToolOutput | ToolFailure:
    """Returns the result of a call, or a failure if it shows what the request does not allow.

    A search server is told which domains are allowed; this holds its answer against them, whatever it did.
    """
    search = target.search
    if search is None or not search.allowed_domains or isinstance(result, ToolFailure):
        return result
    if result.display is None:
        return _failure("the search server does not say which pages it shows", _REFUSED)
    if not all(map(search.admits, result.display.urls)):
        return _failure("the search server showed a page outside the allowed domains", _REFUSED)
    return result


def refuse_spent(tally: Tally) -> Refuse:
    """Refuses a call beyond the limit."""
    reason = f"no more than {tally.calls_max} tool calls are allowed in this response"
    return Refuse(_failure(reason, _REFUSED), complain_of_spent(tally))


def complain_of_spent(tally: Tally) -> str:
    """Returns the response's error message if the model keeps making such calls."""
    return f"The model kept calling tools after {tally.calls_max} calls."


def listed_for_a_call() -> ToolFailure:
    return _failure("the server answered a call with a listing", _INVALID_PARAMS)


def nothing_listed() -> ToolFailure:
    return _failure("the server listed no tools", _INVALID_PARAMS)


def too_much_listed(bytes_max: int) -> ToolFailure:
    message = f"the tools of this request's servers take more than {bytes_max} bytes together"
    return _failure(message, _REFUSED)


def describe_unknown(recipient: str, known: Iterable[str]) -> str:
    """Returns the answer that the model reads. `recipient`: "" if the call names none."""
    tools = ", ".join(sorted(known)) or "none"
    if not recipient:
        return f"This call names no tool; nothing was run. Tools: {tools}."
    return f"There is no tool {recipient!r}. Tools: {tools}."


def complain_of_unknown(recipient: str) -> str:
    """Returns the response's error message if the model keeps making such calls."""
    if not recipient:
        return "The model kept making calls that name no tool."
    return f"The model kept calling {recipient!r}, which does not exist."


def describe_unreadable(complaint: str) -> str:
    """Returns the answer that the model reads to arguments of which no call could be made."""
    return f"The arguments cannot be read; nothing was run. {complaint}"


def complain_of_unreadable(recipient: str) -> str:
    return f"The model kept calling {recipient!r} with arguments that cannot be read."


def _failure(message: str, code: int) -> ToolFailure:
    return ToolFailure(McpProtocolError(code, message))
