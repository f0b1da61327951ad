"""Reads a prompt back from its tokens: the user's message, the tools on offer, and their results.

Sees tokens only, as a model does; knows nothing of scripts and decides nothing.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from shared.hosted_tools import HOSTED_TOOLS
from worker.harmony.signatures import FUNCTIONS
from worker.harmony.tokens import CHANNEL, CONSTRAIN, END, MESSAGE, NEXT_TURN, START, decode

ToolKind = Literal["function", "mcp", "trained"]
"""`function`: the client runs it; `trained`: the system message declares it; `mcp`: any other."""

_FINAL = "<|channel|>final"
_HEADER_SPECIALS = frozenset({CHANNEL, CONSTRAIN, MESSAGE})
_AUTHOR_TOKENS_MAX = 64

_NAMESPACE = re.compile(
    r"^namespace (?P<name>[^\n]+) \{\n(?P<body>.*?)^\} // namespace (?P=name)$", re.M | re.S
)
_DECLARATION = re.compile(
    r"^type (?P<name>[^\n=]+) = \((?:_: (?://[^\n]*\n)*\{\n(?P<body>.*?)^\}.*?|.*?)\) => any;$",
    re.M | re.S,
)
_PARAMETER = re.compile(
    r'(?P<name>"(?:[^"\\]|\\.)*"|[^/\s|{}()\[\]",:?]+)(?P<optional>\?)?:(?: (?P<type>.*?))?,?'
)
_LITERAL_OR_COMMENT = re.compile(r'"(?:[^"\\]|\\.)*"|//.*')
_BARE = [tool.namespace for tool in HOSTED_TOOLS if not tool.declared]
"""Namespaces that are recipients themselves, without functions."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a tool.

    `type`: as the prompt writes it: `string`, `number`, `"c" | "f"`, `string[]`, `{` …
    """

    name: str
    type: str
    is_required: bool


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool on offer. `recipient`: what a call is addressed to: `python`, `functions.NAME`, `LABEL.NAME`."""

    kind: ToolKind
    recipient: str
    name: str
    parameters: tuple[Parameter, ...] = ()


@dataclass(frozen=True, slots=True)
class ParsedResult:
    """A tool's result. `author`: the recipient by which it was called."""

    author: str
    text: str


@dataclass(frozen=True, slots=True)
class ParsedPrompt:
    """What a prompt says. `user_text`: the last user message; `results`: those after it, oldest first.

    `turn_begin`: the index after the last complete message that is not the assistant's; what the assistant
    has said in this turn begins there.
    """

    user_text: str
    results: tuple[ParsedResult, ...]
    tools: tuple[Tool, ...]
    turn_begin: int
    tokens: Sequence[int] = ()

    def conversation(self) -> str:
        """Returns what the user and the assistant have said before the last user message, a line each."""
        lines, tokens = list[str](), list(self.tokens)
        for begin, text in _messages(tokens):
            author = _author_of(tokens, begin)
            is_answer = _FINAL in decode(tokens[begin : text.start])
            if author == "user" or (author == "assistant" and is_answer):
                lines.append(f"{author}: {' '.join(decode(tokens[text]).split())}")
        users = [place for place, line in enumerate(lines) if line.startswith("user: ")]
        return "\n".join(lines[: users[-1]]) if users else ""


def read_prompt(tokens: list[int]) -> ParsedPrompt:
    """Reads a prompt. Never raises on what a worker renders; incomplete messages are skipped."""
    user_text: slice | None = None
    results: list[tuple[str, slice]] = []
    tools: dict[str, Tool] = {}
    turn_begin = 0
    for author, text, end in _messages_of_others(tokens):
        match author:
            case "user":
                user_text, results = text, []
            case "system" | "developer":
                offered = read_tools(decode(tokens[text]), is_system=author == "system")
                tools.update((tool.recipient, tool) for tool in offered)
            case _:
                results.append((author, text))
        turn_begin = end
    return ParsedPrompt(
        decode(tokens[user_text]) if user_text else "",
        tuple(ParsedResult(author, decode(tokens[text])) for author, text in results),
        tuple(tools.values()),
        turn_begin,
        tokens,
    )


