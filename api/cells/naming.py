"""Reads which cell a request belongs to, from the ids in its path and in its body. Pure.

Owns which ids must be in the cell that answers, and which only make one cell the better choice; whether an id
exists, and all else that is wrong with a request, the cell itself finds.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from api.bodies.validation import Path, spell
from api.errors import ClientError, invalid_value
from shared.ids import cell_of
from shared.json_values import count_values

_IN_PATH = re.compile(r"/v1/(?:responses|conversations)/([^/]+)")
_MODELS_OWN = frozenset({"reasoning", "compaction"})
"""Types of items that only a model writes, besides calls and messages of the assistant."""


@dataclass(frozen=True, slots=True)
class Named:
    """`cell`: the one that must answer, as the member `origin` says. `hint`: the one that made the last item
    which the client sends back whole; it has the beginning of the prompt in its cache, but any other can
    answer as well."""

    cell: str | None = None
    hint: str | None = None
    origin: str = ""


class _Item(msgspec.Struct):
    type: Any = None
    id: Any = None
    role: Any = None
    approval_request_id: Any = None


class _NamingBody(msgspec.Struct):
    previous_response_id: Any = None
    conversation: Any = None
    input: msgspec.Raw = msgspec.Raw()
    items: msgspec.Raw = msgspec.Raw()


_read_body = msgspec.json.Decoder(_NamingBody).decode
_read_items = msgspec.json.Decoder(list[_Item]).decode


def cell_of_path(path: str, cells: Collection[str]) -> str | None:
    """Returns the cell of the response or conversation in a path; None if it is none of `cells`."""
    found = _IN_PATH.match(path)
    cell = cell_of(found[1]) if found else None
    return cell if cell in cells else None


def read_named(
    raw: bytes, cells: Collection[str], values_max: int, cell: str | None = None, origin: str = ""
) -> Named:
    """Returns what the ids in the body of a call say.

    `cells`: those that exist; an id of another is as unknown as one that nobody made. `cell`: the one that
    `origin` demands already. Raises ClientError if two ids are of two cells.

    Of a body that cannot be read, or has more than `values_max` JSON values, nothing is said: the cell that
    is given it says what is wrong.
    """
    if count_values(raw, values_max) > values_max:
        return Named()
    try:
        body = _read_body(raw)
        inputs, items = _items_in(body.input), _items_in(body.items)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return Named()
    for path, id_ in _references(body, inputs, items):
        other = cell_of(id_)
        if other not in cells:
            continue
        if cell is not None and other != cell:
            raise _of_two_cells(spell(path), origin)
        cell, origin = other, spell(path)
    return Named(cell, _hint_of(inputs, cells), origin)


def _items_in(raw: msgspec.Raw) -> list[_Item]:
    return _read_items(raw) if bytes(memoryview(raw)[:1]) == b"[" else []


def _references(body: _NamingBody, inputs: list[_Item], items: list[_Item]) -> Iterator[tuple[Path, str]]:
    """Yields the ids that the cell must know, with their places in the body."""
    is_object = isinstance(body.conversation, dict)
    conversation = body.conversation.get("id") if is_object else body.conversation
    named: list[tuple[Path, Any]] = [
        (("previous_response_id",), body.previous_response_id),
        (("conversation", "id") if is_object else ("conversation",), conversation),
        *_in_items(inputs, "input"),
        *_in_items(items, "items"),
    ]
    yield from ((path, id_) for path, id_ in named if isinstance(id_, str))


def _in_items(items: list[_Item], name: str) -> Iterator[tuple[Path, Any]]:
    read = max((index for index, item in enumerate(items) if _is_models(item)), default=-1)
    for index, item in enumerate(items):
        if item.type == "item_reference" or (item.type is None and item.role is None):
            yield (name, index, "id"), item.id
        elif item.type == "mcp_approval_response" and index > read:
            # An earlier one is history: the model has gone on since (`api/approvals.py`).
            yield (name, index, "approval_request_id"), item.approval_request_id


def _is_models(item: _Item) -> bool:
    kind = item.type if isinstance(item.type, str) else "message"
    return kind in _MODELS_OWN or kind.endswith("_call") or (kind == "message" and item.role == "assistant")


def _hint_of(items: list[_Item], cells: Collection[str]) -> str | None:
    of_items = (cell_of(item.id) for item in reversed(items) if isinstance(item.id, str))
    return next((cell for cell in of_items if cell in cells), None)


def _of_two_cells(param: str, other: str) -> ClientError:
    return invalid_value(
        param, f"it is kept in another cell than what '{other}' names; a request is answered by one cell"
    )
