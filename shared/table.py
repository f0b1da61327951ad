"""Lays rows out as a table of plain text. Pure."""

from collections.abc import Sequence


def lay_out(rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns the rows as lines, each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
