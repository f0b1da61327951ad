"""Checks `tools`, and separates tools from their secrets.

Owns the check, the echoed form and the separation; the worker decides which tools the model is offered.
Source: the public OpenAI types, `Tool`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self

from pydantic import Field

from api.bodies.client_tools import (
    CLIENT_SHAPES,
    CallableShape,
    ToolShape,
    check_client_tool,
    check_names,
    echo_client_tool,
    refuse_unmakable,
)
from api.bodies.containers import check_container
from api.bodies.server_urls import authority_of, check_url, may_hold_secret, strip_url
from api.bodies.validation import (
    Checked,
    ClosedShape,
    Label,
    Path,
    at_most,
    check,
    check_kind,
    check_length,
    check_list,
    spell,
)
from api.bodies.web_search import WebSearch, check_web_search, echo_web_search
from api.errors import invalid_type, invalid_value, unsupported_parameter, unsupported_tool, unsupported_value
from shared import hosted_tools
from shared.hosted_tools import BROWSER, PYTHON, RESERVED_LABELS
from shared.responses import ServerSecrets
from shared.server_headers import TRANSPORT_HEADERS
from shared.tool_calls import is_clients_own

_REDACTED = "<redacted>"

_HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,256}$")]
_HeaderValue = Annotated[str, Field(pattern=r"^[\x20-\x7e\t]*$", max_length=16_384)]
_HEADERS_MAX = 100
"""Few servers accept more."""


class _CodeInterpreter(CallableShape):
    container: Any = None


class _ToolFilter(ClosedShape):
    tool_names: Checked[str] | None = None
    read_only: bool | None = None


class _Approval(ClosedShape):
    always: _ToolFilter | None = None
    never: _ToolFilter | None = None


class _Mcp(CallableShape):
    server_label: Label
    server_url: str | None = None
    server_description: str | None = None
    headers: Annotated[dict[_HeaderName, _HeaderValue], at_most(_HEADERS_MAX)] | None = None
    authorization: _HeaderValue | None = None
    allowed_tools: Any = None
    require_approval: Any = None
    connector_id: str | None = None
    tunnel_id: str | None = None
    defer_loading: bool | None = None


_SECRET = frozenset({"headers", "authorization"})
"""The members of an `mcp` tool that are neither kept with the request nor echoed."""


TOOLS: Mapping[str, type[ToolShape]] = {
    **CLIENT_SHAPES,
    "mcp": _Mcp,
    **dict.fromkeys(hosted_tools.KINDS, ToolShape),
    **dict.fromkeys(PYTHON.types, _CodeInterpreter),
    **dict.fromkeys(BROWSER.types, WebSearch),
}
"""Every type that is accepted -> its shape."""

_NO_SCREEN = "it needs a model that reads screenshots, and GPT-OSS reads text only"
UNSUPPORTED: Mapping[str, str] = {
    **dict.fromkeys(("computer", "computer_use", "computer_use_preview"), _NO_SCREEN),
    "file_search": "this server stores no files; offer search as a function, or as the tool of an MCP server",
    "image_generation": "GPT-OSS writes text only; offer it as a function, or as the tool of an MCP server",
    "tool_search": "every tool is loaded from the start; send the tools themselves",
    "programmatic_tool_calling": "the model calls each tool by itself, never from code",
}
"""Every other type of the public API -> why it is refused (docs/tools.md)."""
_NO_SEARCH = "no search server is configured here (docs/web_search.md)"

UnsupportedTools = Literal["refuse", "ignore"]
"""What becomes of a tool of such a type: `unsupported_tools` in `shared/settings.py`."""


@dataclass(frozen=True, slots=True)
class ApprovalDefaults:
    """`require_approval` where a request does not say so: each `always` or `never`."""

    of_operators_servers: str = "never"
    of_clients_servers: str = "always"

    def of(self, server_label: str, server_url: str | None) -> str:
        is_clients = is_clients_own(server_label, server_url)
        return self.of_clients_servers if is_clients else self.of_operators_servers


@dataclass(frozen=True, slots=True)
class RequestTools:
    """The tools of one request: as kept for the worker, as echoed, and their secrets."""

    tools: list[dict[str, Any]] = field(default_factory=list)
    echoed: tuple[dict[str, Any], ...] = ()
    secrets: dict[str, ServerSecrets] = field(default_factory=dict)
    secret_param: str | None = None
    """The field with the first of the secrets."""
    ignored: tuple[str, ...] = ()
    """The types of the tools that were left out, each once."""
    places: tuple[int, ...] = ()
    """Where each of `tools` stood in the body."""

    @classmethod
    def read(
        cls,
        value: object,
        tools_max: int,
        approvals: ApprovalDefaults,
        unsupported: UnsupportedTools = "refuse",
        *,
        has_search: bool = True,
    ) -> Self:
        """Reads `tools`. `tools_max`: includes the members of namespaces; `has_search`: somebody answers web
        searches. Raises ClientError."""
        if value is None:
            return cls()
        _check_number(value, tools_max)
        read: dict[int, dict[str, Any]] = {}
        ignored: list[str] = []
        for index, tool in enumerate(check_list(value, ("tools",))):
            path, against = ("tools", index), _reason_against(tool, has_search=has_search)
            if against is None:
                read[index] = _with_approval(_read_tool(tool, path), approvals)
            elif unsupported == "ignore":
                ignored.append(tool["type"])
            else:
                raise unsupported_tool(spell((*path, "type")), tool["type"], against)
        _check_labels(read)
        check_names(read)
        tools = read.values()
        return cls(
            [_kept(tool) for tool in tools],
            tuple(_echo(tool) for tool in tools),
            {tool["server_label"]: secrets for tool in tools if (secrets := _secrets_of(tool))},
            _find_secret(read),
            tuple(sorted(set(ignored))),
            tuple(read),
        )


def _reason_against(tool: object, *, has_search: bool) -> str | None:
    """Returns why a tool of this type cannot be used here, or None."""
    match tool:
        case {"type": str(kind)} if kind in UNSUPPORTED:
            return UNSUPPORTED[kind]
        case {"type": str(kind)} if kind in BROWSER.types and not has_search:
            return _NO_SEARCH
        case _:
            return None


def _find_secret(tools: Mapping[int, Mapping[str, Any]]) -> str | None:
    for index, tool in tools.items():
        if secrets := _secrets_of(tool):
            values = {"headers": secrets.headers, "authorization": secrets.authorization}
            name = next((name for name, value in values.items() if value), "server_url")
            return spell(("tools", index, name))
    return None


def _check_number(value: object, tools_max: int) -> None:
    """Raises ClientError if there are too many tools, before any of them is checked."""
    check_length(value, tools_max, ("tools",))
    number = sum(1 + _members(tool) for tool in check_list(value, ("tools",)))
    if number > tools_max:
        raise invalid_value("tools", f"it holds {number} tools with those in namespaces; at most {tools_max}")


def _members(tool: object) -> int:
    members = tool.get("tools") if isinstance(tool, dict) else None
    return len(members) if isinstance(members, list) else 0


def _read_tool(value: object, path: Path) -> dict[str, Any]:
    tool = check_kind(TOOLS, value, path)
    if tool["type"] in CLIENT_SHAPES:
        check_client_tool(tool, path)
    else:
        refuse_unmakable(tool, path)
    if tool["type"] == "mcp":
        _check_mcp(tool, path)
    if tool["type"] in PYTHON.types:
        check_container(tool.get("container"), (*path, "container"))
    if tool["type"] in BROWSER.types:
        check_web_search(tool, path)
    return tool


def _check_mcp(tool: Mapping[str, Any], path: Path) -> None:
    if tool["server_label"].lower() in RESERVED_LABELS:
        raise invalid_value(
            spell((*path, "server_label")), "this label has a meaning of its own to the model"
        )
    for name in ("connector_id", "tunnel_id"):
        if tool.get(name) is not None:
            raise unsupported_parameter(spell((*path, name)), "Give the server's `server_url` instead.")
    check_url(tool.get("server_url"), (*path, "server_url"))
    for name in tool.get("headers") or {}:
        if name.lower() in TRANSPORT_HEADERS:
            raise invalid_value(spell((*path, "headers", name)), "the connection to the server sets it")
    _check_authorization(tool, path)
    _check_allowed(tool.get("allowed_tools"), (*path, "allowed_tools"))
    _check_approval(tool.get("require_approval"), (*path, "require_approval"))


def _check_allowed(value: object, path: Path) -> None:
    match value:
        case None:
            pass
        case list():
            if not all(isinstance(name, str) for name in value):
                raise invalid_value(spell(path), "it should hold names of tools")
        case dict():
            check(_ToolFilter, value, path)
        case _:
            raise invalid_type(spell(path), "an array or an object", value)


def _check_approval(value: object, path: Path) -> None:
    match value:
        case None | "always" | "never":
            pass
        case dict():
            check(_Approval, value, path)
        case str():
            raise unsupported_value(spell(path), value, ("always", "never"))
        case _:
            raise invalid_type(spell(path), "a string or an object", value)


def _check_authorization(tool: Mapping[str, Any], path: Path) -> None:
    """Raises ClientError for several authorizations, of which clients and servers choose differently."""
    in_headers = any(name.lower() == "authorization" for name in tool.get("headers") or {})
    in_url = "@" in authority_of(tool.get("server_url") or "")
    if in_headers + in_url + (tool.get("authorization") is not None) > 1:
        name = "authorization" if tool.get("authorization") is not None else "server_url"
        reason = "give it once: in `authorization`, in `headers`, or in the user part of `server_url`"
        raise invalid_value(spell((*path, name)), reason)


def _check_labels(tools: Mapping[int, Mapping[str, Any]]) -> None:
    """Raises ClientError for two tools of which one would have no effect: an `mcp` tool with the label of
    another tool, or a hosted tool that is requested twice, with different options.

    A hosted tool that is requested by several of its types is offered once.
    """
    seen: dict[str, dict[str, Any] | None] = {}
    for index, tool in tools.items():
        is_mcp, hosted = tool["type"] == "mcp", hosted_tools.by_type(tool["type"])
        if not is_mcp and hosted is None:
            continue
        label = tool["server_label"] if hosted is None else hosted.server_label
        options = None if is_mcp else {**_echo(tool), "type": label}
        if label in seen and (is_mcp or seen[label] is None):
            place = ("tools", index, "server_label" if is_mcp else "type")
            raise invalid_value(spell(place), f"'{label}' is used twice")
        if seen.setdefault(label, options) != options:
            reason = f"'{tool['type']}' is used twice, with different options"
            raise invalid_value(spell(("tools", index, "type")), reason)


def _secrets_of(tool: Mapping[str, Any]) -> ServerSecrets | None:
    if tool["type"] != "mcp":
        return None
    url = tool.get("server_url") or ""
    secrets = ServerSecrets(
        tool.get("headers") or {}, tool.get("authorization"), url if may_hold_secret(url) else None
    )
    return secrets if secrets != ServerSecrets() else None


def _with_approval(tool: dict[str, Any], approvals: ApprovalDefaults) -> dict[str, Any]:
    if tool["type"] != "mcp" or tool.get("require_approval") is not None:
        return tool
    return {**tool, "require_approval": approvals.of(tool["server_label"], tool.get("server_url"))}


def _kept(tool: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a tool as the worker reads it. `*` among names of tools stands for all of them."""
    kept = _without_secrets(tool)
    allowed, approval = kept.get("allowed_tools"), kept.get("require_approval")
    if isinstance(allowed, dict):
        kept["allowed_tools"] = _without_star(allowed)
    elif isinstance(allowed, list) and _ALL in allowed:
        kept["allowed_tools"] = None
    if tool["type"] == "mcp" and isinstance(approval, dict):
        kept["require_approval"] = _kept_approval(approval)
    return kept


