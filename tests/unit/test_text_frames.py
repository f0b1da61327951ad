"""A token that only continues a text becomes a frame at once: the bytes are those of the way over events."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from shared import events as ev
from shared.delta_frames import DeltaFrames
from shared.events import StreamEvent, TextDelta
from shared.frames import frame
from shared.responses import Dialect
from shared.tool_calls import ToolOutput
from tests.requests import make_request
from worker.asking.routing import ClientTarget, McpTarget, Routing
from worker.harmony.tokens import CALL, CHANNEL, CONSTRAIN, END, ENDOFTEXT, MESSAGE, RETURN, START, encode
from worker.response.reasoning_items import EVENTS, ReasoningStyle
from worker.response.segments import ToolReturned
from worker.response.summary import SummaryStyle
from worker.response.translator import Translation
from worker.response.turn_reader import TurnReader
from worker.response.usage import Turn

RESPONSE_ID = make_request().response.id
ROUTING: Routing = {
    "python": McpTarget("python", "code_interpreter", "python"),
    "code": McpTarget("code", "code_interpreter", "python", item_type="code_interpreter_call"),
    "wiki.ask": McpTarget("wiki.ask", "wiki", "ask", needs_approval=True),
    "functions.get_weather": ClientTarget("get_weather"),
    "functions.edit": ClientTarget("edit", "custom_tool_call"),
    "functions.shell": ClientTarget("shell", "shell_call"),
    "functions.apply_patch": ClientTarget("apply_patch", "apply_patch_call"),
}
ODD = '"\\/\x00\x1f\x7f\x85\u2028\u2029\ufeff\ufffd<>&é\r\n\t😀'
DELTAS: list[TextDelta] = [
    ev.ReasoningTextDelta(0, 0, "rs_1_0", "x"),
    ev.ReasoningDelta(0, 0, "rs_1_0", "x"),
    ev.ReasoningSummaryTextDelta(0, 1, "rs_1_0", "x"),
    ev.OutputTextDelta(12, 0, "msg_0_0", ""),
    ev.FunctionCallArgumentsDelta(1, "fc_1", "0"),
    ev.McpCallArgumentsDelta(100, "mcp_0}", "\x00"),
    ev.CodeInterpreterCallCodeDelta(1, "ci_1", "x"),
    ev.CustomToolCallInputDelta(1, "ctc_1", "0"),
    ev.ApplyPatchDiffDelta(1, "apc_1", "0"),
    ev.ShellCommandDelta(1, 0, "0"),
]


@given(st.sampled_from(DELTAS), st.text() | st.text(ODD, max_size=20), st.integers(0, 10**12))
def test_a_delta_has_the_frame_that_the_encoder_makes_of_it(delta: TextDelta, text: str, number: int) -> None:
    other = msgspec.structs.replace(delta, delta=text)
    assert DeltaFrames(delta).make(number, text) == frame(other, number)


# --- from tokens --------------------------------------------------------------------------------

PYTHON_CALL = [START, *encode("assistant"), CHANNEL, *encode("analysis to=python code"), MESSAGE]
CODE_CALL = [START, *encode("assistant"), CHANNEL, *encode("analysis to=code code"), MESSAGE]
FUNCTION_CALL = [
    START,
    *encode("assistant to=functions.get_weather"),
    CHANNEL,
    *encode("commentary"),
    MESSAGE,
]
APPROVED_CALL = [START, *encode("assistant to=wiki.ask"), CHANNEL, *encode("commentary"), MESSAGE]
CLIENT_CALLS = [
    [START, *encode(f"assistant to=functions.{name}"), CHANNEL, *encode("commentary"), MESSAGE]
    for name in ("edit", "shell", "apply_patch")
]
UNKNOWN_CALL = [START, *encode("assistant to=nobody"), CHANNEL, *encode("commentary"), MESSAGE]
SPLIT = encode("𓀀𓁃 ﷽ ꙮ 한")
"""Characters of several tokens each."""
TURN = [
    *[CHANNEL, *encode("analysis"), MESSAGE, *encode(f"So. It is{ODD}\n\nThen"), *SPLIT, SPLIT[0], END],
    *[*UNKNOWN_CALL, *encode("{}"), CALL],
    *[*FUNCTION_CALL, *encode('{"location": "São"}'), END],
    *[*CLIENT_CALLS[0], *encode('{"input": "São 😀\\n\\ud83d\\ude00"}'), END],
    *[*CLIENT_CALLS[1], *encode('{"commands": ["ls -l", "pwd"]}'), END],
    *[*CLIENT_CALLS[2], *encode('{"type": "create_file", "path": "a", "diff": "+b\\n+c"}'), END],
    *[*PYTHON_CALL, *encode("print('\u2028')"), *SPLIT, CALL],
    *[*CODE_CALL, *encode(ODD), *SPLIT, CALL],
    *[CHANNEL, *encode("final"), MESSAGE, *encode("It is "), SPLIT[0], SPLIT[1], *encode(ODD), SPLIT[0]],
    *[CONSTRAIN, *encode(" so"), 201_000, *encode(" on"), RETURN],
]
specials = st.sampled_from([START, END, MESSAGE, CHANNEL, CONSTRAIN, CALL, ENDOFTEXT])
headers = st.sampled_from(
    [
        [CHANNEL, *encode("final"), MESSAGE],
        [CHANNEL, *encode("analysis"), MESSAGE],
        PYTHON_CALL,
        CODE_CALL,
        FUNCTION_CALL,
        APPROVED_CALL,
        UNKNOWN_CALL,
        *CLIENT_CALLS,
    ]
)
pieces = (
    headers
    | st.builds(encode, st.text(max_size=8))
    | st.builds(encode, st.text(ODD, max_size=6))
    | st.lists(specials | st.sampled_from(SPLIT) | st.integers(0, 201_500), max_size=4)
)
turns = st.builds(lambda parts: [token for part in parts for token in part], st.lists(pieces, max_size=12))


styles: st.SearchStrategy[SummaryStyle | None] = st.sampled_from([None, "concise", "detailed"])
dialects: st.SearchStrategy[Dialect] = st.sampled_from(list(EVENTS))


class Log:
    """What reading a turn leaves behind."""

    def __init__(
        self, direct_from: int, style: SummaryStyle | None = None, dialect: Dialect = "openai"
    ) -> None:
        self.direct = 0
        """How many tokens became a frame at once."""
        self.frames: list[tuple[int, bytes]] = []
        """(place of the token, frame)."""
        self._direct_from = direct_from
        reasoning = ReasoningStyle(summary=style, events=EVENTS[dialect])
        self.reader = TurnReader(Translation(RESPONSE_ID, ROUTING, reasoning=reasoning))
        self.reader.begin_turn(Turn(0))

    def read(self, tokens: Sequence[int]) -> "Log":
        reader = self.reader
        for place, token in enumerate(tokens):
            direct = reader.read_text(token, len(self.frames)) if place >= self._direct_from else None
            if direct is not None:
                self.direct += 1
                self.frames.append((place, direct))
                continue
            self._add(place, reader.read(token))
            if reader.translation.running:
                self._add(place, reader.advance(ToolReturned(ToolOutput("x"))))
                reader.begin_turn(Turn(0))
        self._add(len(tokens), reader.end())
        return self

    def _add(self, place: int, events: Sequence[StreamEvent]) -> None:
        self.frames += [(place, frame(event, n)) for n, event in enumerate(events, len(self.frames))]

    @property
    def state(self) -> tuple[Any, ...]:
        reader = self.reader
        return self.frames, reader.items, reader.messages, reader.turns, reader.awaited, reader.translation


@hypothesis_settings(max_examples=300)
@given(turns, styles, dialects)
def test_both_ways_leave_the_same_bytes_and_the_same_state(
    tokens: list[int], style: SummaryStyle | None, dialect: Dialect
) -> None:
    both = (Log(direct_from, style, dialect).read(tokens) for direct_from in (0, len(tokens)))
    direct, long = (log.state for log in both)
    assert direct == long


@pytest.mark.parametrize("style", [None, "concise", "detailed"])
@pytest.mark.parametrize("direct_from", range(len(TURN)))
def test_the_direct_way_may_begin_at_every_token(direct_from: int, style: SummaryStyle | None) -> None:
    assert Log(direct_from, style).read(TURN).state == Log(len(TURN), style).read(TURN).state


def test_nearly_every_token_of_a_text_goes_the_direct_way() -> None:
    tokens = encode("Nothing here is out of the ordinary, not even é. " * 20)
    assert Log(0).read([CHANNEL, *encode("final"), MESSAGE, *tokens, RETURN]).direct == len(tokens)


@pytest.mark.parametrize("style", ["auto", "detailed"])
def test_of_reasoning_that_is_summarised_only_the_ends_of_sentences_go_the_long_way(
    style: SummaryStyle,
) -> None:
    """Two tokens each: the full stop, and the next one, which shows that it is one."""
    tokens = encode("Nothing here is out of the ordinary, not even é. " * 20)
    read = Log(0, style).read([CHANNEL, *encode("analysis"), MESSAGE, *tokens, END])
    assert read.direct == len(tokens) - 40
