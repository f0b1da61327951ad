"""How GPT-OSS breaks the Harmony format in public reports, and the result here.

The cases stand in misbehaving_models.toml, each with its source. Tokens go through the real reader, as
an attempt feeds it: a turn is over once a call waits. What is common to all (text is kept, nothing runs
that was not clearly a call, the stream ends legally) is checked for each case and each prefix of it.
"""

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import events as ev
from shared import lifecycle
from shared.events import StreamEvent
from shared.responses import (
    FunctionCall,
    Item,
    McpApprovalRequest,
    McpCall,
    Message,
    Reasoning,
    Response,
)
from shared.tool_calls import ToolOutput
from worker.asking.arguments import read_arguments, read_written
from worker.asking.routing import ClientTarget, McpTarget, Routing, find_target
from worker.harmony.parser import MessageOpened, SegmentParser
from worker.harmony.tokens import (
    CALL,
    CHANNEL,
    CONSTRAIN,
    END,
    ENDOFTEXT,
    MESSAGE,
    NEXT_TURN,
    RETURN,
    START,
    ChatMessage,
    encode,
    render_message,
)
from worker.response.segments import ToolReturned
from worker.response.translator import Translation
from worker.response.turn_reader import ReportUnknown, TurnReader
from worker.response.usage import Turn, usage_of

RESPONSE = Response(id="resp_0_" + "a" * 32, created_at=1, status="in_progress", model="default")
ROUTING: Routing = {
    "python": McpTarget("python", "code_interpreter", "python"),
    "browser.search": McpTarget("browser.search", "web_search_preview", "search"),
    "wiki.ask": McpTarget("wiki.ask", "wiki", "ask"),
    "vault.open": McpTarget("vault.open", "vault", "open", needs_approval=True),
    "functions.get_weather": ClientTarget("get_weather"),
    "functions.web-browsing": ClientTarget("web-browsing"),
    "functions.find": ClientTarget("find"),
    "browser.find": McpTarget("browser.find", "web_search_preview", "find"),
}
MARKERS = {
    "<|start|>": START,
    "<|end|>": END,
    "<|message|>": MESSAGE,
    "<|channel|>": CHANNEL,
    "<|constrain|>": CONSTRAIN,
    "<|return|>": RETURN,
    "<|call|>": CALL,
    "<|endoftext|>": ENDOFTEXT,
}


def spell(written: str) -> list[int]:
    """Tokens of Harmony as it is written, markers included."""
    pieces = re.split("(" + "|".join(map(re.escape, MARKERS)) + ")", written)
    return [token for piece in pieces for token in ([MARKERS[piece]] if piece in MARKERS else encode(piece))]


@dataclass(frozen=True)
class Case:
    promise: str
    source: str
    written: str
    items: list[str]
    told: str | None = None


def describe(item: Item) -> str:
    """Kind and text in one line; a cut item with a `~` before it."""
    cut = "~" if getattr(item, "status", None) == "incomplete" else ""
    match item:
        case Reasoning(content=content):
            return f"{cut}thinks: " + "".join(part.text for part in content)
        case Message(content=content, phase="commentary"):
            return f"{cut}remarks: " + "".join(part.text for part in content)
        case Message(content=content):
            return f"{cut}says: " + "".join(part.text for part in content)
        case FunctionCall(name=name, arguments=arguments):
            return f"{cut}calls {name}: {arguments}"
        case McpCall(server_label=label, name=name, arguments=arguments):
            return f"{cut}runs {label}.{name}: {read_written(label, arguments)}"
        case McpApprovalRequest(server_label=label, name=name, arguments=arguments):
            return f"asks for {label}.{name}: {arguments}"
        case _:
            raise AssertionError(item)


@dataclass
class Outcome:
    events: list[StreamEvent]
    told: str | None


def read(token_ids: Sequence[int]) -> Outcome:
    """One turn of an attempt; tools that were called answer when it is over."""
    reader = TurnReader(Translation(RESPONSE.id, ROUTING))
    reader.begin_turn(Turn(0))
    events: list[StreamEvent] = [ev.ResponseCreated(RESPONSE), ev.ResponseInProgress(RESPONSE)]
    for token in token_ids:
        events += reader.read(token)
        if reader.is_turn_over:
            break
    else:
        events += reader.end()
    while reader.translation.running:
        events += reader.advance(ToolReturned(ToolOutput("x")))
    told = [each.answer.recipient for each in reader.awaited if isinstance(each.answer, ReportUnknown)]
    return Outcome(events, told[0] if told else None)


