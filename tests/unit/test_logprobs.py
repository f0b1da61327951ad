"""Log probabilities: each token of a message's text has its own, once, with its exact bytes."""

import math
from collections.abc import Sequence
from itertools import chain

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from openai.types import responses as openai_types

from shared import events as ev
from shared.events import StreamEvent
from shared.frames import data_of, decode, frame
from shared.lifecycle import apply, fold, lasting
from shared.responses import Logprob, Message, OutputText, Response, TopLogprob
from shared.tool_calls import ToolOutput
from worker.asking.routing import ClientTarget, McpTarget, Routing
from worker.engines.protocol import TokenLogprob
from worker.harmony.tokens import (
    CALL,
    CHANNEL,
    CONSTRAIN,
    CONTROL_TOKENS,
    END,
    ENDOFTEXT,
    MESSAGE,
    RETURN,
    START,
    bytes_of,
    encode,
)
from worker.response.logprobs import describe_token
from worker.response.segments import ToolReturned
from worker.response.token_record import UnloggedTokens, read_logged
from worker.response.translator import Translation
from worker.response.turn_reader import TurnReader
from worker.response.usage import Turn

RESPONSE = Response(id="resp_0_" + "a" * 32, created_at=1, status="in_progress", model="default")
ROUTING: Routing = {
    "python": McpTarget("python", "code_interpreter", "python"),
    "functions.get_weather": ClientTarget("get_weather"),
}
TEXT = "Hi 𓀀😀é, well — done."
FINAL = [CHANNEL, *encode("final"), MESSAGE]
PREAMBLE = [CHANNEL, *encode("commentary"), MESSAGE]
THOUGHT = [CHANNEL, *encode("analysis"), MESSAGE]
NEXT = [START, *encode("assistant")]


def measure(place: int, token: int) -> TokenLogprob:
    """Each place of a sequence has a value of its own."""
    return TokenLogprob(-(place + 1) / 7, ((token, -(place + 1) / 7), (RETURN, -9.5)))


def read_all(token_ids: Sequence[int], *, is_measured: bool = True) -> list[StreamEvent]:
    """Reads as an attempt does: a turn ends when a call waits, and the tool answers at once."""
    reader = TurnReader(Translation(RESPONSE.id, ROUTING))
    reader.begin_turn(Turn(0))
    events: list[StreamEvent] = []
    for place, token in enumerate(token_ids):
        events += reader.read(token, measure(place, token) if is_measured else None)
        if reader.translation.running:
            events += reader.advance(ToolReturned(ToolOutput("x")))
            reader.begin_turn(Turn(0))
    return events + reader.end()


def deltas_of(events: Sequence[StreamEvent]) -> list[ev.OutputTextDelta]:
    return [event for event in events if isinstance(event, ev.OutputTextDelta)]


def told(events: Sequence[StreamEvent]) -> list[Logprob]:
    return list(chain.from_iterable(delta.logprobs for delta in deltas_of(events)))


def joined(logprobs: Sequence[Logprob]) -> bytes:
    return b"".join(bytes(each.bytes) for each in logprobs)


# --- which tokens have some -------------------------------------------------------------------


@pytest.mark.parametrize("opening", [FINAL, PREAMBLE])
def test_every_token_of_a_message_has_its_own_in_order(opening: list[int]) -> None:
    text = encode(TEXT)
    events = read_all([*opening, *text, RETURN])
    places = range(len(opening), len(opening) + len(text))
    assert told(events) == [describe_token(t, measure(p, t)) for p, t in zip(places, text, strict=True)]
    assert joined(told(events)) == TEXT.encode()


def test_tokens_that_made_one_character_come_with_its_delta() -> None:
    whole = next(d for d in deltas_of(read_all([*FINAL, *encode(TEXT), RETURN])) if "𓀀" in d.delta)
    assert len(whole.logprobs) > 1
    assert joined(whole.logprobs) == whole.delta.encode()
    assert all(each.token == bytes(each.bytes).decode(errors="replace") for each in whole.logprobs)


