"""What every engine promises (`worker/engines/protocol.py`), whatever generates the tokens.

Each engine is a subject of its own; a prompt says what it is for, not what the answer must be.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

import pytest
import pytest_asyncio

from tests.engines import Subject, make_public_vllm, make_scripted, make_vllm, read_chunks
from tests.patience import until
from worker.engines.protocol import EngineDead, FinishReason, Sampling, TokenChunk, Verdict
from worker.harmony.tokens import CALL, RETURN, STOP_TOKENS, ChatMessage, SystemPart, render

TOKENS_MAX = 2000


# One engine for all promises: a model takes long to load.
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(
    scope="module",
    loop_scope="module",
    params=[
        pytest.param(make_scripted, id="scripted"),
        pytest.param(make_vllm, id="vllm", marks=pytest.mark.model),
        pytest.param(make_public_vllm, id="vllm by its public way", marks=pytest.mark.model),
    ],
)
async def subject(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Subject]:
    made: Subject = request.param(tmp_path_factory.mktemp("engine") / "checkpoint")
    await made.engine.start()
    yield made
    await made.engine.stop()


SYSTEM = SystemPart("medium", "2025-11-05", {"python": None})
ANSWER = render([SYSTEM, ChatMessage("user", "Hello!")])
LONG_ANSWER = render([SYSTEM, ChatMessage("user", "Count from 1 to 100")])
TOOL_CALL = render([SYSTEM, ChatMessage("user", "Multiply 123*456 using the mcp.code_interpreter tool.")])
PROMPTS = [ANSWER, LONG_ANSWER, TOOL_CALL]


@dataclass
class Generation:
    chunks: list[TokenChunk] = field(default_factory=list)

    @property
    def tokens(self) -> list[int]:
        return [token for chunk in self.chunks for token in chunk.token_ids]

    @property
    def finish_reason(self) -> FinishReason | None:
        return self.chunks[-1].finish_reason


def sampling(max_tokens: int = TOKENS_MAX, *stop_token_ids: int) -> Sampling:
    return Sampling(max_tokens, temperature=0.0, stop_token_ids=(*STOP_TOKENS, *stop_token_ids))


async def generate(
    subject: Subject, prompt: list[int], chosen: Sampling | None = None, request_id: str = "r"
) -> Generation:
    generation = Generation()
    async for chunk in read_chunks(subject.engine, prompt, chosen or sampling(), request_id=request_id):
        generation.chunks.append(chunk)
    return generation


@pytest.mark.parametrize("prompt", PROMPTS)
async def test_a_generation_ends_with_its_stop_token_and_says_so(subject: Subject, prompt: list[int]) -> None:
    generation = await generate(subject, prompt)
    assert generation.finish_reason == "stop"
    assert generation.tokens[-1] == (CALL if prompt is TOOL_CALL else RETURN)
    assert not set(generation.tokens[:-1]) & set(STOP_TOKENS)


@pytest.mark.parametrize("prompt", PROMPTS)
async def test_only_the_last_chunk_has_a_finish_reason(subject: Subject, prompt: list[int]) -> None:
    *others, last = (await generate(subject, prompt)).chunks
    assert {chunk.finish_reason for chunk in others} <= {None}
    assert last.finish_reason is not None


async def test_cached_tokens_are_the_same_on_every_chunk_and_within_the_prompt(subject: Subject) -> None:
    for _ in range(2):
        (cached,) = {chunk.cached_tokens for chunk in (await generate(subject, LONG_ANSWER)).chunks}
        assert 0 <= cached <= len(LONG_ANSWER)


@pytest.mark.parametrize("prompt", PROMPTS)
async def test_the_same_prompt_and_sampling_give_the_same_tokens(subject: Subject, prompt: list[int]) -> None:
    first, second = await generate(subject, prompt), await generate(subject, prompt)
    assert first.tokens == second.tokens


async def test_max_tokens_is_met_exactly_and_is_a_length(subject: Subject) -> None:
    whole = (await generate(subject, LONG_ANSWER)).tokens
    for limit in (1, 2, 17, len(whole) - 1):
        cut = await generate(subject, LONG_ANSWER, sampling(limit))
        assert (cut.tokens, cut.finish_reason) == (whole[:limit], "length")


async def test_a_stop_token_at_max_tokens_is_a_stop(subject: Subject) -> None:
    whole = (await generate(subject, LONG_ANSWER)).tokens
    just_enough = await generate(subject, LONG_ANSWER, sampling(len(whole)))
    assert (just_enough.tokens, just_enough.finish_reason) == (whole, "stop")


async def test_any_token_can_be_a_stop_token(subject: Subject) -> None:
    whole = (await generate(subject, LONG_ANSWER)).tokens
    stop = whole[20]
    cut = await generate(subject, LONG_ANSWER, sampling(TOKENS_MAX, stop))
    assert (cut.tokens, cut.finish_reason) == (whole[: whole.index(stop) + 1], "stop")


@pytest.mark.parametrize("prompt", PROMPTS)
async def test_what_was_generated_is_continued_with_the_rest(subject: Subject, prompt: list[int]) -> None:
    whole = (await generate(subject, prompt)).tokens
    for length in sorted({0, 1, 2, 3, len(whole) // 2, len(whole) - 2, len(whole) - 1}):
        rest = await generate(subject, prompt + whole[:length])
        assert (rest.tokens, rest.finish_reason) == (whole[length:], "stop")


async def test_many_at_once_get_what_each_gets_alone(subject: Subject) -> None:
    alone = [(await generate(subject, prompt)).tokens for prompt in PROMPTS]
    together = await asyncio.gather(
        *(generate(subject, PROMPTS[n % 3], request_id=f"r{n}") for n in range(60))
    )
    assert [generation.tokens for generation in together] == alone * 20
    await until(lambda: subject.requests_under_way() == 0)


async def test_closing_the_generator_frees_the_request(subject: Subject) -> None:
    chunks = read_chunks(subject.engine, LONG_ANSWER, sampling())
    await anext(chunks)
    assert subject.requests_under_way() == 1
    await chunks.aclose()
    await until(lambda: subject.requests_under_way() == 0)
    assert (await generate(subject, LONG_ANSWER)).finish_reason == "stop"  # the id is free again


async def test_an_engine_says_what_it_runs(subject: Subject) -> None:
    chunks = read_chunks(subject.engine, LONG_ANSWER, sampling())
    await anext(chunks)
    await until(lambda: subject.engine.figures().running == 1)
    assert subject.engine.figures().waiting == 0
    await chunks.aclose()
    await until(lambda: subject.engine.figures().running == 0)


async def test_cancelling_the_reader_frees_the_request(subject: Subject) -> None:
    has_begun = asyncio.Event()

    async def read() -> None:
        async for _ in read_chunks(subject.engine, LONG_ANSWER, sampling()):
            has_begun.set()
            await asyncio.Event().wait()

    reader = asyncio.create_task(read())
    await has_begun.wait()
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    await until(lambda: subject.requests_under_way() == 0)


@dataclass
class Judge:
    """Takes chunks until there are `enough` tokens; then gives its last verdict."""

    enough: int
    last: Verdict
    taken: list[int] = field(default_factory=list)
    caught_up: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, chunk: TokenChunk) -> Verdict:
        self.taken += chunk.token_ids
        return "more" if len(self.taken) < self.enough else self.last

    async def catch_up(self) -> None:
        await self.caught_up.wait()
        self.last = "more"


async def test_a_sink_that_has_enough_ends_the_generation(subject: Subject) -> None:
    judge = Judge(7, "stop")
    await subject.engine.generate(LONG_ANSWER, sampling(), judge, request_id="r")
    whole = await generate(subject, LONG_ANSWER)  # the id is free again
    assert judge.taken == whole.tokens[: len(judge.taken)]
    assert 7 <= len(judge.taken) < len(whole.tokens)
    await until(lambda: subject.requests_under_way() == 0)


async def test_a_sink_that_is_behind_gets_nothing_until_it_has_caught_up_and_misses_nothing(
    subject: Subject,
) -> None:
    whole, judge = await generate(subject, LONG_ANSWER), Judge(7, "wait")
    generation = asyncio.create_task(
        subject.engine.generate(LONG_ANSWER, sampling(), judge, request_id="behind")
    )
    await until(lambda: len(judge.taken) >= 7)
    before = len(judge.taken)
    assert (await generate(subject, LONG_ANSWER)).tokens == whole.tokens  # the engine goes on for others
    assert len(judge.taken) == before
    judge.caught_up.set()
    await generation
    assert judge.taken == whole.tokens


async def test_what_a_sink_raises_is_the_callers_and_frees_the_request(subject: Subject) -> None:
    class Broken(Judge):
        def take(self, chunk: TokenChunk) -> Verdict:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await subject.engine.generate(LONG_ANSWER, sampling(), Broken(1, "more"), request_id="r")
    await until(lambda: subject.requests_under_way() == 0)


async def test_stop_aborts_what_is_under_way_and_nothing_begins_after_it(subject: Subject) -> None:
    chunks = read_chunks(subject.engine, LONG_ANSWER, sampling())
    await anext(chunks)
    await subject.engine.stop()
    last = [chunk async for chunk in chunks][-1]
    assert last.finish_reason == "abort"
    assert subject.requests_under_way() == 0
    with pytest.raises(EngineDead):
        await generate(subject, ANSWER)
    await subject.engine.start()
    assert (await generate(subject, ANSWER)).finish_reason == "stop"


@pytest.mark.parametrize("prompt", PROMPTS)
async def test_log_probabilities_are_one_for_each_token_and_the_greedy_one_is_the_likeliest(
    subject: Subject, prompt: list[int]
) -> None:
    plain = await generate(subject, prompt)
    assert {chunk.logprobs for chunk in plain.chunks} == {()}
    asked = await generate(subject, prompt, replace(sampling(), top_logprobs=3))
    assert asked.tokens == plain.tokens
    for chunk in asked.chunks:
        assert len(chunk.logprobs) == len(chunk.token_ids)
        for token, place in zip(chunk.token_ids, chunk.logprobs, strict=True):
            assert place.logprob <= 0
            assert place.top[0] == (token, place.logprob)
            assert [lp for _, lp in place.top] == sorted((lp for _, lp in place.top), reverse=True)
            assert len(place.top) <= 3


async def test_a_seed_gives_the_same_tokens_again(subject: Subject) -> None:
    seeded = replace(sampling(), temperature=1.5, seed=7)
    first, second = await generate(subject, ANSWER, seeded), await generate(subject, ANSWER, seeded)
    assert first.tokens == second.tokens


async def test_the_context_has_room_for_a_conversation(subject: Subject) -> None:
    assert subject.engine.context_tokens_max > len(LONG_ANSWER) + TOKENS_MAX


async def test_an_engine_that_runs_is_not_dead(subject: Subject) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await subject.engine.wait_until_dead()
