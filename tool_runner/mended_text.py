"""Mends the text of an answer where no JSON library reads it, before it is decoded. Pure.

A text that was cut in the middle of a character comes with half of its escape (`"\\ud83d"`), as JavaScript
and Python write it, or with half of its bytes. The MCP library then refuses the whole message: every tool of
a listing, or an answer. Each half becomes U+FFFD here, and a byte order mark at the beginning is left out.
"""

import codecs
import re

_REST = re.compile(
    r"(?:[^\\]+|\\[^u]|\\u[^dD]|\\u[dD][^89a-fA-F]"
    r"|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}){1,1000}",
    re.DOTALL,
)
"""A text up to an escape that may be half a character, or whose end is missing. It is taken in parts, as `re`
remembers each repetition; a possessive `*+`, which would not, is broken in Python 3.11.2."""
_HALF = re.compile(
    r"\\u[dD](?:[c-fC-F][0-9a-fA-F]{2}"
    r"|[89abAB][0-9a-fA-F]{2}(?=[^\\]|\\[^u]|\\u[^dD]|\\u[dD][^c-fC-F]))",
    re.DOTALL,
)
_PAIR_CHARS = 12
_SUBSTITUTE = r"\ufffd"


class MendedText:
    """A text that comes in pieces. Holds back what may be half a character, until the rest of it comes."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")
        self._held = ""

    def add(self, piece: bytes) -> bytes:
        """Returns the next part of the mended text. Takes time in proportion to the piece."""
        text = self._held + self._decoder.decode(piece)
        parts, self._held = list[str](), ""
        place = 0
        while place < len(text):
            if rest := _REST.match(text, place):
                parts.append(rest[0])
                place = rest.end()
            elif half := _HALF.match(text, place):
                parts.append(_SUBSTITUTE)
                place = half.end()
            elif len(text) - place >= _PAIR_CHARS or "\n" in text[place:]:  # no escape at all
                parts.append(text[place])
                place += 1
            else:
                self._held = text[place:]
                break
        return "".join(parts).encode()

    def end(self) -> bytes:
        """Returns what was held back."""
        held, self._held = self._held + self._decoder.decode(b"", final=True), ""
        return held.encode()
