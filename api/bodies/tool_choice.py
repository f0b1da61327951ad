"""Checks `tool_choice`, which may name only tools that the request offers.

Owns the check; the worker applies the choice. Source: the public OpenAI types, `ToolChoice`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from api.bodies.tools import TOOLS
from api.bodies.validation import Checked, Path, Shape, check, check_kind, check_length, spell
from api.errors import invalid_value
from shared import client_tools, hosted_tools
from shared.client_tools import NAMESPACE, requested_in

_PARAM = "tool_choice"


class _ByName(Shape):
    name: str
    namespace: str | None = None


class _ByLabel(Shape):
    server_label: str
    name: str | None = None


class _Allowed(Shape):
    mode: Literal["auto", "required"]
    tools: Checked[dict[str, Any]]


_CHOICES: Mapping[str, type[Shape]] = {
    **dict.fromkeys(TOOLS, Shape),
    client_tools.FUNCTION.type: _ByName,
    client_tools.CUSTOM.type: _ByName,
    NAMESPACE: _ByName,
    "mcp": _ByLabel,
}

EchoedTools = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class _Offered:
    """What a choice may name, collected once for all its entries."""

    clients: frozenset[tuple[str, str | None, str]]
    """(type, namespace, name) of the tools that the client runs. A member of a namespace is there also
    without it, since a choice may leave that out."""
    namespaces: frozenset[str]
    labels: Mapping[str, frozenset[str] | None]
    """Server label -> the names of its tools that may be called, or None if that is for the server to say."""
    families: frozenset[str]
    has_hosted: bool
    """A hosted tool is offered by its type."""

    @classmethod
    def of(cls, tools: EchoedTools) -> Self:
        return cls(
            frozenset(
                (one.row.type, namespace, one.name)
                for one in requested_in(tools)
                for namespace in {one.namespace, None}
            ),
            frozenset(tool["name"] for tool in tools if tool["type"] == NAMESPACE),
            {tool["server_label"]: _callable_in(tool) for tool in tools if tool["type"] == "mcp"},
            frozenset(_family(tool["type"]) for tool in tools),
            any(hosted_tools.by_type(tool["type"]) is not None for tool in tools),
        )

    @property
    def holds_anything(self) -> bool:
        """Returns True if there is a tool that the model might call."""
        is_served = any(names is None or names for names in self.labels.values())
        return bool(self.clients) or is_served or self.has_hosted

    def holds_hosted(self, kind: str) -> bool:
        """Returns True if the tool is offered by type (of any date), or as an MCP server."""
        hosted = hosted_tools.by_type(kind)
        label = hosted.server_label if hosted else kind
        return label in self.labels or _family(kind) in self.families


def read_choice(value: object, tools: EchoedTools, entries_max: int) -> str | dict[str, Any]:
    """Returns the choice, by default `auto`. Raises ClientError if it is invalid or names a tool not in
    `tools`.

    `entries_max`: the limit on a list of allowed tools.
    """
    match value:
        case None:
            return "auto"
        case "none" | "auto":
            return str(value)
        case "required":
            if not _Offered.of(tools).holds_anything:
                raise invalid_value(_PARAM, "'required' needs at least one tool that the model can call")
            return "required"
        case dict():
            return _read_object(value, _Offered.of(tools), entries_max)
        case _:
            raise invalid_value(_PARAM, "it should be 'none', 'auto', 'required' or an object")


def _read_object(value: dict[str, Any], offered: _Offered, entries_max: int) -> dict[str, Any]:
    if value.get("type") != "allowed_tools":
        return _check_chosen(value, offered, (_PARAM,))
    check_length(value.get("tools"), entries_max, (_PARAM, "tools"))
    allowed = check(_Allowed, value, (_PARAM,))
    if allowed.mode == "required" and not allowed.tools:
        raise invalid_value(spell((_PARAM, "tools")), "'required' needs at least one tool")
    for index, entry in enumerate(allowed.tools):
        _check_chosen(entry, offered, (_PARAM, "tools", index))
    return value


def _check_chosen(value: object, offered: _Offered, path: Path) -> dict[str, Any]:
    choice = check_kind(_CHOICES, value, path)
    match choice["type"]:
        case client_tools.FUNCTION.type | client_tools.CUSTOM.type as kind:
            key = "name"
            is_offered = (kind, choice.get("namespace"), choice["name"]) in offered.clients
        case client_tools.NAMESPACE:
            key = "name"
            is_offered = choice["name"] in offered.namespaces
        case "mcp":
            key, is_offered = "server_label", choice["server_label"] in offered.labels
            _check_allowed(choice, offered.labels.get(choice["server_label"]), path)
        case kind:
            key, is_offered = "type", offered.holds_hosted(kind)
    if not is_offered:
        raise invalid_value(spell((*path, key)), f"'{choice[key]}' is not among the tools of this request")
    return choice


def _check_allowed(choice: Mapping[str, Any], names: frozenset[str] | None, path: Path) -> None:
    """Refuses the choice of a server, or of a tool of it, that may not be called. `names`: those that may."""
    name = choice.get("name")
    if names is None or (name in names if name is not None else names):
        return
    key = "server_label" if name is None else "name"
    raise invalid_value(spell((*path, key)), "the server's `allowed_tools` leave nothing that this allows")


def _callable_in(server: Mapping[str, Any]) -> frozenset[str] | None:
    """Returns the names of the tools of an `mcp` tool that may be called, as far as the request says it."""
    allowed = server.get("allowed_tools")
    names = allowed.get("tool_names") if isinstance(allowed, dict) else allowed
    hosted = hosted_tools.by_label(server["server_label"])
    if hosted is None:
        return None if names is None else frozenset(names)
    own = frozenset(function.name for function in hosted.functions)
    return own if names is None else own & frozenset(names)


def _family(kind: str) -> str:
    """Returns one name for all types that mean the same tool."""
    if (hosted := hosted_tools.by_type(kind)) is not None:
        return hosted.server_label
    return kind
