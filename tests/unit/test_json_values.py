"""Values are counted from the bytes: no fewer than there are, and none within strings."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import json_values
from shared.json_values import count_values

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text('"\\,[{}]a', max_size=9),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text('"\\,[a', max_size=3), inner, max_size=4)
    ),
    max_leaves=40,
)


def marks_of(value: Any) -> int:
    """What a value has of `[`, `{` and `,` where none stands in a string."""
    match value:
        case dict():
            return 1 + max(len(value) - 1, 0) + sum(map(marks_of, value.values()))
        case list():
            return 1 + max(len(value) - 1, 0) + sum(map(marks_of, value))
        case _:
            return 0


@given(VALUES, st.integers(1, 9))
def test_strings_are_not_counted_wherever_the_text_is_cut(value: Any, slice_bytes: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_values, "_SLICE_BYTES", slice_bytes)
        assert count_values(msgspec.json.encode(value), 0) == marks_of(value)


@given(VALUES)
def test_the_quick_count_is_never_too_low(value: Any) -> None:
    told = count_values(msgspec.json.encode(value), 10)
    assert told >= marks_of(value)
    assert told <= 10 or told == marks_of(value)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (b"[" + b",".join([b"[]"] * 1_000_000) + b"]", 2_000_000),
        (b"{" + b",".join(b'"%d":0' % i for i in range(500_000)) + b"}", 500_000),
        (b'"' + b"a,[{" * 1_000_000 + b'"', 0),
        (b'"' + b"\\" * 4_000_000 + b'",', 1),
        (b'"' + b'\\"' * 2_000_000 + b'",', 1),
    ],
)
def test_megabytes_are_counted_exactly(text: bytes, count: int) -> None:
    assert count_values(text, 1) == count
