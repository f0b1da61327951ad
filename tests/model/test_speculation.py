"""Speculative decoding: constraints hold for drafts too, and what vLLM cannot do with drafts is refused."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from tests.engines import SPECULATION_ARGS, make_vllm_of
from tests.model.test_constraints import PROMPT, Model, in_format, turn
from worker.engines.protocol import Sampling, Unsupported
from worker.harmony.tokens import CHANNEL, MESSAGE, STOP_TOKENS, encode

pytestmark = pytest.mark.filterwarnings("default")  # what vLLM and torch deprecate is theirs

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "kind": {"const": "the only kind of meeting that there is"},
        "page": {"enum": ["one", "two"]},
        "is_open": {"type": "boolean"},
        "seats": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["kind", "page", "is_open", "seats"],
    "additionalProperties": False,
}
"""Bounded: nothing here makes the end of a text likely, since vLLM takes no `logit_bias` with drafts."""
EXAMPLE = json.dumps(
    {"kind": SCHEMA["properties"]["kind"]["const"], "page": "one", "is_open": True, "seats": 7}
)
SAID_BEFORE = [CHANNEL, *encode("final"), MESSAGE, *encode(EXAMPLE)]
"""What drafts are taken from."""


def unbiased(sampling: Sampling) -> Sampling:
    return replace(sampling, logit_bias={})


@pytest.fixture(scope="module")
def model(random_weights: Path) -> Iterator[Model]:
    engine = make_vllm_of(random_weights, SPECULATION_ARGS).engine
    with asyncio.Runner() as runner:
        runner.run(engine.start())
        yield Model(runner, engine, [*SAID_BEFORE, *encode("\n"), *PROMPT])
        runner.run(engine.stop())


def test_an_answer_follows_its_schema_and_takes_fewer_steps_than_tokens(model: Model) -> None:
    """Random weights seldom continue as the text before them does, so several dozen answers may be needed."""
    steps = tokens = 0
    for first in range(0, 240, 12):
        answers = model.say(*(unbiased(in_format(SCHEMA, seed=seed)) for seed in range(first, first + 12)))
        for said in answers:
            assert said.answer[:2] == ("final", None)
            jsonschema.validate(json.loads(said.answer[2]), SCHEMA)
        steps += sum(said.steps for said in answers)
        tokens += sum(len(said.tokens) for said in answers)
        if steps < tokens:
            return
    pytest.fail(f"{steps} steps for {tokens} tokens: no draft was taken")


def test_reasoning_is_free_and_leads_to_the_schema(model: Model) -> None:
    begun = [CHANNEL, *encode("analysis"), MESSAGE, *encode("So")]
    (said,) = model.go_on((unbiased(in_format(SCHEMA)), begun))
    assert said.messages[0][0] == "analysis"
    assert said.messages[0][2].startswith("So")
    assert said.answer[:2] == ("final", None)
    jsonschema.validate(json.loads(said.answer[2]), SCHEMA)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_taken_over_answer_goes_on_in_the_middle_of_its_json(model: Model, temperature: float) -> None:
    whole = unbiased(in_format(SCHEMA, temperature=temperature))
    (undisturbed,) = model.say(whole)
    cuts = range(1, len(undisturbed.tokens), 5)
    for taken_over in model.go_on(*((replace(whole, seed=cut), undisturbed.tokens[:cut]) for cut in cuts)):
        jsonschema.validate(json.loads(taken_over.answer[2]), SCHEMA)
        if temperature == 0:
            assert taken_over.tokens == undisturbed.tokens


def test_a_demanded_call_is_made_with_the_arguments_of_its_schema(model: Model) -> None:
    tool = {"type": "function", "name": "book", "parameters": SCHEMA, "strict": True}
    turns = (unbiased(turn(tools=[tool], tool_choice="required", seed=seed)) for seed in range(6))
    for said in model.say(*turns):
        assert said.answer[1] == "functions.book"
        jsonschema.validate(json.loads(said.answer[2]), SCHEMA)


def test_unconstrained_turns_beside_constrained_ones_are_left_alone(model: Model) -> None:
    """All of them greedy: with drafts, vLLM's CPU build is exact in no other batch (ADR 36)."""
    free = Sampling(60, 0.0, stop_token_ids=STOP_TOKENS)
    (alone,) = model.say(free)
    together = model.say(free, *[unbiased(in_format(SCHEMA, temperature=0.0))] * 4, free)
    assert together[0].tokens == together[-1].tokens == alone.tokens


def test_a_schema_that_cannot_be_enforced_is_refused_with_its_place(model: Model) -> None:
    with pytest.raises(Unsupported, match=r"#/properties/a: 'multipleOf'"):
        model.say(unbiased(in_format({"type": "object", "properties": {"a": {"multipleOf": 3}}})))


@pytest.mark.parametrize("options", [{"min_p": 0.1}, {"logit_bias": {5: 1.0}}], ids=str)
def test_what_vllm_cannot_do_with_drafts_is_refused_by_name(model: Model, options: dict[str, Any]) -> None:
    with pytest.raises(Unsupported, match="min_p and logit_bias"):
        model.say(replace(Sampling(5, stop_token_ids=STOP_TOKENS), **options))
