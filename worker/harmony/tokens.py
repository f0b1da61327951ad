"""Maps text to tokens and back, and renders messages in Harmony. The only importer of openai_harmony.

Owns token ids and the form of messages in a prompt; `parser.py` reads what the model writes, and
`shared/hosted_tools.py` declares the hosted tools. Source: the published Harmony format guide.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from typing import Any, Literal

from openai_harmony import (
    Author,
    DeveloperContent,
    HarmonyEncodingName,
    HarmonyError,
    Message,
    ReasoningEffort,
    Role,
    SystemContent,
    TextContent,
    ToolDescription,
    ToolNamespaceConfig,
    load_harmony_encoding,
)

from shared import hosted_tools
from worker.harmony.pieces import PIECE_CHARS_MAX, divide
from worker.harmony.signatures import FUNCTIONS, Namespaces, ToolSignature, write_developer, write_system

START, END, MESSAGE, CHANNEL, CONSTRAIN = 200006, 200007, 200008, 200005, 200003
RETURN, CALL, ENDOFTEXT = 200002, 200012, 199999

STOP_TOKENS = (RETURN, CALL, ENDOFTEXT)
"""A generation ends with one of these; CALL means that the last message is a tool call."""
CONTROL_TOKENS = range(199_998, 201_088)
"""The markers and reserved ids of the vocabulary."""

CITATION_END = "】"
"""The character that ends a citation of the browser's displays."""

_KNOWN_CHARS_MAX = 128

_encoding = load_harmony_encoding(HarmonyEncodingName.HARMONY_GPT_OSS)


@dataclass(frozen=True, slots=True)
class SystemPart:
    """The system message. `effort`: low, medium or high; `hosted_tools`: Harmony namespace -> its
    description, or None for that of the table of hosted tools."""

    effort: str
    date: str
    hosted_tools: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DeveloperPart:
    """The developer message.

    `namespaces`: name -> (description, tools); the client runs those of `functions`.
    """

    instructions: str | None
    namespaces: Namespaces
    response_formats: str | None = None
    """The section that says how to answer, or None."""


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """Any message after the system and developer messages. `name`: the author's, for tools."""

    role: Literal["user", "assistant", "tool", "developer", "system"]
    text: str
    channel: str | None = None
    recipient: str | None = None
    content_type: str | None = None
    name: str | None = None
    is_followed: bool = False
    """A call after which the assistant goes on in the same turn."""


HarmonyMessage = SystemPart | DeveloperPart | ChatMessage


def encode(text: str) -> list[int]:
    """Encodes text to ordinary tokens only: text that looks like a special token stays text."""
    return list(chain.from_iterable(encode_steps([text])))


def encode_steps(texts: Iterable[str]) -> Iterator[list[int]]:
    """Yields the tokens of the joined texts, piece by piece, since nothing else can run during a call."""
    for piece in divide(texts):
        yield encode_piece(piece)


def encode_piece(piece: str) -> list[int]:
    """Encodes a piece in one call of the library, whose duration grows with the piece."""
    tokens: list[int] = _encoding.encode(piece, disallowed_special=())
    return tokens


def decode(tokens: Sequence[int]) -> str:
    """Returns the text of any token ids, with special tokens as text; never raises."""
    return b"".join(map(bytes_of, tokens)).decode(errors="replace")


@lru_cache(maxsize=65_536)
def bytes_of(token: int) -> bytes:
    """Returns the bytes of a token, which may be part of a character; a marker's are its text."""
    try:
        return bytes(_encoding._inner.decode_bytes([token]))
    except HarmonyError:  # an id that is not in the vocabulary
        return "\N{REPLACEMENT CHARACTER}".encode()


@lru_cache(maxsize=65_536)
def text_of(token: int) -> str | None:
    """Returns an ordinary token as text. None for a marker, for a token that ends within a character, and for
    one with the end of a citation, so that only these few are looked at for citations."""
    if token in CONTROL_TOKENS:
        return None
    try:
        text = bytes_of(token).decode()
    except UnicodeDecodeError:
        return None
    return None if not text or CITATION_END in text else text


def render(messages: Sequence[HarmonyMessage]) -> list[int]:
    """Returns the conversation's tokens, up to where the assistant's next message begins."""
    steps = chain.from_iterable(render_steps(message, messages) for message in messages)
    return [*chain.from_iterable(steps), *NEXT_TURN]


def render_message(message: ChatMessage) -> list[int]:
    """Renders one message in the published form, and the model's own calls as the model writes them."""
    return list(chain.from_iterable(_render_chat(message)))


def render_steps(message: HarmonyMessage, conversation: Sequence[HarmonyMessage]) -> Iterator[list[int]]:
    """Yields a message's tokens in short steps. The system message depends on the tools in `conversation`.

    Does not use the library's renderer, which encodes everything at once, and puts the recipient in a
    different place from the guide and the model.
    """
    match message:
        case SystemPart():
            has_functions = any(
                isinstance(m, DeveloperPart) and FUNCTIONS in m.namespaces for m in conversation
            )
            return _render_system(message, has_functions)
        case DeveloperPart():
            texts = write_developer(message.instructions, message.namespaces, message.response_formats)
            return _render_texts("developer", texts)
        case ChatMessage():
            return _render_chat(message)


def _render_system(part: SystemPart, has_functions: bool) -> Iterator[list[int]]:
    descriptions = tuple(part.hosted_tools.items())
    if sum(len(description or "") for _, description in descriptions) > PIECE_CHARS_MAX:
        return _render_texts("system", _write_system(part, has_functions))
    return iter([list(_encode_system(part.effort, part.date, descriptions, has_functions))])


