"""What others wrote does nothing to an operator's terminal."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from admin.printing import plain, plain_json

ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()))


@given(ANY_TEXT)
def test_only_what_prints_is_printed(text: str) -> None:
    assert plain(text).isprintable()
    assert plain(text) == text or not text.isprintable()


@given(
    st.recursive(ANY_TEXT | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(ANY_TEXT, inner))
)
def test_json_stays_the_same_document(value: Any) -> None:
    document = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    assert plain_json(document).isprintable()
    assert json.loads(plain_json(document)) == value


def test_words_of_all_languages_stay_readable() -> None:
    assert plain("Grüße, 世界\n\x1b[2J\x9b") == "Grüße, 世界\\n\\x1b[2J\\x9b"
    assert plain_json('"ü\u202e\x7f"') == '"ü\\u202e\\u007f"'
