"""Constraints where vLLM's scheduler has grammars: each request keeps the state of its own turn."""

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import pytest

pytest.importorskip("vllm")

from tests.model.constrained import VOCABULARY_SIZE, Asked, Scheduling
from tests.patience import until
from worker.engines.protocol import Body, Call, Constraint
from worker.harmony.tokens import CALL, CHANNEL, CONTROL_TOKENS, END, MESSAGE, RETURN, encode

pytestmark = pytest.mark.filterwarnings("default")  # what vLLM and torch deprecate is theirs

REFUSAL = CONTROL_TOKENS[-1]
YES = Constraint(final=Body(True, '{"enum": ["yes"]}'))
TEXT = Constraint(final=Body())
ANALYSIS, FINAL = ([CHANNEL, *encode(name), MESSAGE] for name in ("analysis", "final"))


@pytest.fixture(scope="module")
def grammars() -> Any:
    from worker.engines.vllm.json_grammar import grammars_of

    return grammars_of(VOCABULARY_SIZE)


@pytest.fixture(scope="module")
def scheduling() -> Scheduling:
    return Scheduling()


async def asked(grammars: Any, constraint: Constraint, own: Sequence[int] = ()) -> Asked:
    request = Asked(constraint, own, grammars)
    await until(lambda: request.may_start)
    return request


async def test_each_request_keeps_its_state_in_whatever_order_a_step_has_them(
    scheduling: Scheduling, grammars: Any
) -> None:
    free = Asked(None, (), grammars)
    assert (free.use_structured_output, free.status) == (False, "waiting")
    first, second = await asked(grammars, YES), await asked(grammars, TEXT, ANALYSIS)
    header, text = scheduling.allowed(first, second)
    assert header == {CHANNEL}
    assert len(text) == 199_998 + 1
    assert END in text

    assert scheduling.say(first, FINAL)
    (opening,) = scheduling.allowed(first)
    assert encode('"')[0] in opening
    assert END not in opening
    assert scheduling.say(first, encode('"yes"'))
    assert scheduling.allowed(second, first) == [text, {RETURN}]
    assert scheduling.allowed(first) == [{RETURN}]
    assert scheduling.allowed(await asked(grammars, YES, [*FINAL, *encode('"yes"')])) == [{RETURN}]


async def test_drafts_are_followed_as_far_as_they_fit_and_forgotten(
    scheduling: Scheduling, grammars: Any
) -> None:
    request = await asked(grammars, YES)
    wanted = [*FINAL, *encode('"yes"'), RETURN]
    assert scheduling.fitting(request, [*wanted, 5, 6]) == wanted
    assert scheduling.fitting(request, [*FINAL, 5]) == FINAL
    assert scheduling.fitting(request, [5]) == scheduling.fitting(request, [REFUSAL]) == []
    for drafts in (wanted, FINAL, []):
        *rows, last = scheduling.allowed(request, drafts={request.request_id: list(drafts)})
        assert [draft in row for draft, row in zip(drafts, rows, strict=True)] == [True] * len(drafts)
        assert last == ({REFUSAL} if drafts is wanted else {encode('"')[0], *last} if drafts else {CHANNEL})
    assert scheduling.allowed(request) == [{CHANNEL}]
    assert scheduling.say(request, wanted)


async def test_a_turn_is_over_for_drafts_too(scheduling: Scheduling, grammars: Any) -> None:
    request = await asked(grammars, TEXT, FINAL)
    assert scheduling.fitting(request, [5, RETURN, 6]) == [5, RETURN]
    first, second, third = scheduling.allowed(request, drafts={request.request_id: [5, RETURN]})
    assert RETURN in first & second
    assert third == {REFUSAL}, "which nobody sees: the answer ends before it"


async def test_the_turns_own_tokens_in_the_prompt_are_followed_first(
    scheduling: Scheduling, grammars: Any
) -> None:
    own = [*FINAL, 5]
    request = await asked(grammars, TEXT, own)
    request.prompt_token_ids[: -len(own)] = [CHANNEL, CALL]
    (allowed,) = scheduling.allowed(request)
    assert RETURN in allowed


@pytest.mark.parametrize("body", ['{"enum": []}', '{"$ref": "#"}'])
async def test_a_turn_that_cannot_go_on_says_so_and_the_others_go_on(
    scheduling: Scheduling, grammars: Any, body: str
) -> None:
    dead_end = await asked(grammars, Constraint(final=Body(True, body)), FINAL)
    misfit = await asked(grammars, TEXT, [7])
    other = await asked(grammars, TEXT, FINAL)
    for _ in range(2):
        first, second, third = scheduling.allowed(dead_end, misfit, other)
        assert first == second == {REFUSAL}
        assert REFUSAL not in third
    assert "cannot" in str(dead_end.refusal)
    assert str(misfit.refusal).startswith("The output cannot continue in a way")


class Slow:
    """Grammars that are compiled when the test says so."""

    def __init__(self) -> None:
        self.begun: list[tuple[Body, Future[Any]]] = []

    def begin(self, body: Body) -> "Future[Any]":
        self.begun.append((body, Future()))
        return self.begun[-1][1]


def test_a_request_waits_until_all_its_grammars_are_there() -> None:
    grammars = Slow()
    bodies = [Body(True, f'{{"const": {n}}}') for n in range(2)]
    request = Asked(Constraint((Call("f", (1,), bodies[0]),), bodies[1]), (), grammars)
    assert request.status != "waiting"
    assert [body for body, _ in grammars.begun] == bodies[::-1]
    for _, compiled in grammars.begun:
        assert not request.may_start
        compiled.set_result(None)
    assert request.may_start
    assert len(grammars.begun) == 2, "what is there is not asked for again"


def test_a_request_whose_grammar_cannot_be_made_is_told_why() -> None:
    grammars = Slow()
    request = Asked(YES, (), grammars)
    grammars.begun[0][1].set_exception(ValueError("it cannot be"))
    assert request.may_start
    assert request.refusal == "it cannot be"
