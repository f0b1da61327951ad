"""Turns a conversation into the tokens of a prompt that fits into the model's context. Pure.

Owns which messages are dropped, if the request allows it, and that nothing is encoded that cannot fit;
`worker/harmony` renders each message. Long work is a generator that yields after each short step, for
`stepper.py`.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from shared.context_length import tokens_min
from worker.harmony.tokens import (
    NEXT_TURN,
    ChatMessage,
    DeveloperPart,
    HarmonyMessage,
    SystemPart,
    render_steps,
)
from worker.response.stepper import Steps

_MESSAGE_TOKENS_MIN = 4
"""`<|start|>`, an author, `<|message|>` and an end."""


class TooLong(Exception):
    """The conversation, without all that may be dropped, has more tokens than there is room for."""


@dataclass(frozen=True, slots=True)
class Prompt:
    tokens: list[int]
    """Ends where the assistant's next message begins."""
    messages: list[HarmonyMessage]
    """The messages that were kept."""


def fit(messages: Sequence[HarmonyMessage], tokens_max: int, *, may_drop: bool) -> Steps[Prompt]:
    """Returns a prompt of at most `tokens_max` tokens. Raises TooLong.

    `may_drop`: the oldest messages are dropped, a call together with its outputs; instructions, tools, the
    last user message and the last unit are always kept. Each kept message is encoded once, and at most one
    unit of those dropped.
    """
    head = [message for message in messages if not isinstance(message, ChatMessage)]
    said = [message for message in messages if isinstance(message, ChatMessage)]
    units = _units_of(said) if may_drop else [range(len(said))]
    pinned = _pinned(said, units)
    must = [message for place in sorted(pinned) for message in (said[i] for i in units[place])]
    if _tokens_min([*head, *must]) > tokens_max:
        raise TooLong
    room = _Room(tokens_max - len(NEXT_TURN), messages)
    begin = yield from room.take(head)
    taken: dict[int, list[int]] = {}
    for place in sorted(pinned):
        taken[place] = yield from room.take(said[i] for i in units[place])
    for place in reversed(range(len(units))):
        if place not in taken:
            try:
                taken[place] = yield from room.take(said[i] for i in units[place])
            except TooLong:
                break
    kept = sorted(taken)
    tokens = [*begin, *(token for place in kept for token in taken[place]), *NEXT_TURN]
    return Prompt(tokens, [*head, *(said[i] for place in kept for i in units[place])])


def encode_message(message: ChatMessage) -> Steps[list[int]]:
    """Returns the tokens that a message adds to a prompt."""
    tokens: list[int] = []
    for piece in render_steps(message, ()):
        tokens += piece
        yield
    return tokens


def count(messages: Sequence[HarmonyMessage]) -> Steps[int]:
    """Returns the number of tokens in the whole prompt, without any limit."""
    tokens = len(NEXT_TURN)
    for message in messages:
        for piece in render_steps(message, messages):
            tokens += len(piece)
            yield
    return tokens


class _Room:
    """The room left in the context; encoding messages uses it up."""

    def __init__(self, tokens: int, conversation: Sequence[HarmonyMessage]) -> None:
        self._tokens = tokens
        self._conversation = conversation

    def take(self, messages: Iterable[HarmonyMessage]) -> Steps[list[int]]:
        """Returns the messages' tokens. Raises TooLong as soon as they do not fit, with no room used up."""
        taken: list[int] = []
        for message in messages:
            for piece in render_steps(message, self._conversation):
                taken += piece
                if len(taken) > self._tokens:
                    raise TooLong
                yield
        self._tokens -= len(taken)
        return taken


def _tokens_min(messages: Sequence[HarmonyMessage]) -> int:
    """Returns a lower bound on the messages' tokens, from their lengths alone."""
    return _MESSAGE_TOKENS_MIN * len(messages) + tokens_min(sum(map(_chars_of, messages)))


def _chars_of(message: HarmonyMessage) -> int:
    match message:
        case ChatMessage():
            return len(message.text)
        case DeveloperPart():
            return len(message.instructions or "") + len(message.response_formats or "")
        case SystemPart():
            return 0


def _pinned(said: Sequence[ChatMessage], units: Sequence[range]) -> set[int]:
    """Returns the places of the units that must be kept."""
    last_user = next((i for i in reversed(range(len(said))) if said[i].role == "user"), None)
    places = {len(units) - 1} if said else set()
    return places | {place for place, unit in enumerate(units) if last_user is not None and last_user in unit}


def _units_of(said: Sequence[ChatMessage]) -> list[range]:
    """Returns the units that are kept or dropped as a whole, as ranges of indices.

    A unit is a message, or a call with everything up to its answer. An answer belongs to its author's first
    unanswered call.
    """
    waiting: dict[str, deque[int]] = {}
    ends = list(range(len(said)))
    for i, message in enumerate(said):
        if message.role == "assistant" and message.recipient is not None:
            waiting.setdefault(message.recipient, deque()).append(i)
        elif message.role == "tool" and (calls := waiting.get(message.name or "")):
            ends[calls.popleft()] = i
    units: list[range] = []
    begin = end = 0
    for i, own_end in enumerate(ends):
        end = max(end, own_end)
        if i == end:
            units.append(range(begin, end + 1))
            begin = end = i + 1
    return units
