import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tool_runner.value_count import ANSWER_VALUES_MAX, ValueCount

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def count_in(value: Any) -> int:
    """Openings of lists and objects, and commas."""
    if not isinstance(value, list | dict):
        return 0
    parts = list(value.values()) if isinstance(value, dict) else value
    return 1 + max(0, len(parts) - 1) + sum(map(count_in, parts))


@given(VALUES, st.integers(1, 7), st.booleans())
def test_values_are_counted_however_the_bytes_come(value: Any, step: int, is_ascii: bool) -> None:
    raw = json.dumps(value, ensure_ascii=is_ascii).encode(errors="replace")
    count = ValueCount()
    for start in range(0, len(raw), step):
        count.add(raw[start : start + step])
    assert count.add(b"") == count_in(value)


def test_a_text_is_one_value_however_long() -> None:
    assert ValueCount().add(json.dumps(['[{,\\"' * 1_000_000]).encode()) == 1


@pytest.mark.parametrize("opening", [b': "\ndata: ', b': "\r', b'"\x0b'])
def test_no_line_before_hides_what_follows(opening: bytes) -> None:
    assert ValueCount().add(opening + b"[1,2,3]") == 3


def test_counting_ends_when_there_are_too_many() -> None:
    assert ValueCount().add(b"[" * (ANSWER_VALUES_MAX * 10)) == ANSWER_VALUES_MAX + 1
