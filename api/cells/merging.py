"""Merges the lists of responses of all cells into one, a page at a time.

Owns the order across cells: by the time of creation, which each cell takes from its own clock, and then by
id. A cell that is away is left out, and named in a header.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec
from starlette.responses import Response

from api.cells.fleet import Fleet
from api.cells.relay import Relay, away
from api.cells.upstream import Broken, Sent
from api.errors import ClientError
from api.listing import PLACE_HEADER, PLACES_HEADER
from api.paging import PageRequest, join_list
from shared.ids import cell_of

MISSING_HEADER = "Antiphon-Cells-Missing"
_PAGE_BYTES_MAX = 16 * 2**20
_PLACE, _PLACES = PLACE_HEADER.lower().encode(), PLACES_HEADER.lower().encode()


_log = logging.getLogger(__name__)


class _Entry(msgspec.Struct):
    id: str


class _CellList(msgspec.Struct):
    data: list[msgspec.Raw]
    has_more: bool


_read_list = msgspec.json.Decoder(_CellList).decode
_read_entry = msgspec.json.Decoder(_Entry).decode


@dataclass(frozen=True, slots=True, order=True)
class _Placed:
    """An entry of a list, ordered by its place."""

    created_ms: int
    id: str
    entry: bytes


@dataclass(frozen=True, slots=True)
class _Page:
    """What one cell has listed. `after_ms`: when the response was created after which it begins."""

    entries: Sequence[_Placed]
    has_more: bool
    after_ms: int | None


class Lists:
    def __init__(self, fleet: Fleet, relay: Relay) -> None:
        self._fleet = fleet
        self._relay = relay

    async def answer(self, sent: Sent, page: PageRequest) -> Response:
        """Returns the page that a query asks for, or the refusal of a cell.

        Raises ClientError: a 503 if no cell answers, or not the one that has the response of `after`. Cells
        are asked with GET for a HEAD, too, which is answered as long as a GET.
        """
        plain = [each for each in sent.headers if each[0] not in (b"accept-encoding", _PLACE)]
        sent = replace(sent, method=b"GET", headers=plain)
        place, pages = b"?", dict[str, _Page | Response | None]()
        if page.after is not None:
            home = self._home_of(page.after)
            begun = pages[home] = await self._read(home, sent, place)
            if isinstance(begun, Response):
                return begun
            if begun is None or begun.after_ms is None:
                raise away()
            place = b"%d" % begun.after_ms
        others = [name for name in self._fleet.cells if name not in pages]
        read = await asyncio.gather(*(self._read(name, sent, place) for name in others))
        return _merged(pages | dict(zip(others, read, strict=True)), page)

    def _home_of(self, after: str) -> str:
        """Returns the cell that has a response; if none can have it, one that can say so."""
        home = cell_of(after)
        if home in self._fleet.cells:
            return home
        return min(self._fleet.cells, key=lambda name: self._fleet.cells[name].health)

    async def _read(self, name: str, sent: Sent, place: bytes) -> _Page | Response | None:
        """Returns what a cell lists, its refusal of the query, or None if it does not answer."""
        asked = replace(sent, headers=[*sent.headers, (_PLACE, place)])
        try:
            answer = await self._relay.ask([self._fleet.cells[name]], asked, is_repeatable=True)
        except ClientError:
            return None
        try:
            raw = await answer.read_whole(_PAGE_BYTES_MAX)
            if 400 <= answer.status < 500:
                return Response(raw, answer.status, media_type="application/json")
            return _read_page(raw, answer.header(_PLACES)) if answer.status == 200 else None
        except (Broken, msgspec.DecodeError, ValueError) as error:
            _log.warning("cell %s has not listed its responses: %s", name, error)
            return None
        finally:
            answer.close()


def _read_page(raw: bytes, places: bytes) -> _Page:
    """Raises msgspec.DecodeError, and ValueError if the cell does not say where its entries are."""
    listed = _read_list(raw)
    after, *created = places.decode().split()
    entries = [
        _Placed(int(created_ms), _read_entry(entry).id, bytes(entry))
        for created_ms, entry in zip(created, listed.data, strict=True)
    ]
    return _Page(entries, listed.has_more, None if after == "-" else int(after))


def _merged(answers: Mapping[str, _Page | Response | None], page: PageRequest) -> Response:
    """Returns the page, or the refusal of one cell, as all refuse alike. Raises ClientError."""
    if refusals := [each for each in answers.values() if isinstance(each, Response)]:
        return refusals[0]
    pages = [each for each in answers.values() if isinstance(each, _Page)]
    if not pages:
        raise away()
    entries = sorted((each for found in pages for each in found.entries), reverse=page.order == "desc")
    shown = entries[: page.limit]
    has_more = len(entries) > len(shown) or any(found.has_more for found in pages)
    first, last = (shown[place].id if shown else None for place in (0, -1))
    body = join_list([each.entry for each in shown], first, last, has_more=has_more)
    answer = Response(body, media_type="application/json")
    if missing := sorted(name for name, each in answers.items() if each is None):
        answer.headers[MISSING_HEADER] = ", ".join(missing)
    return answer
