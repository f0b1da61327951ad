"""Parses `input`: items are parsed here, once, into the union that records and workers use.

Owns the rules beyond an item's shape (names, ids, kinds that no model here can read), and the form in which
items are stored. Source: the public OpenAI types, `ResponseInputItem`. Ids are optional if nothing refers to
them, because real clients omit them when they replay items.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

import msgspec
from msgspec import UNSET

from api.bodies.item_members import refuse_values
from api.bodies.validation import (
    LABEL_PATTERN,
    NAME_PATTERN,
    Path,
    check_length,
    check_list,
    check_object,
    check_type,
    first_of,
    parse,
    spell,
)
from api.errors import (
    ClientError,
    invalid_prefix,
    invalid_type,
    invalid_value,
    missing_parameter,
    unmatched_pattern,
    unreadable_content,
)
from shared.client_tools import (
    AnyClientAnswer,
    AnyClientCall,
    ApplyPatchCallOutput,
    ClientAnswer,
    ClientCall,
    CustomToolCall,
    LocalShellCallOutput,
    ShellCallOutput,
)
from shared.hosted_tools import AnyHostedToolCall, WebSearchCall
from shared.ids import item_id
from shared.in_turn import MEMBER
from shared.input_items import (
    AnyCallElsewhere,
    AskedItem,
    ComputerCall,
    ComputerCallOutput,
    CustomToolCallOutput,
    EarlierText,
    FileSearchCall,
    FunctionCallOutput,
    ImageGenerationCall,
    InputCompaction,
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
    ToolSearchCall,
    ToolSearchOutput,
)
from shared.sealing import is_sealed_here
from shared.text_files import UnreadableFile, text_of_file

_PREFIXES: Mapping[type[AskedItem], str] = {
    InputMessage: "msg",
    InputFunctionCall: "fc",
    FunctionCallOutput: "fco",
    InputReasoning: "rs",
    InputCompaction: "cmp",
    InputMcpListTools: "mcpl",
    InputMcpApprovalRequest: "mcpr",
    McpApprovalResponse: "mcpa",
    InputMcpCall: "mcp",
    CustomToolCallOutput: "ctco",
    ShellCallOutput: "sho",
    LocalShellCallOutput: "lsho",
    ApplyPatchCallOutput: "apco",
    FileSearchCall: "fs",
    ImageGenerationCall: "ig",
    ComputerCall: "cu",
    ComputerCallOutput: "cuo",
    ToolSearchCall: "tsc",
    ToolSearchOutput: "tso",
    **{kind: kind.prefix for kind in get_args(AnyHostedToolCall)},
    **{kind: kind.prefix for kind in get_args(AnyClientCall)},
}
"""The prefix of the id that an item is given here."""
_FREE_IDS = (
    CustomToolCallOutput,
    McpApprovalResponse,
    *get_args(AnyClientAnswer),
    *get_args(AnyCallElsewhere),
)
"""Items whose ids may have any prefix, as in the public API; all others must have their own."""
_REQUIRED_PREFIXES: Mapping[type[AskedItem], str] = {
    **{kind: prefix for kind, prefix in _PREFIXES.items() if kind not in _FREE_IDS},
    FunctionCallOutput: "fc",
}
_NAMED: Mapping[type[AskedItem], tuple[str, str]] = {
    **dict.fromkeys((InputFunctionCall, CustomToolCall, FunctionCallOutput), ("name", NAME_PATTERN)),
    **dict.fromkeys(
        (InputMcpListTools, InputMcpApprovalRequest, InputMcpCall), ("server_label", LABEL_PATTERN)
    ),
}
"""The field that becomes part of a Harmony recipient, and the pattern that it must match."""
_NAMESPACED = (InputFunctionCall, FunctionCallOutput, CustomToolCall)
"""Items whose namespace becomes part of a recipient, too."""
_OTHER_NAMES: Mapping[type[AskedItem], str] = {FunctionCallOutput: "name", LocalShellCallOutput: "id"}
"""Outputs that may do without a `call_id`, and what they then need."""
_AnyOutput = FunctionCallOutput | CustomToolCallOutput | ClientAnswer
_KINDS: Mapping[str, type[AskedItem]] = {
    str(kind.__struct_config__.tag): kind for kind in get_args(AskedItem)
}
_TYPES = frozenset(_KINDS)
_CALL_TYPES = frozenset(
    name for name, kind in _KINDS.items() if kind in (*get_args(AnyHostedToolCall), *get_args(AnyClientCall))
)
_ALWAYS_GIVEN: Mapping[type[AskedItem], str] = {
    InputMcpApprovalRequest: "id",
    **dict.fromkeys(get_args(AnyHostedToolCall), "status"),
}
"""Fields that are required in these items, and optional in all others."""


def read_input(value: object, items_max: int, *, is_continuing: bool) -> list[AskedItem]:
    """Parses `input`; a string becomes one user message. Raises ClientError.

    `is_continuing`: the request has a context, so `input` may be empty.
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
    """Parses a list of items. `field`: the list's name, for errors. Raises ClientError."""
    check_length(value, items_max, (field,))
    return [_read_item(item, (field, index)) for index, item in enumerate(check_list(value, (field,)))]