def _messages_of_others(tokens: list[int]) -> Iterator[tuple[str, slice, int]]:
    """Yields (author, slice of the text, index after the message) for each complete message that is not the
    assistant's."""
    for begin, text in _messages(tokens):
        if not _is_assistant(tokens, begin):
            yield _author_of(tokens, begin), text, text.stop + 1


def _messages(tokens: list[int]) -> Iterator[tuple[int, slice]]:
    """Yields (index of its start, slice of its text) for each complete message."""
    begin = index_of(tokens, START, 0)
    while begin < len(tokens):
        following = index_of(tokens, START, begin + 1)
        text_begin = index_of(tokens, MESSAGE, begin, following) + 1
        if text_begin < following and tokens[following - 1] == END:
            yield begin, slice(text_begin, following - 1)
        begin = following


def _is_assistant(tokens: list[int], begin: int) -> bool:
    """Returns True for the assistant's messages: only they may omit the author.

    Decodes as little as it can.
    """
    first = tokens[begin + 1]
    return first in _HEADER_SPECIALS or (first == NEXT_TURN[1] and _author_of(tokens, begin) == "assistant")


def _author_of(tokens: list[int], begin: int) -> str:
    """Returns the first word of the header."""
    name: list[int] = []
    for token in tokens[begin + 1 : begin + 1 + _AUTHOR_TOKENS_MAX]:
        if token in _HEADER_SPECIALS:
            break
        name.append(token)
    words = decode(name).split(maxsplit=1)
    return words[0] if words else ""


def index_of(tokens: list[int], token: int, begin: int, end: int | None = None) -> int:
    """Returns the index of the token from `begin` on, or `end` if it does not occur."""
    limit = len(tokens) if end is None else end
    try:
        return tokens.index(token, begin, limit)
    except ValueError:
        return limit


@lru_cache(maxsize=64)
def read_tools(text: str, *, is_system: bool) -> tuple[Tool, ...]:
    """Returns the tools that a system or developer message declares, those without functions last."""
    tools: list[Tool] = []
    for namespace in _NAMESPACE.finditer(text):
        label = namespace["name"]
        for declared in _DECLARATION.finditer(namespace["body"]):
            name, parameters = declared["name"], tuple(_read_parameters(declared["body"] or ""))
            tools.append(Tool(_kind_of(label, is_system), f"{label}.{name}", name, parameters))
    if is_system:
        bare = (name for name in _BARE if re.search(rf"^## {name}$", text, re.M))
        tools += (Tool("trained", name, name) for name in bare)
    return tuple(tools)


def _kind_of(namespace: str, is_system: bool) -> ToolKind:
    if is_system:
        return "trained"
    return "function" if namespace == FUNCTIONS else "mcp"


def _read_parameters(body: str) -> Iterator[Parameter]:
    """Yields the top-level properties of a declaration; nested ones belong to their parent's type."""
    depth, waiting = 0, None
    for line in body.splitlines():
        code, brackets = _read_code(line)
        if waiting is not None and code:  # its type begins on a line of its own, after a comment or a bar
            yield Parameter(_name_of(waiting), code.strip(" |"), waiting["optional"] is None)
            waiting = None
        elif depth == 0 and (declared := _PARAMETER.fullmatch(code)):
            if declared["type"]:
                yield Parameter(_name_of(declared), declared["type"], declared["optional"] is None)
            else:
                waiting = declared
        depth = max(0, depth + brackets)


def _name_of(declared: re.Match[str]) -> str:
    name = declared["name"]
    return str(json.loads(name)) if name.startswith('"') else name


def _read_code(line: str) -> tuple[str, int]:
    """Returns a line without its comment, and how many more braces it opens than it closes."""
    comments = (found for found in _LITERAL_OR_COMMENT.finditer(line) if found[0].startswith("//"))
    comment = next(comments, None)
    code = line[: comment.start()] if comment is not None else line
    bare = _LITERAL_OR_COMMENT.sub("", code)
    return code.rstrip(), bare.count("{") - bare.count("}")
