"""The summary of reasoning: the rule, and that it depends on the text alone."""

import re
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import events as ev
from shared.events import StreamEvent
from shared.lifecycle import fold
from shared.responses import Reasoning, Response
from tests.requests import make_request
from worker.harmony.parser import MessageClosed, MessageCut, MessageOpened, TextContinued
from worker.response.reasoning_items import ReasoningStyle
from worker.response.summary import PARTS_MAX, SENTENCE_CHARS_MAX, Summary, SummaryStyle
from worker.response.translator import Translation, step

THOUGHTS = """We need to multiply 123*456. Use python for that, e.g. in one line. Then answer.

Hmm. Wait, is it not 3.14? "No," says the user. So:
- read the file
- count its lines

```python
x = 1. # not a sentence.

y = 2
```

1. The list is sorted! That helps. \t

\t

The end"""
CONCISE = [
    "We need to multiply 123*456.",
    "Hmm. Wait, is it not 3.14?",
    "1. The list is sorted! That helps.",
    "The end",
]
DETAILED = [
    "We need to multiply 123*456. Use python for that, e.g. in one line. Then answer.",
    'Hmm. Wait, is it not 3.14? "No," says the user. So:\n- read the file\n- count its lines',
    "```python\nx = 1. # not a sentence.\n\ny = 2\n```",
    "1. The list is sorted! That helps.",
    "The end",
]


def divide(text: str, length: int) -> list[str]:
    return [text[i : i + length] for i in range(0, len(text), length)]


def summarise(style: SummaryStyle, pieces: Sequence[str]) -> list[StreamEvent]:
    summary, read, events = Summary(style, 0, "rs_0"), list[str](), list[StreamEvent]()
    for piece in pieces:
        read.append(piece)
        if summary.is_due(piece):
            events += summary.read(read)
    events += summary.end(read)
    assert [part.text for part in summary.parts] == parts_of(events)
    return events


def parts_of(events: Sequence[StreamEvent]) -> list[str]:
    """The texts of the parts, of which the events must say the same each time."""
    texts: list[str] = []
    is_open = False
    for event in events:
        match event:
            case ev.ReasoningSummaryPartAdded(0, index, "rs_0", part):
                assert (index, part.text, is_open) == (len(texts), "", False)
                texts.append("")
                is_open = True
            case ev.ReasoningSummaryTextDelta(0, index, "rs_0", delta):
                assert index == len(texts) - 1
                assert delta
                texts[index] += delta
            case ev.ReasoningSummaryTextDone(0, index, "rs_0", text):
                assert (index, text, is_open) == (len(texts) - 1, texts[-1], True)
            case ev.ReasoningSummaryPartDone(0, index, "rs_0", part):
                assert (index, part.text, is_open) == (len(texts) - 1, texts[-1], True)
                is_open = False
            case _:
                raise AssertionError(event)
    assert not is_open
    return texts


@pytest.mark.parametrize("length", [1, 2, 3, 5, 8, 1_000])
@pytest.mark.parametrize(
    ("style", "parts"), [("concise", CONCISE), ("auto", CONCISE), ("detailed", DETAILED)]
)
def test_a_paragraph_becomes_a_part_all_of_it_or_its_first_sentence(
    style: SummaryStyle, parts: list[str], length: int
) -> None:
    assert parts_of(summarise(style, divide(THOUGHTS, length))) == parts


@pytest.mark.parametrize("style", ["concise", "detailed"])
def test_nothing_comes_of_white_space(style: SummaryStyle) -> None:
    assert summarise(style, [" \n", "\n\n", "\t"]) == []


def test_a_first_sentence_that_is_long_is_cut_between_two_words() -> None:
    (part,) = parts_of(summarise("concise", ["many words " * 100 + "follow. So"]))
    assert len(part) <= SENTENCE_CHARS_MAX
    assert re.fullmatch(r"(many words )+(many )?(many|words)…", part)


def test_a_sentence_is_told_as_soon_as_it_has_ended() -> None:
    """Not only when its paragraph has; the next piece shows that a full stop is one."""
    summary = Summary("auto", 0, "rs_0")
    pieces: list[str] = []
    seen: list[str] = []
    for piece in ["We need", " to multiply 3.14", " by 2 and by 7", ".", " Use", " python"]:
        pieces.append(piece)
        made = summary.read(pieces) if summary.is_due(piece) else []
        seen += [event.delta for event in made if isinstance(event, ev.ReasoningSummaryTextDelta)]
        assert bool(seen) == (" Use" in pieces)
    assert seen == ["We need to multiply 3.14 by 2 and by 7."]