@pytest.mark.parametrize("ending", [[RETURN], [*NEXT, *FINAL, *encode("x"), RETURN], []])
def test_half_a_character_at_the_end_has_its_exact_bytes(ending: list[int]) -> None:
    half = encode("𓀀")[:2]
    first = deltas_of(read_all([*FINAL, *half, *ending]))[0]
    assert first.delta == "\N{REPLACEMENT CHARACTER}"
    assert joined(first.logprobs) == b"".join(map(bytes_of, half)) == "𓀀".encode()[:2]


def test_reasoning_calls_headers_and_markers_have_none() -> None:
    events = read_all(
        [*THOUGHT, *encode("Let me see 😀"), END]
        + [*NEXT, CHANNEL, *encode("analysis to=python code"), MESSAGE, *encode("1+1"), CALL]
        + [*FINAL, *encode("Two"), CONSTRAIN, *encode("!"), END]
        + [
            *NEXT,
            CHANNEL,
            *encode("commentary to=functions.get_weather "),
            CONSTRAIN,
            *encode("json"),
            MESSAGE,
        ]
        + [*encode('{"city": "Oslo"}'), CALL]
    )
    assert joined(told(events)) == b"Two!"
    others = [frame(e, 1) for e in events if not isinstance(e, ev.OutputTextDelta | ev.OutputTextDone)]
    messages = [f for f in others if b'"top_logprobs"' in f]
    assert {decode(f).__struct_config__.tag for f in messages} == {
        "response.content_part.done",
        "response.output_item.done",
    }


def test_the_done_event_the_part_and_the_item_have_those_of_all_deltas() -> None:
    events = read_all([*FINAL, *encode(TEXT), RETURN])
    (done,) = [e for e in events if isinstance(e, ev.OutputTextDone)]
    (part,) = [e.part for e in events if isinstance(e, ev.ContentPartDone)]
    (item,) = [e.item for e in events if isinstance(e, ev.OutputItemDone)]
    assert isinstance(part, OutputText)
    assert isinstance(item, Message)
    assert list(done.logprobs) == list(part.logprobs) == list(item.content[0].logprobs) == told(events)


specials = st.sampled_from([START, END, MESSAGE, CHANNEL, CONSTRAIN, RETURN, CALL, ENDOFTEXT])
common = st.sampled_from(encode("assistant analysis final commentary to=python code json Hi 😀 é"))
tokens = st.lists(specials | common | st.integers(0, 201_500), max_size=60)


@hypothesis_settings(max_examples=300)
@given(tokens)
def test_text_tokens_come_once_and_in_order_whatever_the_model_writes(token_ids: list[int]) -> None:
    text = [token for token in token_ids if token not in CONTROL_TOKENS]
    events = read_all([*FINAL, *text, RETURN])
    assert [each.bytes for each in told(events)] == [tuple(bytes_of(token)) for token in text]


@hypothesis_settings(max_examples=300)
@given(tokens)
def test_logprobs_change_nothing_else(token_ids: list[int]) -> None:
    def without(event: StreamEvent) -> object:
        plain = msgspec.to_builtins(event)
        for holder in (plain, plain.get("part", {}), *plain.get("item", {}).get("content", ())):
            if "logprobs" in holder:
                holder["logprobs"] = ()
        return plain

    measured, plain = read_all(token_ids), read_all(token_ids, is_measured=False)
    assert [without(event) for event in measured] == [msgspec.to_builtins(event) for event in plain]
    assert told(plain) == []


@given(tokens, st.integers(0, 60))
def test_the_fold_of_a_log_has_those_sent_so_far_wherever_it_is_cut(
    token_ids: list[int], length: int
) -> None:
    started: list[StreamEvent] = [ev.ResponseCreated(RESPONSE), ev.ResponseInProgress(RESPONSE)]
    events = [*started, *read_all([*FINAL, *token_ids])][: length + 2]
    one_by_one = RESPONSE
    for event in events[1:]:
        one_by_one = apply(one_by_one, event)
    assert fold(events) == one_by_one
    parts = chain.from_iterable(item.content for item in one_by_one.output if isinstance(item, Message))
    assert list(chain.from_iterable(part.logprobs for part in parts)) == told(events)


