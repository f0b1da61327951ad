"""The only importer of openai_harmony: text to tokens on the way in, tokens to segments on the way out.

Owns the Harmony format and every way in which a model can break it; knows nothing of responses,
events or tools. Source: the published Harmony format guide; docs/adr/0007-harmony-parsing.md.
"""

import codecs
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

from openai_harmony import (
    Author,
    DeveloperContent,
    HarmonyEncodingName,
    HarmonyError,
    Message,
    ReasoningEffort,
    RenderOptions,
    Role,
    StreamableParser,
    SystemContent,
    ToolDescription,
    ToolNamespaceConfig,
    load_harmony_encoding,
)

START, END, MESSAGE, CHANNEL, CONSTRAIN = 200006, 200007, 200008, 200005, 200003
RETURN, CALL, ENDOFTEXT = 200002, 200012, 199999

STOP_TOKENS = (RETURN, CALL, ENDOFTEXT)
"""A generation ends with one of these; CALL says that the last message is a tool call."""
_MESSAGE_ENDS = frozenset({END, RETURN, CALL, ENDOFTEXT})
_CONTROL_TOKENS = range(199_998, 201_088)
"""Markers and reserved ids of the vocabulary."""
_CHANNELS = frozenset({"analysis", "commentary", "final"})
_HEADER_TOKENS_MAX = 96
"""A header this long is no header: what it holds is kept as text."""

_encoding = load_harmony_encoding(HarmonyEncodingName.HARMONY_GPT_OSS)


# --- text to tokens ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ToolSignature:
    """A tool as the model is told of it; `parameters` is a JSON schema or None."""

    name: str
    description: str
    parameters: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class SystemPart:
    """`effort` is low, medium or high; `trained_tools`: `python`, `browser` -> its description."""

    effort: str
    date: str
    trained_tools: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DeveloperPart:
    """`namespaces`: name -> (description, tools); `functions` are the tools that the client runs."""

    instructions: str | None
    namespaces: Mapping[str, tuple[str | None, tuple[ToolSignature, ...]]]


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """Anything that is said after system and developer. `name` is the author's, for tools."""

    role: Literal["user", "assistant", "tool", "developer", "system"]
    text: str
    channel: str | None = None
    recipient: str | None = None
    content_type: str | None = None
    name: str | None = None


HarmonyMessage = SystemPart | DeveloperPart | ChatMessage


_RUN_LENGTH_MAX = 512
_LONG_RUN = re.compile(rf"\S{{{_RUN_LENGTH_MAX}}}|\s{{{_RUN_LENGTH_MAX}}}")


def encode(text: str) -> list[int]:
    """Ordinary tokens only: text that looks like a special token stays text.

    Merging takes quadratic time in an unbroken run (10 s for 100,000 letters), so a run is divided;
    text as people write it has none so long.
    """
    tokens: list[int] = []
    start = 0
    for run in _LONG_RUN.finditer(text):
        tokens += _encoding.encode(text[start : run.end()], disallowed_special=())
        start = run.end()
    return tokens + list(_encoding.encode(text[start:], disallowed_special=()))


def decode(tokens: Sequence[int]) -> str:
    """Text of any token ids, special tokens as they are written; never raises."""
    return b"".join(map(_bytes_of, tokens)).decode(errors="replace")


def render(messages: Sequence[HarmonyMessage]) -> list[int]:
    """The conversation's tokens, up to where the assistant's next message begins."""
    has_functions = any(
        isinstance(message, DeveloperPart) and "functions" in message.namespaces for message in messages
    )
    tokens: list[int] = []
    for message in messages:
        match message:
            case SystemPart() | DeveloperPart():
                tokens += _encoding.render(
                    to_library(message), RenderOptions(conversation_has_function_tools=has_functions)
                )
            case ChatMessage():
                tokens += render_message(message)
    return tokens + NEXT_TURN


