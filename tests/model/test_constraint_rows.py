"""The logits processor by itself: rows come, move and go, and each keeps the state of its own request."""

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("vllm")

pytestmark = pytest.mark.filterwarnings("default")  # what vLLM and torch deprecate is theirs

VOCABULARY = 201_088


@pytest.fixture
def processor() -> Any:
    import torch

    from worker.engines.vllm.logits import TurnConstraints

    config = SimpleNamespace(model_config=SimpleNamespace(get_vocab_size=lambda: VOCABULARY))
    return TurnConstraints(config, torch.device("cpu"), False)


def params_of(constraint: Any, turn_tokens: int = 0) -> Any:
    from vllm import SamplingParams

    from worker.engines.vllm.logits import to_extra_args

    return SamplingParams(extra_args=to_extra_args(constraint, turn_tokens))


def update(
    processor: Any,
    *,
    added: Sequence[tuple[int, Any, list[int], list[int]]] = (),
    removed: Sequence[int] = (),
    moved: Sequence[tuple[int, int, Any]] = (),
) -> None:
    from vllm.v1.sample.logits_processor import BatchUpdate

    processor.update_state(BatchUpdate(8, removed=removed, added=added, moved=moved))


def allowed(processor: Any, rows: int = 4) -> list[set[int] | None]:
    """What each row may say next; None: anything at all."""
    import torch

    logits = processor.apply(torch.zeros((rows, VOCABULARY)))
    kept = [set(torch.nonzero(row == 0).flatten().tolist()) for row in logits]
    return [None if len(tokens) == VOCABULARY else tokens for tokens in kept]


def tokens_of(text: str) -> list[int]:
    from worker.harmony.tokens import CHANNEL, MESSAGE, encode

    return [CHANNEL, *encode(text), MESSAGE]


def test_a_row_follows_its_request_through_moves_swaps_and_preemption(processor: Any) -> None:
    from vllm.v1.sample.logits_processor import MoveDirectionality

    from worker.engines.protocol import Body, Constraint
    from worker.harmony.tokens import CHANNEL, END, RETURN, encode

    word = Body(True, '{"enum": ["yes"]}')
    first, second = Constraint(final=word), Constraint(final=Body())
    said: list[int] = []
    update(
        processor,
        added=[
            (0, params_of(first), [1, 2], said),
            (1, params_of(None), [1], []),
            (2, params_of(second), [1], tokens_of("analysis")),
        ],
    )
    header, unconstrained, text, absent = allowed(processor)
    assert header == {CHANNEL}
    assert unconstrained is None
    assert absent is None
    assert text is not None
    assert len(text) == 199_998 + 1
    assert END in text

    said += tokens_of("final")
    (opening, *_) = allowed(processor)
    assert opening is not None
    assert encode('"')[0] in opening
    assert END not in opening
    said += [*encode('"yes"')]
    update(processor, moved=[(0, 2, MoveDirectionality.SWAP)])
    assert allowed(processor)[2] == {RETURN}
    assert allowed(processor)[0] == text
    update(processor, removed=[0], moved=[(2, 0, MoveDirectionality.UNIDIRECTIONAL)])
    assert allowed(processor) == [{RETURN}, None, None, None]
    update(processor, removed=[0])
    assert allowed(processor) == [None] * 4
    update(processor, added=[(3, params_of(first), [1, 2], list(said))])
    assert allowed(processor)[3] == {RETURN}


def test_tokens_that_vllm_takes_back_are_forgotten(processor: Any) -> None:
    from worker.engines.protocol import Body, Constraint
    from worker.harmony.tokens import CHANNEL

    said = [*tokens_of("analysis"), 5, 6]
    update(processor, added=[(0, params_of(Constraint(final=Body())), [1], said)])
    assert len(allowed(processor)[0] or ()) > 100_000
    del said[:]
    assert allowed(processor)[0] == {CHANNEL}


def test_the_turns_own_tokens_in_the_prompt_are_followed_first(processor: Any) -> None:
    from worker.engines.protocol import Body, Constraint
    from worker.harmony.tokens import CALL, CHANNEL, RETURN

    own = [*tokens_of("final"), 5]
    constraint = Constraint(final=Body())
    update(processor, added=[(0, params_of(constraint, len(own)), [CHANNEL, CALL, *own], [])])
    assert RETURN in (allowed(processor)[0] or ())


@pytest.mark.parametrize("body", ['{"enum": []}', '{"$ref": "#"}'])
def test_a_row_that_cannot_go_on_says_so_and_the_others_go_on(processor: Any, body: str) -> None:
    from worker.engines.protocol import Body, Constraint
    from worker.engines.vllm.logits import REFUSAL

    dead_end = Constraint(final=Body(True, body))
    update(
        processor,
        added=[
            (0, params_of(dead_end), [1], tokens_of("final")),
            (1, params_of(Constraint(final=Body())), [1], [7]),
            (2, params_of(Constraint(final=Body())), [1], tokens_of("final")),
        ],
    )
    for _ in range(2):
        first, second, third, _ = allowed(processor)
        assert first == second == {REFUSAL}
        assert third is not None
        assert REFUSAL not in third


def test_what_cannot_be_read_is_refused_before_it_is_queued() -> None:
    from vllm import SamplingParams

    from worker.engines.vllm.logits import TurnConstraints

    TurnConstraints.validate_params(SamplingParams())
    with pytest.raises(ValueError, match="antiphon_turn"):
        TurnConstraints.validate_params(SamplingParams(extra_args={"antiphon_turn": {"tokens": "many"}}))


async def test_a_request_waits_until_every_process_has_its_grammars() -> None:
    from worker.engines.protocol import Body, Constraint, Unfulfillable
    from worker.engines.vllm.logits import GrammarPreparation

    answers: list[list[str | None]] = [[None, None], ["compiled", None], ["compiled", "compiled"]]
    asked: list[Any] = []

    async def call(method: str, args: tuple[Any, ...]) -> list[str | None]:
        asked.append(args)
        return answers.pop(0)

    preparation = GrammarPreparation(call)
    constraint = Constraint(final=Body(True, "{}"))
    await asyncio.gather(preparation.prepare(constraint))
    assert answers == []
    await preparation.prepare(constraint)
    assert len(asked) == 3, "what is there is not asked for again"
    answers.append(["compiled", "it cannot be"])
    with pytest.raises(Unfulfillable, match="it cannot be"):
        await preparation.prepare(Constraint(final=Body(True, "[]")))
