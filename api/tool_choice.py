"""What may stand in `tool_choice`: it may name only what the request offers.

Owns checking; how a choice narrows what the model sees is the worker's matter. Source: the
public OpenAI types, `ToolChoice`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from api.errors import invalid_value
from api.tools import TOOLS, Plain
from api.validation import Path, Shape, check, check_kind, spell

_PARAM = "tool_choice"


class _ByName(Shape):
    name: str


class _ByLabel(Shape):
    server_label: str
    name: str | None = None


class _Allowed(Shape):
    mode: Literal["auto", "required"]
    tools: list[dict[str, Any]]


_CHOICES: Mapping[str, type[Shape]] = {
    **dict.fromkeys(TOOLS, Plain),
    "computer_use": Plain,
    "function": _ByName,
    "custom": _ByName,
    "mcp": _ByLabel,
}

Tools = Sequence[Mapping[str, Any]]


def read_choice(value: object, tools: Tools) -> str | dict[str, Any]:
    """The checked choice, `auto` where there is none; it may name only what is in `tools`."""
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
            return _read_object(value, tools)
        case _:
            raise invalid_value(_PARAM, "it should be 'none', 'auto', 'required' or an object")


def _read_object(value: dict[str, Any], tools: Tools) -> dict[str, Any]:
    if value.get("type") != "allowed_tools":
        return _check_chosen(value, tools, (_PARAM,))
    allowed = check(_Allowed, value, (_PARAM,))
    for index, entry in enumerate(allowed.tools):
        _check_chosen(entry, tools, (_PARAM, "tools", index))
    return value


def _check_chosen(value: object, tools: Tools, path: Path) -> dict[str, Any]:
    choice = check_kind(_CHOICES, value, path)
    match choice["type"]:
        case "function" | "custom" as kind:
            key, is_offered = "name", _holds(tools, kind, "name", choice["name"])
        case "mcp":
            label = choice["server_label"]
            key, is_offered = "server_label", _holds(tools, "mcp", "server_label", label)
        case kind:
            key, is_offered = "type", _holds_hosted(tools, kind)
    if not is_offered:
        raise invalid_value(spell((*path, key)), f"'{choice[key]}' is not among the tools of this request")
    return choice


def _holds(tools: Tools, kind: str, key: str, name: str) -> bool:
    return any(tool["type"] == kind and tool[key] == name for tool in tools)


def _holds_hosted(tools: Tools, kind: str) -> bool:
    """Under its own type (dated and preview ones are the same tool), or as the MCP server of that label."""
    return _holds(tools, "mcp", "server_label", kind) or any(
        _family(tool["type"]) == _family(kind) for tool in tools
    )


def _family(kind: str) -> str:
    for family in ("web_search", "computer"):
        if kind.startswith(family):
            return family
    return kind