def test_later_responses_read_a_message_without_them() -> None:
    message = Message(
        "msg_1", "completed", "assistant", (OutputText("Hi", logprobs=(Logprob("Hi", (1,), 0.0),)),)
    )
    assert lasting([message]) == [Message("msg_1", "completed", "assistant", (OutputText("Hi"),))]


# --- the logprobs of a token ------------------------------------------------------------------


def test_a_token_is_described_with_text_bytes_and_alternatives() -> None:
    (token,) = encode(" é")
    assert describe_token(token, TokenLogprob(-0.25, ((RETURN, -1.5),))) == Logprob(
        " é", (0x20, 0xC3, 0xA9), -0.25, (TopLogprob("<|return|>", tuple(b"<|return|>"), -1.5),)
    )


@pytest.mark.parametrize("logprob", [-math.inf, math.nan, -1e30])
def test_what_json_has_no_number_for_is_the_lowest(logprob: float) -> None:
    described = describe_token(0, TokenLogprob(logprob, ((1, logprob),)))
    assert described.logprob == described.top_logprobs[0].logprob == -9999.0


def test_the_public_client_reads_them_strictly() -> None:
    events = read_all([*FINAL, *encode(TEXT), RETURN])
    delta, done = deltas_of(events)[0], next(e for e in events if isinstance(e, ev.OutputTextDone))
    read_delta = openai_types.ResponseTextDeltaEvent.model_validate_json(
        data_of(frame(delta, 1)), strict=True
    )
    read_done = openai_types.ResponseTextDoneEvent.model_validate_json(data_of(frame(done, 1)), strict=True)
    part = openai_types.ResponseOutputText.model_validate_json(
        msgspec.json.encode(OutputText(TEXT, logprobs=done.logprobs)), strict=True
    )
    assert part.logprobs is not None
    assert read_delta.logprobs[0].token == part.logprobs[0].token
    assert bytes(chain.from_iterable(each.bytes for each in part.logprobs)) == TEXT.encode()
    assert len(read_done.logprobs) == len(part.logprobs)


# --- as a log keeps them ----------------------------------------------------------------------

numbers = st.floats(allow_nan=False) | st.integers(-1000, 0)
measured_tokens = st.builds(
    TokenLogprob, numbers, st.lists(st.tuples(st.integers(0, 2**31), numbers), max_size=20).map(tuple)
)


@given(st.lists(measured_tokens, min_size=1, max_size=5), st.integers(0, 4), st.integers(0, 2**40))
def test_logged_logprobs_give_the_same_bytes(measured: list[TokenLogprob], begun: int, cached: int) -> None:
    unlogged = UnloggedTokens()
    for token, each in enumerate(measured):
        if token == begun:
            unlogged.begin_turn(cached)
        unlogged.add(token, each)
    logged = list(read_logged(*unlogged.take(with_logprobs=True)))
    assert [token.id for token in logged] == list(range(len(measured)))
    assert [msgspec.json.encode(describe_token(7, t.logprob)) for t in logged if t.logprob] == [
        msgspec.json.encode(describe_token(7, each)) for each in measured
    ]
    has_begun = begun < len(measured)
    assert sum(token.cached_tokens for token in logged) == (cached if has_begun else 0)
    assert not has_begun or logged[begun].cached_tokens == cached
    assert unlogged.take(with_logprobs=True) == ((), b"")


def test_tokens_without_reported_logprobs_are_logged_alone() -> None:
    unlogged = UnloggedTokens()
    unlogged.begin_turn(0)
    unlogged.add(5, TokenLogprob(-1.0))
    assert unlogged.take(with_logprobs=False) == ((5,), b"")
