"""What must hold among the items that a model is to read: each stands once, calls and outputs go together.

Pure. Owns what is told of one item by another; what an item must have by itself is `input_items`'.
Source: the public OpenAI API, whose wording clients match.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from api.errors import (
    duplicate_item,
    invalid_value,
    no_call_found,
    no_output_found,
    shorten,
    unreadable_content,
)
from api.validation import spell
from shared.turns import without_old_reasoning

Item = Mapping[str, Any]

_CALLS = {"function_call_output": "function_call", "custom_tool_call_output": "custom_tool_call"}
"""The kind of call that an output answers."""
_UNASKED = "no approval request found with this id"
_NAMES = {"function_call": "function call", "custom_tool_call": "custom tool call"}


def check_unique(items: Sequence[Item], context: Iterable[Item], field: str) -> None:
    """Raises ClientError for an item, or a reference to one, that is in the context or twice in the list.

    The model would read it twice, and nobody could say which of the two an id means.
    """
    seen = {item.get("id") for item in context}
    for item in items:
        item_id = item["id"]
        if item_id in seen:
            raise duplicate_item(item_id, field)
        seen.add(item_id)


def check_answers(items: Sequence[Item], context: Sequence[Item], field: str) -> None:
    """Raises ClientError for an answer to a call or a question neither in the context nor among the items,
    and for an output before its call.

    An output without its call says nothing: the model would not know what answered. One that names its
    function needs no call. A question has one answer: a second one would have its call run again, or deny
    what was done.
    """
    orphan = find_orphan(items, context)
    if orphan is not None:
        raise no_call_found(_NAMES[_CALLS[orphan["type"]]], orphan["call_id"], field)
    asked = {item.get("id") for item in (*context, *items) if item["type"] == "mcp_approval_request"}
    answered = {item["approval_request_id"] for item in context if item["type"] == "mcp_approval_response"}
    for index, item in enumerate(items):
        if item["type"] != "mcp_approval_response":
            continue
        question = item["approval_request_id"]
        if question not in asked or question in answered:
            reason = "it is answered already" if question in answered else _UNASKED
            raise invalid_value(spell((field, index, "approval_request_id")), reason)
        answered.add(question)


def find_orphan(items: Sequence[Item], context: Sequence[Item] = ()) -> Item | None:
    """The first output that `check_answers` would refuse: its call is not there, or comes only behind it."""
    calls = {(item["type"], item.get("call_id")) for item in context}
    for item in items:
        call = _CALLS.get(item["type"])
        if call is None:
            calls.add((item["type"], item.get("call_id")))
        elif item.get("name") is None and (call, item["call_id"]) not in calls:
            return item
    return None


def check_calls(items: Sequence[Item], field: str) -> None:
    """Raises ClientError for a call of the client's own with no output behind it among `items`: all of a
    prompt. The model would wait for it, or make it up.

    An id may come again once its call is answered: clients that count calls anew in every turn repeat them.
    While a call waits, another one with its id would take its output.
    """
    waiting: dict[tuple[str, str], tuple[int, Item]] = {}
    named: dict[tuple[str, str], int] = {}
    """Where an output that tells its function and no call stands last: it answers what is before it."""

    def waits(place: int, call: Item) -> bool:
        return named.get((call["type"], call["name"]), -1) < place

    for place, item in enumerate(items):
        kind = item["type"]
        if kind in _NAMES:
            key = kind, item["call_id"]
            if key in waiting and waits(*waiting[key]):
                reason = f"two calls with the call_id '{shorten(key[1])}' wait for an output at once"
                raise invalid_value(field, reason)
            waiting[key] = place, item
        elif kind in _CALLS and item.get("call_id") is not None:
            waiting.pop((_CALLS[kind], item["call_id"]), None)
        elif kind in _CALLS:
            named[_CALLS[kind], item["name"]] = place
    for place, call in waiting.values():
        if waits(place, call):
            raise no_output_found(_NAMES[call["type"]], call["call_id"], field)


def check_readable(items: Sequence[Item]) -> None:
    """Raises ClientError for reasoning that only another service can read, where the model would miss it.

    Reasoning that is over is told to no model, so none of it is missed.
    """
    for item in without_old_reasoning(items):
        encrypted = item.get("encrypted_content")
        if encrypted and not item.get("content") and not item.get("summary"):
            raise unreadable_content(encrypted)