FILE = Path(__file__).with_name("misbehaving_models.toml")
CASES = [Case(**case) for case in tomllib.loads(FILE.read_text())["case"]]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.promise)
def test_what_a_model_breaks_is_repaired_kept_or_reported(case: Case) -> None:
    outcome = read(spell(case.written))
    assert [describe(item) for item in lifecycle.fold(outcome.events).output] == case.items
    assert outcome.told == case.told


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.promise)
def test_every_prefix_of_it_ends_legally_and_runs_nothing_else(case: Case) -> None:
    tokens = spell(case.written)
    for length in range(len(tokens) + 1):
        outcome = read(tokens[:length])
        assert lifecycle.abandon(outcome.events) == []
        folded = lifecycle.fold(outcome.events)
        end = lifecycle.cut_short(folded, usage_of([Turn(0)], with_turns=False), "max_output_tokens")
        whole = lifecycle.fold([*outcome.events, end])
        assert whole.status == "incomplete"
        called = {describe(item) for item in whole.output if is_made_call(item)}
        assert called <= set(case.items)


def is_made_call(item: Item) -> bool:
    return isinstance(item, FunctionCall | McpCall | McpApprovalRequest) and (
        getattr(item, "status", "completed") != "incomplete"
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.promise)
def test_no_text_ever_contains_a_marker(case: Case) -> None:
    texts = " ".join(describe(item) for item in lifecycle.fold(read(spell(case.written)).events).output)
    assert "<|" not in texts


def test_a_header_that_the_limit_cuts_leaves_nothing_behind() -> None:
    reasoning = "<|channel|>analysis<|message|>Hm.<|end|>"
    call = "<|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>"
    begun, tokens = len(spell(reasoning)), spell(reasoning + call)
    for length in range(begun, len(tokens)):
        items = lifecycle.fold(read(tokens[:length]).events).output
        assert [describe(item) for item in items] == ["thinks: Hm."]


def test_markers_that_a_model_spells_out_in_letters_are_text() -> None:
    tokens = [*spell("<|channel|>final<|message|>"), *encode("Write <|end|> at the end."), RETURN]
    items = lifecycle.fold(read(tokens).events).output
    assert [describe(item) for item in items] == ["says: Write <|end|> at the end."]


@pytest.mark.parametrize(
    ("written", "read_as"),
    [
        ('{"a": 1}', '{"a":1}'),
        ("", "{}"),
        ('{"a": 1', None),
        ("[1]", None),
        ('{"a": 1}]', None),  # ollama/ollama#17638
        ("ls -R\n", None),  # continuedev/continue#10221
        ('{"a": 1,}', None),
    ],
)
def test_arguments_are_a_json_object_or_nothing(written: str, read_as: str | None) -> None:
    assert read_arguments("wiki", written) == read_as


def test_a_recipient_means_one_offered_tool_or_none() -> None:
    found = {
        name: find_target(ROUTING, name) for name in (*ROUTING, "ask", "find", "functions.wiki.ask", "wiki")
    }
    assert all(found[name] == target for name, target in ROUTING.items())
    assert found["ask"] == found["functions.wiki.ask"] == ROUTING["wiki.ask"]
    assert found["find"] is None
    assert found["wiki"] is None


names = st.from_regex(r"[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,30}", fullmatch=True)


@given(
    st.sampled_from(["analysis", "commentary", "final"]),
    st.none() | names,
    st.sampled_from([None, "json", "code"]),
)
def test_a_well_formed_header_is_read_as_it_was_written(
    channel: str, recipient: str | None, content_type: str | None
) -> None:
    message = ChatMessage("assistant", "{}", channel, recipient, content_type)
    parser = SegmentParser()
    opened, *_ = [s for token in render_message(message)[len(NEXT_TURN) :] for s in parser.feed(token)]
    assert opened == MessageOpened(channel, recipient, content_type)


def test_a_long_answer_without_its_message_marker_is_streamed_whole() -> None:
    answer = ", ".join(f"item {number}" for number in range(200))
    events = read(spell(f"<|channel|>final {answer}<|return|>")).events
    assert [describe(item) for item in lifecycle.fold(events).output] == [f"says: {answer}"]
    assert sum(isinstance(event, ev.OutputTextDelta) for event in events) > 100
