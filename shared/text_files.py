"""Reads the text of a file that a client attaches as a data URL. Pure.

Owns which files are text, and the charsets that are read; the API refuses what cannot be decoded, and the
worker shows the text to the model. Source: RFC 2397. Time and memory grow with the data, which the limit on
bodies bounds.
"""

import base64
from urllib.parse import unquote_to_bytes

_HEAD_LENGTH_MAX = 256
_TYPES = frozenset(
    f"application/{name}"
    for name in [
        "json",
        "x-ndjson",
        "ndjson",
        "jsonl",
        "json5",
        "xml",
        "yaml",
        "x-yaml",
        "toml",
        "csv",
        "sql",
        "graphql",
        "javascript",
        "x-javascript",
        "ecmascript",
        "typescript",
        "x-typescript",
        "x-python",
        "x-sh",
        "x-latex",
    ]
)
_ENDINGS = ("+json", "+xml", "+yaml")
_NAMED_OTHERWISE = {
    **dict.fromkeys(("utf-8", "utf8", "us-ascii", "ascii"), "utf-8-sig"),
    **dict.fromkeys(("iso-8859-1", "latin1"), "latin-1"),
}
_CHARSETS = _NAMED_OTHERWISE | {
    name: name
    for name in [
        "iso-8859-2",
        "iso-8859-5",
        "iso-8859-15",
        "windows-1250",
        "windows-1251",
        "windows-1252",
        "koi8-r",
        "utf-16",
        "utf-16le",
        "utf-16be",
        "shift_jis",
        "euc-jp",
        "euc-kr",
        "gb18030",
        "big5",
    ]
}
"""Names of charsets -> Python's codecs: only those that take time in proportion."""


class UnreadableFile(Exception):
    """It says that it is text, and is not; says why."""


def text_of_file(data_url: str) -> str | None:
    """Returns the text in a data URL, or None if it is not of a text file. Raises UnreadableFile."""
    head, comma, _ = data_url[:_HEAD_LENGTH_MAX].partition(",")
    if not comma or head[:5].lower() != "data:":
        return None
    kind, *parameters = (part.strip().lower() for part in head[5:].split(";"))
    if not _is_text(kind or "text/plain"):
        return None
    named = [p.removeprefix("charset=").strip("\"'") for p in parameters if p.startswith("charset=")]
    charset = named[0] if named else "utf-8"
    if charset not in _CHARSETS:
        raise UnreadableFile(f"its charset is not one of {', '.join(sorted(_CHARSETS))}")
    content = _decode(data_url[len(head) + 1 :], is_base64="base64" in parameters)
    try:
        return content.decode(_CHARSETS[charset])
    except UnicodeDecodeError:
        raise UnreadableFile(f"it should be text in {charset}") from None


def _is_text(kind: str) -> bool:
    return kind.startswith("text/") or kind in _TYPES or kind.endswith(_ENDINGS)


def _decode(data: str, *, is_base64: bool) -> bytes:
    if not is_base64:
        return unquote_to_bytes(data)
    try:
        return base64.b64decode(data, validate=True)
    except ValueError:
        raise UnreadableFile("it should be base64") from None
