"""Makes the frames of deltas, of which there is one for each token.

Owns the shortcut; what the bytes are is decided by `frame` in `frames.py`.
"""

from functools import lru_cache

import msgspec

from shared.events import TextDelta
from shared.frames import encode, frame

_MARK = "\x00"
"""Stands for a delta's text where a frame is cut. It is escaped in JSON, and no id has a backslash."""


@lru_cache(maxsize=32_768)
def _encode_text(text: str) -> bytes:
    """Returns a piece of text as it stands in a frame. Cached, because most pieces are common tokens."""
    return encode(text)


class DeltaFrames:
    """Makes the frames of one item's deltas, which differ in their number and their text alone.

    Cut once per item from what `frame` makes of a delta, so `frame` alone decides what the bytes are.
    """

    __slots__ = ("_template",)

    def __init__(self, delta: TextDelta) -> None:
        """`delta`: any of the item's, without log probabilities."""
        made = frame(msgspec.structs.replace(delta, delta=_MARK), 0).replace(b"%", b"%%")
        name, number, data = made.split(b"\n", 2)
        before, after = data.removesuffix(b"0}\n\n").split(encode(_MARK))
        number = number.removesuffix(b"0")
        self._template = b"%b\n%b%%d\n%b%%b%b%%d}\n\n" % (name, number, before, after)

    def make(self, number: int, text: str) -> bytes:
        """Returns what `frame` does for the delta with this text."""
        return self._template % (number, _encode_text(text), number)


def quote(text: str) -> str:
    """Returns a piece of text as it stands within a JSON string. Pieces may be quoted one by one."""
    return msgspec.json.encode(text)[1:-1].decode()


class QuotedFrames(DeltaFrames):
    """Makes the frames of deltas that are pieces of JSON, in which the text is a string."""

    __slots__ = ()

    def make(self, number: int, text: str) -> bytes:
        return super().make(number, quote(text))
