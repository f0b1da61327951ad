"""Constraints on an untrained model: its output is right because nothing else is allowed."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import msgspec
import pytest

from shared.responses import McpTool
from tests.engines import make_vllm_of, read_chunks
from tests.model.schemas import MEETING, SCHEMAS
from tests.requests import make_request
from worker.asking.constraint import constraint_of
from worker.asking.offer import make_offer
from worker.engines.protocol import Engine, Sampling, Unsupported
from worker.harmony.parser import MessageOpened, SegmentParser, TextContinued
from worker.harmony.tokens import (
    CALL,
    NEXT_TURN,
    RETURN,
    STOP_TOKENS,
    encode,
)

pytestmark = pytest.mark.filterwarnings("default")  # what vLLM and torch deprecate is theirs

PROMPT = encode("A prompt of no meaning to a model that has none.") + NEXT_TURN
TOKENS_MAX = 4_000
ENDS = dict.fromkeys((encode('"')[0], CALL, RETURN), 9.0)
"""Makes the end of a text likely: among 200,000 tokens of the same chance it would be 1,000 tokens away."""
WEATHER = {"type": "function", "name": "weather", "parameters": MEETING, "strict": True}
CLOCK = {"type": "function", "name": "clock", "parameters": {"type": "object"}}
WIKI = {"type": "mcp", "server_label": "wiki", "server_url": "http://wiki.example/mcp"}
PYTHON = {"type": "mcp", "server_label": "code_interpreter"}
ASK = {"type": "object", "properties": {"page": {"enum": ["one", "two"]}}, "required": ["page"]}
TOOLS = [WEATHER, CLOCK, WIKI, PYTHON]
LISTED = {"wiki": (McpTool("ask", ASK), McpTool("edit", {"type": "object"}))}


@dataclass(frozen=True)
class Said:
    """A turn, message by message: (channel, recipient, text)."""

    tokens: tuple[int, ...]
    finish: str
    messages: list[tuple[str | None, str | None, str]]
    steps: int
    """In how many chunks it came."""

    @property
    def answer(self) -> tuple[str | None, str | None, str]:
        assert self.finish == "stop", self.messages
        return self.messages[-1]


class Model:
    """The engine, from a test that is not async."""

    def __init__(self, runner: asyncio.Runner, engine: Engine, prompt: Sequence[int] = PROMPT) -> None:
        self._runner, self._engine, self._numbers = runner, engine, count()
        self._prompt = prompt

    def say(self, *turns: Sampling) -> list[Said]:
        return self.go_on(*((turn, ()) for turn in turns))

    def go_on(self, *turns: tuple[Sampling, Sequence[int]]) -> list[Said]:
        """Generates all at once, each continuing what an earlier attempt has said."""

        async def all_of_them() -> list[Said]:
            return await asyncio.gather(*(self._one(turn, said) for turn, said in turns))

        return self._runner.run(all_of_them())

    async def _one(self, turn: Sampling, said: Sequence[int]) -> Said:
        turn = replace(turn, turn_tokens=len(said))
        tokens, finish, steps = [*said], "", 0
        async for chunk in read_chunks(
            self._engine, [*self._prompt, *said], turn, request_id=f"r{next(self._numbers)}"
        ):
            tokens += chunk.token_ids
            finish = chunk.finish_reason or finish
            steps += 1
        return Said(tuple(tokens), finish, read(tokens), steps)


def read(tokens: Sequence[int]) -> list[tuple[str | None, str | None, str]]:
    parser = SegmentParser()
    messages: list[tuple[str | None, str | None, str]] = []
    for token in tokens:
        for segment in parser.feed(token):
            if isinstance(segment, MessageOpened):
                messages.append((segment.channel, segment.recipient, ""))
            elif isinstance(segment, TextContinued):
                channel, recipient, before = messages[-1]
                messages[-1] = channel, recipient, before + segment.text
    return messages


def turn(*, seed: int = 1, has_called: bool = False, temperature: float = 1.0, **response: Any) -> Sampling:
    """`free_tokens_max` is small: a model that knows nothing reasons for ever."""
    request = make_request(tools=response.pop("tools", TOOLS))
    request = msgspec.structs.replace(request, response=msgspec.structs.replace(request.response, **response))
    constraint = constraint_of(
        request, make_offer(request, LISTED), has_called=has_called, budget=TOKENS_MAX, reserved=1_000
    )
    if constraint is not None:
        constraint = replace(constraint, free_tokens_max=40)
    return Sampling(
        TOKENS_MAX,
        temperature,
        seed=seed,
        stop_token_ids=STOP_TOKENS,
        constraint=constraint,
        logit_bias=ENDS,
    )


def in_format(schema: object, **options: Any) -> Sampling:
    text = {"format": {"type": "json_schema", "name": "it", "schema": schema, "strict": True}}
    return turn(text=text, tools=[], **options)


@pytest.fixture(scope="module")
def model(random_weights: Path) -> Iterator[Model]:
    engine = make_vllm_of(random_weights).engine
    with asyncio.Runner() as runner:
        runner.run(engine.start())
        yield Model(runner, engine)
        runner.run(engine.stop())


def test_an_answer_follows_its_schema_for_each_of_fifty(model: Model) -> None:
    answers = model.say(*(in_format(schema, seed=number) for number, schema in enumerate(SCHEMAS)))
    for schema, said in zip(SCHEMAS, answers, strict=True):
        channel, recipient, text = said.answer
        assert (channel, recipient) == ("final", None)
        jsonschema.validate(json.loads(text), schema)
    assert len(SCHEMAS) >= 50
    assert any(said.messages[0][0] == "analysis" for said in answers), "reasoning is free"


def test_json_object_is_one_object(model: Model) -> None:
    text = {"format": {"type": "json_object"}}
    answers = model.say(*(turn(text=text, tools=[], seed=seed) for seed in range(6)))
    whole = [said for said in answers if said.finish != "length"]  # one without sense may nest for ever
    assert whole
    for said in whole:
        assert isinstance(json.loads(said.answer[2]), dict)


REQUIRED = [
    ("required", {"functions.weather", "functions.clock", "wiki.ask", "wiki.edit", "python"}),
    ({"type": "function", "name": "weather"}, {"functions.weather"}),
    ({"type": "mcp", "server_label": "wiki", "name": "ask"}, {"wiki.ask"}),
    ({"type": "mcp", "server_label": "wiki"}, {"wiki.ask", "wiki.edit"}),
    ({"type": "code_interpreter"}, {"python"}),
    (
        {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "clock"}]},
        {"functions.clock"},
    ),
]


@pytest.mark.parametrize(("choice", "allowed"), REQUIRED, ids=lambda value: str(value)[:40])
def test_a_demanded_call_is_made_with_the_arguments_of_its_schema(
    model: Model, choice: Any, allowed: set[str]
) -> None:
    schemas = {"functions.weather": MEETING, "wiki.ask": ASK}
    for said in model.say(*(turn(tool_choice=choice, seed=seed) for seed in range(4))):
        if said.finish == "length" and said.messages[-1][1] in allowed - schemas.keys():
            continue  # free text, or an object that nests for ever
        _channel, recipient, arguments = said.answer
        assert recipient in allowed
        if recipient != "python":
            jsonschema.validate(json.loads(arguments), schemas.get(recipient, {"type": "object"}))


def test_none_makes_no_call_and_ends_in_an_answer(model: Model) -> None:
    turns = [replace(turn(tool_choice="none", seed=seed), max_tokens=300) for seed in range(6)]
    for said in model.say(*turns):
        assert {recipient for _, recipient, _ in said.messages} == {None}


def test_after_a_demanded_call_the_model_may_answer(model: Model) -> None:
    choice = {"type": "mcp", "server_label": "wiki", "name": "ask"}
    turns = [turn(tool_choice=choice, has_called=True, seed=seed) for seed in range(8)]
    said = model.say(*(replace(t, max_tokens=200) for t in turns))
    assert {recipient for one in said for _, recipient, _ in one.messages} <= {None, "wiki.ask"}
    assert any(channel == "final" for one in said for channel, _, _ in one.messages)


def test_reasoning_ends_in_time_for_the_answer(model: Model) -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    for said in model.say(*(replace(in_format(schema, seed=s), max_tokens=100) for s in range(4))):
        assert set(json.loads(said.answer[2])) == {"ok"}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_taken_over_answer_goes_on_in_the_middle_of_its_json(model: Model, temperature: float) -> None:
    whole = in_format(MEETING, temperature=temperature)
    (undisturbed,) = model.say(whole)
    cuts = range(1, len(undisturbed.tokens), 5)
    for taken_over in model.go_on(*((replace(whole, seed=cut), undisturbed.tokens[:cut]) for cut in cuts)):
        jsonschema.validate(json.loads(taken_over.answer[2]), MEETING)
        if temperature == 0:
            assert taken_over.tokens == undisturbed.tokens


def test_tokens_that_the_constraint_forbids_end_the_turn_with_a_reason(model: Model) -> None:
    with pytest.raises(Unsupported, match="cannot continue in a way"):
        model.go_on((in_format(MEETING), encode("no header at all")))


def test_a_schema_that_cannot_be_enforced_is_refused_with_its_place(model: Model) -> None:
    with pytest.raises(Unsupported, match=r"#/properties/a: 'multipleOf'"):
        model.say(in_format({"type": "object", "properties": {"a": {"type": "integer", "multipleOf": 3}}}))


def test_unconstrained_turns_beside_constrained_ones_are_left_alone(model: Model) -> None:
    free = Sampling(60, 0.0, stop_token_ids=STOP_TOKENS)
    (alone,) = model.say(free)
    together = model.say(free, *(in_format(MEETING, seed=seed) for seed in range(4)), free)
    assert together[0].tokens == together[-1].tokens == alone.tokens
