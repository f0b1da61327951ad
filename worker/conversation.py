"""A request as a Harmony conversation: system, developer, and one message for each input item.

Pure. Owns how items are told to the model; tokens are made in `harmony`, tools chosen in `offer`.
Source: the Harmony format guide (instructions and functions stand in the developer message; the
analysis of earlier turns is dropped once they have ended in a final message).
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import msgspec

from shared.responses import (
    HttpError,
    McpError,
    McpProtocolError,
    McpTool,
    McpToolExecutionError,
    ResponseRequest,
)
from shared.tool_calls import describe
from shared.turns import answers_in
from worker.harmony import ChatMessage, DeveloperPart, HarmonyMessage, SystemPart
from worker.offer import Offer, recipient_of
from worker.routing import FUNCTIONS
from worker.tool_names import one_line

_EFFORTS = {
    "none": "low",
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
}
"""GPT-OSS knows three efforts; the others of the API are the nearest of them."""

_CALL_CHANNELS = ("analysis", "commentary")

Item = Mapping[str, Any]


def build_conversation(
    request: ResponseRequest, offer: Offer, unavailable: Mapping[str, str] = MappingProxyType({})
) -> list[HarmonyMessage]:
    """Everything that stands before the model's first token, in order.

    `unavailable`: server_label -> why its tools could not be listed, which the model is told.
    """
    response = request.response
    effort = (response.reasoning or {}).get("effort") or "medium"
    date = datetime.fromtimestamp(response.created_at, UTC).date().isoformat()
    leading, items = _split_leading_instructions([*request.context, *request.input])
    instructions = _instructions(response.instructions, leading, response.text, unavailable)
    messages: list[HarmonyMessage] = [SystemPart(_EFFORTS[effort], date, offer.trained)]
    if instructions or offer.namespaces:
        messages.append(DeveloperPart(instructions, offer.namespaces))
    return [*messages, *_drop_old_analysis(_tell(items))]


def listings_in(items: Iterable[Item]) -> dict[str, tuple[McpTool, ...]]:
    """Servers whose tools stand in the context already: they are not listed again."""
    return {
        item["server_label"]: msgspec.convert(item.get("tools") or (), tuple[McpTool, ...], strict=False)
        for item in items
        if item.get("type") == "mcp_list_tools" and not item.get("error")
    }


def approved_calls_in(items: Sequence[Item]) -> list[tuple[str, str, str, str]]:
    """(server_label, name, arguments, approval_request_id) of calls that may run now.

    Approved by the client, and not yet run in the context; each once, however often it is answered: a
    conversation's items come in many calls. The last answer counts.
    """
    requests = {item["id"]: item for item in items if item.get("type") == "mcp_approval_request"}
    done = {item.get("approval_request_id") for item in items if item.get("type") == "mcp_call"}
    answers = {
        item["approval_request_id"]: item["approve"]
        for item in items
        if item.get("type") == "mcp_approval_response"
    }
    return [
        (request["server_label"], request["name"], request["arguments"], request["id"])
        for request_id, is_approved in answers.items()
        if is_approved and (request := requests.get(request_id)) and request_id not in done
    ]


def call_message(recipient: str, arguments: str) -> ChatMessage:
    """A tool call as the model itself would have written it."""
    if recipient == "python":
        return ChatMessage("assistant", arguments, "analysis", "python", "code")
    channel = "analysis" if recipient.startswith("browser.") else "commentary"
    return ChatMessage("assistant", arguments, channel, recipient, "json")


def tool_message(recipient: str, text: str, channel: str | None = None) -> ChatMessage:
    """A tool's answer to the call that was made to `recipient`, on the channel of the call.

    `channel`: as the model wrote it; a call that comes from a history, or has none of a call's channels,
    is on the one that the guide gives it.
    """
    if channel not in _CALL_CHANNELS:
        channel = call_message(recipient, "").channel
    return ChatMessage("tool", text, channel, "assistant", None, recipient)


# --- instructions -------------------------------------------------------------------------------


def _split_leading_instructions(items: Sequence[Item]) -> tuple[list[str], Sequence[Item]]:
    """System and developer messages at the very beginning belong into the developer message."""
    texts: list[str] = []
    for index, item in enumerate(items):
        if item.get("type") != "message" or item["role"] not in ("system", "developer"):
            return texts, items[index:]
        texts.append(_text_of(item["content"]))
    return texts, ()


def _instructions(own: Any, leading: Sequence[str], text: Any, unavailable: Mapping[str, str]) -> str | None:
    parts = [own] if isinstance(own, str) else [_text_of(i["content"]) for i in own or () if "content" in i]
    parts = [part for part in (*parts, *leading, _lacking(unavailable), _response_format(text)) if part]
    return "\n\n".join(parts) or None


def _lacking(unavailable: Mapping[str, str]) -> str:
    servers = "".join(f"\n- {label}: {one_line(reason)}" for label, reason in unavailable.items())
    return f"# Unavailable tool servers\n{servers}" if servers else ""


def _response_format(text: Any) -> str | None:
    """The guide's section for structured answers; that they are kept to is the engine's business."""
    match (text or {}).get("format"):
        case {"type": "json_schema", "name": name, "schema": schema, **rest}:
            about = f"// {rest['description']}\n" if rest.get("description") else ""
            return f"# Response Formats\n\n## {name}\n\n{about}{json.dumps(schema, ensure_ascii=False)}"
        case {"type": "json_object"}:
            return "Answer with one JSON object and nothing else."
        case _:
            return None


# --- items --------------------------------------------------------------------------------------


def _tell(items: Sequence[Item]) -> list[ChatMessage]:
    """An id of a call that comes again names the call before it: clients repeat ids in later turns."""
    functions: dict[str, str] = {}
    requests = {item["id"]: item for item in items if item.get("type") == "mcp_approval_request"}
    answers = set(answers_in(items))
    messages: list[ChatMessage] = []
    for index, item in enumerate(items):
        if item.get("type") in ("function_call", "custom_tool_call"):
            functions[item["call_id"]] = item["name"]
        messages += _tell_one(item, functions, requests, is_answer=index in answers)
    return messages


def _tell_one(
    item: Item, functions: Mapping[str, str], requests: Mapping[str, Item], *, is_answer: bool
) -> Sequence[ChatMessage]:
    match item.get("type"):
        case "message":
            return _tell_message(item, is_answer=is_answer)
        case "reasoning":
            text = _text_of(item.get("content") or item.get("summary") or ())
            return [ChatMessage("assistant", text, "analysis")] if text else []
        case "function_call":
            return [call_message(f"{FUNCTIONS}.{item['name']}", item["arguments"])]
        case "custom_tool_call":
            return [call_message(f"{FUNCTIONS}.{item['name']}", json.dumps({"input": item["input"]}))]
        case "function_call_output" | "custom_tool_call_output":
            name = functions.get(item.get("call_id") or "") or item.get("name") or "unknown"
            return [tool_message(f"{FUNCTIONS}.{name}", _text_of(item["output"]))]
        case "mcp_call":
            recipient = recipient_of(item["server_label"], item["name"])
            return [call_message(recipient, item["arguments"]), tool_message(recipient, _outcome_of(item))]
        case "code_interpreter_call":
            logs = [output.get("logs", "") for output in item.get("outputs") or ()]
            return [call_message("python", item.get("code") or ""), tool_message("python", "".join(logs))]
        case "web_search_call":
            return _tell_search(item["action"])
        case "mcp_approval_response" if not item["approve"]:
            return _tell_refusal(item, requests.get(item["approval_request_id"]))
        case _:
            return ()  # listings and approvals are told by what follows from them


def _tell_message(item: Item, *, is_answer: bool) -> Sequence[ChatMessage]:
    text = _text_of(item["content"])
    match item["role"]:
        case "assistant":
            return [ChatMessage("assistant", text, "final" if is_answer else "commentary")] if text else []
        case "user":
            return [ChatMessage("user", text)]
        case _:
            return [ChatMessage("developer", text)]


def _tell_search(action: Mapping[str, Any]) -> Sequence[ChatMessage]:
    """A search that another service has made: its item says what was looked for, and not what was found."""
    what = {name: value for name, value in action.items() if name not in ("type", "sources")}
    call = call_message("browser.search", json.dumps(what, ensure_ascii=False))
    return [call, tool_message("browser.search", "[What was found was not kept with this call.]")]


def _tell_refusal(item: Item, request: Item | None) -> Sequence[ChatMessage]:
    if request is None:
        return ()
    recipient = recipient_of(request["server_label"], request["name"])
    reason = f" Reason: {item['reason']}" if item.get("reason") else ""
    return [
        call_message(recipient, request["arguments"]),
        tool_message(recipient, f"The user did not approve this call; it was not made.{reason}"),
    ]


def _outcome_of(call: Item) -> str:
    error = call.get("error")
    if isinstance(error, str):  # older clients keep the error as text
        return error
    if isinstance(error, dict):
        return describe(_error_of(error))
    return call.get("output") or ""


def _error_of(error: Mapping[str, Any]) -> McpError:
    match error.get("type"):
        case "mcp_tool_execution_error":
            return McpToolExecutionError(error.get("content"))
        case "http_error":
            return HttpError(int(error.get("code") or 0), str(error.get("message")))
        case _:
            return McpProtocolError(int(error.get("code") or 0), str(error.get("message")))


def _text_of(content: Any) -> str:
    """Text of a content: a string, or parts; what a text model cannot see is named, not dropped."""
    if isinstance(content, str):
        return content
    return "\n".join(_text_of_part(part) for part in content)


def _text_of_part(part: Mapping[str, Any]) -> str:
    match part.get("type"):
        case "input_image":
            return "[An image was attached here; this model reads text only.]"
        case "input_file":
            name = part.get("filename") or "unnamed"
            return f"[A file was attached here ({name}); this model reads text only.]"
        case "refusal":
            return str(part.get("refusal", ""))
        case _:
            return str(part.get("text", ""))


def _drop_old_analysis(messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    """Reasoning before the last final answer is over; calls and their answers stay."""
    finals = [i for i, message in enumerate(messages) if message.channel == "final"]
    last_final = finals[-1] if finals else -1
    return [
        message
        for i, message in enumerate(messages)
        if i > last_final or message.channel != "analysis" or message.recipient is not None
    ]
