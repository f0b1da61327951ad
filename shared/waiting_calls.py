"""Pairs the client's calls with their outputs, and finds the calls that still wait. Pure.

Owns which output answers which call; the API refuses items that do not pair (`api/bodies/item_relations.py`).
Source: the public OpenAI types.
"""

from collections.abc import Sequence

from shared.client_tools import (
    AnyClientAnswer,
    AnyClientCall,
    ApplyPatchCall,
    ApplyPatchCallOutput,
    CustomToolCall,
    LocalShellCall,
    LocalShellCallOutput,
    ShellCall,
    ShellCallOutput,
)
from shared.hosted_tools import HostedToolCall
from shared.input_items import (
    CustomToolCallOutput,
    FunctionCallOutput,
    InputFunctionCall,
    InputItem,
    InputMcpApprovalRequest,
    InputMcpCall,
    McpApprovalResponse,
)

CallOutput = FunctionCallOutput | CustomToolCallOutput | AnyClientAnswer
ClientsCall = InputFunctionCall | AnyClientCall

CALLS: dict[type[CallOutput], type[ClientsCall]] = {
    FunctionCallOutput: InputFunctionCall,
    CustomToolCallOutput: CustomToolCall,
    ShellCallOutput: ShellCall,
    LocalShellCallOutput: LocalShellCall,
    ApplyPatchCallOutput: ApplyPatchCall,
}
"""The kind of call that each kind of output answers."""


def answered_by(output: CallOutput) -> str | None:
    """Returns the `call_id` of the call that the output answers; None if it names a function instead."""
    if isinstance(output, LocalShellCallOutput) and not output.call_id:
        return output.id or None
    return output.call_id or None


def name_in(item: CallOutput | ClientsCall) -> str | None:
    """Returns the name of the tool that an item gives, or None."""
    name = getattr(item, "name", None)
    return name if isinstance(name, str) and name else None


def waiting_in(items: Sequence[InputItem]) -> list[InputItem]:
    """Returns what waits for the client or for us: its calls without an output, questions whether a call may
    run that have no answer, and those that allow a call which has not been made, with their answers."""
    waiting = {id(item) for item in (*_unanswered_calls(items), *_open_questions(items))}
    return [item for item in items if id(item) in waiting]


def _unanswered_calls(items: Sequence[InputItem]) -> list[InputItem]:
    waiting: dict[tuple[type[ClientsCall], str], tuple[int, ClientsCall]] = {}
    named: dict[tuple[type[ClientsCall], str], int] = {}
    """The place of the last output that names a function; it answers the calls before it."""
    for place, item in enumerate(items):
        if isinstance(item, ClientsCall):
            waiting[type(item), item.call_id] = place, item
        elif isinstance(item, CallOutput) and (answered := answered_by(item)) is not None:
            waiting.pop((CALLS[type(item)], answered), None)
        elif isinstance(item, CallOutput):
            named[CALLS[type(item)], name_in(item) or ""] = place
    return [
        call for place, call in waiting.values() if named.get((type(call), name_in(call) or ""), -1) < place
    ]


def _open_questions(items: Sequence[InputItem]) -> list[InputItem]:
    made = {item.approval_request_id for item in items if isinstance(item, InputMcpCall | HostedToolCall)}
    answers = {item.approval_request_id: item for item in items if isinstance(item, McpApprovalResponse)}
    found: list[InputItem] = []
    for item in items:
        if not isinstance(item, InputMcpApprovalRequest) or item.id in made:
            continue
        answer = answers.get(str(item.id))
        if answer is None:
            found.append(item)
        elif answer.approve:
            found += [item, answer]
    return found