def render_message(message: ChatMessage) -> list[int]:
    """One message in the published form; the model's own calls as the model writes them.

    Not the library's rendering: it puts a recipient elsewhere than the guide and the model do.
    """
    tokens = [START, *encode(message.name or message.role)]
    recipient = f" to={message.recipient}" if message.recipient else ""
    if message.role == "assistant":
        after_channel = recipient
    else:
        tokens += encode(recipient) if recipient else []
        after_channel = ""
    if message.channel:
        tokens += [CHANNEL, *encode(message.channel + after_channel)]
    match message.content_type:
        case None:
            pass
        case "json":
            tokens += [*encode(" "), CONSTRAIN, *encode("json")]
        case plain:
            tokens += encode(f" {plain}")
    is_call = message.role == "assistant" and message.recipient is not None
    return [*tokens, MESSAGE, *encode(message.text), CALL if is_call else END]


NEXT_TURN = [START, *encode("assistant")]


def to_library(message: HarmonyMessage) -> Message:
    """The same message as openai_harmony's own type: for its renderer, and for `messages` on the wire."""
    match message:
        case SystemPart(effort, date, trained_tools):
            system = SystemContent.new().with_conversation_start_date(date)
            system = system.with_reasoning_effort(ReasoningEffort(effort.capitalize()))
            for tool, description in trained_tools.items():
                config = ToolNamespaceConfig.python() if tool == "python" else ToolNamespaceConfig.browser()
                system = system.with_tools(
                    config.model_copy(update={"description": description or config.description})
                )
            return Message.from_role_and_content(Role.SYSTEM, system)
        case DeveloperPart(instructions, namespaces):
            developer = DeveloperContent.new()
            if instructions:
                developer = developer.with_instructions(instructions)
            for name, (description, tools) in namespaces.items():
                described = [ToolDescription.new(t.name, t.description, t.parameters) for t in tools]
                developer = developer.with_tools(
                    ToolNamespaceConfig(name=name, description=description, tools=described)
                )
            return Message.from_role_and_content(Role.DEVELOPER, developer)
        case ChatMessage(role, text, channel, recipient, content_type, name):
            chat = Message.from_author_and_content(Author(role=Role(role), name=name), text)
            chat.channel, chat.recipient, chat.content_type = channel, recipient, content_type
            return chat


def to_wire(message: HarmonyMessage) -> dict[str, Any]:
    """The message as `input_messages` and `output_messages` carry it (`enable_response_messages`)."""
    return {**to_library(message).to_dict(), "role": _role_of(message)}


def _role_of(message: HarmonyMessage) -> str:
    match message:
        case SystemPart():
            return "system"
        case DeveloperPart():
            return "developer"
        case ChatMessage(role):
            return role


# --- tokens to segments -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MessageOpened:
    """A header was read. All None: it could not be read, and what follows is kept as text."""

    channel: str | None
    recipient: str | None
    content_type: str | None


@dataclass(frozen=True, slots=True)
class TextDelta:
    text: str


@dataclass(frozen=True, slots=True)
class MessageClosed:
    """The message is whole. `is_call`: the model waits for the answer of a tool."""

    is_call: bool


@dataclass(frozen=True, slots=True)
class MessageCut:
    """The generation ended inside the message."""


Segment = MessageOpened | TextDelta | MessageClosed | MessageCut


@lru_cache(maxsize=65_536)
def _bytes_of(token: int) -> bytes:
    try:
        return bytes(_encoding._inner.decode_bytes([token]))
    except HarmonyError:  # an id that the vocabulary does not have
        return "\N{REPLACEMENT CHARACTER}".encode()


