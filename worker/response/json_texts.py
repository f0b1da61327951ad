"""Reads the texts within a JSON object while the model is writing it.

Pure. Owns how a JSON text that is not yet complete, or not quite right, is read; `client_calls.py` owns what
becomes of the texts. Only texts that are members of the object, or of a list that is one, are read.
"""

import re
from dataclasses import dataclass

_ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_PLAIN = re.compile(r'[^"\\]+')
_HEX_DIGITS = frozenset("0123456789abcdefABCDEF")
_UNICODE_LENGTH = len("\\u0000")
_HIGH_HALVES, _LOW_HALVES = range(0xD800, 0xDC00), range(0xDC00, 0xE000)
"""The halves of a character beyond 16 bits, which JSON escapes one after the other."""
_SPACE = " \t\r\n"


@dataclass(frozen=True, slots=True)
class TextPiece:
    """A piece of a text. `key`: of the object's member; `place`: in its list, or None; `is_last`: the text
    ends with this piece."""

    key: str
    place: int | None
    text: str
    is_last: bool = False


class JsonTexts:
    """Takes the text of an object piece by piece. The pieces of its texts depend on it alone, apart from
    where they are divided.

    An invalid escape stands for itself, and so does a line break, because models write both.
    """

    def __init__(self) -> None:
        self.is_broken = False
        """What was written is not an object of JSON, or not any more."""
        self._state = self._before
        self._text: list[str] = []
        """The pieces of the current text that have not been returned."""
        self._escape = ""
        """An escape that has begun."""
        self._half = 0
        """The first half of a character, whose second half is to follow."""
        self._key = ""
        self._place: int | None = None
        self._depth = 0
        self._is_quoted = False
        """Within a text of a value that is skipped."""
        self._made: list[TextPiece] = []

    def feed(self, text: str) -> list[TextPiece]:
        """Returns the pieces that the text completes."""
        place = 0
        while place < len(text) and not self.is_broken:
            place = self._state(text, place)
        if self._state == self._in_value and self._text:
            self._emit()
        made, self._made = self._made, []
        return made

    def _emit(self, *, is_last: bool = False) -> None:
        self._made.append(TextPiece(self._key, self._place, "".join(self._text), is_last))
        self._text = []

    # --- states: each takes the character at a place, or more, and returns the next place ---

    def _before(self, text: str, place: int) -> int:
        if text[place] == "{":
            self._state = self._between
        elif text[place] not in _SPACE:
            self.is_broken = True
        return place + 1

    def _between(self, text: str, place: int) -> int:
        match text[place]:
            case '"':
                self._state, self._text = self._in_key, []
            case "}":
                self._state = self._after
            case char if char != "," and char not in _SPACE:
                self.is_broken = True
        return place + 1

    def _in_key(self, text: str, place: int) -> int:
        end, is_ended = self._read_text(text, place)
        if is_ended:
            self._key, self._text, self._place = "".join(self._text), [], None
            self._state = self._colon
        return end

    def _colon(self, text: str, place: int) -> int:
        if text[place] == ":":
            self._state = self._value
        elif text[place] not in _SPACE:
            self.is_broken = True
        return place + 1

    def _value(self, text: str, place: int) -> int:
        char = text[place]
        if char in _SPACE:
            return place + 1
        if char == '"':
            self._state, self._text = self._in_value, []
            return place + 1
        if char == "[" and self._place is None:
            self._state, self._place = self._in_list, -1
            return place + 1
        self._state, self._depth, self._is_quoted = self._skip, 0, False
        return place

    def _in_list(self, text: str, place: int) -> int:
        assert self._place is not None
        char = text[place]
        if char == "]":
            self._state, self._place = self._between, None
            return place + 1
        if char in _SPACE or char == ",":
            return place + 1
        if char == "}":
            self.is_broken = True
            return place
        self._place += 1
        self._state = self._value
        return place

    def _in_value(self, text: str, place: int) -> int:
        end, is_ended = self._read_text(text, place)
        if is_ended:
            self._emit(is_last=True)
            self._state = self._between if self._place is None else self._in_list
        return end

    def _skip(self, text: str, place: int) -> int:
        """Passes over a value that is neither a text nor a list of texts."""
        char = text[place]
        if self._is_quoted:
            if char == "\\":
                self._state = self._skip_one
            elif char == '"':
                self._is_quoted = False
        elif char == '"':
            self._is_quoted = True
        elif char in "[{":
            self._depth += 1
        elif self._depth == 0 and char in ",]}":
            self._state = self._between if self._place is None else self._in_list
            return place
        elif char in "]}":
            self._depth -= 1
        return place + 1

    def _skip_one(self, text: str, place: int) -> int:
        self._state = self._skip
        return place + 1

    def _after(self, text: str, place: int) -> int:
        """What follows the object is no part of it."""
        return len(text)

    # --- the text of a key or a value ---

    def _read_text(self, text: str, place: int) -> tuple[int, bool]:
        """Reads on in a text; returns the next place, and whether the text has ended."""
        if self._escape:
            return self._read_escape(text, place), False
        plain = _PLAIN.match(text, place)
        if plain is not None:
            self._append(plain[0])
            return plain.end(), False
        if text[place] == '"':
            self._append("")
            return place + 1, True
        self._escape = "\\"
        return place + 1, False

    def _read_escape(self, text: str, place: int) -> int:
        char = text[place]
        if self._escape == "\\" and char != "u":
            self._append(_ESCAPES.get(char, f"\\{char}"))
            self._escape = ""
            return place + 1
        if self._escape != "\\" and char not in _HEX_DIGITS:  # it is none, so it stands for itself
            self._append(self._escape)
            self._escape = ""
            return place
        self._escape += char
        if len(self._escape) == _UNICODE_LENGTH:
            self._append_unit(int(self._escape[2:], 16))
            self._escape = ""
        return place + 1

    def _append(self, text: str) -> None:
        """Adds to the text; half a character before it, whose other half is missing, is replaced."""
        if self._half:
            self._text.append("\N{REPLACEMENT CHARACTER}")
            self._half = 0
        if text:
            self._text.append(text)

    def _append_unit(self, unit: int) -> None:
        """Adds a code unit of UTF-16, as JSON escapes them."""
        if unit in _LOW_HALVES and self._half:
            low, high, self._half = unit - _LOW_HALVES.start, self._half - _HIGH_HALVES.start, 0
            self._append(chr(0x10000 + (high << 10) + low))
        elif unit in _HIGH_HALVES:
            self._append("")
            self._half = unit
        else:
            self._append("\N{REPLACEMENT CHARACTER}" if unit in _LOW_HALVES else chr(unit))
