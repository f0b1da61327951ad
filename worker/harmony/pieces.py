"""Cuts a text into pieces that together have the tokens of the whole. Pure.

Owns the length of a piece and where a text may be cut; `tokens.py` encodes the pieces. The vocabulary's
pattern divides a text into words before anything is merged, so a text may be cut where a word ends regardless
of its context (docs/adr/0015-encode-in-pieces.md).
"""

import re
from collections.abc import Iterable, Iterator

PIECE_CHARS_MAX = 8_192
"""The length of text encoded at once: a few milliseconds, in which nothing else in the process runs."""
RUN_CHARS_MAX = 512
"""The longest word. Merging takes quadratic time within a word, so a longer one is divided, although that
changes its tokens; ordinary text has no such words."""

_PUNCTUATION = (
    r"!-&(-/:-@\[-`{-~\u00ab\u00bb\u060c\u061b\u061f\u0964\u2013\u2014\u201c-\u201e\u2026"
    r"\u3001-\u3003\u3008-\u3011\u3014-\u301b\uff01-\uff0f\uff1a-\uff20\uff3b-\uff3e"
)
"""Without the apostrophe, after which a word may continue (`it's`)."""
_WORD_END = re.compile(
    rf"""(?s:.*)  # as late as can be
    (?: \S (?=[ \t])                    # nothing but a blank begins with a blank and goes on
      | [^\W_] (?=[\r\n{_PUNCTUATION}])  # letters and numbers stand with no punctuation after them
      | [\r\n] (?=[^\W_])
      | [A-Za-z] (?=[0-9])
      | [0-9] (?=[A-Za-z])
    )""",
    re.VERBOSE,
)


def divide(texts: Iterable[str]) -> Iterator[str]:
    """Yields pieces of the joined texts, at most `PIECE_CHARS_MAX` long, however the text is divided."""
    held: list[str] = []
    length = 0
    for text in texts:
        held.append(text)
        length += len(text)
        if length > 2 * PIECE_CHARS_MAX:
            whole, start = "".join(held), 0
            while len(whole) - start > 2 * PIECE_CHARS_MAX:
                end = _end_of_piece(whole, start)
                yield whole[start:end]
                start = end
            held, length = [whole[start:]], len(whole) - start
    whole, start = "".join(held), 0
    while start < len(whole):
        end = _end_of_piece(whole, start)
        yield whole[start:end]
        start = end


def _end_of_piece(text: str, start: int) -> int:
    """Returns the index after the last word end within a piece, or within a stretch without word ends."""
    end = start
    while end - start <= PIECE_CHARS_MAX - RUN_CHARS_MAX:
        if len(text) - end <= RUN_CHARS_MAX:
            return len(text)
        found = _WORD_END.match(text, end, end + RUN_CHARS_MAX + 1)
        if found is None:
            return end + RUN_CHARS_MAX
        end = found.end()
    return end
