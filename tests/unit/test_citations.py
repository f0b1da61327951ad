"""Citations are made of the model's own marks, wherever its tokens divide them."""

import re
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import events as ev
from shared.events import StreamEvent
from shared.frames import decode, frame
from shared.lifecycle import fold
from shared.responses import Message, Response, UrlCitation
from shared.web_search import Display, Source
from worker.engines.protocol import TokenLogprob
from worker.harmony.tokens import CHANNEL, MESSAGE, RETURN, bytes_of, encode, text_of
from worker.response.citations import CitationMarks, may_end_mark
from worker.response.translator import Translation
from worker.response.turn_reader import TurnReader
from worker.response.usage import Turn

RESPONSE = Response(id="resp_0_" + "a" * 32, created_at=1, status="in_progress", model="default")
DISPLAYS = {
    3: Display(3, "Leases", "https://a.example/leases"),
    4: Display(
        4,
        "a search",
        sources=(
            Source("https://a.example/one", "One", (4, 6)),
            Source("https://a.example/two", "Two", (7, 9)),
        ),
    ),
}
ONE, TWO, LEASES = (
    ("One", "https://a.example/one"),
    ("Two", "https://a.example/two"),
    ("Leases", "https://a.example/leases"),
)


def read(*pieces: str) -> list[UrlCitation]:
    """What a text gives, piece by piece, as the translator reads it."""
    marks = CitationMarks(DISPLAYS)
    for end in range(1, len(pieces) + 1):
        if may_end_mark(pieces[end - 1]):
            marks.read(pieces[:end])
    return marks.found


@pytest.mark.parametrize(
    ("text", "cited"),
    [
        ("A lease lapses【3†L9-L11】.", [("【3†L9-L11】", *LEASES)]),
        ("【3†L8】", [("【3†L8】", *LEASES)]),
        ("【3†L8-9】", [("【3†L8-9】", *LEASES)]),
        ("【4†L5】 and 【4†L7-L9】", [("【4†L5】", *ONE), ("【4†L7-L9】", *TWO)]),
        ("【4†L1】, the head of a list", []),
        ("【7†L8】, a cursor that was never shown", []),
        ("【3†source】【3】【†L1】【3†L】【3 †L1】【-3†L1】", []),
        ("【3†Leases†a.example】, a link", []),
        ("【【3†L8】】", [("【3†L8】", *LEASES)]),
        ("【3†L1】【3†L2】", [("【3†L1】", *LEASES), ("【3†L2】", *LEASES)]),
        ("【3†L8】" * 2, [("【3†L8】", *LEASES)] * 2),
        ("😀é【3†L8】", [("【3†L8】", *LEASES)]),
        ("【3†L" + "9" * 40 + "】", []),
    ],
)
def test_a_mark_cites_the_page_to_which_its_line_belongs(text: str, cited: list[tuple[str, ...]]) -> None:
    found = [(text[c.start_index : c.end_index], c.title, c.url) for c in read(*text)]
    assert found == cited
    assert read(text) == read(*text)


fragments = st.sampled_from(
    ["【", "】", "†", "L", "3", "4", "7", "-", "12", " ", "【3†L8】", "【4†L5-L6】", "【9†L1】", "a", "😀"]
)


@given(st.lists(fragments, max_size=30).map("".join), st.data())
def test_however_a_text_is_divided_its_citations_are_those_of_the_whole(
    text: str, data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=12)) | {0, len(text)})
    pieces = [text[a:b] for a, b in pairwise(cuts)]
    found = read(*pieces)
    assert found == read(text)
    wanted = [m.span() for m in re.finditer(r"【([0-9]+)†L([0-9]+)(-L?[0-9]+)?】", text) if is_known(m)]
    assert [(c.start_index, c.end_index) for c in found] == wanted


def is_known(mark: re.Match[str]) -> bool:
    return mark[1] == "3" or (mark[1] == "4" and 4 <= int(mark[2]) <= 9)


def test_every_character_is_read_a_bounded_number_of_times() -> None:
    class Counted(list[str]):
        taken = 0

        def __getitem__(self, place: Any) -> Any:
            part = super().__getitem__(place)
            self.taken += len(part)
            return part

    pieces, marks = Counted(), CitationMarks(DISPLAYS)
    for _ in range(2_000):
        pieces.extend(["a", "】"])
        marks.read(pieces)
    assert pieces.taken == 4_000
    assert marks.found == []


