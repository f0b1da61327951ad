"""The texts of a JSON object, read while it is written."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.response.json_texts import JsonTexts

leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
values = leaves | st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)
objects = st.dictionaries(st.text(), st.text() | st.lists(st.text(), max_size=4) | values, max_size=5)


def read(pieces: list[str]) -> tuple[dict[tuple[str, int | None], str], set[tuple[str, int | None]], bool]:
    """The texts by their places, which of them ended, and whether the object was broken."""
    reader = JsonTexts()
    texts: dict[tuple[str, int | None], str] = {}
    ended: set[tuple[str, int | None]] = set()
    for piece in pieces:
        for made in reader.feed(piece):
            place = made.key, made.place
            assert place not in ended
            texts[place] = texts.get(place, "") + made.text
            if made.is_last:
                ended.add(place)
    return texts, ended, reader.is_broken


def cut(text: str, places: list[int]) -> list[str]:
    at = sorted({place % (len(text) + 1) for place in places})
    return [text[begin:end] for begin, end in zip([0, *at], [*at, len(text)], strict=True)]


def texts_in(value: dict[str, Any]) -> dict[tuple[str, int | None], str]:
    texts: dict[tuple[str, int | None], str] = {}
    for key, member in value.items():
        if isinstance(member, str):
            texts[key, None] = member
        if isinstance(member, list):
            texts |= {(key, place): each for place, each in enumerate(member) if isinstance(each, str)}
    return texts


@given(objects, st.lists(st.integers(0, 10_000), max_size=8), st.booleans(), st.sampled_from([None, 2]))
def test_every_text_is_read_wherever_the_object_is_cut(
    value: dict[str, Any], places: list[int], ascii_only: bool, indent: int | None
) -> None:
    written = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    texts, ended, is_broken = read(cut(written, places))
    assert texts == texts_in(value)
    assert ended == set(texts)
    assert not is_broken


@given(st.text() | st.text('{}[]",:\\\\u0d8 a'), st.lists(st.integers(0, 10_000), max_size=8))
def test_any_text_is_read_the_same_wherever_it_is_cut(text: str, places: list[int]) -> None:
    assert read(cut(text, places)) == read(list(text))


@pytest.mark.parametrize(
    ("written", "text"),
    [
        (r'"a\d+b"', r"a\d+b"),
        ('"a\nb"', "a\nb"),
        (r'"\u12"', r"\u12"),
        (r'"\ud83d!"', "�!"),
        (r'"\ude00"', "�"),
        (r'"\ud83d\ud83d\ude00"', "�😀"),
        (r'"\ud83d"', "�"),
        (r'"\"\\\/\b\f\n\r\t"', '"\\/\b\f\n\r\t'),
    ],
)
def test_what_models_get_wrong_in_a_text_stands_for_itself(written: str, text: str) -> None:
    assert read(list(f'{{"x": {written}}}'))[:2] == ({("x", None): text}, {("x", None)})


@pytest.mark.parametrize(
    "text", ["x", "[1]", '"x"', "{x}", "{1: 2}", '{"a" 1}', '{"a": [}', '{"a": [1}', '{"a": ]']
)
def test_what_is_no_object_is_broken(text: str) -> None:
    assert read([text])[2]
