"""A text that is encoded in pieces has the tokens that it has as a whole."""

import time
from itertools import chain

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shared.context_length import TOKEN_CHARS_MAX
from worker.harmony.pieces import PIECE_CHARS_MAX, RUN_CHARS_MAX, divide
from worker.harmony.tokens import _encoding as encoding
from worker.harmony.tokens import bytes_of, decode, encode

AWKWARD = (
    "it's 'LL they're we'VE\u2019s \u017fK isn'\u017f",
    "a b  c   d\te \t f\u00a0g\u2003h\u3000i\x1cj\x85k",
    "\r\n \r\n\n\n  \n\tx\n/y\n//\n! \n?\r\rz",
    "123456 1,234.5 ½² Ⅷ٣١ 1a2b3c A1'1",
    "AbCDefGHI ǅǅx ʰʰ iPhone McDONALD",
    "中文\uff0c没有空格。日本語のテキスト、句読点「あり」… ",
    "ภาษาไทยไม่มีช่องว่าง ก็ ที่นี่ e\u0301\u0301 \u0301a !\u0301b",
    '{"a":[1,2,{"b":null}],"c":"\\u00e9"}; x--y ==> <|end|>/*/ ',
    "👩‍👩‍👧 🇩🇪x é́ \u200d\ufeff\u202e",
)
_words = st.sampled_from([*"".join(AWKWARD), *AWKWARD]) | st.text(max_size=5)
_texts = st.lists(_words, max_size=200).map("".join)


def encode_whole(text: str) -> list[int]:
    return list(encoding.encode(text, disallowed_special=()))


@settings(max_examples=50)
@given(st.lists(_texts, max_size=3), st.integers(1, 400))
def test_pieces_have_the_tokens_of_the_whole(texts: list[str], times: int) -> None:
    pieces = list(divide(texts * times))
    assert "".join(pieces) == "".join(texts * times)
    assert all(len(piece) <= PIECE_CHARS_MAX for piece in pieces)
    if not any(len(piece) == RUN_CHARS_MAX for piece in pieces):  # no word was so long that it was divided
        assert list(chain.from_iterable(map(encode_whole, pieces))) == encode_whole("".join(texts * times))


@pytest.mark.parametrize("text", AWKWARD)
def test_a_long_awkward_text_has_the_tokens_of_the_whole(text: str) -> None:
    whole = text * (5 * PIECE_CHARS_MAX // len(text))
    assert len(list(divide([whole]))) > 4
    assert encode(whole) == encode_whole(whole)


@settings(max_examples=500)
@given(st.lists(_words, min_size=2, max_size=12).map("".join))
@example("it'lL x")
def test_every_place_where_a_text_may_be_cut_keeps_its_tokens(text: str) -> None:
    """Not only the last in its piece: here each place is the last that is seen."""
    from worker.harmony.pieces import _WORD_END

    whole = encode_whole(text)
    for end in range(2, len(text) + 1):
        if found := _WORD_END.match(text, 0, end):
            assert encode_whole(text[: found.end()]) + encode_whole(text[found.end() :]) == whole


@given(st.lists(_texts, max_size=8))
def test_pieces_are_the_same_however_the_text_is_divided(texts: list[str]) -> None:
    once = "".join(texts) * 20
    assert list(divide([once])) == list(divide([*texts] * 20))
    assert list(divide([once])) == list(divide(once))


@pytest.mark.parametrize("letter", ["a", "Q", "ก", "中", "1", "-", " ", "\n", "\u0301", "aB", "👍", "\u200d"])
def test_an_unbroken_run_takes_no_more_time_for_each_letter_than_a_short_one(letter: str) -> None:
    """Ten times the length: with quadratic time a hundred times the work, which no load explains."""
    short, long = letter * (10_000 // len(letter)), letter * (100_000 // len(letter))
    took_short, took_long = _time_to_encode(short), _time_to_encode(long)
    assert took_long < 50 * took_short
    assert decode(encode(long)) == long


def _time_to_encode(text: str) -> float:
    """The CPU's time, at best."""
    times = []
    for _ in range(3):
        begun = time.thread_time()
        encode(text)
        times.append(time.thread_time() - begun)
    return min(times)


def test_no_token_has_more_bytes_than_the_limit() -> None:
    assert max(len(bytes_of(token)) for token in range(199_998)) == TOKEN_CHARS_MAX