@lru_cache(maxsize=64)
def _encode_system(
    effort: str, date: str, hosted: tuple[tuple[str, str | None], ...], has_functions: bool
) -> tuple[int, ...]:
    """Cached, because all requests of a day have one of a few."""
    part = SystemPart(effort, date, dict(hosted))
    return tuple(chain.from_iterable(_render_texts("system", _write_system(part, has_functions))))


def _render_texts(role: str, texts: Iterable[str]) -> Iterator[list[int]]:
    yield [START, *_encode_word(role), MESSAGE]
    yield from encode_steps(texts)
    yield [END]


def _write_system(part: SystemPart, has_functions: bool) -> Iterator[str]:
    content = _system_of(part)
    assert content.channel_config is not None
    about = f"{content.model_identity}\nKnowledge cutoff: {content.knowledge_cutoff}\n"
    hosted = {
        name: (tool.description, [ToolSignature(t.name, t.description, t.parameters) for t in tool.tools])
        for name, tool in (content.tools or {}).items()
    }
    called_in_commentary = FUNCTIONS if has_functions else None
    channels = content.channel_config.valid_channels
    return write_system(
        f"{about}Current date: {part.date}\n\nReasoning: {part.effort}",
        hosted,
        channels,
        called_in_commentary,
    )


def _render_chat(message: ChatMessage) -> Iterator[list[int]]:
    tokens = [START, *_encode_word(message.name or message.role)]
    recipient = f" to={message.recipient}" if message.recipient else ""
    if message.role == "assistant":
        after_channel = recipient
    else:
        tokens += _encode_word(recipient) if recipient else ()
        after_channel = ""
    if message.channel:
        tokens += [CHANNEL, *_encode_word(message.channel + after_channel)]
    match message.content_type:
        case None:
            pass
        case "json":
            tokens += [*_encode_word(" "), CONSTRAIN, *_encode_word("json")]
        case plain:
            tokens += _encode_word(f" {plain}")
    is_call = message.role == "assistant" and message.recipient is not None
    end = CALL if is_call and not message.is_followed else END
    if len(message.text) <= PIECE_CHARS_MAX:
        yield [*tokens, MESSAGE, *encode(message.text), end]
        return
    yield [*tokens, MESSAGE]
    yield from encode_steps([message.text])
    yield [end]


def _encode_word(word: str) -> Sequence[int]:
    """Encodes a word of a header, which has nearly always occurred before."""
    return _encode_known(word) if len(word) <= _KNOWN_CHARS_MAX else encode(word)


@lru_cache(maxsize=4_096)
def _encode_known(word: str) -> tuple[int, ...]:
    return tuple(encode(word))


NEXT_TURN = [START, *encode("assistant")]


def to_library(message: HarmonyMessage, *, has_formats_last: bool = True) -> Message:
    """Converts a message to openai_harmony's own type, for `messages` on the wire.

    `has_formats_last`: False for records before format 5, which show the section that says how to answer
    before the tools.
    """
    match message:
        case SystemPart():
            return Message.from_role_and_content(Role.SYSTEM, _system_of(message))
        case DeveloperPart():
            return Message.from_role_and_contents(Role.DEVELOPER, _contents_of(message, has_formats_last))
        case ChatMessage(role, text, channel, recipient, content_type, name, _):
            chat = Message.from_author_and_content(Author(role=Role(role), name=name), text)
            chat.channel, chat.recipient, chat.content_type = channel, recipient, content_type
            return chat


def _contents_of(part: DeveloperPart, has_formats_last: bool) -> list[DeveloperContent | TextContent]:
    """Returns the parts of a developer message. The library's has no place for how to answer."""
    formats = part.response_formats
    said = [part.instructions] if has_formats_last else [part.instructions, formats]
    developer = DeveloperContent.new()
    if instructions := "\n\n".join(filter(None, said)):
        developer = developer.with_instructions(instructions)
    for name, (description, tools) in part.namespaces.items():
        described = [ToolDescription.new(t.name, t.description, t.parameters) for t in tools]
        developer = developer.with_tools(
            ToolNamespaceConfig(name=name, description=description, tools=described)
        )
    if not formats or not has_formats_last:
        return [developer]
    is_alone = not instructions and not part.namespaces
    return [TextContent(text=formats)] if is_alone else [developer, TextContent(text=f"\n\n{formats}")]


def _system_of(part: SystemPart) -> SystemContent:
    system = SystemContent.new().with_conversation_start_date(part.date)
    system = system.with_reasoning_effort(ReasoningEffort(part.effort.capitalize()))
    for namespace, description in part.hosted_tools.items():
        hosted = hosted_tools.by_namespace(namespace)
        declared = [ToolDescription.new(f.name, f.description, f.parameters) for f in hosted.declared]
        system = system.with_tools(
            ToolNamespaceConfig(name=namespace, description=description or hosted.description, tools=declared)
        )
    return system


def to_wire(message: HarmonyMessage, *, has_formats_last: bool = True) -> dict[str, Any]:
    """Returns the message as in `input_messages` and `output_messages` (`enable_response_messages`)."""
    library = to_library(message, has_formats_last=has_formats_last)
    return {**library.to_dict(), "role": _role_of(message)}


def _role_of(message: HarmonyMessage) -> str:
    match message:
        case SystemPart():
            return "system"
        case DeveloperPart():
            return "developer"
        case ChatMessage(role):
            return role
