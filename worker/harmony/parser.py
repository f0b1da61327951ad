"""Parses the assistant's tokens into segments, one token at a time: a message opens, its text continues, it
ends.

Owns what happens if a model breaks the grammar of messages; `headers.py` reads headers, `tokens.py` maps
tokens to text. Decisions and their sources: docs/adr/0007-harmony-parsing.md.
"""

import codecs
from collections.abc import Sequence
from dataclasses import dataclass

from worker.harmony.headers import TEXT_RECIPIENTS, Header, Marker, Piece, read_header, read_text
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
    text_of,
)

_MESSAGE_ENDS = frozenset({END, RETURN, CALL, ENDOFTEXT})
_HEADER_TOKENS_MAX = 256
"""The longest header; a longer one is kept as text. The longest names that a request may give take 192 tokens
at worst."""


@dataclass(frozen=True, slots=True)
class MessageOpened:
    """A header was read. What it does not say clearly is None."""

    channel: str | None
    recipient: str | None
    content_type: str | None
    is_invented: bool = False
    """The model has written it in the name of a user or a tool."""

    @property
    def is_call(self) -> bool:
        return self.recipient is not None and self.recipient not in TEXT_RECIPIENTS


@dataclass(frozen=True, slots=True)
class TextContinued:
    text: str


@dataclass(frozen=True, slots=True)
class MessageClosed:
    """The message is complete. `is_call`: the model waits for a tool's answer."""

    is_call: bool


@dataclass(frozen=True, slots=True)
class MessageCut:
    """The generation ended inside the message."""


HarmonySegment = MessageOpened | TextContinued | MessageClosed | MessageCut


class SegmentParser:
    """Parses the assistant's tokens one at a time; never raises because of what a model writes.

    Headers are read by `headers.py`, text by an incremental UTF-8 decoder; the library's parser raises on
    some headers and loses some text. Errors of the grammar are repaired: a missing `<|start|>`, `<|channel|>`
    or `<|end|>` is supplied, an unclear header opens a message without a channel, and a header that does not
    end with `<|message|>` is text. The same tokens give the same segments, however they are chunked.
    """

    def __init__(self) -> None:
        self._header: list[int] | None = []
        """The header's tokens so far; None within a message's text."""
        self._has_start = False
        """The model itself wrote `<|start|>` before the header."""
        self._is_addressed = False
        """The open message has a recipient, so if it is cut off, it is not a call."""
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._is_mid_character = False
        """The text so far ends within a character."""

    def begin_turn(self) -> None:
        """Begins a turn, whose prompt ends with `<|start|>assistant`."""
        self._begin_header()

    @property
    def is_inside_message(self) -> bool:
        return self._header is None

    def feed(self, token: int) -> list[HarmonySegment]:
        """Takes one token; returns the segments that it completes."""
        if self._header is None:
            return self._feed_text(token)
        return self._feed_header(self._header, token)

    def read_text(self, token: int) -> str | None:
        """Returns the text of an ordinary token inside a message, for which `feed` would return just that.

        None, and nothing read, for any other token (`tokens.text_of`).
        """
        if self._header is not None or self._is_mid_character:
            return None
        return text_of(token)

    def end(self) -> list[HarmonySegment]:
        """Ends the turn; returns segments that cut an open message, or keep an unfinished header as text."""
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
        if token in CONTROL_TOKENS:  # a misplaced marker, which is not text
            return []
        text = self._utf8.decode(bytes_of(token))
        self._is_mid_character = self._utf8.getstate()[0] != b""
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
        opened = MessageOpened(header.channel, header.recipient, header.content_type, header.is_invented)
        if not header.stray:
            return [opened]
        return [MessageOpened(None, None, None), TextContinued(header.stray), MessageClosed(False), opened]

    def _salvage(self, header: list[int], closing: MessageClosed | MessageCut | None) -> list[HarmonySegment]:
        """Turns the words of a broken header into a message, if they say anything."""
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
        self._is_mid_character = False
        return [TextContinued(rest)] if rest else []


def _pieces_of(header: Sequence[int]) -> list[Piece]:
    """Returns a header's tokens as text, divided at its markers."""
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
