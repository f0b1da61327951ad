"""Decides what one turn of the model may say, as data that the engine enforces.

Pure. Owns which constraint a request calls for; the engine owns how tokens are held to it
(`engines/vllm/turn_grammar.py`; docs/adr/0012-constraints-of-our-own.md).
"""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from shared import hosted_tools
from shared.client_tools import FUNCTION, requested_in
from shared.hosted_tools import HostedFunction
from shared.responses import ResponseRequest
from worker.asking.conversation import call_message
from worker.asking.offer import Offer
from worker.engines.protocol import Body, Call, Constraint, Unfulfillable
from worker.harmony.signatures import FUNCTIONS
from worker.harmony.tokens import MESSAGE, NEXT_TURN, render_message

_NAMED_MAX = 5
"""The number of missing tools that an error names."""


def constraint_of(
    request: ResponseRequest, offer: Offer, *, has_called: bool, budget: int, reserved: int
) -> Constraint | None:
    """Returns what the next turn may say, or None if it may say anything.

    `has_called`: a call has been made in this response, so `tool_choice` is satisfied. `budget`: the number
    of tokens that the turn may have; up to `reserved` of them are kept for an answer, if one is required.
    Raises Unfulfillable.
    """
    choice = request.response.tool_choice
    is_forced = _demands_call(choice) and not has_called
    final = _final_of(request.response.text)
    strict = _strict_functions(request) & offer.routing.keys()
    is_asked = is_forced or final.is_json or isinstance(choice, dict) or choice == "none" or bool(strict)
    if not is_asked:
        return None
    calls = () if choice == "none" else _calls_of(offer, strict, is_forced)
    if is_forced and not calls:
        raise Unfulfillable(_describe_missing(choice))
    is_answer_demanded = is_forced or final.is_json
    free_tokens_max = budget - min(reserved, budget // 2) if is_answer_demanded else None
    return Constraint(calls, None if is_forced else final, free_tokens_max)


def find_missing(request: ResponseRequest, offer: Offer, unavailable: Collection[str]) -> str | None:
    """Returns what to say of a `tool_choice` that allows certain tools of which none is offered, or None.

    The API has compared it with the tools of the request, so those of a server are not in its listing.
    `unavailable`: the labels of the servers that could not be listed, of which the model reads.
    """
    match request.response.tool_choice:
        case {"type": "allowed_tools", "tools": [_, *_] as tools} if not offer.routing:
            labels = {tool.get("server_label") for tool in tools}
            return _describe_none_of(tools) if labels.isdisjoint(unavailable) else None
        case _:
            return None


def _describe_none_of(tools: Sequence[Mapping[str, Any]]) -> str:
    named = (f"{tool.get('server_label')}.{tool['name']}" for tool in tools if tool.get("name"))
    names = ", ".join(list(dict.fromkeys(named))[:_NAMED_MAX])
    what = f", such as {names}," if names else ""
    return f"tool_choice allows only tools{what} that their servers do not list or `allowed_tools` excludes"


def _demands_call(choice: Any) -> bool:
    match choice:
        case {"type": "allowed_tools", "mode": mode}:
            return bool(mode == "required")
        case str():
            return choice == "required"
        case _:
            return choice is not None


def _describe_missing(choice: Any) -> str:
    match choice:
        case {"type": "mcp", "server_label": label, "name": str(name)}:
            what = f"the tool {name!r}, which the server {label!r} does not list or `allowed_tools` excludes"
            return f"tool_choice requires a call of {what}"
        case {"type": "mcp", "server_label": label}:
            return f"tool_choice requires a call of a tool of the server {label!r}, which has none to offer"
        case _:
            return "tool_choice requires a call, but no tool that it allows is available"


def _final_of(text: Any) -> Body:
    match (text or {}).get("format"):
        case {"type": "json_schema", "schema": schema, **rest}:
            return Body(True, _dump(schema), bool(rest.get("strict")))
        case {"type": "json_object"}:
            return Body(True)
        case _:
            return Body()


def _strict_functions(request: ResponseRequest) -> set[str]:
    functions = (one for one in requested_in(request.tools) if one.row is FUNCTION)
    return {f"{one.namespace or FUNCTIONS}.{one.name}" for one in functions if one.tool.get("strict")}


def _calls_of(offer: Offer, strict: Collection[str], is_forced: bool) -> tuple[Call, ...]:
    schemas = {
        f"{namespace}.{tool.name}": tool.parameters
        for namespace, (_, tools) in offer.namespaces.items()
        for tool in tools
        if is_forced or f"{namespace}.{tool.name}" in strict
    }
    return tuple(
        Call(recipient, _header_of(recipient), _arguments_of(recipient, schemas.get(recipient), strict))
        for recipient in offer.routing
    )


def _header_of(recipient: str) -> tuple[int, ...]:
    tokens = render_message(call_message(recipient, ""))
    return tuple(tokens[len(NEXT_TURN) : tokens.index(MESSAGE) + 1])


def _arguments_of(recipient: str, schema: Mapping[str, Any] | None, strict: Collection[str]) -> Body:
    hosted = hosted_tools.by_recipient(recipient)
    if hosted is not None:
        function = hosted.function_of(recipient)
        return Body() if hosted.text_argument else _hosted_arguments(function)
    return Body(True, _dump(schema), recipient in strict) if schema else Body(True)


def _hosted_arguments(function: HostedFunction | None) -> Body:
    """Returns the arguments of a hosted tool's function, as its row declares them.

    Their numbers are integers: GPT-OSS was trained to read `number` for ids and counts.
    """
    if function is None or function.parameters is None:
        return Body(True)
    schema = {"additionalProperties": False, **function.parameters}
    schema["properties"] = {name: _whole(value) for name, value in function.parameters["properties"].items()}
    return Body(True, _dump(schema), False)


def _whole(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a parameter's schema, without its default, which constrains nothing."""
    kinds, whole = schema["type"], {"number": "integer"}
    kind = whole.get(kinds, kinds) if isinstance(kinds, str) else [whole.get(k, k) for k in kinds]
    return {"type": kind} | {key: value for key, value in schema.items() if key not in ("type", "default")}


def _dump(schema: Any) -> str:
    return json.dumps(schema, ensure_ascii=False)
