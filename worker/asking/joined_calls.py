"""Marks the calls after which the assistant went on in the same turn, to be rendered as it wrote them.

Pure. `conversation.py` renders items, `worker/harmony` messages.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest

from worker.harmony.tokens import ChatMessage

FORMAT_OF_JOINED_CALLS = 5
"""Records of earlier formats have their prompts as they were begun (`shared/record_format.py`)."""


def join_calls(messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    """Returns the messages with each call marked after which the assistant goes on: the model cannot have
    ended it with the token that ends a turn."""
    return [
        replace(message, is_followed=_is_call(message) and after is not None and after.role == "assistant")
        for message, after in zip_longest(messages, messages[1:])
    ]


def _is_call(message: ChatMessage) -> bool:
    return message.role == "assistant" and message.recipient is not None
