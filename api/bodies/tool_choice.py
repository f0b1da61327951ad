"""Checks `tool_choice`, which may name only tools that the request offers.

Owns the check; the worker applies the choice. Source: the public OpenAI types, `ToolChoice`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from api.bodies.tools import TOOLS, Plain
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
    **dict.fromkeys(TOOLS, Plain),
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
    labels: frozenset[str]
    families: frozenset[str]

    @classmethod
    def of(cls, tools: EchoedTools) -> Self:
        return cls(
            frozenset(
                (one.row.type, namespace, one.name)
                for one in requested_in(tools)
                for namespace in {one.namespace, None}
            ),
            frozenset(tool["server_label"] for tool in tools if tool["type"] == "mcp"),
            frozenset(_family(tool["type"]) for tool in tools),
        )

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
            if not tools:
                raise invalid_value(_PARAM, "'required' needs at least one tool in `tools`")
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
            is_offered = any(namespace == choice["name"] for _, namespace, _ in offered.clients)
        case "mcp":
            key, is_offered = "server_label", choice["server_label"] in offered.labels
        case kind:
            key, is_offered = "type", offered.holds_hosted(kind)
    if not is_offered:
        raise invalid_value(spell((*path, key)), f"'{choice[key]}' is not among the tools of this request")
    return choice


def _family(kind: str) -> str:
    """Returns one name for all types that mean the same tool."""
    if (hosted := hosted_tools.by_type(kind)) is not None:
        return hosted.server_label
    return kind
