"""Checks the tools of a request that the client runs, and the names by which the model calls tools.

Owns their shapes, their echoed form, and what of them no server here can do; `shared/client_tools.py` owns
how they are offered. Source: the public OpenAI types, `Tool`.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from api.bodies.json_schemas import check_schema
from api.bodies.validation import Checked, Label, Name, Path, Shape, check, check_kind, spell
from api.errors import invalid_value, unknown_parameter, unsupported_parameter
from shared import client_tools
from shared.client_tools import NAMESPACE, requested_in
from shared.hosted_tools import RESERVED_LABELS

_Callers = Checked[Literal["direct", "programmatic"]]


class ClientShape(Shape):
    """A tool with the members that the public types define; others are refused by name."""

    type: str
    allowed_callers: _Callers | None = None


class _Deferrable(ClientShape):
    """A tool may be deferred for a search: there is none, so it is offered from the start."""

    name: Name
    description: str | None = None
    defer_loading: bool | None = None
    async_: bool | None = Field(None, alias="async")


class _Function(_Deferrable):
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    output_schema: dict[str, Any] | None = None


class _PlainText(Shape):
    pass


class _Grammar(Shape):
    syntax: Literal["lark", "regex"]
    definition: str


_FORMATS: Mapping[str, type[Shape]] = {"text": _PlainText, "grammar": _Grammar}


class _Custom(_Deferrable):
    format: dict[str, Any] | None = None


class _Skill(Shape):
    name: str
    description: str
    path: str


class _LocalEnvironment(Shape):
    type: str | None = None
    skills: Annotated[list[_Skill], Field(fail_fast=True)] | None = None


class _Shell(ClientShape):
    environment: dict[str, Any] | None = None


class _Namespace(Shape):
    type: str
    name: Label
    description: str | None = None
    tools: list[Any]


_MEMBERS: Mapping[str, type[Shape]] = {
    client_tools.FUNCTION.type: _Function,
    client_tools.CUSTOM.type: _Custom,
}
CLIENT_SHAPES: Mapping[str, type[Shape]] = {
    **_MEMBERS,
    client_tools.SHELL.type: _Shell,
    client_tools.LOCAL_SHELL.type: ClientShape,
    client_tools.APPLY_PATCH.type: ClientShape,
    NAMESPACE: _Namespace,
}
"""The API's type of each tool that the client runs -> its shape."""


def check_client_tool(tool: Mapping[str, Any], path: Path) -> None:
    """Checks what a shape does not say. Raises ClientError."""
    _refuse_unknown(CLIENT_SHAPES[tool["type"]], tool, path)
    _refuse_unmakable(tool, path)
    match tool["type"]:
        case client_tools.FUNCTION.type:
            if tool.get("strict") and tool.get("parameters") is not None:
                check_schema(tool["parameters"], (*path, "parameters"))
        case client_tools.CUSTOM.type:
            if tool.get("format") is not None:
                check_kind(_FORMATS, tool["format"], (*path, "format"))
        case client_tools.SHELL.type:
            _check_environment(tool.get("environment"), (*path, "environment"))
        case client_tools.NAMESPACE:
            _check_members(tool, path)
        case _:
            pass


def _refuse_unknown(shape: type[Shape], tool: Mapping[str, Any], path: Path) -> None:
    known = {field.alias or name for name, field in shape.model_fields.items()}
    for name, value in tool.items():
        if name not in known and value is not None:
            raise unknown_parameter(spell((*path, name)))


def _refuse_unmakable(tool: Mapping[str, Any], path: Path) -> None:
    """Refuses what asks for calls that no model here makes."""
    if tool.get("async"):
        reason = "Every call is answered before the model goes on."
        raise unsupported_parameter(spell((*path, "async")), reason)
    callers = tool.get("allowed_callers")
    if callers is not None and "direct" not in callers:
        reason = "The model calls each tool by itself, never from code: allow 'direct'."
        raise unsupported_parameter(spell((*path, "allowed_callers")), reason)


def _check_environment(environment: Mapping[str, Any] | None, path: Path) -> None:
    if environment is None:
        return
    if environment.get("type", "local") != "local":
        reason = "The client runs the commands: use 'local'."
        raise unsupported_parameter(spell((*path, "type")), reason)
    check(_LocalEnvironment, environment, path)
    _refuse_unknown(_LocalEnvironment, environment, path)


def _check_members(namespace: Mapping[str, Any], path: Path) -> None:
    if namespace["name"].lower() in RESERVED_LABELS:
        raise invalid_value(spell((*path, "name")), "this name has a meaning of its own to the model")
    if not namespace["tools"]:
        raise invalid_value(spell((*path, "tools")), "it should hold at least one tool")
    for index, member in enumerate(namespace["tools"]):
        place = (*path, "tools", index)
        check_client_tool(check_kind(_MEMBERS, member, place), place)


def check_names(tools: Mapping[int, Mapping[str, Any]]) -> None:
    """Raises ClientError for two tools that the model would call by one name. `tools`: by their places."""
    places = list(tools)
    groups: set[str] = {tool["server_label"] for tool in tools.values() if tool["type"] == "mcp"}
    for place, tool in tools.items():
        if tool["type"] == NAMESPACE:
            if tool["name"] in groups:
                reason = f"'{tool['name']}' is the name of another namespace, or the label of a server"
                raise invalid_value(spell(("tools", place, "name")), reason)
            groups.add(tool["name"])
    seen: set[tuple[str | None, str]] = set()
    for one in requested_in(tools.values()):
        if (one.namespace, one.name) in seen:
            first, *member = one.place
            path: Path = ("tools", places[first], *(("tools", member[0]) if member else ()))
            raise invalid_value(
                spell((*path, "name" if one.row.is_named else "type")), f"'{one.name}' is used twice"
            )
        seen.add((one.namespace, one.name))


def echo_client_tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the tool as it is echoed, with what it left out."""
    match tool["type"]:
        case client_tools.FUNCTION.type:
            return {"description": None, "parameters": None, "strict": None, **tool}
        case client_tools.CUSTOM.type:
            return {"description": None, "format": {"type": "text"}, **tool}
        case client_tools.NAMESPACE:
            return {**tool, "tools": [echo_client_tool(member) for member in tool["tools"]]}
        case _:
            return dict(tool)
