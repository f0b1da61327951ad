"""Checks the relations among the items that a model reads: no duplicates, calls and outputs match, and what
the model reads of reasoning is there.

Pure. Owns the rules between items; `input_items.py` owns those for a single item. Source: the public OpenAI
API, whose wording clients match.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import chain

import msgspec
from msgspec import UNSET

from api.bodies.validation import spell
from api.errors import (
    duplicate_item,
    invalid_value,
    no_call_found,
    no_output_found,
    shorten,
    unreadable_content,
)
from shared.client_tools import ClientCall
from shared.compaction import Compacted, read_compacted
from shared.input_items import (
    AskedItem,
    EarlierThought,
    InputCompaction,
    InputItem,
    InputMcpApprovalRequest,
    InputReasoning,
    McpApprovalResponse,
)
from shared.sealing import is_sealed_here
from shared.turns import answers_in
from shared.waiting_calls import CALLS, CallOutput, ClientsCall, answered_by, name_in

_UNASKED = "no approval request found with this id"


def _called(kind: type[ClientsCall]) -> str:
    return kind.called if issubclass(kind, ClientCall) else "function call"


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
        raise no_call_found(_called(CALLS[type(orphan)]), answered_by(orphan) or "", field)
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


def find_orphan(items: Sequence[InputItem], context: Sequence[InputItem] = ()) -> CallOutput | None:
    """Returns the first output that `check_answers` would refuse for its missing or later call, or None."""
    calls = {(type(item), item.call_id) for item in context if isinstance(item, ClientsCall)}
    for item in items:
        if isinstance(item, ClientsCall):
            calls.add((type(item), item.call_id))
        elif isinstance(item, CallOutput) and not (
            name_in(item) is not None or (CALLS[type(item)], answered_by(item)) in calls
        ):
            return item
    return None


def check_calls(items: Sequence[InputItem], field: str) -> None:
    """Raises ClientError for a call of the client's without an output after it. `items`: those of the whole
    prompt.

    The model would wait for the output, or make it up. An id may be used again once its call is answered, as
    by clients that number calls per turn; before that, another call with the same id would take its output.
    """
    waiting: dict[tuple[type[ClientsCall], str], tuple[int, ClientsCall]] = {}
    named: dict[tuple[type[ClientsCall], str], int] = {}
    """The place of the last output that names a function, not a call; it answers the calls before it."""

    def waits(place: int, call: ClientsCall) -> bool:
        return named.get((type(call), name_in(call) or ""), -1) < place

    for place, item in enumerate(items):
        if isinstance(item, ClientsCall):
            key = type(item), item.call_id
            if key in waiting and waits(*waiting[key]):
                reason = f"two calls with the call_id '{shorten(key[1])}' wait for an output at once"
                raise invalid_value(field, reason)
            waiting[key] = place, item
        elif isinstance(item, CallOutput) and (answered := answered_by(item)) is not None:
            waiting.pop((CALLS[type(item)], answered), None)
        elif isinstance(item, CallOutput):
            named[CALLS[type(item)], name_in(item) or ""] = place
    for place, call in waiting.values():
        if waits(place, call):
            raise no_output_found(_called(type(call)), call.call_id, field)


def open_reasoning(items: Sequence[InputItem], unseal: Callable[[str], str | None]) -> list[InputItem]:
    """Returns the items with the reasoning that only its `encrypted_content` holds opened, where the model
    reads it.

    `unseal` returns a sealed text's content, or None. Raises ClientError for reasoning that cannot be opened,
    unless another service encrypted it and left a summary, which the model reads instead.
    """
    last_answer = max(answers_in(items), default=-1)
    return [
        _open(item, unseal) if place > last_answer and isinstance(item, InputReasoning) else item
        for place, item in enumerate(items)
    ]


def _open(item: InputReasoning, unseal: Callable[[str], str | None]) -> InputReasoning:
    if item.content or not item.encrypted_content:
        return item
    text = unseal(item.encrypted_content)
    if text is not None:
        return msgspec.structs.replace(item, content=[EarlierThought(text)], encrypted_content=UNSET)
    if item.summary and not is_sealed_here(item.encrypted_content):
        return item
    raise unreadable_content(item.encrypted_content)


def open_compactions(
    items: Sequence[InputItem], unseal: Callable[[str], str | None], param: Callable[[int], str]
) -> tuple[list[InputItem], bool]:
    """Returns the items with those in place of each compaction for which it stands, and whether one of them
    stands for everything before it, so that nothing earlier is read or opened, except that instructions which
    the items begin with take the place of those that it kept.

    A call that waited when the compaction was made may be answered before it, by clients that put an output
    next to its call: the output is read with the call.

    `unseal` returns a sealed text's content, or None; `param` names the item at a place. Raises ClientError
    for a compaction that cannot be opened.
    """
    opened: list[list[InputItem]] = []
    """Newest first."""
    places = _places_of_calls(items)
    is_whole = has_opened = False
    for place in range(len(items) - 1, -1, -1):
        item = items[place]
        if not isinstance(item, InputCompaction) or item.summary:
            opened.append([item])
            continue
        compacted = _open_compaction(item, unseal, param(place))
        has_opened, is_whole = True, compacted.is_whole
        answers = _answers_before(place, compacted.waiting, items, places)
        if is_whole:
            compacted = compacted.instructed_by(items[:place]).answered_by(answers.values())
        else:  # what is before it is read where it stands
            compacted = compacted.without_waiting(answers)
        opened.append(compacted.in_place_of(item))
        if is_whole:
            break
    whole = list(chain.from_iterable(reversed(opened)))
    return (_without_repeated(whole) if has_opened else whole), is_whole


_Pairing = tuple[type[InputItem], str]
"""What a call and its answer have in common."""


def _call_key(item: InputItem) -> _Pairing | None:
    if isinstance(item, ClientsCall):
        return type(item), item.call_id
    if isinstance(item, CallOutput):
        answered = answered_by(item)
        return None if answered is None else (CALLS[type(item)], answered)
    if isinstance(item, InputMcpApprovalRequest):
        return type(item), item.id or ""
    if isinstance(item, McpApprovalResponse):
        return InputMcpApprovalRequest, item.approval_request_id
    return None


def _places_of_calls(items: Sequence[InputItem]) -> dict[_Pairing, list[int]]:
    places: dict[_Pairing, list[int]] = {}
    for place, item in enumerate(items):
        key = _call_key(item)
        if key is not None:
            places.setdefault(key, []).append(place)
    return places


def _answers_before(
    place: int, waiting: Sequence[InputItem], items: Sequence[InputItem], places: dict[_Pairing, list[int]]
) -> dict[int, InputItem]:
    """Returns the answers before a place to calls that waited, by the places of those in `waiting`: an answer
    that is followed by no other call with the same id."""
    asked = {key: at for at, item in enumerate(waiting) if (key := _call_key(item)) is not None}
    found: dict[int, InputItem] = {}
    for key, at in asked.items():
        before = places.get(key, [])
        last = bisect_left(before, place) - 1
        is_open = isinstance(waiting[at], ClientsCall | InputMcpApprovalRequest)
        if (
            is_open
            and last >= 0
            and isinstance(answer := items[before[last]], CallOutput | McpApprovalResponse)
        ):
            found[at] = answer
    return found


def check_compactions(items: Sequence[InputItem], unseal: Callable[[str], str | None], field: str) -> None:
    """Raises ClientError for a compaction that cannot be opened: no response could go on from it."""
    for place, item in enumerate(items):
        if isinstance(item, InputCompaction):
            _open_compaction(item, unseal, spell((field, place, "encrypted_content")))


def _open_compaction(item: InputCompaction, unseal: Callable[[str], str | None], param: str) -> Compacted:
    text = unseal(item.encrypted_content)
    if text is not None:
        with suppress(msgspec.DecodeError):  # sealed by a later version
            return read_compacted(text)
    raise unreadable_content(item.encrypted_content, param)


def _without_repeated(items: Sequence[InputItem]) -> list[InputItem]:
    """Returns each item once: a client may send what a compaction keeps, too."""
    last = {item.id: place for place, item in enumerate(items) if item.id}
    return [item for place, item in enumerate(items) if not item.id or last[item.id] == place]