def _read_item(value: object, path: Path) -> AskedItem:
    fields = check_object(_with_type(value), path)
    kind = check_type(_TYPES, fields, path)
    if kind in _CALL_TYPES and fields.get("id", "") is None:  # it is given one, as if the field were absent
        fields = {name: field for name, field in fields.items() if name != "id"}
    if MEMBER in fields:  # what our own records keep besides is not a client's to say
        fields = {name: field for name, field in fields.items() if name != MEMBER}
    refusals = [
        *_refuse_parts(fields, path),
        *_refuse_missing(_KINDS[kind], fields, path),
        *_refuse_names(_KINDS[kind], fields, path),
        *refuse_values(fields, path),
    ]
    try:
        item = parse(_KINDS[kind], fields, path)
    except ClientError as refusal:
        raise first_of([refusal, *refusals], fields, path) from None
    if refusals:
        raise first_of(refusals, fields, path)
    _check_files(item, path)
    match item:  # nor is this
        case WebSearchCall():
            return item.shown(with_sources=True)
        case InputCompaction(encrypted_content=sealed):
            if not is_sealed_here(sealed):
                raise unreadable_content(sealed, spell((*path, "encrypted_content")))
            return InputCompaction(id=item.id, encrypted_content=sealed)
        case _:
            return item


def _check_files(item: AskedItem, path: Path) -> None:
    """Refuses a file that says that it is text and cannot be decoded."""
    match item:
        case InputMessage(content=list() as parts):
            place: Path = (*path, "content")
        case FunctionCallOutput(output=list() as parts) | CustomToolCallOutput(output=list() as parts):
            place = (*path, "output")
        case _:
            return
    for index, part in enumerate(parts):
        if isinstance(part, InputFile) and isinstance(part.file_data, str):
            try:
                text_of_file(part.file_data)
            except UnreadableFile as reason:
                raise invalid_value(spell((*place, index, "file_data")), str(reason)) from None


def _with_type(value: object) -> object:
    """Adds the `type` to the two kinds that may omit it: easy messages and references."""
    if not isinstance(value, dict) or value.get("type") is not None:
        return value
    if "role" in value or "content" in value:
        return {**value, "type": "message"}
    if value.keys() <= {"id", "type"} and "id" in value:
        return {**value, "type": "item_reference"}
    return value


def _refuse_parts(fields: Mapping[str, Any], path: Path) -> Iterator[ClientError]:
    """Refuses a part of a reasoning item without a type, although there is only one type."""
    if fields["type"] != "reasoning":
        return
    for name in ("summary", "content"):
        parts = fields.get(name)
        for index, part in enumerate(parts if isinstance(parts, list) else ()):
            if isinstance(part, dict) and part.get("type") is None:
                yield missing_parameter(spell((*path, name, index, "type")))
                break


def _refuse_missing(kind: type[AskedItem], fields: Mapping[str, Any], path: Path) -> Iterator[ClientError]:
    name = _ALWAYS_GIVEN.get(kind)
    if name is not None and name not in fields:
        yield missing_parameter(spell((*path, name)))
    elif name is not None and fields[name] is None:
        yield invalid_type(spell((*path, name)), "a string", None)
    other_name = _OTHER_NAMES.get(kind)
    if other_name is not None and fields.get("call_id") is None and fields.get(other_name) is None:
        yield missing_parameter(spell((*path, "call_id")))


def _refuse_names(kind: type[AskedItem], fields: Mapping[str, Any], path: Path) -> Iterator[ClientError]:
    """Refuses names that could end a Harmony header, and ids with the prefix of another kind."""
    if kind in _NAMED:
        name, pattern = _NAMED[kind]
        text = fields.get(name)
        if isinstance(text, str) and not re.fullmatch(pattern, text):
            yield unmatched_pattern(spell((*path, name)), pattern)
    namespace = fields.get("namespace")
    if kind in _NAMESPACED and namespace is not None:
        if not isinstance(namespace, str):
            yield invalid_type(spell((*path, "namespace")), "a string", namespace)
        elif not re.fullmatch(NAME_PATTERN, namespace):
            yield unmatched_pattern(spell((*path, "namespace")), NAME_PATTERN)
    prefix, item_id = _REQUIRED_PREFIXES.get(kind), fields.get("id")
    if prefix and isinstance(item_id, str) and item_id and not item_id.startswith(prefix):
        yield invalid_prefix(spell((*path, "id")), item_id, prefix)


def adopt_items(items: Sequence[AskedItem], origin: str) -> list[AskedItem]:
    """Returns the items as they are stored and listed; an item without an id is given one that contains
    `origin`."""
    return [_adopt(item, origin, index) for index, item in enumerate(items)]


def _adopt(item: AskedItem, origin: str, index: int) -> AskedItem:
    """Completes an item. Omits nulls that the hosted API omits, because validating clients reject them."""
    if isinstance(item, ItemReference):
        return item
    changes: dict[str, Any] = {"id": item.id or item_id(_PREFIXES[type(item)], origin, f"i{index}")}
    if isinstance(item, InputMessage | InputFunctionCall | _AnyOutput | ClientCall):
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
    """Adds the fields that every listed part of its kind has."""
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
