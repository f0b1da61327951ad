"""Checks the address of a tool server, and says what of it may be secret. Pure.

Owns which parts of a `server_url` are echoed and kept with the request.
"""

import re
from urllib.parse import urlsplit

from api.bodies.validation import Path, spell
from api.errors import invalid_value

_ADDRESS = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)?(?P<authority>[^/?#\\]*)")
_USUAL_PATHS = frozenset({"", "/", "/mcp", "/mcp/", "/sse", "/sse/"})
"""The usual paths of tool servers; any other path may be a secret."""


def check_url(url: str | None, path: Path) -> None:
    """Raises ClientError for a URL that is not HTTP.

    Text without a scheme may be a placeholder for a known label.
    """
    if url is None or "://" not in url:
        return
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_address = False
    if not is_address:
        raise invalid_value(spell(path), "it should be an http or https address")


def strip_url(url: str) -> str:
    """Returns the scheme, host and port of an address, as its path, query and user part may be secret."""
    match = _ADDRESS.match(url)
    if match is None:
        return ""
    return (match["scheme"] or "") + match["authority"].rpartition("@")[2]


def may_hold_secret(url: str) -> bool:
    """Returns True if the address has a user part, a query, a fragment, or an unusual path."""
    match = _ADDRESS.match(url)
    return match is None or "@" in match["authority"] or url[match.end() :] not in _USUAL_PATHS


def authority_of(url: str) -> str:
    match = _ADDRESS.match(url)
    return match["authority"] if match else ""
