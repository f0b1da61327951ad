"""Derives a conversation's turns from its items: which message is an answer, which reasoning is outdated.

Pure. Owns the rule by which the API keeps contexts and the worker builds prompts. Source: the Harmony format
guide, where the analysis of a turn is dropped once the turn has ended in a final message.
"""

from collections.abc import Sequence

from shared.client_tools import ClientCall
from shared.hosted_tools import HostedToolCall
from shared.input_items import (
    CallElsewhere,
    EarlierText,
    InputCompaction,
    InputFile,
    InputFunctionCall,
    InputImage,
    InputItem,
    InputMcpApprovalRequest,
    InputMcpCall,
    InputMessage,
    InputReasoning,
    InputText,
    MessagePart,
    Refusal,
)

_CALLS = (
    InputFunctionCall,
    ClientCall,
    InputMcpCall,
    InputMcpApprovalRequest,
    HostedToolCall,
    CallElsewhere,
)


def answers_in(items: Sequence[InputItem]) -> list[int]:
    """Returns the indices of the assistant's final messages.

    A message followed by a call of the same turn is commentary, even if it has no `phase`, as many clients
    omit it, or another one. An empty message is no answer.
    """
    answers: list[int] = []
    is_calling = False
    for index in range(len(items) - 1, -1, -1):
        item = items[index]
        if isinstance(item, _CALLS):
            is_calling = True
        elif isinstance(item, InputCompaction):
            is_calling = False
        elif not isinstance(item, InputMessage):
            continue
        elif item.role != "assistant":
            is_calling = False
        elif not is_calling and item.phase != "commentary" and _says(item):
            answers.append(index)
    answers.reverse()
    return answers


def without_old_reasoning(items: Sequence[InputItem], following: Sequence[InputItem] = ()) -> list[InputItem]:
    """Returns the items without the reasoning before the last answer, which no model reads again.

    `following`: items after these, among which the last answer may be.
    """
    answers = answers_in([*items, *following])
    last = answers[-1] if answers else -1
    return [item for i, item in enumerate(items) if i > last or not isinstance(item, InputReasoning)]


def _says(message: InputMessage) -> bool:
    if isinstance(message.content, str):
        return bool(message.content)
    return any(map(_text_of, message.content))


def _text_of(part: MessagePart) -> str:
    match part:
        case InputText(text) | EarlierText(text):
            return text
        case Refusal(refusal):
            return refusal
        case InputImage() | InputFile():
            return ""
