"""An answer that holds half a character is read, with U+FFFD in its place, however its bytes come."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tool_runner.mended_text import MendedText

_HALVES = ("\ud83d", "\ude00", "\\", "\\u", "ud83d", "\\\\", '"', "é", "😀", "\n")
TEXTS = st.lists(st.sampled_from(_HALVES) | st.text(max_size=3), max_size=8).map("".join)
VALUES = st.lists(st.dictionaries(TEXTS, TEXTS, max_size=3) | TEXTS, max_size=4)


def mended(raw: bytes, step: int) -> bytes:
    text = MendedText()
    return b"".join([*(text.add(raw[at : at + step]) for at in range(0, len(raw), step)), text.end()])


def without_halves(value: Any) -> Any:
    """Escapes join to characters as JSON reads them: two halves that belong together are one."""
    units = json.dumps(value, ensure_ascii=False).encode("utf-16-le", "surrogatepass")
    whole = units.decode("utf-16-le", "surrogatepass")
    return json.loads(re.sub("[\ud800-\udfff]", "\ufffd", whole))


@given(VALUES, st.integers(1, 9))
def test_halves_of_characters_are_replaced_and_nothing_else_is(value: Any, step: int) -> None:
    raw = json.dumps(value).encode()
    assert json.loads(mended(raw, step)) == without_halves(value)


@given(VALUES.map(without_halves), st.integers(1, 9), st.booleans())
def test_what_is_whole_keeps_its_bytes(value: Any, step: int, is_ascii: bool) -> None:
    raw = json.dumps(value, ensure_ascii=is_ascii).encode()
    assert mended(raw, step) == raw


@pytest.mark.parametrize(
    ("raw", "read"),
    [
        (b'"caf\xe9 au lait"', '"caf\ufffd au lait"'),
        (b'"\xf0\x9f\x98"', '"\ufffd"'),
        (b"\xef\xbb\xbf[1]", "[1]"),
        (rb'"\ud83d', r'"\ud83d'),
        (rb'"\ud83dz\udzzz\u"', r'"\ufffdz\udzzz\u"'),
        (rb'"\ud83d\ud83d\ude00"', r'"\ufffd\ud83d\ude00"'),
    ],
)
@pytest.mark.parametrize("step", [1, 2, 100])
def test_what_is_neither_text_nor_an_escape_does_not_stop_the_rest(raw: bytes, read: str, step: int) -> None:
    assert mended(raw, step).decode() == read


def test_no_line_is_held_back() -> None:
    assert MendedText().add(b'"\\ud8"\n') == b'"\\ud8"\n'


def test_nothing_is_held_back_beyond_an_escape() -> None:
    text = MendedText()
    assert text.add(rb'data: "\ud83') == b'data: "'
    assert text.add(b"d\\ud") == b""
    assert text.add(b'e00"\n\n') == b'\\ud83d\\ude00"\n\n'
