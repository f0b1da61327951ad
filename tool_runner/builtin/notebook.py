"""What makes a piece of code a notebook cell: its last expression is shown, and errors read as its own. Pure.

Runs nothing: it only rewrites the code before, and the traceback after.
"""

import ast
import re
from dataclasses import dataclass

SHOWN_NAME = "_"
"""What the value of a cell's last expression is kept as, as in a notebook."""

_ASSIGN = f"{SHOWN_NAME} = "


@dataclass(frozen=True, slots=True)
class Cell:
    """Code to run. With `shown_line` its last expression, beginning there, is kept as `_` to be shown."""

    code: str
    shown_line: int | None = None
    before: str = ""
    """What stands before the expression on its line."""


def make_cell(code: str) -> Cell:
    """The cell for `code`; code that this Python cannot parse stays as it is, for the sandbox to refuse."""
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
    """The traceback of a cell, quoting the code as it was written."""
    if cell.shown_line is None:
        return traceback
    quoted = re.compile(
        rf'(  File "[^"\n]*", line {cell.shown_line}(?:, in <module>)?\n    {re.escape(cell.before)})'
        rf"{re.escape(_ASSIGN)}([^\n]*)(\n[ ]{{{len(_ASSIGN)}}}([ ]+~+)(?=\n))?"
    )
    return quoted.sub(lambda match: match[1] + match[2] + ("\n" + match[4] if match[4] else ""), traceback)
