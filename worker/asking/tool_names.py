"""What a server says of its tools, as the model is told it: names that can be called, text that stays text.

Pure. A server chooses names, descriptions and schemas; none of them may end a header or begin a section
of the developer message. What the client sees is the server's own word (docs/adr/0025-names-of-tools.md).
"""

import hashlib
import re
from typing import Any

_CALLABLE = re.compile(r"[A-Za-z0-9_./-]{1,64}")
_OTHER = re.compile(r"[^A-Za-z0-9_-]+")
_WORDS_LENGTH_MAX = 40


def callable_name(name: str) -> str:
    """The name by which the model calls a tool: the server's own, or always the same alias for it.

    A name is a part of a Harmony recipient, where blanks, line breaks and markers mean something else.
    """
    if _CALLABLE.fullmatch(name):
        return name
    words = _OTHER.sub("_", name[: 4 * _WORDS_LENGTH_MAX])[:_WORDS_LENGTH_MAX].strip("_") or "tool"
    return f"{words}_{hashlib.sha256(name.encode('utf-8', 'replace')).hexdigest()[:8]}"


def describe_lines(text: str) -> str:
    """The text with one kind of line break: each of its lines is told as a comment, and none by itself."""
    return "\n".join(text.splitlines())


def flatten(schema: Any) -> Any:
    """The JSON schema without line breaks in its texts, which are told in the middle of a declaration."""
    match schema:
        case str():
            return one_line(schema)
        case dict():
            return {one_line(key): flatten(value) for key, value in schema.items()}
        case list():
            return [flatten(value) for value in schema]
        case _:
            return schema


def one_line(text: str) -> str:
    return " ".join(text.splitlines()) if text else text
