"""Reads what a call asks of the list of responses, and says what a router needs to merge the lists of cells.

Pure. Owns the filters and the headers of places; `paging.py` owns the page, `shared/store/records/listing.py`
the reading.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from api.errors import ClientError, invalid_value, unknown_parameter, unsupported_value
from api.paging import PAGE_PARAMETERS, PageRequest, given_twice, read_page
from shared.responses import ResponseStatus
from shared.store.records.listing import Wanted

_STATUSES: dict[str, ResponseStatus] = {status: status for status in get_args(ResponseStatus)}
_MEMBER = re.compile(r"metadata\[(.{1,64})\]", re.DOTALL)

PLACE_HEADER = "Antiphon-Place"
"""Asks for the places of the entries. Its value is `?`; or when the response of `after`, which another cell
has, was created, in milliseconds."""
PLACES_HEADER = "Antiphon-Places"
"""The places: when the response of `after` was created (`-` without one), and then each entry."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A page of the list as JSON. The times are milliseconds since the epoch."""

    body: bytes
    after_ms: int | None
    created_ms: Sequence[int]

    @property
    def places(self) -> str:
        """The value of the header of places."""
        return " ".join(["-" if self.after_ms is None else str(self.after_ms), *map(str, self.created_ms)])


def read_place(value: str | None) -> int | None:
    """Returns the time in the header of a place. Raises ClientError."""
    if value is None or value == "?":
        return None
    if not re.fullmatch(r"[0-9]{1,15}", value):
        raise invalid_value(PLACE_HEADER, "it should be '?' or a number of milliseconds")
    return int(value)


def read_wanted(query: Sequence[tuple[str, str]]) -> tuple[Wanted, PageRequest]:
    """Returns which responses to list, and which page of them. Raises ClientError naming the parameter that
    is unknown, or has no such value.

    One member of metadata may be given: an index has each, and none has two.
    """
    status: ResponseStatus | None = None
    member: tuple[str, str] | None = None
    for name, value in query:
        if found := _MEMBER.fullmatch(name):
            if member is not None:
                raise _ambiguous(name)
            member = found[1], value
        elif name == "status":
            if status is not None:
                raise given_twice(name)
            if value not in _STATUSES:
                raise unsupported_value("status", value, sorted(_STATUSES))
            status = _STATUSES[value]
        elif name not in PAGE_PARAMETERS:
            raise unknown_parameter(name)
    return Wanted(status, member), read_page(query)


def _ambiguous(name: str) -> ClientError:
    return invalid_value(name, "a list is filtered by one member of metadata at a time")
