"""An automaton over the Harmony tokens of one turn, which says what may come next under a constraint.

Pure: its state is a fold of the turn's tokens. Owns headers, bodies and their ends; a matcher owns how a JSON
text continues (`json_grammar.py`), the engine how logits are masked.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from worker.engines.protocol import Body, Constraint
from worker.harmony.tokens import CALL, CHANNEL, CONTROL_TOKENS, END, MESSAGE, NEXT_TURN, RETURN, encode


class Matcher(Protocol):
    """Tracks a JSON text, and the token that ends its message."""

    def accept(self, token: int) -> bool:
        """Advances by one token; returns False, changing nothing, if the text cannot continue with it."""

    def take_back(self) -> None:
        """Undoes the last token."""


M = TypeVar("M", bound=Matcher)


@dataclass(frozen=True, slots=True)
class Only:
    """Allows these tokens; empty once the turn is over."""

    tokens: frozenset[int]


@dataclass(frozen=True, slots=True)
class FreeText:
    """Allows any token except markers and reserved ones, and `end`."""

    end: int


@dataclass(frozen=True, slots=True)
class Json(Generic[M]):
    """Allows what the matcher does, which includes the end of the message once the text is complete."""

    matcher: M


class OutOfGrammar(Exception):
    """A token that was not allowed in its place: the tokens were generated under another constraint."""


@dataclass(slots=True)
class _Node:
    """A node of the trie of headers: the tokens that may follow, or the body that begins here."""

    next: dict[int, "_Node"] = field(default_factory=dict)
    body: tuple[Body, int] | None = None
    """The body, and the token that ends it."""


_OVER = Only(frozenset())
_FREE = Body()


class TurnGrammar(Generic[M]):
    """Tracks one turn from its beginning, after the prompt's `<|start|>assistant`.

    `matcher_of`: returns a matcher for a JSON body that ends with a given token. `undone_max`: the number of
    tokens that can be taken back.
    """

    def __init__(
        self, constraint: Constraint, matcher_of: Callable[[Body, int], M], undone_max: int = 0
    ) -> None:
        if constraint.final is None and not constraint.calls:
            raise ValueError("a constraint with neither calls nor a final message allows no turn at all")
        self._matcher_of = matcher_of
        self._free_tokens_max = constraint.free_tokens_max
        self._answers = _answers_of(constraint)
        self._headers = _trie_of([*_free_messages_of(constraint), *self._answers])
        self._said = 0
        """The number of the turn's tokens so far."""
        self._node = self._headers_now()
        """The current node of the header; once its body has begun, the node with the body."""
        self._matcher: M | None = None
        self._is_over = False
        self._past: deque[tuple[_Node, M | None, bool]] = deque(maxlen=undone_max)
        """Node, matcher and end before each of the last tokens."""

    def accept(self, token: int) -> None:
        """Advances by one token. Raises OutOfGrammar, and then changes nothing.

        Accepts reasoning beyond the limit, since another worker may have had a higher one.
        """
        if self._is_over:
            raise self._refusal(token)
        before = self._node, self._matcher, self._is_over
        if self._node.body is None:
            self._accept_header(token)
        else:
            self._accept_text(token, self._node.body[1])
        self._said += 1
        self._past.append(before)

    def take_back(self, count: int) -> None:
        """Undoes the last `count` tokens, at most `undone_max`."""
        for _ in range(count):
            self._node, self._matcher, self._is_over = self._past.pop()
            self._said -= 1
            if self._matcher is not None:
                self._matcher.take_back()

    def allowed(self) -> Only | FreeText | Json[M]:
        """Returns what the next token may be."""
        if self._is_over:
            return _OVER
        if self._node.body is None:
            return Only(frozenset(self._node.next))
        if self._matcher is not None:
            return Json(self._matcher)
        end = self._node.body[1]
        return Only(frozenset({end})) if end == END and self._is_spent() else FreeText(end)

    def _accept_header(self, token: int) -> None:
        node = self._node.next.get(token)
        if node is None:
            raise self._refusal(token)
        if node is _NEXT_HEADER:
            node = self._headers_now()
        elif node.body is not None and node.body[0].is_json:
            self._matcher = self._matcher_of(*node.body)
        self._node = node

    def _accept_text(self, token: int, end: int) -> None:
        if self._matcher is not None:
            if not self._matcher.accept(token):
                raise self._refusal(token)
        elif token in CONTROL_TOKENS and token != end:
            raise self._refusal(token)
        if token == end:
            self._matcher = None
            self._node, self._is_over = _BETWEEN, end != END

    def _headers_now(self) -> _Node:
        return _trie_of(self._answers) if self._is_spent() else self._headers

    def _is_spent(self) -> bool:
        return self._free_tokens_max is not None and self._said >= self._free_tokens_max

    def _refusal(self, token: int) -> OutOfGrammar:
        return OutOfGrammar(f"token {token} is not allowed after {self._said} tokens of the turn")


_AnswerEnding = tuple[tuple[int, ...], Body, int]
"""A header's tokens, its body, and the token that ends it."""


def _answers_of(constraint: Constraint) -> list[_AnswerEnding]:
    answers = [(call.header, call.arguments, CALL) for call in constraint.calls]
    if constraint.final is not None:
        answers.append((_header_of("final"), constraint.final, RETURN))
    return answers


def _free_messages_of(constraint: Constraint) -> list[_AnswerEnding]:
    """Returns the messages that may precede the answer: reasoning, and commentary if a call may follow."""
    channels = ["analysis", "commentary"] if constraint.calls else ["analysis"]
    return [(_header_of(channel), _FREE, END) for channel in channels]


def _header_of(channel: str) -> tuple[int, ...]:
    return (CHANNEL, *encode(channel), MESSAGE)


def _trie_of(endings: Iterable[_AnswerEnding]) -> _Node:
    root = _Node()
    for header, body, end in endings:
        node = root
        for token in header:
            node = node.next.setdefault(token, _Node())
        node.body = body, end
    return root


def _path_to(tokens: Iterable[int], last: _Node) -> _Node:
    node = last
    for token in reversed(list(tokens)):
        node = _Node({token: node})
    return node


_NEXT_HEADER = _Node()
"""A placeholder for the headers allowed at that point."""
_BETWEEN = _path_to(NEXT_TURN, _NEXT_HEADER)
"""The node after the end of a free message."""
