"""Makes what is printed safe for a terminal: clients, models and tool servers name much of it.

Pure. Owns which characters are printed as they are.
"""

import json
import re

_BEYOND_ASCII = re.compile(r"[^ -~]")


def plain(text: str) -> str:
    """Returns the text with escapes (`\\x1b`) for whatever does not print: control characters, ends of lines,
    marks that change the direction, surrogates."""
    return text if text.isprintable() else _BEYOND_ASCII.sub(_escape, text)


def plain_json(document: str) -> str:
    """Returns the same JSON document with such characters escaped as JSON does; it must have no white space
    but spaces outside its strings."""
    return document if document.isprintable() else _BEYOND_ASCII.sub(_escape_json, document)


def _escape(found: re.Match[str]) -> str:
    return found[0] if found[0].isprintable() else ascii(found[0])[1:-1]


def _escape_json(found: re.Match[str]) -> str:
    return found[0] if found[0].isprintable() else json.dumps(found[0])[1:-1]
