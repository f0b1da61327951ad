"""What a web search is asked and what it answers, beside the arguments and the text that the model reads.

Pure; owns the shapes, which addresses a request admits, and how the API names what the browser does
(`search`, `open_page`, `find_in_page`). The API checks the options
(`api/bodies/tools.py`), the worker sends them with each call and makes citations of the answer, the tool
runner carries both. Source of the options' names: the public OpenAI types, `WebSearchTool`.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, Self
from urllib.parse import urlsplit

import msgspec

SEARCH_META_KEY = "antiphon/search"
"""Key in the `_meta` of a call of the browser for what the request wants of its searches."""

SEARCH, OPEN, FIND = "search", "open", "find"
"""The functions of the trained browser."""
OPEN_DESCRIPTION = """\
Opens the link `id` from the page indicated by `cursor` starting at line number `loc`, \
showing `num_lines` lines.
Valid link ids are displayed with the formatting: `【{id}†.*】`.
If `cursor` is not provided, the most recent page is implied.
If `id` is a string, it is treated as a fully qualified URL associated with `source`.
If `loc` is not provided, the viewport will be positioned at the beginning of the document or centered on \
the most relevant passage, if available.
Use this function without `id` to scroll to a new location of an opened page."""
_NUMBER = {"type": "number", "default": -1}
PARAMETERS: Mapping[str, Mapping[str, Any]] = {
    SEARCH: {
        "type": "object",
        "properties": {
            "query": {"type": "string"},
            "topn": {"type": "number", "default": 10},
            "source": {"type": "string"},
        },
        "required": ["query"],
    },
    OPEN: {
        "type": "object",
        "properties": {
            "id": {"type": ["number", "string"], "default": -1},
            "cursor": _NUMBER,
            "loc": _NUMBER,
            "num_lines": _NUMBER,
            "view_source": {"type": "boolean", "default": False},
            "source": {"type": "string"},
        },
    },
    FIND: {
        "type": "object",
        "properties": {"pattern": {"type": "string"}, "cursor": _NUMBER},
        "required": ["pattern"],
    },
}
"""Their parameters, as JSON schemas."""

_SOURCES_MAX = 200
_URL_CHARS_MAX = 4_096
_TITLE_CHARS_MAX = 512


class SearchOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a `web_search` tool asks for. `allowed_domains`: in lower case; empty for all."""

    search_context_size: Literal["low", "medium", "high"] = "medium"
    allowed_domains: tuple[str, ...] = ()
    user_location: dict[str, Any] | None = None
    external_web_access: bool = True

    @classmethod
    def read(cls, sent: object) -> Self:
        """Returns the options that came with a call; those of a request that says nothing, if none did."""
        try:
            return msgspec.convert(sent, cls) if isinstance(sent, dict) else cls()
        except msgspec.ValidationError:
            return cls()

    @classmethod
    def of(cls, tool: Mapping[str, Any]) -> Self:
        """Returns the options in a request's tool, which the API has checked."""
        domains = (tool.get("filters") or {}).get("allowed_domains") or ()
        location = {
            name: value for name, value in (tool.get("user_location") or {}).items() if value is not None
        }
        external = tool.get("external_web_access")
        return cls(
            tool.get("search_context_size") or "medium",
            tuple(domain.lower() for domain in domains),
            location or None,
            external is not False,
        )

    @property
    def place(self) -> str:
        """Returns where the user is, for the model; empty if the request does not say."""
        location = self.user_location or {}
        names = [
            str(location[name]) for name in ("city", "region", "country", "timezone") if location.get(name)
        ]
        return ", ".join(names)

    def admits(self, url: str) -> bool:
        """Returns True if the address is of an allowed domain or one below it."""
        if not self.allowed_domains:
            return True
        try:
            host = (urlsplit(url).hostname or "").lower()
        except ValueError:
            return False
        return any(host == domain or host.endswith(f".{domain}") for domain in self.allowed_domains)


class Source(msgspec.Struct, frozen=True, omit_defaults=True):
    """A page that a display shows or lists. `lines`: the first and last of the lines that are about it; None
    for all of them."""

    url: str
    title: str
    lines: tuple[int, int] | None = None


class Display(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a call of the browser has shown, by the cursor under which the model cites it.

    `url`: the address of the page that was opened or searched for a pattern; None for results of a search.
    """

    cursor: int
    title: str = ""
    url: str | None = None
    sources: tuple[Source, ...] = ()
    """The results of a search, in order."""

    def at(self, line: int) -> Source | None:
        """Returns the page to which a line belongs, or None."""
        if self.url is not None:
            return Source(self.url, self.title)
        return next(
            (each for each in self.sources if each.lines is None or _is_within(line, each.lines)), None
        )

    @property
    def urls(self) -> Iterator[str]:
        """Every address that the display shows."""
        if self.url is not None:
            yield self.url
        yield from (source.url for source in self.sources)


def _is_within(line: int, lines: tuple[int, int]) -> bool:
    return lines[0] <= line <= lines[1]


Displays = Mapping[int, Display]
"""What the browser has shown, by cursor."""


def read_display(structured: object) -> Display | None:
    """Returns what a server says of its display, within limits; None if it says nothing that can be used."""
    try:
        display = msgspec.convert(structured, Display)
    except msgspec.ValidationError:
        return None
    if any(len(url) > _URL_CHARS_MAX for url in display.urls) or len(display.sources) > _SOURCES_MAX:
        return None
    return msgspec.structs.replace(
        display,
        title=_cut(display.title),
        sources=tuple(
            msgspec.structs.replace(source, title=_cut(source.title)) for source in display.sources
        ),
    )


def _cut(title: str) -> str:
    return title if len(title) <= _TITLE_CHARS_MAX else title[: _TITLE_CHARS_MAX - 1] + "…"


# --- the API's names for it -----------------------------------------------------------------------


def action_of(function: str, written: str, display: Display | None, shown: Displays | None) -> dict[str, Any]:
    """Returns the `action` of a call's item, with its sources.

    `written`: the arguments as the model wrote them, perhaps cut off; `display`: what the call has shown, if
    it has; `shown`: what calls before it have. A page's address is only known from these, unless the model
    wrote it. Without `shown`, a page that is not known has an empty address, as before record format 4.
    """
    arguments = _read(written)
    match function:
        case "open":
            id_ = arguments.get("id")
            asked = id_ if isinstance(id_, str) and not id_.lstrip("-").isdecimal() else None
            return {"type": "open_page", "url": display.url if display is not None else asked}
        case "find":
            page = display if display is not None and display.url else _searched(arguments, shown or {})
            place = {"url": page.url} if page is not None and page.url else {}
            if shown is None and not place:
                place = {"url": ""}
            return {"type": "find_in_page", **place, "pattern": _text(arguments.get("pattern"))}
        case _:
            query = _text(arguments.get("query"))
            sources = [{"type": "url", "url": url} for url in display.urls] if display is not None else []
            return {"type": "search", "query": query, "queries": [query], "sources": sources}


def _searched(arguments: Mapping[str, Any], shown: Displays) -> Display | None:
    """Returns the display in which a pattern is looked for: the one of the `cursor`, or the last one."""
    cursor = arguments.get("cursor")
    if isinstance(cursor, int) and cursor >= 0:
        return shown.get(cursor)
    return shown.get(max(shown, default=-1))


def without_sources(action: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in action.items() if name != "sources"}


def _read(written: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(written, type=dict[str, Any])
    except msgspec.DecodeError:
        return {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
