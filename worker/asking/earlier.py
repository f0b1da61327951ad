"""Renders what the prompts of records of formats 1 and 2 had in another form. Pure.

A response that was begun by an earlier worker goes on with the prompt that it began with
(docs/adr/0022-record-formats.md). Goes when no such record can be open any more.
"""

from dataclasses import replace
from typing import Any

from worker.asking.tool_names import one_line
from worker.harmony.signatures import FUNCTIONS, Namespaces, ToolSignature


def as_before(namespaces: Namespaces) -> Namespaces:
    """Returns the tools with their types as they were: without line breaks, unless the client runs them."""
    return {
        name: (description, [_as_before(tool, is_servers=name != FUNCTIONS) for tool in tools])
        for name, (description, tools) in namespaces.items()
    }


def _as_before(tool: ToolSignature, *, is_servers: bool) -> ToolSignature:
    if not is_servers:
        return replace(tool, is_earlier=True)
    description = "\n".join(tool.description.splitlines())
    return ToolSignature(tool.name, description, flatten(tool.parameters), is_earlier=True)


def flatten(schema: Any) -> Any:
    """Returns the JSON schema without line breaks in its texts, which were rendered inside a declaration."""
    match schema:
        case str():
            return one_line(schema)
        case dict():
            return {one_line(key): flatten(value) for key, value in schema.items()}
        case list():
            return [flatten(value) for value in schema]
        case _:
            return schema
