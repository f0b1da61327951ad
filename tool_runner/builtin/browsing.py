"""Answers the three functions of the trained browser from an index of pages. Pure.

Owns the displays (the numbered lines, the cursor before them, the ids of links) and what is kept between two
calls. Source of the form: the public reference browser of GPT-OSS, whose displays the model was trained on.
"""

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal
from urllib.parse import unquote

import msgspec

from shared.web_search import SearchOptions
from tool_runner.builtin.page_search import PageIndex, WebPage, best_line, words_of

_COLUMNS = 80
_VIEW_CHARS = {"low": 2_000, "medium": 4_000, "high": 12_000}
"""What one display shows if the model does not say: about 500, 1,000 and 3,000 tokens."""
_RESULTS_MAX = {"low": 5, "medium": 10, "high": 20}
_MATCHES_MAX = 50
_MATCH_LINES = 4
_LINES_BEFORE = 4
"""A page that opens at a passage shows this many lines before it."""
_QUERY_CHARS_MAX = 2_000
_SOURCE = "web"
_LINK_MARK = re.compile(r"【\d+†([^†】]+)(?:†[^†】]+)?】")


class Refused(Exception):
    """The call cannot be answered; the message is for the model."""


class KeptDisplay(msgspec.Struct, frozen=True, omit_defaults=True):
    """A display, as it is kept: enough to follow its links and to show it again."""

    kind: Literal["results", "page", "matches"]
    url: str = ""
    """The page's; empty for results."""
    query: str = ""
    links: tuple[str, ...] = ()
    """The addresses of results, by the id of their link."""
    places: tuple[int, ...] = ()
    """The line of each match, by the id of its link."""


class Visited(msgspec.Struct, frozen=True, omit_defaults=True):
    """The displays of a response so far: what is kept between calls. `first`: the cursor of the oldest."""

    first: int = 0
    displays: tuple[KeptDisplay, ...] = ()

    @property
    def next(self) -> int:
        return self.first + len(self.displays)

    def at(self, cursor: int) -> KeptDisplay:
        """Returns the display of a cursor; -1 means the last one. Raises Refused."""
        if not self.displays:
            raise Refused("No page has been opened yet: search, or open an address.")
        if cursor == -1:
            return self.displays[-1]
        if not self.first <= cursor < self.next:
            raise Refused(f"There is no cursor {cursor}. Cursors: {self.first} to {self.next - 1}.")
        return self.displays[cursor - self.first]

    def after(self, shown: KeptDisplay, bytes_max: int) -> "Visited":
        """Returns what is kept after one more display; drops the oldest ones that do not fit."""
        kept = Visited(self.first, (*self.displays, shown))
        while len(kept.displays) > 1 and len(msgspec.json.encode(kept)) > bytes_max:
            dropped = len(kept.displays) // 2
            kept = Visited(kept.first + dropped, kept.displays[dropped:])
        return kept

    def write(self) -> str:
        return msgspec.json.encode(self).decode()

    @staticmethod
    def read(state: object) -> "Visited":
        """Returns what a call was sent; nothing, if this is not readable."""
        try:
            return msgspec.json.decode(state, type=Visited) if isinstance(state, str) else Visited()
        except msgspec.DecodeError:
            return Visited()


@dataclass(frozen=True, slots=True)
class BrowserView:
    """What a call shows: the text, the same as data, and the display as it is kept."""

    text: str
    structured: Mapping[str, Any]
    shown: KeptDisplay


