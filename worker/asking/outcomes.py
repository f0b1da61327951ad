"""Says in each item of a history what became of it, for the model to read. Pure.

A call may have run elsewhere, have been cut off, or be sent back with less than it had; its status, both its
error and its output, and all that it looked for are put where `conversation.py` reads the call and its
answer. Owns these words. Records of earlier formats are told as `earlier.py` says. What no model reads of an
item is listed in docs/api.md, and a test holds the two together.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from shared import web_search
from shared.hosted_tools import CodeInterpreterCall, CodeOutput, HostedToolCall, WebSearchCall
from shared.input_items import (
    CustomToolCallOutput,
    EarlierError,
    FunctionCallOutput,
    InputFile,
    InputItem,
    InputMcpApprovalRequest,
    InputMcpCall,
    InputMessage,
    McpApprovalResponse,
)
from shared.responses import HttpError, McpError, McpProtocolError, McpToolExecutionError
from shared.tool_calls import describe, parse_failure

_P = TypeVar("_P")

_FAILED = "[This call failed.]"
_CUT_OFF = "[This call was not completed.]"
_UNFINISHED = frozenset({"in_progress", "searching", "interpreting", "calling", "generating", "incomplete"})
_CODE_NOT_KEPT = "[What came of this code was not kept with the call.]"
SEARCH_NOT_KEPT = "[What was found was not kept with this call.]"
_UNANSWERED = "The user has not said whether this call may be made; it was not made."
_UNMADE = "The user approved this call, but it was not made."
_NO_REASON = "no reason was given"


def tell_outcomes(items: Sequence[InputItem], approved: Collection[str]) -> list[InputItem]:
    """Returns the items with all that is to be read of them. `approved`: the ids of the questions whose calls
    are made now, and so are told with what they return."""
    untold = _untold_questions(items, approved)
    return [_tell(item, untold) for item in items]


def _tell(item: InputItem, untold: Mapping[str, str]) -> InputItem:
    match item:
        case InputMessage(content=list() as parts):
            return msgspec.structs.replace(item, content=list(map(_name, parts)))
        case FunctionCallOutput(output=list() as parts) | CustomToolCallOutput(output=list() as parts):
            return msgspec.structs.replace(item, output=list(map(_name, parts)))
        case InputMcpCall():
            return msgspec.structs.replace(item, output=_answer_of(item), error=UNSET)
        case InputMcpApprovalRequest(id=str(id_)) if id_ in untold:
            return InputMcpCall(
                server_label=item.server_label,
                name=item.name,
                arguments=item.arguments,
                output=untold[id_],
                in_turn=item.in_turn,
            )
        case CodeInterpreterCall():
            return msgspec.structs.replace(item, outputs=_outputs_of(item))
        case WebSearchCall(output=None | UnsetType()):
            return _tell_search(item)
        case _:
            return item


def _name(part: _P) -> _P | InputFile:
    """Names a file that has no name by where it is."""
    if not isinstance(part, InputFile) or part.filename:
        return part
    return msgspec.structs.replace(part, filename=part.file_url or part.file_id or UNSET)


def note_of(status: object) -> str:
    """Returns what an item's status says, unless that is that all went well."""
    return _FAILED if status == "failed" else _CUT_OFF if status in _UNFINISHED else ""


# --- questions ------------------------------------------------------------------------------------


def _untold_questions(items: Sequence[InputItem], approved: Collection[str]) -> dict[str, str]:
    """Returns the id of each question that nothing else tells of, and how it stands."""
    done = {item.approval_request_id for item in items if isinstance(item, InputMcpCall | HostedToolCall)}
    answers = {
        item.approval_request_id: item.approve for item in items if isinstance(item, McpApprovalResponse)
    }
    return {
        item.id: _UNMADE if answers.get(item.id) else _UNANSWERED
        for item in items
        if isinstance(item, InputMcpApprovalRequest)
        and isinstance(item.id, str)
        and item.id not in done
        and item.id not in approved
        and answers.get(item.id) is not False
    }


# --- calls of tool servers --------------------------------------------------------------------------


def _answer_of(call: InputMcpCall) -> str:
    error = _error_in(call)
    note = "" if error and call.status == "failed" else note_of(call.status)
    return "\n".join(text for text in (error, call.output, note) if text)


def _error_in(call: InputMcpCall) -> str:
    if not isinstance(call.error, EarlierError):
        return call.error or ""
    content = [] if call.error.content in (None, UNSET) else call.error.content
    message = call.error.message or ""
    if call.error.type == "mcp_tool_execution_error":
        return "\n".join(text for text in (describe(McpToolExecutionError(content)), message) if text)
    code = call.error.code or 0
    error: McpError = (
        HttpError(code, message or _NO_REASON)
        if call.error.type == "http_error"
        else McpProtocolError(code, message or _NO_REASON)
    )
    more = describe(McpToolExecutionError(content)) if content else ""
    return "\n".join(text for text in (describe(error), more) if text)


# --- calls of hosted tools --------------------------------------------------------------------------


def _outputs_of(call: CodeInterpreterCall) -> list[CodeOutput]:
    """Returns what the code put out, and the status where that does not show."""
    note = note_of(call.status)
    if not isinstance(call.outputs, list):
        return [CodeOutput(logs=note or _CODE_NOT_KEPT)]
    is_told = note == _FAILED and any(map(_says_why, call.outputs))
    return call.outputs if is_told or not note else [*call.outputs, CodeOutput(logs=note)]


def _says_why(output: CodeOutput) -> bool:
    """Returns True for the log that a call which failed here has."""
    return isinstance(output.logs, str) and describe(parse_failure(output.logs).error) == output.logs


def _tell_search(item: WebSearchCall) -> WebSearchCall:
    """Returns the call as the browser would have done it, answered by all that is known of what it found."""
    action = item.action or {}
    function, arguments = _call_of(action)
    found = _found_in(action)
    answer = note_of(item.status) or SEARCH_NOT_KEPT
    answer += f" Its pages: {', '.join(found)}" if found else ""
    written = json.dumps(arguments, ensure_ascii=False)
    return msgspec.structs.replace(item, name=function, arguments=written, output=answer)


def _call_of(action: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    match action:
        case {"type": "open_page"}:
            url = action.get("url")
            return web_search.OPEN, {"id": url} if url else {}
        case {"type": "find_in_page" | web_search.FIND}:
            return web_search.FIND, {"pattern": str(action.get("pattern") or "")}
        case _:
            queries = action.get("queries")
            asked = [action.get("query"), *(queries if isinstance(queries, list) else ())]
            query = "; ".join(dict.fromkeys(each for each in asked if isinstance(each, str) and each))
            return web_search.SEARCH, {"query": query} if query else {}


def _found_in(action: Mapping[str, Any]) -> list[str]:
    """Returns the addresses, and names of sources without one, that an action names."""
    sources = action.get("sources")
    listed = [each for each in sources if isinstance(each, dict)] if isinstance(sources, list) else []
    named = [action.get("url"), *(each.get(member) for each in listed for member in ("url", "name"))]
    return [text for text in named if isinstance(text, str) and text]
