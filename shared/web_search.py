"""What a web search is asked and what it answers, beside the arguments and the text that the model reads.

Pure; owns the shapes and which addresses a request admits. The API checks the options
(`api/bodies/tools.py`), the worker sends them with each call and makes citations of the answer, the tool
runner carries both. Source of the options' names: the public OpenAI types, `WebSearchTool`.
"""

from collections.abc import Iterator
from typing import Any, Literal, Self
from urllib.parse import urlsplit

import msgspec

SEARCH_META_KEY = "antiphon/search"
"""Key in the `_meta` of a call of the browser for what the request wants of its searches."""

_SOURCES_MAX = 200
_URL_CHARS_MAX = 4_096
_TITLE_CHARS_MAX = 512


class SearchOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    """The members of a `web_search` tool that are not only echoed. `allowed_domains`: empty for all."""

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
