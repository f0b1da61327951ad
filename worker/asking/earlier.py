"""Renders what the prompts of records of earlier formats had in another form. Pure.

A response that was begun by an earlier worker goes on with the prompt that it began with
(docs/adr/0022-record-formats.md). Goes when no such record can be open any more.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import msgspec
from msgspec import UNSET

from shared import web_search
from shared.hosted_tools import CodeInterpreterCall, CodeOutput, WebSearchCall
from shared.input_items import EarlierError, FunctionCallOutput, InputItem, InputMcpCall
from shared.responses import HttpError, McpError, McpProtocolError, McpToolExecutionError
from shared.tool_calls import describe
from worker.asking.tool_names import one_line
from worker.harmony.signatures import FUNCTIONS, Namespaces, ToolSignature

# --- formats 1 to 4 ---------------------------------------------------------------------------------


def items_as_before(items: Iterable[InputItem]) -> list[InputItem]:
    """Returns the items as they were read before `outcomes.py` told what became of each."""
    return list(map(_item_as_before, items))


def _item_as_before(item: InputItem) -> InputItem:
    match item:
        case FunctionCallOutput():
            return msgspec.structs.replace(item, namespace=UNSET)
        case InputMcpCall():
            return msgspec.structs.replace(item, output=_outcome_of(item), error=UNSET)
        case CodeInterpreterCall() if not isinstance(item.outputs, list):
            return msgspec.structs.replace(item, outputs=[CodeOutput(logs=_CODE_NOT_KEPT)])
        case WebSearchCall() if not isinstance(item.output, str):
            action = item.action or {}
            function, arguments = _call_of(action)
            pages = _pages_in(action)
            answer = _SEARCH_NOT_KEPT + (f" Its pages: {', '.join(pages)}" if pages else "")
            written = json.dumps(arguments, ensure_ascii=False)
            return msgspec.structs.replace(item, name=function, arguments=written, output=answer)
        case _:
            return item


def _outcome_of(call: InputMcpCall) -> str:
    if isinstance(call.error, str):
        return call.error
    if isinstance(call.error, EarlierError):
        return describe(_error_of(call.error))
    return call.output or ""


def _error_of(error: EarlierError) -> McpError:
    message = str(None if error.message is UNSET else error.message)
    match error.type:
        case "mcp_tool_execution_error":
            return McpToolExecutionError(None if error.content is UNSET else error.content)
        case "http_error":
            return HttpError(error.code or 0, message)
        case _:
            return McpProtocolError(error.code or 0, message)


_CODE_NOT_KEPT = "[What came of this code was not kept with the call.]"
_SEARCH_NOT_KEPT = "[What was found was not kept with this call.]"


def _call_of(action: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    match action:
        case {"type": "open_page"}:
            return web_search.OPEN, {"id": _text(action.get("url"))}
        case {"type": "find_in_page"}:
            return web_search.FIND, {"pattern": _text(action.get("pattern"))}
        case _:
            queries = action.get("queries")
            asked = [_text(query) for query in queries] if isinstance(queries, list) else []
            return web_search.SEARCH, {"query": _text(action.get("query")) or "; ".join(asked)}


def _pages_in(action: Mapping[str, Any]) -> list[str]:
    sources = action.get("sources")
    found = sources if isinstance(sources, list) else []
    named = [action.get("url"), *(source.get("url") for source in found if isinstance(source, dict))]
    return [url for url in named if isinstance(url, str) and url]


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


# --- formats 1 and 2 --------------------------------------------------------------------------------


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
