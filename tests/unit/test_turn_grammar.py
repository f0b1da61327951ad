"""The automaton of a turn: what it allows parses, what it forbids is rejected, and cutting changes
nothing."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.engines.protocol import Body, Call, Constraint
from worker.engines.vllm.turn_grammar import FreeText, Json, Only, OutOfGrammar, TurnGrammar
from worker.harmony.parser import MessageClosed, MessageOpened, SegmentParser
from worker.harmony.tokens import (
    CALL,
    CHANNEL,
    CONTROL_TOKENS,
    END,
    MESSAGE,
    NEXT_TURN,
    RETURN,
    START,
    encode,
)

OBJECT = encode("{}")
ANALYSIS, COMMENTARY, FINAL = (
    (CHANNEL, *encode(name), MESSAGE) for name in ("analysis", "commentary", "final")
)


def call_to(recipient: str, arguments: Body) -> Call:
    return Call(recipient, (CHANNEL, *encode(f"commentary to={recipient}"), MESSAGE), arguments)


PYTHON = Call("python", (CHANNEL, *encode("analysis to=python code"), MESSAGE), Body())
WEATHER, CLOCK = call_to("functions.weather", Body(True)), call_to("functions.weather_at", Body(True))


class Spelled:
    """A matcher that wants the tokens of `{}` and then the end."""

    def __init__(self, end: int) -> None:
        self.wanted = [*OBJECT, end]
        self.taken: list[int] = []

    def accept(self, token: int) -> bool:
        if not self.wanted or token != self.wanted[0]:
            return False
        self.taken.append(self.wanted.pop(0))
        return True

    def take_back(self) -> None:
        self.wanted.insert(0, self.taken.pop())


def grammar_of(constraint: Constraint, said: Sequence[int] = (), undone_max: int = 0) -> TurnGrammar[Spelled]:
    grammar = TurnGrammar(constraint, lambda _body, end: Spelled(end), undone_max)
    for token in said:
        grammar.accept(token)
    return grammar


def choices(grammar: TurnGrammar[Spelled]) -> list[int]:
    """Some of the tokens that may come next, all of them where they are few."""
    match grammar.allowed():
        case Only(tokens):
            return sorted(tokens)
        case FreeText(end):
            return [end, *encode("It is so, é")]
        case Json(matcher):
            return matcher.wanted[:1]


def state(grammar: TurnGrammar[Spelled]) -> object:
    allowed = grammar.allowed()
    return tuple(allowed.matcher.wanted) if isinstance(allowed, Json) else allowed


constraints = st.builds(
    Constraint,
    calls=st.lists(st.sampled_from([PYTHON, WEATHER, CLOCK]), min_size=1, unique=True).map(tuple),
    final=st.sampled_from([None, Body(), Body(True)]),
    free_tokens_max=st.one_of(st.none(), st.integers(0, 30)),
) | st.builds(Constraint, final=st.sampled_from([Body(), Body(True)]))


def walk(constraint: Constraint, data: st.DataObject, tokens_max: int = 60) -> list[int]:
    grammar = grammar_of(constraint)
    said: list[int] = []
    while len(said) < tokens_max and (options := choices(grammar)):
        said.append(data.draw(st.sampled_from(options)))
        grammar.accept(said[-1])
    return said


@given(constraints, st.data())
def test_what_is_allowed_parses_into_the_messages_that_the_constraint_names(
    constraint: Constraint, data: st.DataObject
) -> None:
    parser = SegmentParser()
    segments = [segment for token in walk(constraint, data) for segment in parser.feed(token)]
    opened = [segment for segment in segments if isinstance(segment, MessageOpened)]
    recipients = {call.recipient for call in constraint.calls}
    channels = {"analysis"} | ({"commentary"} if recipients else set())
    channels |= set() if constraint.final is None else {"final"}
    for message in opened:
        assert message.recipient in recipients | {None}
        assert message.recipient or message.channel in channels
    for message, closed in zip(opened, [s for s in segments if isinstance(s, MessageClosed)], strict=False):
        assert closed.is_call == (message.recipient is not None)
    ends = [message for message in opened if message.recipient or message.channel == "final"]
    assert ends in ([], opened[-1:]), "an answer or a call ends the turn"


@given(constraints, st.data())
def test_catching_up_from_any_cut_gives_the_same_state(constraint: Constraint, data: st.DataObject) -> None:
    said = walk(constraint, data)
    cut = data.draw(st.integers(0, len(said)))
    grammar = grammar_of(constraint, said[:cut])
    for token in said[cut:]:
        grammar.accept(token)
    assert state(grammar) == state(grammar_of(constraint, said))


@given(constraints, st.data())
def test_tokens_that_are_taken_back_leave_no_trace(constraint: Constraint, data: st.DataObject) -> None:
    said = walk(constraint, data)
    tried = data.draw(st.integers(0, len(said)))
    grammar = grammar_of(constraint, said, undone_max=tried)
    grammar.take_back(tried)
    kept = said[: len(said) - tried]
    assert state(grammar) == state(grammar_of(constraint, kept))
    for token in said[len(kept) :]:
        grammar.accept(token)
    assert state(grammar) == state(grammar_of(constraint, said))


@given(constraints, st.data())
def test_a_turn_never_runs_dry_before_its_end(constraint: Constraint, data: st.DataObject) -> None:
    said = walk(constraint, data)
    if not choices(grammar_of(constraint, said)):
        assert said[-1] in (RETURN, CALL)


@given(constraints, st.integers(0, CONTROL_TOKENS[-1]), st.data())
def test_what_is_not_allowed_is_refused(constraint: Constraint, token: int, data: st.DataObject) -> None:
    grammar = grammar_of(constraint, walk(constraint, data, data.draw(st.integers(0, 60))))
    match grammar.allowed():
        case Only(tokens):
            # Reasoning that has to end may have gone on: an attempt elsewhere had room for more.
            is_allowed = token in tokens or (tokens == {END} and token not in CONTROL_TOKENS)
        case FreeText(end):
            is_allowed = token not in CONTROL_TOKENS or token == end
        case Json(matcher):
            is_allowed = token == matcher.wanted[0]
    if is_allowed:
        grammar.accept(token)
    else:
        before = state(grammar)
        with pytest.raises(OutOfGrammar, match=f"token {token}"):
            grammar.accept(token)
        assert state(grammar) == before


def test_reasoning_is_ended_when_its_tokens_are_spent_and_may_not_begin_again() -> None:
    constraint = Constraint((WEATHER,), Body(True), free_tokens_max=6)
    said = [*ANALYSIS, *encode("x y z")]
    assert len(said) == 6
    assert choices(grammar_of(constraint, said[:-1])) != [END]
    assert choices(grammar_of(constraint, said)) == [END]
    between = grammar_of(constraint, [*said, END, *NEXT_TURN])
    assert choices(between) == [CHANNEL]
    between.accept(CHANNEL)
    assert choices(between) == sorted([encode("final")[0], encode("commentary")[0]])
    between.accept(encode("commentary")[0])
    assert MESSAGE not in choices(between), "a preamble is free text as well"


def test_a_preamble_may_be_told_only_where_a_call_can_follow() -> None:
    grammar_of(Constraint((WEATHER,)), [*COMMENTARY, *encode("Let me see."), END, START])
    with pytest.raises(OutOfGrammar):
        grammar_of(Constraint(), COMMENTARY)


def test_a_turn_that_must_call_has_no_final_message() -> None:
    with pytest.raises(OutOfGrammar):
        grammar_of(Constraint((WEATHER,), None), FINAL)


def test_a_turn_is_over_after_its_answer_and_after_its_call() -> None:
    for said in ([*FINAL, *encode("Yes."), RETURN], [*WEATHER.header, *OBJECT, CALL]):
        over = grammar_of(Constraint((WEATHER,)), said)
        assert over.allowed() == Only(frozenset())
        with pytest.raises(OutOfGrammar):
            over.accept(START)


def test_code_is_free_text_that_ends_in_a_call() -> None:
    code = grammar_of(Constraint((PYTHON,), None), [*PYTHON.header, *encode("print({1: 2})")])
    assert code.allowed() == FreeText(CALL)


def test_names_that_begin_alike_are_told_apart() -> None:
    constraint = Constraint((WEATHER, CLOCK), None)
    for call in constraint.calls:
        followed = grammar_of(constraint)
        for token, following in pairwise((*call.header, OBJECT[0])):
            followed.accept(token)
            assert following in choices(followed)


def test_a_constraint_that_allows_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no turn at all"):
        grammar_of(Constraint((), None))
