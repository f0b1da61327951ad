"""Chooses the MCP server for a label, and the headers to send to it. Opens no connection.

Owns the operator's servers, which take precedence over what a request says, label by label.
"""

import hashlib
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from shared.hosted_tools import BROWSER, HOSTED_TOOLS, PYTHON, RESERVED_LABELS
from shared.responses import ServerSecrets
from shared.server_headers import TRANSPORT_HEADERS
from shared.settings import Settings

_BUILTIN = "tool_runner.builtin"
"""The package of the built-in servers; a hosted tool's row names the module."""
_CPYTHON = f"{_BUILTIN}.cpython"
"""The other sandbox of the built-in Python."""

_ROOT = Path(__file__).resolve().parents[1]
_LABEL = re.compile(r"[A-Za-z0-9_-]{1,64}")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_HEADER_VALUE = re.compile(r"[\x20-\x7e\t]*\Z")


@dataclass(frozen=True, slots=True)
class HttpServer:
    """A server reached over Streamable HTTP. Header names are in lower case; `repr` omits the values."""

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    is_of_request: bool = False
    """Named by a request, not by the operator, and therefore restricted by `shared/egress.py`."""
    tenant: str = ""
    """Whose request it is."""

    @property
    def digest(self) -> str:
        """Identifies the server together with the credentials, and reveals neither."""
        return self._digest_of(self.url)

    @property
    def pool_name(self) -> str:
        """The same for every server with its origin and its credentials."""
        parts = urlsplit(self.url)
        return self._digest_of(f"{parts.scheme}://{parts.netloc}")

    def _digest_of(self, address: str) -> str:
        told = (self.is_of_request, address, sorted(self.headers.items()))
        return hashlib.sha256(msgspec.json.encode(told)).hexdigest()


@dataclass(frozen=True, slots=True)
class StdioServer:
    """A command of the operator's that speaks MCP on its stdin and stdout."""

    command: str
    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """Added to a minimal environment; nothing else of our environment is passed on."""
    per_response: bool = False
    """Each response, with those that continue it, has a process of its own."""

    @property
    def digest(self) -> str:
        """Identifies the command, and reveals nothing of it."""
        told = (self.command, self.args, self.env)
        return hashlib.sha256(msgspec.json.encode(told)).hexdigest()


Server = HttpServer | StdioServer


class BadServersFile(Exception):
    """The operator's file of servers is invalid; the message names file, server and fault."""


class NoServer(Exception):
    """There is no server to send a call to; the message may be shown to a model and contains no secret."""


class _HttpEntry(msgspec.Struct, forbid_unknown_fields=True):
    url: str
    headers: dict[str, str] = {}


class _StdioEntry(msgspec.Struct, forbid_unknown_fields=True):
    command: str
    args: list[str] = []
    env: dict[str, str] = {}
    per_response: bool = False