@dataclass(frozen=True, slots=True)
class Browser:
    index: PageIndex
    visited: Visited = field(default_factory=Visited)
    options: SearchOptions = field(default_factory=SearchOptions)

    def search(self, query: str, topn: int, source: str | None) -> BrowserView:
        _check_source(source)
        query = " ".join(query.split())
        if not query or len(query) > _QUERY_CHARS_MAX:
            raise Refused(f"A query has 1 to {_QUERY_CHARS_MAX} characters.")
        count_max = max(1, min(topn, _RESULTS_MAX[self.options.search_context_size]))
        found = self.index.search(query, count_max, lambda page: self.options.admits(page.url))
        lines, sources = ["", "URL: ", "# Search Results", ""], []
        for number, (page, summary) in enumerate((each.page, each.summary) for each in found):
            first = len(lines)
            lines += _wrap(f"  * 【{number}†{page.title}†{page.domain}】 {summary}")
            sources.append({"url": page.url, "title": page.title, "lines": [first, len(lines) - 1]})
        if not found:
            lines.append("Nothing was found.")
        shown = KeptDisplay("results", query=query, links=tuple(each.page.url for each in found))
        text = self._display(query, "", lines, 0, len(lines))
        return BrowserView(text, {"cursor": self.visited.next, "title": query, "sources": sources}, shown)

    def open(
        self, id_: int | str, cursor: int, loc: int, num_lines: int, source: str | None, *, as_source: bool
    ) -> BrowserView:
        _check_source(source)
        url, place, query = self._follow(id_, cursor)
        page = self._page(url)
        lines = _wrap(page.source) if as_source else lines_of(page)
        if loc < 0:
            loc = self._place_of(lines, place, query)
        if loc >= len(lines):
            raise Refused(f"There is no line {loc}. The last line of this page is {len(lines) - 1}.")
        shown_lines = num_lines if num_lines > 0 else self._fitting(lines, loc)
        text = self._display(page.title, page.url, lines, loc, shown_lines)
        return self._view_of(page, text, KeptDisplay("page", page.url))

    def find(self, pattern: str, cursor: int) -> BrowserView:
        display = self.visited.at(cursor)
        if display.kind != "page":
            raise Refused("`find` needs an opened page; this cursor shows a list.")
        if not pattern.strip() or len(pattern) > _QUERY_CHARS_MAX:
            raise Refused(f"A pattern has 1 to {_QUERY_CHARS_MAX} characters.")
        pattern, page = " ".join(pattern.split()), self._page(display.url)
        lines, places = _find(lines_of(page), pattern)
        title = f"Find results for text: `{pattern}` in `{page.title}`"
        text = self._display(title, page.url, lines, 0, len(lines))
        return self._view_of(page, text, KeptDisplay("matches", page.url, pattern, places=tuple(places)))

    def _follow(self, id_: int | str, cursor: int) -> tuple[str, int | None, str]:
        """Returns the address to open, the line to show, if a link says it, and what was searched for."""
        if isinstance(id_, str) and not id_.lstrip("-").isdecimal():
            return id_, None, ""
        number = int(id_)
        display = self.visited.at(cursor)
        if number < 0:
            if not display.url:
                raise Refused("This cursor shows search results; give the `id` of a link to open.")
            return display.url, None, ""
        if display.kind == "matches" and number < len(display.places):
            return display.url, display.places[number], ""
        links = self._page(display.url).links if display.kind == "page" else display.links
        if number >= len(links):
            raise Refused(f"There is no link {number} on this page.")
        return links[number], None, display.query

    def _page(self, url: str) -> WebPage:
        page = self.index.find_url(url)
        if page is None or not self.options.admits(page.url):
            raise Refused(
                f"There is no page {url[:200]!r} here; only pages of this collection can be opened."
            )
        return page

    def _place_of(self, lines: Sequence[str], place: int | None, query: str) -> int:
        if place is None and query and self._fitting(lines, 0) < len(lines):
            place = best_line(lines, set(words_of(query)))
        return max(0, place - _LINES_BEFORE) if place is not None else 0

    def _fitting(self, lines: Sequence[str], loc: int) -> int:
        """Returns how many lines from `loc` on one display shows."""
        left = _VIEW_CHARS[self.options.search_context_size]
        for number in range(loc, len(lines)):
            left -= len(lines[number]) + 1
            if left < 0:
                return max(1, number - loc)
        return len(lines) - loc

    def _display(self, title: str, url: str, lines: Sequence[str], loc: int, count: int) -> str:
        end = min(loc + count, len(lines))
        head = f"[{self.visited.next}] {title}" + (f" ({unquote(url)})" if url else "")
        body = "\n".join(f"L{number}: {lines[number]}" for number in range(loc, end))
        return f"{head}\n**viewing lines [{loc} - {end - 1}] of {len(lines) - 1}**\n\n{body}"

    def _view_of(self, page: WebPage, text: str, shown: KeptDisplay) -> BrowserView:
        data = {"cursor": self.visited.next, "url": page.url, "title": page.title}
        return BrowserView(text, data, shown)


@lru_cache(maxsize=256)
def lines_of(page: WebPage) -> tuple[str, ...]:
    """Returns the numbered lines of a page: its address, then its text in lines of 80 columns."""
    return ("", *_wrap(f"URL: {page.url}"), *_wrap(page.text))


def _find(lines: Sequence[str], pattern: str) -> tuple[list[str], list[int]]:
    """Returns the lines of a list of matches, and the line of each match, in any case of letters."""
    plain = [_LINK_MARK.sub(r"\1", line) for line in lines]
    wanted, shown, places = pattern.lower(), [""], list[int]()
    number = 0
    while number < len(plain) and len(places) < _MATCHES_MAX:
        if wanted in plain[number].lower():
            shown += [f"# 【{len(places)}†match at L{number}】", *plain[number : number + _MATCH_LINES], ""]
            places.append(number)
            number += _MATCH_LINES
        else:
            number += 1
    if not places:
        shown.append(f"No `find` results for pattern: `{pattern}`")
    return shown, places


def _wrap(text: str) -> list[str]:
    wrapped: list[str] = []
    for line in text.split("\n"):
        wrapped += textwrap.wrap(
            line, _COLUMNS, replace_whitespace=False, drop_whitespace=False, break_on_hyphens=False
        ) or [""]
    return wrapped


def _check_source(source: str | None) -> None:
    if source not in (None, "", _SOURCE):
        raise Refused(f"There is only the source `{_SOURCE}`.")
