"""Checks `tool_choice`, which may name only tools that the request offers.

Owns the check; the worker applies the choice. Source: the public OpenAI types, `ToolChoice`.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from api.bodies.tools import TOOLS
from api.bodies.validation import Checked, ClosedShape, Path, check, check_kind, check_length, spell
from api.errors import invalid_type, invalid_value, shorten, unsupported_value
from shared import client_tools, hosted_tools
from shared.client_tools import NAMESPACE, requested_in

_PARAM = "tool_choice"


class _ByType(ClosedShape):
    type: str


class _ByName(_ByType):
    name: str


class _OfClient(_ByName):
    namespace: str | None = None


class _ByLabel(_ByType):
    server_label: str
    name: str | None = None


class _Allowed(_ByType):
    mode: Literal["auto", "required"]
    tools: Checked[dict[str, Any]]


_CHOICES: Mapping[str, type[_ByType]] = {
    **dict.fromkeys(TOOLS, _ByType),
    client_tools.FUNCTION.type: _OfClient,
    client_tools.CUSTOM.type: _OfClient,
    NAMESPACE: _ByName,
    "mcp": _ByLabel,
}
"""A choice names a tool; what else the tool has stands in `tools`, and has no effect here."""

EchoedTools = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class _Offered:
    """What a choice may name, collected once for all its entries."""

    clients: frozenset[tuple[str, str | None, str]]
    """(type, namespace, name) of the tools that the client runs. A member of a namespace is there also
    without it, since a choice may leave that out where no other tool has its name."""
    shared_names: Mapping[str, list[str]]
    """Names that only members of several namespaces have -> those namespaces."""
    namespaces: frozenset[str]
    labels: Mapping[str, frozenset[str] | None]
    """Server label -> the names of its tools that may be called, or None if that is for the server to say."""
    families: frozenset[str]
    has_hosted: bool
    """A hosted tool is offered by its type."""
    left_out: frozenset[str]
    """The families of tools that were in the request and are not offered here."""

    @classmethod
    def of(cls, tools: EchoedTools, left_out: Collection[str]) -> Self:
        clients = list(requested_in(tools))
        homes = defaultdict[str, list[str]](list)
        for one in clients:
            if one.namespace is not None:
                homes[one.name].append(one.namespace)
        for one in clients:
            if one.namespace is None:
                homes.pop(one.name, None)
        exact = {(one.row.type, one.namespace, one.name) for one in clients}
        bare = {(one.row.type, None, one.name) for one in clients if len(homes.get(one.name, ())) == 1}
        return cls(
            frozenset(exact | bare),
            {name: sorted(namespaces) for name, namespaces in homes.items() if len(namespaces) > 1},
            frozenset(tool["name"] for tool in tools if tool["type"] == NAMESPACE),
            {tool["server_label"]: _callable_in(tool) for tool in tools if tool["type"] == "mcp"},
            frozenset(_family(tool["type"]) for tool in tools),
            any(hosted_tools.by_type(tool["type"]) is not None for tool in tools),
            frozenset(_family(kind) for kind in left_out),
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

    def has_left_out(self, value: object) -> bool:
        """Returns True for the choice of a tool that the request has but that is not offered here."""
        match value:
            case {"type": str(kind)}:
                return _family(kind) in self.left_out and not self.holds_hosted(kind)
            case _:
                return False


def read_choice(
    value: object, tools: EchoedTools, entries_max: int, left_out: Collection[str] = ()
) -> str | dict[str, Any]:
    """Returns the choice, by default `auto`. Raises ClientError if it is invalid or names a tool not in
    `tools`.

    `entries_max`: the limit on a list of allowed tools; `left_out`: the types of the tools that the request
    has besides and that are not offered here, which are left out of such a list too.
    """
    match value:
        case None:
            return "auto"
        case "none" | "auto":
            return str(value)
        case "required":
            if not _Offered.of(tools, left_out).holds_anything:
                raise invalid_value(_PARAM, "'required' needs at least one tool that the model can call")
            return "required"
        case dict():
            return _read_object(value, _Offered.of(tools, left_out), entries_max)
        case str():
            raise unsupported_value(_PARAM, value, ("none", "auto", "required"))
        case _:
            raise invalid_type(_PARAM, "a string or an object", value)


def _read_object(value: dict[str, Any], offered: _Offered, entries_max: int) -> dict[str, Any]:
    if value.get("type") != "allowed_tools":
        return _check_chosen(value, offered, (_PARAM,))
    check_length(value.get("tools"), entries_max, (_PARAM, "tools"))
    allowed = check(_Allowed, value, (_PARAM,))
    if allowed.mode == "required" and not allowed.tools:
        raise invalid_value(spell((_PARAM, "tools")), "'required' needs at least one tool")
    kept = []
    for index, entry in enumerate(allowed.tools):
        if not offered.has_left_out(entry):
            kept.append(_check_chosen(entry, offered, (_PARAM, "tools", index)))
    if allowed.tools and not kept:
        raise invalid_value(spell((_PARAM, "tools")), "none of these tools is offered here")
    return {**value, "tools": kept}


def _check_chosen(value: object, offered: _Offered, path: Path) -> dict[str, Any]:
    if offered.has_left_out(value):
        raise invalid_value(spell((*path, "type")), "tools of this type are not offered here")
    choice = check_kind(_CHOICES, value, path)
    match choice["type"]:
        case client_tools.FUNCTION.type | client_tools.CUSTOM.type as kind:
            key = "name"
            is_offered = (kind, choice.get("namespace"), choice["name"]) in offered.clients
            _refuse_several(choice, offered, path)
        case client_tools.NAMESPACE:
            key = "name"
            is_offered = choice["name"] in offered.namespaces
        case "mcp":
            key, is_offered = "server_label", choice["server_label"] in offered.labels
            _check_allowed(choice, offered.labels.get(choice["server_label"]), path)
        case kind:
            key, is_offered = "type", offered.holds_hosted(kind)
    if not is_offered:
        reason = f"'{shorten(choice[key])}' is not among the tools of this request"
        raise invalid_value(spell((*path, key)), reason)
    return choice


def _refuse_several(choice: Mapping[str, Any], offered: _Offered, path: Path) -> None:
    """Refuses a bare name that the members of several namespaces have."""
    namespaces = offered.shared_names.get(choice["name"])
    if namespaces is not None and choice.get("namespace") is None:
        reason = f"it is the name of a tool of each of {', '.join(namespaces)}; say which with `namespace`"
        raise invalid_value(spell((*path, "name")), shorten(reason))


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
