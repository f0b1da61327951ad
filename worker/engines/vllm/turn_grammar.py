"""An automaton over the Harmony tokens of one turn: what may come next under a constraint.

Pure: its state is a fold of the turn's tokens. Owns headers, bodies and their ends; how a JSON text goes
on is a matcher's business (`json_grammar`), how logits are masked the engine's.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from worker.engines.protocol import Body, Constraint
from worker.harmony.tokens import CALL, CHANNEL, CONTROL_TOKENS, END, MESSAGE, NEXT_TURN, RETURN, encode


class Matcher(Protocol):
    """Follows a JSON text, and the token that ends its message."""

    def accept(self, token: int) -> bool:
        """Goes one token further; False: the text cannot go on so, and nothing has changed."""


M = TypeVar("M", bound=Matcher)


@dataclass(frozen=True, slots=True)
class Only:
    """One of these tokens; none at all once the turn is over."""

    tokens: frozenset[int]


@dataclass(frozen=True, slots=True)
class FreeText:
    """Any token but markers and reserved ones, or `end`."""

    end: int


@dataclass(frozen=True, slots=True)
class Json(Generic[M]):
    """What the matcher allows, which includes the message's end where the text is complete."""

    matcher: M


class OutOfGrammar(Exception):
    """A token that was not allowed in its place: these tokens were made under another constraint."""


@dataclass(slots=True)
class _Node:
    """A place in the headers that may be said: the tokens that lead on, or the body that has begun."""

    next: dict[int, "_Node"] = field(default_factory=dict)
    body: tuple[Body, int] | None = None
    """The body, and the token that ends it."""


_OVER = Only(frozenset())
_FREE = Body()


class TurnGrammar(Generic[M]):
    """Follows one turn from its beginning, behind the prompt's `<|start|>assistant`.

    `matcher_of`: a matcher for a JSON body that ends in a given token.
    """

    def __init__(self, constraint: Constraint, matcher_of: Callable[[Body, int], M]) -> None:
        if constraint.final is None and not constraint.calls:
            raise ValueError("a constraint without calls and without a final message allows no turn at all")
        self._matcher_of = matcher_of
        self._free_tokens_max = constraint.free_tokens_max
        self._answers = _answers_of(constraint)
        self._headers = _trie_of([*_free_messages_of(constraint), *self._answers])
        self._said = 0
        """Tokens of the turn so far."""
        self._node = self._headers_now()
        """Where the header stands; its body once that has begun."""
        self._matcher: M | None = None
        self._is_over = False

    def accept(self, token: int) -> None:
        """Raises OutOfGrammar; the grammar is of no use after that. Takes reasoning beyond its limit, which
        another worker may have had higher."""
        if self._is_over:
            raise self._refusal(token)
        if self._node.body is None:
            self._accept_header(token)
        else:
            self._accept_text(token, self._node.body[1])
        self._said += 1

    def allowed(self) -> Only | FreeText | Json[M]:
        """What the next token may be."""
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
    """Reasoning; and what is told before a call."""
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
"""Stands for the headers that may be said by then."""
_BETWEEN = _path_to(NEXT_TURN, _NEXT_HEADER)
"""Behind the end of a free message."""