def load(settings: Settings) -> dict[str, Server]:
    """Returns the servers by label: the built-in ones, and the operator's, which override them.

    Raises BadServersFile.
    """
    configured: dict[str, Server] = {
        tool.server_label: _builtin_server(tool.builtin, settings)
        for tool in HOSTED_TOOLS
        if tool.builtin and (tool is not BROWSER or settings.web_search == "local")
    }
    path = settings.mcp_servers
    if path is None:
        return configured
    try:
        entries = msgspec.json.decode(path.read_bytes(), type=dict[str, dict[str, Any]])
    except OSError as error:
        raise BadServersFile(f"mcp_servers: cannot read {path}: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise BadServersFile(f"mcp_servers: {path} is not an object of servers: {error}") from None
    for label, entry in entries.items():
        try:
            configured[label] = _read_entry(label, entry)
        except (NoServer, msgspec.ValidationError) as error:
            raise BadServersFile(f"mcp_servers: {path}: server {label!r}: {error}") from None
    return configured


def _builtin_server(name: str, settings: Settings) -> StdioServer:
    """Returns the server in `tool_runner/builtin/<name>.py`, or the one that a setting puts in its place.

    It is given every limit, and may ignore them.
    """
    limits = ("--output-bytes-max", settings.tool_output_bytes_max)
    state = ("--state-bytes-max", settings.tool_session_bytes_max)
    processes = ("--processes", count_sandboxes(settings))
    module, own = f"{_BUILTIN}.{name}", tuple[object, ...]()
    if name == PYTHON.builtin and settings.python_tool == "cpython":
        module = _CPYTHON
        own = ("--python", settings.python_path.absolute()) if settings.python_path is not None else ()
    if name == BROWSER.builtin and settings.search_pages is not None:
        own = ("--pages", settings.search_pages.resolve())
    args = ("-m", module, *map(str, (*limits, *state, *processes, *own)))
    return StdioServer(sys.executable, args, (("PYTHONPATH", str(_ROOT)),))


def count_sandboxes(settings: Settings) -> int:
    """Returns the number of cells of the built-in Python that may run at a time."""
    return settings.sandboxes_max or max(4, 2 * (os.cpu_count() or 1))


def is_builtin_python(server: Server | None) -> bool:
    """Returns True for the built-in Python, unless the operator has replaced it."""
    modules = {f"{_BUILTIN}.{PYTHON.builtin}", _CPYTHON}
    return isinstance(server, StdioServer) and not modules.isdisjoint(server.args)


def _read_entry(label: str, entry: dict[str, Any]) -> Server:
    if not _LABEL.fullmatch(label) or label.lower() in RESERVED_LABELS:
        raise NoServer("no request can give this label")
    match "url" in entry, "command" in entry:
        case True, False:
            http = msgspec.convert(entry, _HttpEntry)
            _check_url(http.url, "url")
            return HttpServer(http.url, _check_headers(http.headers))
        case False, True:
            stdio = msgspec.convert(entry, _StdioEntry)
            _check_command(stdio)
            environment = tuple(stdio.env.items())
            return StdioServer(stdio.command, tuple(stdio.args), environment, stdio.per_response)
        case _:
            raise NoServer("give either url or command")


def _check_command(entry: _StdioEntry) -> None:
    if not entry.command:
        raise NoServer("command must not be empty")
    if any("\0" in text for text in (entry.command, *entry.args, *entry.env, *entry.env.values())):
        raise NoServer("command, args and env must not contain NUL")


def choose(
    configured: Mapping[str, Server],
    label: str,
    server_url: str | None,
    secrets: ServerSecrets | None,
    tenant: str = "",
) -> Server:
    """Returns the server to call, with the headers to send. Raises NoServer.

    A request's secrets are sent to HTTP servers only, and never replace a header that the operator set.
    `server_url`: as the request's record has it; the secrets may contain the whole address.
    """
    match configured.get(label):
        case StdioServer() as server:
            return server
        case HttpServer(url, headers):
            return HttpServer(url, {**_headers_of(secrets), **headers})
        case None if server_url is None:
            raise NoServer(f"no MCP server is configured as {label!r}, and the request gave no server_url")
        case None:
            url = secrets.url if secrets is not None and secrets.url is not None else server_url
            _check_url(url, "server_url")
            return HttpServer(url, _headers_of(secrets), is_of_request=True, tenant=tenant)


def _check_url(url: str, name: str) -> None:
    """Raises NoServer for an unusable URL, without repeating it, since its path or user may be secret."""
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_usable = False
    if not is_usable or not url.isprintable() or " " in url:
        raise NoServer(f"{name} must be an http or https URL")


def _headers_of(secrets: ServerSecrets | None) -> dict[str, str]:
    if secrets is None:
        return {}
    headers = _check_headers(secrets.headers)
    if secrets.authorization is not None:
        headers |= _check_headers({"authorization": f"Bearer {secrets.authorization}"})
    return headers


def _check_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Returns the headers with lower-case names; an error names the header only, never its value."""
    for name, value in headers.items():
        if not _HEADER_NAME.match(name):
            raise NoServer(f"headers: {name!r} is not a header name")
        if not _HEADER_VALUE.match(value):
            raise NoServer(f"headers: the value of {name!r} may hold printable ASCII only")
        if name.lower() in TRANSPORT_HEADERS:
            raise NoServer(f"headers: {name!r} cannot be set")
    return {name.lower(): value.strip() for name, value in headers.items()}