@pytest.mark.parametrize("style", ["concise", "detailed"])
def test_the_last_part_takes_in_all_further_paragraphs(style: SummaryStyle) -> None:
    paragraphs = [f"The paragraph number {number} says little." for number in range(3 * PARTS_MAX)]
    parts = parts_of(summarise(style, divide("\n\n".join(paragraphs), 4)))
    assert len(parts) == PARTS_MAX
    assert parts[-1].split("\n\n") == paragraphs[PARTS_MAX - 1 :]


texts = st.lists(
    st.sampled_from([*" .!?\n", "\n\n", ". ", "```", "e.g. ", "…", "。", '."', "3.14", "Word", " and so on"])
    | st.text(max_size=3),
    max_size=60,
)


@given(st.sampled_from(["concise", "detailed"]), texts, st.integers(1, 9))
def test_a_summary_depends_on_the_text_and_not_on_its_pieces(
    style: SummaryStyle, pieces: list[str], length: int
) -> None:
    parts = parts_of(summarise(style, pieces))
    assert parts == parts_of(summarise(style, divide("".join(pieces), length)))


@given(texts)
def test_a_detailed_summary_has_every_word_in_order(pieces: list[str]) -> None:
    assert " ".join(parts_of(summarise("detailed", pieces))).split() == "".join(pieces).split()


@given(texts)
def test_a_concise_one_is_no_longer_than_its_bound(pieces: list[str]) -> None:
    parts = parts_of(summarise("concise", pieces))
    assert all(0 < len(part) <= SENTENCE_CHARS_MAX for part in parts)
    assert len(parts) <= "".join(pieces).count("\n") + 1


@pytest.mark.parametrize("text", ["a.", "\n", "```\n\n", "a\n\n", ". ", '."', "x ", "...", "  \n"])
@pytest.mark.parametrize("style", ["concise", "detailed"])
def test_what_a_summary_costs_grows_with_the_text_alone(style: SummaryStyle, text: str) -> None:
    """Counted in calls, of Python and of C; those are short, because little text is held back."""

    def count(pieces: list[str]) -> int:
        calls = 0

        def note(_frame: FrameType, event: str, _argument: Any) -> None:
            nonlocal calls
            calls += event in ("call", "c_call")

        sys.setprofile(note)
        try:
            summarise(style, pieces)
        finally:
            sys.setprofile(None)
        return calls

    once, more = count([text] * 2_000), count([text] * 8_000)
    assert more < 4.2 * once + 100


# --- in an item -----------------------------------------------------------------------------------

RESPONSE: Response = make_request().response


def translate(style: SummaryStyle | None, *segments: Any) -> list[StreamEvent]:
    now, events = Translation(RESPONSE.id, {}, reasoning=ReasoningStyle(summary=style)), list[StreamEvent]()
    for segment in segments:
        now, made = step(now, segment)
        events += made
    return events


def test_summary_events_come_between_those_of_the_text_and_before_the_item_is_done() -> None:
    segments = [TextContinued("It is all very simple.\n\n"), TextContinued("Is it?"), MessageClosed(False)]
    events = translate("auto", MessageOpened("analysis", None, None), *segments)
    names = [str(event.__struct_config__.tag).removeprefix("response.") for event in events]
    assert names == [
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_summary_part.added",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "reasoning_summary_part.added",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
        "output_item.done",
    ]
    (item,) = fold([ev.ResponseCreated(RESPONSE), *events]).output
    assert isinstance(item, Reasoning)
    assert [part.text for part in item.summary] == ["It is all very simple.", "Is it?"]
    assert [part.text for part in item.content] == ["It is all very simple.\n\nIs it?"]


@pytest.mark.parametrize("end", [MessageClosed(False), MessageCut()])
def test_reasoning_that_is_cut_has_a_summary_of_what_there_is(end: Any) -> None:
    events = translate("detailed", MessageOpened("analysis", None, None), TextContinued("So. We"), end)
    (item,) = fold([ev.ResponseCreated(RESPONSE), *events]).output
    assert isinstance(item, Reasoning)
    assert [part.text for part in item.summary] == ["So. We"]


def test_only_thoughts_are_summarised() -> None:
    """Not a call of an unknown tool, which becomes a reasoning item, and nothing unless it is asked for."""
    call = (
        MessageOpened("commentary", "functions.unknown", "json"),
        TextContinued("{}."),
        MessageClosed(True),
    )
    thought = (MessageOpened("analysis", None, None), TextContinued("Hm."), MessageClosed(False))
    for style, segments in (("auto", call), (None, thought)):
        made = translate(style, *segments)  # type: ignore[arg-type]
        assert not any("summary" in str(event.__struct_config__.tag) for event in made)
