"""Writes results into docs/performance.md and the plots beside it. Owns the marks; the prose is left alone.

A result stands between `<!-- bench: NAME -->` and `<!-- end -->`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
PLOTS = PAGE.parent / "plots"


@dataclass(frozen=True, slots=True)
class Result:
    """The tables of a measurement in Markdown, and its plots: name of the file -> SVG."""

    text: str
    plots: Mapping[str, str] = field(default_factory=dict)


class Unmarked(Exception):
    """The page has no place for a result."""


def insert(page: str, name: str, text: str) -> str:
    """Returns the page with the text between the marks of a measurement. Raises Unmarked."""
    begin, end = f"<!-- bench: {name} -->\n", "\n<!-- end -->"
    place = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if len(place.findall(page)) != 1:
        raise Unmarked(f"{PAGE.name} must have `{begin.strip()}` once, and `{end.strip()}` after it")
    return place.sub(lambda _: f"{begin}{text}{end}", page)


def write(name: str, result: Result) -> None:
    """Raises Unmarked."""
    page = insert(PAGE.read_text(), name, result.text)
    PAGE.write_text(page)
    for file, plot in result.plots.items():
        PLOTS.mkdir(exist_ok=True)
        (PLOTS / file).write_text(plot)
