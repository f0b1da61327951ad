"""Draws lines and steps into an SVG, for light and dark pages. Pure; knows nothing of what is drawn.

Colours follow the reader's preference, so that one file serves both.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

_WIDTH, _HEIGHT = 720, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 44, 88
_LINE_HEIGHT, _LEGEND_WIDTH = 18, 210
_LIGHT = ("#0b62c4", "#c2410c", "#15803d", "#7e22ce", "#a16207", "#be185d")
_DARK = ("#6cb6ff", "#ff9f6b", "#6fdc8c", "#d2a8ff", "#e3c04f", "#ff8fc2")
_DASHES = ("none", "7 4", "2 3", "9 3 2 3", "4 4", "1 5")
"""Lines differ in form too, for those who do not see the colours."""
_TICKS_ABOUT = 5


@dataclass(frozen=True, slots=True)
class Line:
    name: str
    points: Sequence[tuple[float, float]]
    """From left to right."""


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis from `least` to `most`; on a logarithmic one, both are above 0."""

    label: str
    least: float
    most: float
    is_log: bool = False

    def share(self, value: float) -> float:
        """Returns where on the axis a value is: 0 at `least`, 1 at `most`, and never beyond."""
        low, high, at = self.least, self.most, max(self.least, value)
        if self.is_log:
            low, high, at = math.log(low), math.log(high), math.log(at)
        return min(1.0, (at - low) / (high - low)) if high > low else 0.0

    @property
    def ticks(self) -> list[float]:
        return _log_ticks(self.least, self.most) if self.is_log else _ticks(self.least, self.most)


def _ticks(least: float, most: float) -> list[float]:
    rough = (most - least) / _TICKS_ABOUT or 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first, last = math.ceil(least / step - 1e-9), math.floor(most / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def _log_ticks(least: float, most: float) -> list[float]:
    powers = range(math.floor(math.log10(least)), math.ceil(math.log10(most)) + 1)
    found = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    return [tick for tick in found if least * (1 - 1e-9) <= tick <= most * (1 + 1e-9)]


def draw(title: str, x: Axis, y: Axis, lines: Sequence[Line]) -> str:
    """Returns an SVG of at most six lines."""
    parts = [*_frame(title, x, y)]
    for number, line in enumerate(lines):
        parts += _line(number, line, x, y)
        parts += _legend(number, line.name)
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(title)}">\n<style>{_style()}</style>\n{body}\n</svg>\n'
    )


def _style() -> str:
    def coloured(colours: Sequence[str]) -> str:
        return "".join(f".l{n}{{stroke:{colour}}}.d{n}{{fill:{colour}}}" for n, colour in enumerate(colours))

    dashes = "".join(f".l{n}{{stroke-dasharray:{dash}}}" for n, dash in enumerate(_DASHES))
    return (
        "text{font:13px system-ui,sans-serif;fill:#1f2328}.title{font-weight:600;font-size:15px}"
        ".grid{stroke:#8c959f;stroke-opacity:.3}.line{fill:none;stroke-width:2}"
        f"{coloured(_LIGHT)}{dashes}"
        "@media(prefers-color-scheme:dark){text{fill:#e6edf3}" + coloured(_DARK) + "}"
    )


def _across(x: Axis, value: float) -> float:
    return _LEFT + x.share(value) * (_WIDTH - _LEFT - _RIGHT)


def _up(y: Axis, value: float) -> float:
    return _HEIGHT - _BOTTOM - y.share(value) * (_HEIGHT - _TOP - _BOTTOM)


def _frame(title: str, x: Axis, y: Axis) -> Iterator[str]:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    yield f'<text class="title" x="{_LEFT}" y="20">{escape(title)}</text>'
    yield f'<text x="{_LEFT}" y="{_TOP - 8}">{escape(y.label)}</text>'
    yield f'<text x="{right}" y="{bottom + 36}" text-anchor="end">{escape(x.label)}</text>'
    for tick in y.ticks:
        at = _up(y, tick)
        yield f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>'
        yield f'<text x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{tick:,g}</text>'
    for tick in x.ticks:
        at = _across(x, tick)
        yield f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{bottom}"/>'
        yield f'<text x="{at:.1f}" y="{bottom + 18}" text-anchor="middle">{tick:,g}</text>'


def _line(number: int, line: Line, x: Axis, y: Axis) -> Iterator[str]:
    places = [(_across(x, at), _up(y, value)) for at, value in line.points]
    path = " ".join(f"{left:.1f},{top:.1f}" for left, top in places)
    yield f'<polyline class="line l{number}" points="{path}"/>'
    if len(places) <= 12:  # with more, the dots would be the line
        for left, top in places:
            yield f'<circle class="d{number}" cx="{left:.1f}" cy="{top:.1f}" r="3.5"/>'


def _legend(number: int, name: str) -> Iterator[str]:
    in_row = (_WIDTH - _LEFT) // _LEGEND_WIDTH
    left = _LEFT + number % in_row * _LEGEND_WIDTH
    top = _HEIGHT - _BOTTOM + 56 + number // in_row * _LINE_HEIGHT
    yield f'<line class="line l{number}" x1="{left}" x2="{left + 24}" y1="{top}" y2="{top}"/>'
    yield f'<text x="{left + 30}" y="{top + 4}">{escape(name)}</text>'


def distribution(name: str, values: Sequence[float], points: int = 200) -> Line:
    """Returns the line of the per cent of values (upward) that are at most as large as a value (to the
    right)."""
    ordered = sorted(values)
    last = len(ordered) - 1
    places = sorted({round(last * number / points) for number in range(points + 1)})
    return Line(name, [(ordered[place], 100 * (place + 1) / len(ordered)) for place in places])
