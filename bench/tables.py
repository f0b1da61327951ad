"""Formats numbers for tables: medians, percentiles, spreads. Measures nothing."""

from collections.abc import Sequence
from statistics import median, quantiles


def percentile(values: Sequence[float], percent: int) -> float:
    return quantiles(values, n=100, method="inclusive")[percent - 1]


def show_number(value: float) -> str:
    """Returns a number with three significant digits."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def show_spread(values: Sequence[float]) -> str:
    """Returns the median (least-greatest)."""
    if len(values) == 1:
        return show_number(values[0])
    return f"{show_number(median(values))} ({show_number(min(values))}-{show_number(max(values))})"


def render(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a markdown table; the first column is text, the others are numbers."""
    rule = ["---", *("---:" for _ in head[1:])]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))
