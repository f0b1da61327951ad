"""Checks the tools of a request that the client runs, and the names by which the model calls tools.

Owns their shapes, their echoed form, and what of them no server here can do; `shared/client_tools.py` owns
how they are offered. Source: the public OpenAI types, `Tool`.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from api.bodies.json_schemas import check_schema
from api.bodies.validation import Checked, ClosedShape, Label, Name, Path, check, check_kind, spell
from api.errors import invalid_value, unsupported_parameter
from shared import client_tools
from shared.client_tools import NAMESPACE, requested_in
from shared.hosted_tools import RESERVED_LABELS


class ToolShape(ClosedShape):
    """A tool with the members that the public types define."""

    type: str


class CallableShape(ToolShape):
    allowed_callers: Checked[Literal["direct", "programmatic"]] | None = None


class _Deferrable(CallableShape):
    """A tool may be deferred for a search: there is none, so it is offered from the start."""

    name: Name
    description: str | None = None
    defer_loading: bool | None = None
    async_: bool | None = Field(None, alias="async")


class _Function(_Deferrable):
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    output_schema: dict[str, Any] | None = None


class _PlainText(ToolShape):
    pass


class _Grammar(ToolShape):
    syntax: Literal["lark", "regex"]
    definition: str


_FORMATS: Mapping[str, type[ClosedShape]] = {"text": _PlainText, "grammar": _Grammar}


class _Custom(_Deferrable):
    format: dict[str, Any] | None = None


class _Skill(ClosedShape):
    name: str
    description: str
    path: str


class _LocalEnvironment(ClosedShape):
    type: str | None = None
    skills: Annotated[list[_Skill], Field(fail_fast=True)] | None = None


class _Shell(CallableShape):
    environment: dict[str, Any] | None = None


class _Namespace(ToolShape):
    name: Label
    description: str | None = None
    tools: list[Any]


_MEMBERS: Mapping[str, type[ToolShape]] = {
    client_tools.FUNCTION.type: _Function,
    client_tools.CUSTOM.type: _Custom,
}
CLIENT_SHAPES: Mapping[str, type[ToolShape]] = {
    **_MEMBERS,
    client_tools.SHELL.type: _Shell,
    client_tools.LOCAL_SHELL.type: CallableShape,
    client_tools.APPLY_PATCH.type: CallableShape,
    NAMESPACE: _Namespace,
}
"""The API's type of each tool that the client runs -> its shape."""


def check_client_tool(tool: Mapping[str, Any], path: Path) -> None:
    """Checks what a shape does not say. Raises ClientError."""
    refuse_unmakable(tool, path)
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


def refuse_unmakable(tool: Mapping[str, Any], path: Path) -> None:
    """Refuses what asks for calls that no model here makes, whoever runs them."""
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