_ALL = "*"


def _without_star(names: Mapping[str, Any]) -> dict[str, Any]:
    is_all = _ALL in (names.get("tool_names") or ())
    return {**names, "tool_names": None} if is_all else dict(names)


def _kept_approval(rule: Mapping[str, Any]) -> str | dict[str, Any]:
    """Returns the rule without stars: a filter without names names no tool, so one for all tools becomes the
    word for it."""
    filters = {name: _without_star(value) for name, value in rule.items() if value is not None}
    for name, value in filters.items():
        is_all = _ALL in (rule[name].get("tool_names") or ()) and not value.get("read_only")
        if is_all and (name == "always" or not filters.get("always")):
            return name
    return {**rule, **filters}


def _without_secrets(tool: Mapping[str, Any]) -> dict[str, Any]:
    match tool["type"]:
        case "mcp":
            kept = {name: value for name, value in tool.items() if name not in _SECRET}
            url = tool.get("server_url") or ""
            return kept | ({"server_url": strip_url(url)} if may_hold_secret(url) else {})
        case _:
            return dict(tool)


def _echo(tool: Mapping[str, Any]) -> dict[str, Any]:
    match tool["type"]:
        case kind if kind in CLIENT_SHAPES:
            return echo_client_tool(tool)
        case kind if kind in BROWSER.types:
            return echo_web_search(tool)
        case "mcp":
            url = tool.get("server_url")
            kept = _without_secrets(tool)
            shown: dict[str, Any] = {"server_url": strip_url(url) if url else url, "headers": None}
            if tool.get("headers"):
                shown["headers"] = dict.fromkeys(tool["headers"], _REDACTED)
            if tool.get("authorization") is not None:
                shown["authorization"] = _REDACTED
            return {"server_description": None, "allowed_tools": None, **kept, **shown}
        case kind:
            hosted = hosted_tools.by_type(kind)
            return {**(hosted.echoed if hosted else {}), **_without_secrets(tool)}
