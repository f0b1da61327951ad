"""Pages of lists: parses `after`, `limit` and `order` of a query, and cuts the page that they ask for.

Pure. Owns the form of a list and its limits; knows nothing of what is listed. Source: the public OpenAI API,
lists of items.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import msgspec

from api.errors import ClientError, after_not_found, invalid_value, unsupported_value
from shared.hosted_tools import AnyHostedToolCall, HostedToolCall
from shared.in_turn import MEMBER, without_turn
from shared.input_items import InputItem

PAGE_PARAMETERS = frozenset({"after", "limit", "order"})
LIMIT_MAX = 100
_LIMIT_DEFAULT = 20
_LIMIT = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class PageRequest:
    """Which items of a list to return. `after`: the id of the last item seen, in the same order."""

    after: str | None = None
    limit: int = _LIMIT_DEFAULT
    order: Literal["asc", "desc"] = "desc"

    def cut(self, items: Sequence[InputItem]) -> dict[str, Any]:
        """Returns the page of `items`, which are given oldest first. Raises ClientError if `after` is
        unknown.

        An id is listed once, at its first place; otherwise a client could page in circles.
        """
        listed = list({item.id: item for item in items}.values())
        if self.order == "desc":
            listed.reverse()
        start = 0
        if self.after is not None:
            start = 1 + next((i for i, item in enumerate(listed) if item.id == self.after), len(listed))
            if start > len(listed):
                raise after_not_found(self.after)
        end = start + self.limit
        return list_of(listed[start:end], has_more=end < len(listed))


def read_page(query: Sequence[tuple[str, str]]) -> PageRequest:
    """Parses a query. Raises ClientError naming the parameter that is invalid, or is given twice."""
    given: dict[str, str] = {}
    for name, value in query:
        if name in given and name in PAGE_PARAMETERS:
            raise given_twice(name)
        given[name] = value
    return PageRequest(given.get("after") or None, _read_limit(given), _read_order(given))


def given_twice(name: str) -> ClientError:
    return invalid_value(name, "it may be given once")


def _read_limit(query: Mapping[str, str]) -> int:
    text = query.get("limit", str(_LIMIT_DEFAULT))
    if not _LIMIT.fullmatch(text) or not 1 <= int(text) <= LIMIT_MAX:
        raise invalid_value("limit", f"it should be an integer from 1 to {LIMIT_MAX}")
    return int(text)


def _read_order(query: Mapping[str, str]) -> Literal["asc", "desc"]:
    match query.get("order", "desc"):
        case "asc":
            return "asc"
        case "desc":
            return "desc"
        case order:
            raise unsupported_value("order", order, ("asc", "desc"))


_KEPT_BESIDES = tuple(
    b'{"type":"%b"' % str(kind.__struct_config__.tag).encode()
    for kind in get_args(AnyHostedToolCall)
    if kind.listed is not HostedToolCall.listed
)
"""How stored items begin that may hold more than clients see."""


_NOTED = f'"{MEMBER}":'.encode()
"""What an item with a note contains; in a text, the quotes would be escaped."""


def unlisted_bytes(items: Sequence[bytes]) -> int:
    """Returns the size of the stored items that `list_stored` must decode."""
    return sum(len(item) for item in items if _may_hold_more(item))


def list_stored(items: Sequence[bytes]) -> list[bytes]:
    """Returns stored items, which are JSON, as clients see them. Decodes only those that may hold more."""
    return [_as_listed(item) if _may_hold_more(item) else item for item in items]


def _may_hold_more(item: bytes) -> bool:
    return item.startswith(_KEPT_BESIDES) or _NOTED in item


def _as_listed(stored: bytes) -> bytes:
    item = without_turn(msgspec.json.decode(stored, type=InputItem))
    return msgspec.json.encode(item.listed() if isinstance(item, HostedToolCall) else item)


def list_of(items: Sequence[InputItem], *, has_more: bool = False) -> dict[str, Any]:
    """Returns items as a list object, in the order given; an empty list has neither a first nor a last id."""
    return {
        "object": "list",
        "data": [item.listed() if isinstance(item, HostedToolCall) else item for item in items],
        "first_id": items[0].id if items else None,
        "last_id": items[-1].id if items else None,
        "has_more": has_more,
    }


def join_list(
    items: Sequence[bytes], first_id: str | None, last_id: str | None, *, has_more: bool = False
) -> bytes:
    """Returns the JSON of a list object, given its items as JSON, which are not decoded."""
    ends = msgspec.json.encode({"first_id": first_id, "last_id": last_id, "has_more": has_more})
    return b'{"object":"list","data":[' + b",".join(items) + b"]," + ends[1:]