class SegmentParser:
    """Tokens of the assistant, one at a time, to segments; never raises on what a model writes.

    Headers are read by the library's parser, text by an incremental UTF-8 decoder: the library
    hands a delta late after a broken character and loses it when the message ends there. What
    breaks the grammar degrades: a bad header opens a message without channel or recipient, a
    missing `<|start|>` or `<|end|>` is supplied. The same tokens give the same segments, however
    they are chunked.
    """

    def __init__(self) -> None:
        self._header: list[int] | None = []
        """Tokens since the header began; None while inside a message's text."""
        self._is_first = True
        """The header follows a rendered `<|start|>assistant`."""
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def begin_turn(self) -> None:
        """The prompt ends with `<|start|>assistant` again, after a tool's answer."""
        self._header, self._is_first = [], True

    @property
    def is_inside_message(self) -> bool:
        return self._header is None

    def feed(self, token: int) -> list[Segment]:
        if self._header is None:
            return self._feed_text(token)
        return self._feed_header(self._header, token)

    def end(self) -> list[Segment]:
        """Nothing comes any more: what is open is cut, a header that never ended is kept as text."""
        if self._header is None:
            segments = [*self._flush(), MessageCut()]
            self._begin_header()
            return segments
        return self._salvage(self._header, MessageCut())

    def _feed_text(self, token: int) -> list[Segment]:
        if token in _MESSAGE_ENDS:
            segments = [*self._flush(), MessageClosed(token == CALL)]
            self._begin_header()
            return segments
        if token in (START, CHANNEL):  # the model forgot to end the message
            segments = [*self._flush(), MessageClosed(False)]
            self._begin_header()
            return segments + self.feed(token)
        if token in _CONTROL_TOKENS:  # a marker out of place is no text
            return []
        text = self._utf8.decode(_bytes_of(token))
        return [TextDelta(text)] if text else []

    def _feed_header(self, header: list[int], token: int) -> list[Segment]:
        if token == MESSAGE:
            self._header = None
            return [_read_header(header, self._is_first)]
        if token in _MESSAGE_ENDS:
            return self._salvage(header, MessageClosed(False))
        if token == START:
            segments = self._salvage(header, MessageClosed(False))
            self._is_first = False
            return segments
        header.append(token)
        if len(header) > _HEADER_TOKENS_MAX:
            return self._salvage(header, None)
        return []

    def _salvage(self, header: list[int], closing: MessageClosed | MessageCut | None) -> list[Segment]:
        """A header that is none: its words become a message, if it has any beside a channel's name."""
        text = _words_of(header)
        self._begin_header()
        if not text and closing is not None:
            return []
        opened: list[Segment] = [MessageOpened(None, None, None), TextDelta(text)]
        if closing is None:
            self._header = None
            return opened
        return [*opened, closing]

    def _begin_header(self) -> None:
        self._header, self._is_first = [], False

    def _flush(self) -> list[Segment]:
        rest = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        return [TextDelta(rest)] if rest else []


def _read_header(header: Sequence[int], is_first: bool) -> MessageOpened:
    """Reads header tokens (without `<|start|>` and `<|message|>`) with the library's parser."""
    has_role = not is_first and header[:1] == NEXT_TURN[1:]
    parser = StreamableParser(_encoding, Role.ASSISTANT)
    try:
        for token in header[1:] if has_role else header:
            parser.process(token)
        parser.process(MESSAGE)
        channel, recipient = parser.current_channel, parser.current_recipient
        content_type = parser.current_content_type
    except HarmonyError:
        return MessageOpened(_channel_named_in(header), None, None)
    if channel not in _CHANNELS:
        return MessageOpened(None, None, None)
    kind = content_type.removeprefix("<|constrain|>").strip() if content_type else None
    return MessageOpened(channel, recipient, kind)


def _channel_named_in(header: Sequence[int]) -> str | None:
    """The channel of a header that does not parse otherwise, if it names one."""
    if CHANNEL not in header:
        return None
    words = decode(header[list(header).index(CHANNEL) + 1 :]).split()
    return words[0] if words and words[0] in _CHANNELS else None


def _words_of(header: Sequence[int]) -> str:
    """A header's text without markers, role and channel name."""
    before, *named = decode(header).replace("<|constrain|>", "").split("<|channel|>")
    words = "" if before.strip() == "assistant" else before
    for piece in named:
        first, _, rest = piece.partition(" ")
        words += rest if first in _CHANNELS else piece
    return words if words.strip() else ""
