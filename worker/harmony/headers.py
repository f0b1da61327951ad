"""Reads the header of a Harmony message, however badly the model has written it.

Pure. Owns what a header means, and which parts of a broken one are text; knows no token ids and no tools.
`parser.py` finds where a header begins and ends. Decisions and their sources:
docs/adr/0007-harmony-parsing.md.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Marker = Literal["", "channel", "constrain"]
Piece = tuple[Marker, str]
"""A marker and the words after it. A header's first piece, the words before any marker, has none."""

TEXT_RECIPIENTS = frozenset({"assistant", "all", "user"})
"""Recipients that are not tools."""

_CHANNELS = ("analysis", "commentary", "final")
_CHANNEL = re.compile("|".join(_CHANNELS))
_BARE_CHANNEL = re.compile(rf"\s*(?:{_CHANNEL.pattern})(?=\W|$|to=|json)")
_ROLE = re.compile(rf"\s*(?:assistant)+(?=\s|$|to=|{_CHANNEL.pattern})")
_RECIPIENT = re.compile(rf"(?:^|(?<=\s)|(?<={_CHANNELS[0]})|(?<={_CHANNELS[1]})|(?<={_CHANNELS[2]}))to=(\S*)")
_CHANNEL_WORD = re.compile(rf"\s*[^\s\w]*(?:{_CHANNEL.pattern})\w*")
_CONTENT_TYPE_WORD = re.compile(r"\s*(?:(?:json|code)\b|\w+\s*$)")
_NAME = re.compile(r"[\w/.+-]+")
_NOISE = re.compile(r"[.,;:?!\u2013\u2014\u2026-]*")
_CONTENT_TYPES = frozenset({"json", "code"})
_RESIDUE = frozenset({*_CHANNELS, *_CONTENT_TYPES, "comment", "to"})
"""Words left over from an incomplete header; `comment` and `to` are tokens of longer names."""


@dataclass(frozen=True, slots=True)
class Header:
    channel: str | None
    recipient: str | None
    """None if there is none, or if there are several tools, since which one is meant is not guessed."""
    content_type: str | None
    stray: str = ""
    """Words before the header, which belong to no message."""
    is_invented: bool = False
    """The message is in the name of a user or a tool."""


def read_header(pieces: Sequence[Piece], has_start: bool) -> Header:
    """Reads a header that ends with `<|message|>`. `has_start`: the model wrote `<|start|>` before it."""
    head, rest = _split_head(pieces)
    if _BARE_CHANNEL.match(head) and not any(marker == "channel" for marker, _ in rest):
        head, rest = "", [("channel", head), *rest]
    words = _words_of(head)
    if has_start and len(words) == 1:  # the name of a user or a tool, whose message the model makes up
        return Header("analysis", None, None, is_invented=True)
    stray = head if _says_something(words) else ""
    named = rest if stray else [("", head), *rest]
    recipients = _recipients_in(named)
    tools = recipients - TEXT_RECIPIENTS
    if len(tools) > 1:
        return Header("analysis", None, None, stray)
    recipient = min(tools or recipients, default=None)
    return Header(_channel_in(rest), recipient, _content_type_in(named), stray)


def read_text(pieces: Sequence[Piece], is_call: bool) -> tuple[str | None, str]:
    """Reads a header that does not end with `<|message|>`; returns a channel and the text, or (None, "").

    An incomplete header is not text. One that names a tool is reasoning, since where its arguments would
    begin is not guessed.
    """
    head, rest = _split_head(pieces)
    spoken = (head + "".join(_spoken_in(piece) for piece in rest)).lstrip(" ")
    names_tool = spoken.startswith("to=")
    if not (_is_text(spoken) or (is_call and names_tool)):
        return None, ""
    return "analysis" if names_tool else _channel_in(rest), spoken


def _split_head(pieces: Sequence[Piece]) -> tuple[str, list[Piece]]:
    """Returns the words before the markers, without the role, and the pieces with a marker."""
    head, rest = pieces[0][1], list(pieces[1:])
    if role := _ROLE.match(head):
        head = head[role.end() :]
    return head, rest


def _recipients_in(pieces: Sequence[Piece]) -> set[str]:
    return {name for _, text in pieces for name in _RECIPIENT.findall(text) if name}


def _channel_in(pieces: Sequence[Piece]) -> str | None:
    """Returns the last channel named, since a model that starts a header again means the last one."""
    firsts = [text.split(maxsplit=1)[0] for marker, text in pieces if marker == "channel" and text.split()]
    named = [found[0] for first in firsts if (found := _CHANNEL.search(first))]
    return named[-1] if named else None


def _content_type_in(pieces: Sequence[Piece]) -> str | None:
    """Returns the only word that is neither channel nor recipient; None if there are several."""
    words = [word for _, text in pieces for word in text.split()]
    words = [word for word in words if _NAME.fullmatch(word) and not _CHANNEL.search(word)]
    return words[0] if len(words) == 1 else None


def _spoken_in(piece: Piece) -> str:
    marker, text = piece
    if marker == "channel":
        named = _CHANNEL_WORD.match(text)
        return text[named.end() :] if named else text
    typed = _CONTENT_TYPE_WORD.match(text)
    return text[typed.end() :] if typed else text


def _is_text(spoken: str) -> bool:
    """Returns True if there is more than what an incomplete header leaves over."""
    return _says_something(_words_of(spoken))


def _words_of(text: str) -> list[str]:
    """Returns the words, without those that occur only in headers."""
    return [word for word in text.split() if not (word.startswith("to=") or word in _RESIDUE)]


def _says_something(words: Sequence[str]) -> bool:
    return not _NOISE.fullmatch("".join(words))
