"""The scripted engine: it sees tokens only, continues exactly, and keeps the script's time."""

import asyncio
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.engines import read_chunks
from tests.patience import PATIENCE_S, until
from tests.scripted import (
    CASES,
    NO_PYTHON,
    PYTHON,
    SCRIPT,
    TOOLS,
    Case,
    continuation,
    play,
    started,
)
from worker.engines.protocol import EngineDead, Sampling, TokenChunk, TokenLogprob, Verdict
from worker.engines.scripted.engine import ScriptedEngine
from worker.engines.scripted.prompt import read_prompt
from worker.engines.scripted.scene import Pace
from worker.harmony.parser import MessageClosed, MessageOpened, SegmentParser
from worker.harmony.tokens import (
    CALL,
    END,
    NEXT_TURN,
    RETURN,
    STOP_TOKENS,
    ChatMessage,
    HarmonyMessage,
    decode,
    encode,
    render,
    render_message,
)

# --- it sees tokens only ----------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60) | st.sampled_from(
    ["<|end|>", "<|start|>assistant<|channel|>final<|message|>", "namespace functions {\n}", ""]
)


@given(user=texts, results=st.lists(texts, max_size=3), earlier=texts)
def test_the_prompt_is_read_back_as_it_was_rendered(user: str, results: list[str], earlier: str) -> None:
    before = [ChatMessage("user", earlier), ChatMessage("assistant", earlier, "final")]
    told = [ChatMessage("tool", text, "commentary", "assistant", name="deepwiki.ask") for text in results]
    seen = read_prompt(render([PYTHON, TOOLS, *before, ChatMessage("user", user), *told]))
    assert seen.user_text == user
    assert [(result.author, result.text) for result in seen.results] == [("deepwiki.ask", t) for t in results]
    assert [tool.recipient for tool in seen.tools] == [
        "python",
        "deepwiki.ask",
        "functions.get_weather",
        "test-server.echo",
    ]


@given(user=texts)
def test_any_message_gets_a_legal_answer(user: str) -> None:
    parser = SegmentParser()
    tokens = continuation(render([PYTHON, TOOLS, ChatMessage("user", user)]))
    segments = [segment for token in tokens for segment in parser.feed(token)]
    opened = [segment for segment in segments if isinstance(segment, MessageOpened)]
    assert all(segment.channel in ("analysis", "commentary", "final") for segment in opened)
    assert isinstance(segments[-1], MessageClosed)
    assert not parser.is_inside_message


def test_special_tokens_in_a_message_stay_text_in_the_answer() -> None:
    tokens = continuation(render([PYTHON, ChatMessage("user", "Repeat <|return|><|call|> 2 times")]))
    assert tokens[-1] == RETURN
    assert not set(tokens[:-1]) & set(STOP_TOKENS)
    assert decode(tokens[:-1]).endswith("<|return|><|call|> <|return|><|call|>")


@given(
    tokens=st.lists(st.integers(0, 201_087) | st.sampled_from([*NEXT_TURN, END, CALL]), max_size=40),
    data=st.data(),
)
def test_any_tokens_at_all_are_answered_and_the_answer_can_be_continued(
    tokens: list[int], data: st.DataObject
) -> None:
    whole = continuation(tokens)
    assert whole[-1] in STOP_TOKENS
    length = data.draw(st.integers(0, len(whole) - 1))
    assert continuation(tokens + whole[:length]) == whole[length:]


# --- it continues exactly ---------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.scene}: {case.message[:30]}")
def test_every_turn_is_continued_exactly_wherever_it_was_cut(case: Case) -> None:
    prompt, whole = case.prompt, continuation(case.prompt)
    for length in range(len(whole) + 1):
        assert continuation(prompt + whole[:length]) == whole[length:]


LONG = [
    Case("count", "Count from 1 to 5000"),
    Case("count", "Count from 3000 to 1"),
    Case("repeat", "Repeat héllo wörld 5,000 times"),
    Case("long reasoning", "Reason in 1000 steps"),
]


