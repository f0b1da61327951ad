"""Finds the model's citation marks in a text while it grows, and the pages that they cite. Pure.

Owns the form of a mark and its place in the text; `translator.py` owns the events. What the marks point to
are the displays of the browser, so the same text and the same results of calls always give the same
citations.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from shared.hosted_tools import WebSearchCall
from shared.input_items import InputItem
from shared.responses import ServerCall, UrlCitation
from shared.web_search import Display, Displays, Source
from worker.harmony.tokens import CITATION_END


def displays_in(items: Iterable[InputItem]) -> Displays:
    """Returns what the responses that a request continues have shown, and can still be cited."""
    calls = (item for item in items if isinstance(item, WebSearchCall))
    return {call.display.cursor: call.display for call in calls if isinstance(call.display, Display)}


def displays_after(displays: Displays, call: ServerCall) -> Displays:
    """Returns what can be cited once a call has ended. Only the browser's own items say what was shown."""
    if not isinstance(call, WebSearchCall) or not isinstance(call.display, Display):
        return displays
    return {**displays, call.display.cursor: call.display}


_MARK = re.compile(r"【([0-9]{1,6})†L([0-9]{1,6})(?:-L?([0-9]{1,6}))?】")
"""The form that the browser's description asks for: `【6†L9-L11】` or `【8†L3】`."""
_MARK_CHARS_MAX = 25
_CITATIONS_MAX = 500
"""Citations of one text. Each is an event, which a reader's fold adds to the whole text; further marks stay
text."""


@dataclass(slots=True)
class CitationMarks:
    """The marks of one text. Each piece of it is read once."""

    displays: Displays
    found: list[UrlCitation] = field(default_factory=list)
    _pieces_read: int = 0
    _chars_read: int = 0
    _tail: str = ""
    """The end of what was read, in which a mark may have begun."""

    def read(self, pieces: Sequence[str]) -> list[UrlCitation]:
        """Returns the citations whose marks end in the last piece, which has the end of a mark.

        `pieces`: the whole text, in the pieces in which it grew. Every piece that has the end of a mark must
        have been the last one in a call.
        """
        text = self._tail + "".join(pieces[self._pieces_read :])
        begins_at = self._chars_read - len(self._tail)
        found = [
            citation
            for mark in _MARK.finditer(text)
            if mark.end() > len(self._tail) and (citation := self._cite(mark, begins_at)) is not None
        ][: _CITATIONS_MAX - len(self.found)]
        self._pieces_read, self._chars_read = len(pieces), begins_at + len(text)
        self._tail = text[-_MARK_CHARS_MAX:]
        self.found += found
        return found

    def _cite(self, mark: re.Match[str], begins_at: int) -> UrlCitation | None:
        source = self._source(int(mark[1]), int(mark[2]))
        if source is None:
            return None
        return UrlCitation(begins_at + mark.start(), begins_at + mark.end(), source.title, source.url)

    def _source(self, cursor: int, line: int) -> Source | None:
        display = self.displays.get(cursor)
        return display.at(line) if display is not None else None


def may_end_mark(text: str) -> bool:
    return CITATION_END in text
