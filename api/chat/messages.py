"""Translates the messages of a chat into the input items of the Responses API.

Pure. Owns where each part of a message goes, and the way back from a place in `input` to the client's own;
`api/bodies/input_items.py` checks the items, so what it would refuse is passed on as it came. Source: the
public OpenAI types, `ChatCompletionMessageParam`.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from api.bodies.validation import Path, check_list, check_object, spell
from api.errors import (
    invalid_type,
    invalid_value,
    missing_parameter,
    unsupported_parameter,
    unsupported_value,
)

_STEP = re.compile(r"\.(?P<name>\w+)")
_ROLES = ("assistant", "developer", "system", "tool", "user")
_TEXT_ONLY = "The model reads text only."
_NO_FUNCTION = "Functions are called by `tool_calls` and answered by messages of the role 'tool'."
_OF_CALL = {"call_id": "id"}
_OF_ANSWER = {"call_id": "tool_call_id", "output": "content"}


@dataclass(frozen=True, slots=True)
class Origin:
    """The place in the chat from which an item comes. `names`: the item's fields -> what the chat calls
    them; a field that is not there has its own name."""

    place: str
    names: Mapping[str, str] = field(default_factory=dict)
    is_whole: bool = False
    """The whole item comes from one text, so that no place within it is the client's."""

    def locate(self, rest: str) -> str:
        """Returns the client's place of what is at `rest` within the item, as in `.content[0].text`."""
        step = _STEP.match(rest)
        if self.is_whole or step is None:
            return self.place
        name = step["name"]
        return f"{self.place}.{self.names.get(name, name)}{rest[step.end() :]}"


TracedItem = tuple[dict[str, Any], Origin]


def read_messages(value: object) -> list[TracedItem]:
    """Returns the items of all messages, in order. Raises ClientError naming the client's own field."""
    if value is None:
        raise missing_parameter("messages")
    messages = check_list(value, ("messages",))
    if not messages:
        raise invalid_value("messages", "it should hold at least one message")
    kinds: dict[str, str] = {}
    items: list[TracedItem] = []
    for index, message in enumerate(messages):
        path = ("messages", index)
        items += _read_message(check_object(message, path), path, kinds)
    return items


def _read_message(message: dict[str, Any], path: Path, kinds: dict[str, str]) -> Iterator[TracedItem]:
    """Yields the items of a message. `kinds`: the kind of each call so far, by its id."""
    match message.get("role"):
        case "user" | "system" | "developer" as role:
            content = _read_content(message.get("content"), (*path, "content"), "input_text")
            yield {"type": "message", "role": role, "content": content}, Origin(spell(path))
        case "assistant":
            yield from _read_assistant(message, path, kinds)
        case "tool":
            yield _read_answer(message, path, kinds)
        case "function":
            raise unsupported_parameter(spell((*path, "role")), _NO_FUNCTION)
        case None:
            raise missing_parameter(spell((*path, "role")))
        case role:
            raise unsupported_value(spell((*path, "role")), role, _ROLES)


def _read_assistant(message: dict[str, Any], path: Path, kinds: dict[str, str]) -> Iterator[TracedItem]:
    """Yields what the model thought, said and called, in this order, in which it does so."""
    if message.get("function_call") is not None:
        raise unsupported_parameter(spell((*path, "function_call")), _NO_FUNCTION)
    name = "reasoning_content" if message.get("reasoning_content") is not None else "reasoning"
    thought, content = message.get(name), _content_of(message)
    called = message.get("tool_calls")
    calls = [] if called is None else check_list(called, (*path, "tool_calls"))
    if thought is not None and not isinstance(thought, str):
        raise invalid_type(spell((*path, name)), "a string", thought)
    if thought:
        part = {"type": "reasoning_text", "text": thought}
        origin = Origin(spell((*path, name)), is_whole=True)
        yield {"type": "reasoning", "summary": [], "content": [part]}, origin
    if content is not None or not (calls or thought):
        said = _read_content(content, (*path, "content"), "output_text")
        yield {"type": "message", "role": "assistant", "content": said}, Origin(spell(path))
    for index, call in enumerate(calls):
        place = (*path, "tool_calls", index)
        yield _read_call(check_object(call, place), place, kinds)


def _content_of(message: Mapping[str, Any]) -> object:
    """Returns what the model said: in place of a content, as hosted models have it, why it says nothing."""
    content, refusal = message.get("content"), message.get("refusal")
    is_refusal = content is None and isinstance(refusal, str)
    return [{"type": "refusal", "refusal": refusal}] if is_refusal else content


def _read_call(call: dict[str, Any], path: Path, kinds: dict[str, str]) -> TracedItem:
    kind = call.get("type", "function")
    if kind not in ("function", "custom"):
        raise unsupported_value(spell((*path, "type")), kind, ("function", "custom"))
    called = check_object(call.get(kind), (*path, kind))
    written = "arguments" if kind == "function" else "input"
    item = {"type": "function_call" if kind == "function" else "custom_tool_call", "call_id": call.get("id")}
    item |= {name: called[name] for name in ("name", written) if name in called}
    if isinstance(item["call_id"], str):
        kinds[item["call_id"]] = kind
    return item, Origin(spell(path), _OF_CALL | {name: f"{kind}.{name}" for name in ("name", written)})


def _read_answer(message: dict[str, Any], path: Path, kinds: Mapping[str, str]) -> TracedItem:
    call_id = message.get("tool_call_id")
    if call_id is None:
        raise missing_parameter(spell((*path, "tool_call_id")))
    if not isinstance(call_id, str):
        raise invalid_type(spell((*path, "tool_call_id")), "a string", call_id)
    is_custom = kinds.get(call_id) == "custom"
    kind = "custom_tool_call_output" if is_custom else "function_call_output"
    output = _read_content(message.get("content"), (*path, "content"), "input_text")
    return {"type": kind, "call_id": call_id, "output": output}, Origin(spell(path), _OF_ANSWER)


def _read_content(value: object, path: Path, text_type: str) -> object:
    if not isinstance(value, list):
        return value
    return [_read_part(part, (*path, index), text_type) for index, part in enumerate(value)]


def _read_part(value: object, path: Path, text_type: str) -> dict[str, Any]:
    part = check_object(value, path)
    match part.get("type"):
        case "text":
            return {**part, "type": text_type}
        case "refusal":
            return part
        case "image_url":
            image = check_object(part.get("image_url"), (*path, "image_url"))
            detail = {"detail": image["detail"]} if image.get("detail") is not None else {}
            return {"type": "input_image", "image_url": image.get("url"), **detail}
        case "file":
            return {**check_object(part.get("file"), (*path, "file")), "type": "input_file"}
        case "input_audio":
            raise unsupported_parameter(spell((*path, "type")), _TEXT_ONLY)
        case None:
            raise missing_parameter(spell((*path, "type")))
        case kind:
            raise unsupported_value(spell((*path, "type")), kind, ("file", "image_url", "refusal", "text"))