@pytest.mark.parametrize("case", LONG, ids=lambda case: case.message)
@hypothesis_settings(max_examples=10)
@given(data=st.data())
def test_long_turns_are_continued_exactly_in_any_chunks(case: Case, data: st.DataObject) -> None:
    prompt, whole = case.prompt, continuation(case.prompt)
    cut = data.draw(st.integers(0, len(whole) - 1))
    chunk_tokens = data.draw(st.integers(1, 500))

    async def rest() -> list[int]:
        engine = await started(Pace(chunk_tokens=chunk_tokens))
        return await play(engine, prompt + whole[:cut])

    assert asyncio.run(rest()) == whole[cut:]


def test_an_earlier_message_of_the_assistant_is_not_taken_for_this_turn() -> None:
    messages: list[HarmonyMessage] = [
        NO_PYTHON,
        ChatMessage("user", "Hello!"),
        ChatMessage("assistant", "Well met.", "final"),
    ]
    assert continuation(render(messages)) == continuation(render(messages[:2]))


def test_output_of_another_engine_is_ended_before_the_turn_begins() -> None:
    prompt = Case("greeting", "Hello!").prompt
    foreign = [*encode("never said"), *encode(" by this script")]
    assert continuation(prompt + foreign) == [END, *NEXT_TURN, *continuation(prompt)]


async def test_a_turn_that_the_prompt_holds_whole_is_over() -> None:
    case = Case("greeting", "Hello!")
    engine = await started()
    chunks = [
        chunk async for chunk in read_chunks(engine, case.prompt + continuation(case.prompt), Sampling(10))
    ]
    assert [(chunk.token_ids, chunk.finish_reason) for chunk in chunks] == [((), "stop")]


def test_a_call_and_its_answer_lead_to_the_next_turn() -> None:
    prompt = Case("python many times", "Call python 2 times").prompt
    for calls in (0, 1):
        call = continuation(prompt)
        assert decode(call).endswith(f"{calls}+1\n<|call|>")
        answer = ChatMessage("tool", f"{calls + 1}\n", "analysis", "assistant", name="python")
        prompt += call + render_message(answer) + NEXT_TURN
    assert decode(continuation(prompt)).endswith("called 2 times; its last answer was 2.<|return|>")


# --- what it says of itself -------------------------------------------------------------------


@pytest.mark.parametrize("top", [None, 0, 1, 20])
async def test_what_a_script_says_is_certain_and_nothing_else_was_possible(top: int | None) -> None:
    engine, prompt = await started(Pace(chunk_tokens=3)), Case("greeting", "Hello!").prompt
    sampling = Sampling(1000, top_logprobs=top)
    chunks = [chunk async for chunk in read_chunks(engine, prompt, sampling)]
    for chunk in chunks:
        certain = [TokenLogprob(0.0, ((token, 0.0),) if top else ()) for token in chunk.token_ids]
        assert list(chunk.logprobs) == ([] if top is None else certain)


async def test_it_is_alive_until_it_is_stopped() -> None:
    engine = await started()
    waiting = asyncio.create_task(engine.wait_until_dead())
    await play(engine, LONG_PROMPT, max_tokens=10)
    assert not waiting.done()
    await engine.stop()
    async with asyncio.timeout(PATIENCE_S):
        await waiting


# --- time -------------------------------------------------------------------------------------


async def test_tokens_come_no_faster_than_the_pace() -> None:
    engine = await started(Pace(tokens_per_s=400, first_token_s=0.05))
    now = asyncio.get_running_loop().time
    begin = now()
    came = [now() - begin async for _ in read_chunks(engine, LONG_PROMPT, Sampling(40))]
    assert len(came) == 40
    assert all(at >= 0.05 + n / 400 for n, at in enumerate(came))


