"""What may stand in `input`: items are parsed here, once, into the union that records and workers know.

Owns what a client may send beyond an item's shape (names, ids, kinds that no model here can be told), and the
one form that items are kept in. Source: the public OpenAI types, `ResponseInputItem`. Ids are optional where
nothing refers to them, because real clients leave them out when they replay items.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import msgspec
from msgspec import UNSET

from api.bodies.validation import (
    LABEL_PATTERN,
    NAME_PATTERN,
    Path,
    check_length,
    check_list,
    check_object,
    check_type,
    parse,
    spell,
)
from api.errors import (
    invalid_prefix,
    invalid_type,
    invalid_value,
    missing_parameter,
    unreadable_content,
)
from shared.hosted_tools import HostedItem, WebSearchCall
from shared.ids import item_id
from shared.input_items import (
    AskedItem,
    CustomToolCall,
    CustomToolCallOutput,
    EarlierText,
    FunctionCallOutput,
    InputFile,
    InputFunctionCall,
    InputImage,
    InputMcpApprovalRequest,
    InputMcpCall,
    InputMcpListTools,
    InputMessage,
    InputReasoning,
    InputText,
    ItemReference,
    McpApprovalResponse,
    MessagePart,
    Refusal,
)

_PREFIXES: Mapping[type[AskedItem], str] = {
    InputMessage: "msg",
    InputFunctionCall: "fc",
    FunctionCallOutput: "fco",
    InputReasoning: "rs",
    InputMcpListTools: "mcpl",
    InputMcpApprovalRequest: "mcpr",
    McpApprovalResponse: "mcpa",
    InputMcpCall: "mcp",
    CustomToolCall: "ctc",
    CustomToolCallOutput: "ctco",
    **{kind: kind.prefix for kind in get_args(HostedItem)},
}
"""What the id begins with that an item gets here."""
_REQUIRED_PREFIXES: Mapping[type[AskedItem], str] = {
    **_PREFIXES,
    FunctionCallOutput: "fc",
}
_FREE_IDS = (CustomToolCallOutput, McpApprovalResponse)
"""The public API holds the ids of all others to their prefix."""
_COMPACTION = "compaction"


class _Compaction(msgspec.Struct, frozen=True):
    encrypted_content: str


_KINDS: Mapping[str, type[AskedItem]] = {
    str(kind.__struct_config__.tag): kind for kind in get_args(AskedItem) if kind is not WebSearchCall
}
_HOSTED_TYPES = frozenset(name for name, kind in _KINDS.items() if kind in get_args(HostedItem))
_LISTED_TYPES = frozenset({*_KINDS, _COMPACTION})
_ALWAYS_GIVEN: Mapping[type[AskedItem], str] = {
    InputMcpApprovalRequest: "id",
    **dict.fromkeys(get_args(HostedItem), "status"),
}
"""Required of these, and optional in every other kind."""


def read_input(value: object, items_max: int, *, is_continuing: bool) -> list[AskedItem]:
    """Parse `input`; a bare string becomes one user message. Raises ClientError.

    `is_continuing`: something stands before them, so that there may be none.
    """
    if is_continuing and (value is None or value == []):
        return []
    if value is None:
        raise missing_parameter("input")
    if isinstance(value, str):
        return [InputMessage(role="user", content=[InputText(value)])]
    if not isinstance(value, list):
        raise invalid_type("input", "a string or an array of items", value)
    if not value:
        raise invalid_value("input", "it should hold at least one item")
    return read_items(value, "input", items_max)


def read_items(value: object, field: str, items_max: int) -> list[AskedItem]:
    """Parse a list of items; `field` names the list in complaints. Raises ClientError."""
    check_length(value, items_max, (field,))
    return [_read_item(item, (field, index)) for index, item in enumerate(check_list(value, (field,)))]


def _read_item(value: object, path: Path) -> AskedItem:
    fields = check_object(_with_type(value), path)
    kind = check_type(_LISTED_TYPES, fields, path)
    if kind in _HOSTED_TYPES and fields.get("id", "") is None:  # it gets one, as without
        fields = {name: field for name, field in fields.items() if name != "id"}
    if kind == _COMPACTION:  # none is made here
        sealed = parse(_Compaction, fields, path).encrypted_content
        raise unreadable_content(sealed, spell((*path, "encrypted_content")))
    _check_parts(fields, path)
    item = parse(_KINDS[kind], fields, path)
    _check_given(item, path)
    _check_names(item, path)
    _check_id(item, path)
    return item


def _with_type(value: object) -> object:
    """The two kinds that may leave their `type` out get it: easy messages and references."""
    if not isinstance(value, dict) or value.get("type") is not None:
        return value
    if "role" in value or "content" in value:
        return {**value, "type": "message"}
    if value.keys() <= {"id", "type"} and "id" in value:
        return {**value, "type": "item_reference"}
    return value


def _check_parts(fields: Mapping[str, Any], path: Path) -> None:
    """A part of a thought names its type, though there is but one."""
    if fields["type"] != "reasoning":
        return
    for name, kind in (("summary", "summary_text"), ("content", "reasoning_text")):
        parts = fields.get(name)
        for index, part in enumerate(parts if isinstance(parts, list) else ()):
            if isinstance(part, dict):
                check_type(frozenset({kind}), part, (*path, name, index))


def _check_given(item: AskedItem, path: Path) -> None:
    name = _ALWAYS_GIVEN.get(type(item))
    if name is not None and getattr(item, name) in (None, UNSET):
        raise missing_parameter(spell((*path, name)))
    if isinstance(item, FunctionCallOutput) and not (_is_text(item.call_id) or _is_text(item.name)):
        raise missing_parameter(spell((*path, "call_id")))


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _check_names(item: AskedItem, path: Path) -> None:
    """Names that become part of a Harmony recipient hold nothing that could end a header."""
    match item:
        case InputFunctionCall(name=str(name)) | CustomToolCall(name=str(name)):
            field, pattern, text = "name", NAME_PATTERN, name
        case FunctionCallOutput(name=str(name)):
            field, pattern, text = "name", NAME_PATTERN, name
        case InputMcpListTools() | InputMcpApprovalRequest() | InputMcpCall():
            field, pattern, text = "server_label", LABEL_PATTERN, item.server_label
        case _:
            return
    if not re.fullmatch(pattern, text):
        raise invalid_value(spell((*path, field)), f"string should match pattern '{pattern}'")


def _check_id(item: AskedItem, path: Path) -> None:
    """An id of another kind would be mistaken for it by whoever reads the item back."""
    prefix = _REQUIRED_PREFIXES.get(type(item))
    if prefix and item.id and not isinstance(item, _FREE_IDS) and not item.id.startswith(prefix):
        raise invalid_prefix(spell((*path, "id")), item.id, prefix)


def adopt_items(items: Sequence[AskedItem], origin: str) -> list[AskedItem]:
    """Returns the items as they are listed later; an item without an id gets one that contains `origin`."""
    return [_adopt(item, origin, index) for index, item in enumerate(items)]


def _adopt(item: AskedItem, origin: str, index: int) -> AskedItem:
    """Complete an item. Where the hosted API leaves a null out, clients that validate accept only that."""
    if isinstance(item, ItemReference):
        return item
    changes: dict[str, Any] = {"id": item.id or item_id(_PREFIXES[type(item)], origin, f"i{index}")}
    if isinstance(item, InputMessage | InputFunctionCall | FunctionCallOutput):
        changes["status"] = item.status if isinstance(item.status, str) else "completed"
    if isinstance(item, InputMessage):
        changes["content"] = _parts_of(item.role, item.content)
    if isinstance(item, InputReasoning) and item.encrypted_content is None:
        changes["encrypted_content"] = UNSET
    if isinstance(item, InputMcpListTools) and item.error is None:
        changes["error"] = UNSET
    return msgspec.structs.replace(item, **changes)


def _parts_of(role: str, content: str | list[MessagePart]) -> list[MessagePart]:
    if isinstance(content, str):
        content = [EarlierText(content) if role == "assistant" else InputText(content)]
    return [_complete(part) for part in content]


def _complete(part: MessagePart) -> MessagePart:
    """With what every listed part of its kind has, whoever wrote it."""
    match part:
        case EarlierText(text, annotations, logprobs):
            return EarlierText(
                text,
                [] if annotations is UNSET else annotations,
                [] if logprobs is UNSET else logprobs,
            )
        case InputImage(detail=detail):
            return msgspec.structs.replace(part, detail="auto" if detail is UNSET else detail)
        case InputText() | InputFile() | Refusal():
            return part
