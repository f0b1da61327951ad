"""Puts what the model reads of a history in the order in which it was said: the calls of a turn, then their
answers.

Pure. A turn is known where a response that ended here has noted it (`shared/in_turn.py`), so that the prompt
of the next response begins as that of the last turn did, and the engine has the beginning in its cache. In
any other history, each call is followed by its answer.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from shared.hosted_tools import CallItem
from shared.in_turn import UnmadeCall, turn_of
from shared.input_items import (
    CallElsewhere,
    InputFunctionCall,
    InputItem,
    InputMcpApprovalRequest,
    InputMcpCall,
    InputMessage,
    InputReasoning,
)
from worker.harmony.signatures import FUNCTIONS
from worker.harmony.tokens import ChatMessage

Told = Callable[[str, str, str], Sequence[ChatMessage]]
"""Renders a call and its answer: recipient, what was written, answer."""


def in_order(
    items: Sequence[InputItem], rendered: Sequence[Sequence[ChatMessage]], tell: Told
) -> list[ChatMessage]:
    """Returns the messages of all items. `rendered`: those of each item by itself."""
    places = {item.id: place for place, item in enumerate(items)}
    said, answers, end = list[ChatMessage](), list[ChatMessage](), -1
    for place, (item, messages) in enumerate(zip(items, rendered, strict=True)):
        turn = turn_of(item)
        if not _is_models(item):
            said += answers
            answers, end = [], -1
        for message in _with_unmade(item, messages, tell):
            (answers if message.role == "tool" else said).append(message)
        if turn is not None:
            end = max(end, places.get(turn.last, -1))
        if place >= end:
            said += answers
            answers = []
    return said + answers


def _is_models(item: InputItem) -> bool:
    """Returns True for what a turn of the model may consist of."""
    if isinstance(item, InputMessage):
        return item.role == "assistant"
    return isinstance(
        item,
        InputReasoning
        | InputFunctionCall
        | CallItem
        | InputMcpCall
        | InputMcpApprovalRequest
        | CallElsewhere,
    )


def _with_unmade(item: InputItem, messages: Sequence[ChatMessage], tell: Told) -> list[ChatMessage]:
    turn = turn_of(item)
    if turn is None:
        return list(messages)
    if turn.instead is not None:
        messages = _tell(turn.instead, tell)
    before = [message for call in turn.unmade if call.is_before for message in _tell(call, tell)]
    after = [message for call in turn.unmade if not call.is_before for message in _tell(call, tell)]
    return [*before, *messages, *after]


def _tell(call: UnmadeCall, tell: Told) -> list[ChatMessage]:
    written, answer = tell(call.recipient or FUNCTIONS, call.written, call.answer)
    if not call.recipient:  # it named no tool
        written = replace(written, recipient=None, content_type=None)
    return [written, answer]
