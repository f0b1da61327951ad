"""Calls of tools that are not made: what item they leave, if any, and what the model is told. Pure.

Owns the words; whether a call is made is the attempt's decision.
"""

from collections.abc import Iterable

from shared.responses import McpProtocolError
from shared.tool_calls import ToolFailure

_INVALID_PARAMS, _REFUSED = -32602, -32000


def beyond(calls_max: int) -> ToolFailure:
    return _refuse(f"no more than {calls_max} tool calls are allowed in this response", _REFUSED)


def not_offered() -> ToolFailure:
    return _refuse("the tool is not offered in this request", _REFUSED)


def not_an_object() -> ToolFailure:
    return _refuse("the arguments are not a JSON object", _INVALID_PARAMS)


def listed_for_a_call() -> ToolFailure:
    return _refuse("the server answered a call with a listing", _INVALID_PARAMS)


def nothing_listed() -> ToolFailure:
    return _refuse("the server listed no tools", _INVALID_PARAMS)


def describe_unknown(recipient: str, known: Iterable[str]) -> str:
    """`recipient`: "" if the call names none that could be read."""
    tools = ", ".join(sorted(known)) or "none"
    if not recipient:
        return f"This call names no tool; nothing was run. Tools: {tools}."
    return f"There is no tool {recipient!r}. Tools: {tools}."


def _refuse(message: str, code: int) -> ToolFailure:
    return ToolFailure(McpProtocolError(code, message))
