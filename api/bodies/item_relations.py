"""What must hold among the items that a model is to read: each stands once, calls and outputs go together.

Pure. Owns the rules between items; what an item must have by itself is `input_items`'.
Source: the public OpenAI API, whose wording clients match.
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
"""The kind of call that an output answers."""
_UNASKED = "no approval request found with this id"
_NAMES: dict[type[_CallItem], str] = {
    InputFunctionCall: "function call",
    CustomToolCall: "custom tool call",
}


def check_unique(items: Sequence[AskedItem], context: Iterable[InputItem], field: str) -> None:
    """Raises ClientError for an item, or a reference to one, that is in the context or twice in the list.

    The model would read it twice, and nobody could say which of the two an id means.
    """
    seen = {item.id for item in context}
    for item in items:
        if item.id in seen:
            raise duplicate_item(item.id or "", field)
        seen.add(item.id)


def check_answers(items: Sequence[InputItem], context: Sequence[InputItem], field: str) -> None:
    """Raises ClientError for an answer to a call or a question neither in the context nor among the items,
    and for an output before its call.

    An output without its call says nothing: the model would not know what answered. One that names its
    function needs no call. A question has one answer: a second one would have its call run again, or deny
    what was done.
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
    """The first output that `check_answers` would refuse: its call is not there, or comes only behind it."""
    calls = {(type(item), item.call_id) for item in context if isinstance(item, _CallItem)}
    for item in items:
        if isinstance(item, _CallItem):
            calls.add((type(item), item.call_id))
        elif isinstance(item, _Output) and not item.name and (_CALLS[type(item)], item.call_id) not in calls:
            return item
    return None


def check_calls(items: Sequence[InputItem], field: str) -> None:
    """Raises ClientError for a call of the client's own with no output behind it among `items`: all of a
    prompt. The model would wait for it, or make it up.

    An id may come again once its call is answered: clients that number calls per turn repeat ids.
    While a call waits, another one with its id would take its output.
    """
    waiting: dict[tuple[type[_CallItem], str], tuple[int, _CallItem]] = {}
    named: dict[tuple[type[_CallItem], str], int] = {}
    """Where an output that tells its function and no call stands last: it answers what is before it."""

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
    """Raises ClientError for reasoning that only another service can read, where the model would miss it.

    Reasoning that is over is told to no model, so none of it is missed.
    """
    for item in without_old_reasoning(items):
        if not isinstance(item, InputReasoning) or item.content or item.summary:
            continue
        if item.encrypted_content:
            raise unreadable_content(item.encrypted_content)
