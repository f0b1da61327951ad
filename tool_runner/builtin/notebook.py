"""Makes code behave as a notebook cell, whose last expression is shown. Pure.

Owns the rewriting of the code before it runs, and of the traceback afterwards; runs nothing.
"""

import ast
import re
from dataclasses import dataclass

SHOWN_NAME = "_"
"""The variable that keeps the value of a cell's last expression, as in a notebook."""

_ASSIGN = f"{SHOWN_NAME} = "


@dataclass(frozen=True, slots=True)
class Cell:
    """Code to run. If `shown_line` is set, the last expression begins on that line and is kept as `_`."""

    code: str
    shown_line: int | None = None
    before: str = ""
    """The text before the expression on its line."""


def make_cell(code: str) -> Cell:
    """Returns the cell for `code`.

    Code that this Python cannot parse is unchanged, for the sandbox to refuse.
    """
    code = code.replace("\r\n", "\n").replace("\r", "\n")
    try:
        tree = compile(code, "cell", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return Cell(code)
    if not tree.body or not isinstance(tree.body[-1], ast.Expr):
        return Cell(code)
    return _keep_value(code, tree.body[-1])


def _keep_value(code: str, last: ast.Expr) -> Cell:
    lines = code.split("\n")
    line = lines[last.lineno - 1].encode()
    before, expression = line[: last.col_offset].decode(), line[last.col_offset :].decode()
    lines[last.lineno - 1] = before + _ASSIGN + expression
    return Cell("\n".join(lines), last.lineno, before)


def mend_traceback(cell: Cell, traceback: str) -> str:
    """Returns the traceback of a cell, quoting the code as it was written."""
    if cell.shown_line is None:
        return traceback
    quoted = re.compile(
        rf'(  File "[^"\n]*", line {cell.shown_line}(?:, in <module>)?\n    {re.escape(cell.before)})'
        rf"{re.escape(_ASSIGN)}([^\n]*)(\n[ ]{{{len(_ASSIGN)}}}([ ]+~+)(?=\n))?"
    )
    return quoted.sub(lambda match: match[1] + match[2] + ("\n" + match[4] if match[4] else ""), traceback)
