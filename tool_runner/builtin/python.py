"""The built-in MCP server `code_interpreter` on Monty, a sandbox that interprets a part of Python itself.

Keeps nothing between calls: the variables travel as opaque state with the result and come back with the next
call (`tool_calls.SESSION_META_KEY`), so that any process can serve any call.
"""

import base64
import binascii
import math
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from pydantic_monty import (
    AsyncMonty,
    AsyncMontySession,
    MontyCrashedError,
    MontyError,
    MontyRuntimeError,
    MontySyntaxError,
    OSPolicy,
    ResourceLimits,
)

from tool_runner.builtin.cells import CellOutput, Ran, make_parser, make_server, serve
from tool_runner.builtin.notebook import SHOWN_NAME, Cell, make_cell, mend_traceback

DESCRIPTION = """Runs Python code as a notebook cell: shows what it prints, then the value of its last \
expression. Variables, functions and imports stay for the next calls. Plain Python with a part of the \
standard library; no files, no network, no packages."""

LIMITS = ResourceLimits(max_feed_duration_secs=30.0, max_memory=256 * 2**20, max_total_sleep_secs=30.0)
_OS_POLICY = OSPolicy(sleep="system", sleep_system_max=math.inf)
"""Lets `time.sleep` sleep up to the limit; by default it would return after ten seconds."""
_REQUEST_TIMEOUT_S = 75.0
"""A sandbox process that does not answer for this long is killed; longer than all its own limits together."""
_EXCEPTION_ARGUMENTS = "exceptions can only be called with zero or one string argument"
"""The sandbox's message for `SystemExit(1)`, an internal error without a traceback."""
_ENDED_BY_EXCEPTION = (
    "The code was ended by an exception of its own, such as SystemExit(1) or ValueError(2), whose argument "
    "is not a string or that has several. This sandbox cannot show such an exception. What was done before "
    "stands."
)
MODULES = (
    *("asyncio", "base64", "binascii", "bisect", "collections", "copy", "csv", "dataclasses", "datetime"),
    *("decimal", "functools", "hashlib", "itertools", "json", "math", "os", "pathlib", "posixpath"),
    *("random", "re", "sys", "time", "tomllib", "typing", "unicodedata"),
)
"""What this sandbox can import, each module in part."""
_HINTS = {
    "ModuleNotFoundError": "This sandbox has no packages, and of the standard library it has parts of: "
    f"{', '.join(MODULES)}",
    "NotImplementedError": "This sandbox runs a part of Python only; write the code without what it names. "
    "It has no generators (yield), no inheritance of classes, no del, no properties, no asynchronous "
    "comprehensions and no `from … import *`",
    "PermissionError": "This sandbox has no files; keep what is needed in variables",
}
"""Error -> what the model should know of the sandbox to do without."""
_UNCHANGED = "The variables are as they were before this call."


class _StateUnreadable(Exception):
    """This sandbox cannot load the state."""


class MontySandbox:
    """Runs cells, each in a process that is cleared or replaced afterwards."""

    def __init__(
        self, pool: AsyncMonty, output_bytes_max: int, state_bytes_max: int, limits: ResourceLimits = LIMITS
    ) -> None:
        self._pool = pool
        self._limits = limits
        self._output_bytes_max = output_bytes_max
        self._state_bytes_max = state_bytes_max

    async def run(self, code: str, state: str | None, call: str | None = None) -> Ran:
        """A call that is made again runs again, from the state before it."""
        shown = CellOutput(self._output_bytes_max)
        try:
            return await self._run(code, state, shown)
        except _StateUnreadable:
            shown.add_note("The variables of earlier calls are lost: they cannot be read any more.")
            return await self._run(code, None, shown)

    async def _run(self, code: str, state: str | None, shown: CellOutput) -> Ran:
        try:
            async with self._pool.checkout(limits=self._limits, os_policy=_OS_POLICY) as session:
                if state is not None:
                    await _load(session, state)
                await _feed(session, make_cell(code), shown)
                return await self._keep(session, shown)
        except MontyCrashedError:
            shown.add_note(f"The sandbox broke down, or ran too long and was ended. {_UNCHANGED}")
        except MontyRuntimeError as error:
            shown.add_note(f"{error}. {_UNCHANGED}")
        return Ran(shown.text, has_failed=True)

    async def _keep(self, session: AsyncMontySession, shown: CellOutput) -> Ran:
        """Returns what is shown, and the state unless it is too large to be kept."""
        try:
            state = _pack(await session.dump())
        except MontyError:
            shown.add_note(f"The variables take too much memory to be kept. {_UNCHANGED}")
            return Ran(shown.text)
        if len(state) > self._state_bytes_max:
            shown.add_note(
                f"The variables take {len(state)} bytes, more than the {self._state_bytes_max} "
                f"that are kept between calls. {_UNCHANGED}"
            )
            return Ran(shown.text)
        return Ran(shown.text, state=state)


async def _feed(session: AsyncMontySession, cell: Cell, shown: CellOutput) -> None:
    """Runs the cell and shows its own exceptions. Raises MontyError if a limit ended it."""
    try:
        await session.feed_run(cell.code, print_callback=_printing(shown))
        if cell.shown_line is not None:
            await _show_value(session, shown)
    except (MontyRuntimeError, MontySyntaxError) as error:
        if _is_limit(error):
            raise
        if _EXCEPTION_ARGUMENTS in str(error):
            shown.add_note(_ENDED_BY_EXCEPTION)
            return
        shown.add_last(mend_traceback(cell, error.display()))
        if hint := _HINTS.get(type(error.exception()).__name__):
            shown.add_note(hint)


async def _show_value(session: AsyncMontySession, shown: CellOutput) -> None:
    """Shows the cell's value by running `repr` inside: outside, the value may have another one."""
    value = await session.feed_run(
        f"None if {SHOWN_NAME} is None else repr({SHOWN_NAME})", print_callback=_printing(shown)
    )
    if value is not None:
        shown.add_last(str(value))


def _printing(shown: CellOutput) -> Callable[[str, str], None]:
    return lambda _stream, text: shown.add_printed(text)


def _is_limit(error: MontyError) -> bool:
    """Returns True if a limit of the sandbox ended the code, rather than an exception of its own."""
    return isinstance(error.exception(), TimeoutError | MemoryError) and "limit" in str(error)


async def _load(session: AsyncMontySession, state: str) -> None:
    try:
        await session.load_session(zlib.decompress(base64.b64decode(state, validate=True)))
    except (binascii.Error, zlib.error, MontyError) as error:
        raise _StateUnreadable from error


def _pack(dump: bytes) -> str:
    return base64.b64encode(zlib.compress(dump, 1)).decode()


def main() -> None:
    parser = make_parser("tool_runner.builtin.python")
    arguments = parser.parse_args()

    @asynccontextmanager
    async def open_sandbox() -> AsyncIterator[MontySandbox]:
        async with AsyncMonty(max_processes=arguments.processes, request_timeout=_REQUEST_TIMEOUT_S) as pool:
            yield MontySandbox(pool, arguments.output_bytes_max, arguments.state_bytes_max)

    serve(make_server(DESCRIPTION, open_sandbox), arguments.http, arguments.host)


if __name__ == "__main__":
    main()