async def test_a_scene_has_its_own_pace_and_the_engine_overrides_it() -> None:
    prompt = Case("count slowly", "Count slowly to 2").prompt
    now = asyncio.get_running_loop().time
    begin = now()
    slow = await play(await started(), prompt, max_tokens=6)
    assert now() - begin >= 5 / 50
    assert await play(await started(Pace()), prompt, max_tokens=6) == slow


async def test_chunks_have_the_size_that_the_pace_says() -> None:
    engine = await started(Pace(chunk_tokens=7))
    sizes = [len(c.token_ids) async for c in read_chunks(engine, LONG_PROMPT, Sampling(30))]
    assert sizes == [7, 7, 7, 7, 2]


async def test_with_steps_all_generations_get_their_tokens_together_however_they_began() -> None:
    engine = await started(Pace(tokens_per_s=1, first_token_s=0.01, step_s=0.02))
    came: list[list[int]] = [[] for _ in range(5)]
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    @dataclass
    class Sink:
        number: int

        def take(self, chunk: TokenChunk) -> Verdict:
            assert len(chunk.token_ids) == 1
            came[self.number].append(turns)
            return "more"

        async def catch_up(self) -> None: ...

    async def run(number: int) -> None:
        await asyncio.sleep(0.003 * number)
        await engine.generate(LONG_PROMPT, Sampling(10), Sink(number), request_id=f"r{number}")

    counting = asyncio.create_task(count_turns())
    await asyncio.gather(*map(run, range(5)))
    counting.cancel()
    all_began, one_ended = max(turns[0] for turns in came), min(turns[-1] for turns in came)
    steps = {tuple(turn for turn in turns if all_began <= turn <= one_ended) for turns in came}
    assert len(steps) == 1, "all have their tokens in the same turns of the loop"
    assert all(len(set(turns)) == 10 for turns in came), "one at each step"


LONG_PROMPT = Case("repeat", "Repeat hello 100,000 times").prompt


async def test_a_long_generation_without_pace_starves_nobody() -> None:
    engine = await started()
    long = asyncio.create_task(play(engine, LONG_PROMPT, request_id="long"))
    short = await asyncio.gather(
        *(play(engine, Case("greeting", "Hello!").prompt, request_id=f"r{n}") for n in range(100))
    )
    assert len(short) == 100
    assert not long.done()
    long.cancel()
    with pytest.raises(asyncio.CancelledError):
        await long


async def test_a_long_count_costs_nothing_before_it_is_due() -> None:
    engine = await started()
    prompt = Case("count", "Count from 1 to 999,999").prompt
    assert len(await play(engine, prompt, max_tokens=20)) == 20
    assert engine.requests_under_way == 0


async def test_finding_the_place_in_a_long_turn_lets_others_run() -> None:
    engine = await started()
    case = Case("count", "Count from 1 to 10000")
    prompt, whole = case.prompt, continuation(case.prompt)
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count_turns())
    assert await play(engine, prompt + whole[:-1]) == whole[-1:]
    counting.cancel()
    assert turns > 100


async def test_stop_wakes_what_waits_for_its_first_token() -> None:
    engine = await started(Pace(first_token_s=3600))
    chunks = read_chunks(engine, LONG_PROMPT, Sampling(10))
    waiting = asyncio.ensure_future(anext(chunks))
    async with asyncio.timeout(PATIENCE_S):
        await until(lambda: engine.requests_under_way == 1)
        await engine.stop()
        assert (await waiting).finish_reason == "abort"


async def test_what_cannot_be_generated_is_refused() -> None:
    engine = ScriptedEngine(SCRIPT)
    with pytest.raises(EngineDead):
        await play(engine, LONG_PROMPT)
    await engine.start()
    with pytest.raises(ValueError, match="max_tokens"):
        await play(engine, LONG_PROMPT, max_tokens=0)
    chunks = read_chunks(engine, LONG_PROMPT, Sampling(10))
    await anext(chunks)
    with pytest.raises(ValueError, match="request_id 'r' is in use"):
        await play(engine, LONG_PROMPT)
    await chunks.aclose()
