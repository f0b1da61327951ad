"""Checks the relations among the items that a model reads: no duplicates, and calls and outputs match.

Pure. Owns the rules between items; `input_items.py` owns those for a single item. Source: the public OpenAI
API, whose wording clients match.
"""

from collections.abc import Iterable, Sequence

from api.bodies.validation import spell
from api.errors import (
    duplicate_item,
    invalid_value,
    no_call_found,
    no_output_found,
    shorten,
    unreadable_content,
)
from shared.input_items import (
    AskedItem,
    CustomToolCall,
    CustomToolCallOutput,
    FunctionCallOutput,
    InputFunctionCall,
    InputItem,
    InputMcpApprovalRequest,
    InputReasoning,
    McpApprovalResponse,
)
from shared.turns import without_old_reasoning

_Output = FunctionCallOutput | CustomToolCallOutput
_CallItem = InputFunctionCall | CustomToolCall

_CALLS: dict[type[_Output], type[_CallItem]] = {
    FunctionCallOutput: InputFunctionCall,
    CustomToolCallOutput: CustomToolCall,
}
"""The kind of call that each kind of output answers."""
_UNASKED = "no approval request found with this id"
_NAMES: dict[type[_CallItem], str] = {
    InputFunctionCall: "function call",
    CustomToolCall: "custom tool call",
}


def check_unique(items: Sequence[AskedItem], context: Iterable[InputItem], field: str) -> None:
    """Raises ClientError for an item, or a reference to one, that is in the context or twice in the list.

    The model would read it twice, and its id would be ambiguous.
    """
    seen = {item.id for item in context}
    for item in items:
        if item.id in seen:
            raise duplicate_item(item.id or "", field)
        seen.add(item.id)


def check_answers(items: Sequence[InputItem], context: Sequence[InputItem], field: str) -> None:
    """Raises ClientError for an output or approval response without its call or request, and for an output
    before its call.

    The model could not tell what an output without its call answers; one that names its function needs no
    call. An approval request has one response: a second one would run its call again, or deny a call that was
    made.
    """
    orphan = find_orphan(items, context)
    if orphan is not None:
        raise no_call_found(_NAMES[_CALLS[type(orphan)]], orphan.call_id or "", field)
    asked = {item.id for item in (*context, *items) if isinstance(item, InputMcpApprovalRequest)}
    answered = {item.approval_request_id for item in context if isinstance(item, McpApprovalResponse)}
    for index, item in enumerate(items):
        if not isinstance(item, McpApprovalResponse):
            continue
        question = item.approval_request_id
        if question not in asked or question in answered:
            reason = "it is answered already" if question in answered else _UNASKED
            raise invalid_value(spell((field, index, "approval_request_id")), reason)
        answered.add(question)


def find_orphan(items: Sequence[InputItem], context: Sequence[InputItem] = ()) -> _Output | None:
    """Returns the first output that `check_answers` would refuse for its missing or later call, or None."""
    calls = {(type(item), item.call_id) for item in context if isinstance(item, _CallItem)}
    for item in items:
        if isinstance(item, _CallItem):
            calls.add((type(item), item.call_id))
        elif isinstance(item, _Output) and not item.name and (_CALLS[type(item)], item.call_id) not in calls:
            return item
    return None


def check_calls(items: Sequence[InputItem], field: str) -> None:
    """Raises ClientError for a call of the client's without an output after it. `items`: those of the whole
    prompt.

    The model would wait for the output, or make it up. An id may be used again once its call is answered, as
    by clients that number calls per turn; before that, another call with the same id would take its output.
    """
    waiting: dict[tuple[type[_CallItem], str], tuple[int, _CallItem]] = {}
    named: dict[tuple[type[_CallItem], str], int] = {}
    """The place of the last output that names a function, not a call; it answers the calls before it."""

    def waits(place: int, call: _CallItem) -> bool:
        return named.get((type(call), call.name), -1) < place

    for place, item in enumerate(items):
        if isinstance(item, _CallItem):
            key = type(item), item.call_id
            if key in waiting and waits(*waiting[key]):
                reason = f"two calls with the call_id '{shorten(key[1])}' wait for an output at once"
                raise invalid_value(field, reason)
            waiting[key] = place, item
        elif isinstance(item, _Output) and isinstance(item.call_id, str):
            waiting.pop((_CALLS[type(item)], item.call_id), None)
        elif isinstance(item, _Output):
            named[_CALLS[type(item)], item.name or ""] = place
    for place, call in waiting.values():
        if waits(place, call):
            raise no_output_found(_NAMES[type(call)], call.call_id, field)


def check_readable(items: Sequence[InputItem]) -> None:
    """Raises ClientError for reasoning that the model needs but only another service can decrypt."""
    for item in without_old_reasoning(items):
        if not isinstance(item, InputReasoning) or item.content or item.summary:
            continue
        if item.encrypted_content:
            raise unreadable_content(item.encrypted_content)
