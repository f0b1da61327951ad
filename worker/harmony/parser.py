"""The assistant's tokens become segments, one token at a time: a message opens, its text continues, it ends.

Owns what is done where a model breaks the grammar of messages; what a header says is `headers`', how tokens
and text map to each other is `tokens`'. Decisions and their sources: docs/adr/0007-harmony-parsing.md.
"""

import codecs
from collections.abc import Sequence
from dataclasses import dataclass

from worker.harmony.headers import Header, Marker, Piece, read_header, read_text
from worker.harmony.tokens import (
    CALL,
    CHANNEL,
    CONSTRAIN,
    CONTROL_TOKENS,
    END,
    ENDOFTEXT,
    MESSAGE,
    RETURN,
    START,
    bytes_of,
    decode,
)

_MESSAGE_ENDS = frozenset({END, RETURN, CALL, ENDOFTEXT})
_HEADER_TOKENS_MAX = 256
"""A header this long is no header: what it holds is kept as text. The longest names that a request may
give take 192 tokens at worst."""


@dataclass(frozen=True, slots=True)
class MessageOpened:
    """A header was read. What it does not say, or not clearly, is None."""

    channel: str | None
    recipient: str | None
    content_type: str | None


@dataclass(frozen=True, slots=True)
class TextContinued:
    text: str


@dataclass(frozen=True, slots=True)
class MessageClosed:
    """The message is whole. `is_call`: the model waits for the answer of a tool."""

    is_call: bool


@dataclass(frozen=True, slots=True)
class MessageCut:
    """The generation ended inside the message."""


HarmonySegment = MessageOpened | TextContinued | MessageClosed | MessageCut


class SegmentParser:
    """Tokens of the assistant, one at a time, to segments; never raises on what a model writes.

    Headers are read by `headers`, text by an incremental UTF-8 decoder; the library's parser raises on
    the one and loses some of the other. What breaks the grammar degrades: a missing `<|start|>`,
    `<|channel|>` or `<|end|>` is supplied, a header that says too little opens a message without a
    channel, one that `<|message|>` does not end is text. The same tokens give the same segments,
    however they are chunked.
    """

    def __init__(self) -> None:
        self._header: list[int] | None = []
        """Tokens since the header began; None while inside a message's text."""
        self._has_start = False
        """The model itself wrote `<|start|>` before the header."""
        self._is_addressed = False
        """The open message has a recipient: what breaks off in it is no call."""
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def begin_turn(self) -> None:
        """The prompt ends with `<|start|>assistant` again, after a tool's answer."""
        self._begin_header()

    @property
    def is_inside_message(self) -> bool:
        return self._header is None

    def feed(self, token: int) -> list[HarmonySegment]:
        if self._header is None:
            return self._feed_text(token)
        return self._feed_header(self._header, token)

    def end(self) -> list[HarmonySegment]:
        """Nothing comes any more: what is open is cut, a header that never ended is kept as text."""
        if self._header is None:
            segments = [*self._flush(), MessageCut()]
            self._begin_header()
            return segments
        return self._salvage(self._header, MessageCut())

    def _feed_text(self, token: int) -> list[HarmonySegment]:
        if token in _MESSAGE_ENDS:
            return self._end_text(token)
        if token in (START, CHANNEL):  # the model forgot to end the message
            return self._end_text(token) + self.feed(token)
        if token in CONTROL_TOKENS:  # a marker out of place is no text
            return []
        text = self._utf8.decode(bytes_of(token))
        return [TextContinued(text)] if text else []

    def _end_text(self, token: int) -> list[HarmonySegment]:
        is_cut = self._is_addressed and token not in (END, RETURN, CALL)
        segments = [*self._flush(), MessageCut() if is_cut else MessageClosed(token == CALL)]
        self._begin_header()
        return segments

    def _feed_header(self, header: list[int], token: int) -> list[HarmonySegment]:
        if token == MESSAGE:
            return self._open(read_header(_pieces_of(header), self._has_start))
        if token in _MESSAGE_ENDS:
            return self._salvage(header, MessageClosed(token == CALL))
        if token == START:
            segments = self._salvage(header, MessageClosed(False))
            self._has_start = True
            return segments
        header.append(token)
        if len(header) > _HEADER_TOKENS_MAX:
            return self._salvage(header, None)
        return []

    def _open(self, header: Header) -> list[HarmonySegment]:
        self._header, self._is_addressed = None, header.recipient is not None
        opened = MessageOpened(header.channel, header.recipient, header.content_type)
        if not header.stray:
            return [opened]
        return [MessageOpened(None, None, None), TextContinued(header.stray), MessageClosed(False), opened]

    def _salvage(self, header: list[int], closing: MessageClosed | MessageCut | None) -> list[HarmonySegment]:
        """A header that is none: its words become a message, if they are more than a broken header."""
        channel, text = read_text(_pieces_of(header), closing == MessageClosed(is_call=True))
        self._begin_header()
        if not text and closing is not None:
            return []
        opened: list[HarmonySegment] = [MessageOpened(channel, None, None)]
        opened += [TextContinued(text)] if text else []
        if closing is None:
            self._header = None
            return opened
        return [*opened, closing]

    def _begin_header(self) -> None:
        self._header, self._has_start, self._is_addressed = [], False, False

    def _flush(self) -> list[HarmonySegment]:
        rest = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        return [TextContinued(rest)] if rest else []


def _pieces_of(header: Sequence[int]) -> list[Piece]:
    """A header's tokens as text, divided at its markers."""
    pieces: list[Piece] = []
    marker: Marker = ""
    words: list[int] = []
    for token in header:
        if token in (CHANNEL, CONSTRAIN):
            pieces.append((marker, decode(words)))
            marker, words = "channel" if token == CHANNEL else "constrain", []
        elif token not in CONTROL_TOKENS:
            words.append(token)
    return [*pieces, (marker, decode(words))]