def test_a_text_has_a_limited_number_of_citations() -> None:
    assert len(read(*["【3†L8】"] * 600)) == 500


# --- as events ------------------------------------------------------------------------------------


def stream(text: str, channel: str = "final", *, with_logprobs: bool = False) -> list[StreamEvent]:
    """The events of one message, read token by token."""
    reader = TurnReader(replace(Translation(RESPONSE.id, {}), displays=DISPLAYS))
    reader.begin_turn(Turn(0))
    events: list[StreamEvent] = []
    for token in [CHANNEL, *encode(channel), MESSAGE, *encode(text), RETURN]:
        events += reader.read(token, TokenLogprob(-0.5, ()) if with_logprobs else None)
    return events


TEXT = "Leases lapse【3†L9-L11】, as 😀 said【4†L5】【9†L1】.\n\nSee【4†L8】"


@pytest.mark.parametrize("channel", ["final", "commentary"])
@pytest.mark.parametrize("with_logprobs", [False, True])
def test_the_event_of_a_citation_follows_the_delta_that_ends_its_mark(
    channel: str, with_logprobs: bool
) -> None:
    events = stream(TEXT, channel, with_logprobs=with_logprobs)
    text, places = "", []
    for event, before in zip(events[1:], events, strict=False):
        if isinstance(event, ev.OutputTextDelta):
            text += event.delta
        elif isinstance(event, ev.OutputTextAnnotationAdded):
            assert isinstance(before, ev.OutputTextDelta | ev.OutputTextAnnotationAdded)
            assert "】" in text[event.annotation.end_index - 1 :]
            assert (event.output_index, event.content_index, event.item_id) == (0, 0, before.item_id)
            places.append(event.annotation_index)
    assert text == TEXT
    assert places == [0, 1, 2]


def test_the_list_is_again_in_the_part_the_item_and_the_final_response() -> None:
    events = stream(TEXT)
    added = tuple(each.annotation for each in events if isinstance(each, ev.OutputTextAnnotationAdded))
    assert [TEXT[each.start_index : each.end_index] for each in added] == [
        "【3†L9-L11】",
        "【4†L5】",
        "【4†L8】",
    ]
    part = next(each.part for each in events if isinstance(each, ev.ContentPartDone))
    item = next(each.item for each in events if isinstance(each, ev.OutputItemDone))
    assert isinstance(item, Message)
    assert [part] == list(item.content)
    assert item.content[0].annotations == added
    assert item.content[0].text == TEXT
    log: list[StreamEvent] = [ev.ResponseCreated(RESPONSE), *events]
    for length in range(2, len(log) + 1):
        fold(log[:length])
    assert fold(log).output == (item,)
    assert [decode(frame(event, 1)) for event in log] == log


def test_reasoning_cites_nothing() -> None:
    assert not any(isinstance(event, ev.OutputTextAnnotationAdded) for event in stream(TEXT, "analysis"))


def test_only_the_few_tokens_that_may_end_a_mark_leave_the_short_way() -> None:
    ordinary = [token for token in range(199_998) if text_of(token) is None]
    ends = [token for token in ordinary if "】".encode() in bytes_of(token)]
    assert 0 < len(ends) < 100
    assert all(text_of(token) is not None for token in encode("A plain [1] text, of (any) 【 kind †."))


@given(st.lists(fragments, max_size=20).map("".join))
def test_the_short_way_of_a_token_gives_the_same_frames(text: str) -> None:
    """A token that only continues a text becomes a frame at once; citations must not be lost by that."""
    tokens = [CHANNEL, *encode("final"), MESSAGE, *encode(text), RETURN]
    long, short = (TurnReader(replace(Translation(RESPONSE.id, {}), displays=DISPLAYS)) for _ in range(2))
    for reader in (long, short):
        reader.begin_turn(Turn(0))
    frames: list[bytes] = []
    for token in tokens:
        made = short.read_text(token, len(frames))
        if made is not None:
            frames.append(made)
        else:
            frames += [frame(event, len(frames) + i) for i, event in enumerate(short.read(token))]
    events = [event for token in tokens for event in long.read(token)]
    assert frames == [frame(event, number) for number, event in enumerate(events)]
