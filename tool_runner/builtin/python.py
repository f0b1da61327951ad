"""The built-in MCP server `code_interpreter`: one tool, `python`, that runs a notebook cell in a sandbox.

Keeps nothing between calls: the variables travel as opaque state with the result and come back with the next
call (`tool_calls.SESSION_META_KEY`), so that any process can serve any call.
"""

import argparse
import asyncio
import base64
import binascii
import logging
import math
import os
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from mcp.server.mcpserver import Context, MCPServer
from mcp.types import CallToolResult, TextContent, ToolAnnotations
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

from shared.hosted_tools import PYTHON
from shared.tool_calls import SESSION_META_KEY
from tool_runner.builtin.notebook import SHOWN_NAME, Cell, make_cell, mend_traceback

DESCRIPTION = """Runs Python code as a notebook cell: shows what it prints, then the value of its last \
expression. Variables, functions and imports stay for the next calls. Plain Python with a part of the \
standard library; no files, no network, no packages."""

LIMITS = ResourceLimits(max_feed_duration_secs=30.0, max_memory=256 * 2**20, max_total_sleep_secs=30.0)
_OS_POLICY = OSPolicy(sleep="system", sleep_system_max=math.inf)
"""Lets `time.sleep` sleep up to the limit; by default it would return after ten seconds."""
_REQUEST_TIMEOUT_S = 75.0
"""A sandbox process that does not answer for this long is killed; longer than all its own limits together."""
_NOTES_BYTES = 512
_EXCEPTION_ARGUMENTS = "exceptions can only be called with zero or one string argument"
"""The sandbox's message for `SystemExit(1)`, an internal error without a traceback."""
_ENDED_BY_EXCEPTION = (
    "The code was ended by an exception of its own, such as SystemExit(1) or ValueError(2), whose argument "
    "is not a string or that has several. This sandbox cannot show such an exception. What was done before "
    "stands."
)
_UNCHANGED = "The variables are as they were before this call."


@dataclass(frozen=True, slots=True)
class Ran:
    """The outcome of a cell: the text to show, whether the sandbox failed, and the new state."""

    text: str
    has_failed: bool = False
    state: str | None = None
    """None if the state before the cell is kept."""


class _StateUnreadable(Exception):
    """This sandbox cannot load the state."""


class _Shown:
    """Collects what a cell shows, within a limit; drops what exceeds it and says so.

    Reserves a part for what comes last (the value, a traceback, notes), so that code which floods its output
    still shows how it ended.
    """

    def __init__(self, bytes_max: int) -> None:
        self._print_bytes_left = bytes_max * 3 // 4
        self._last_bytes_left = max(0, bytes_max // 4 - _NOTES_BYTES)
        self._parts: list[str] = []
        self._dropped_bytes = 0
        self._last: list[str] = []

    def add_printed(self, _stream: str, text: str) -> None:
        kept, dropped_bytes = _cut(text, self._print_bytes_left)
        self._print_bytes_left -= len(kept.encode())
        self._dropped_bytes += dropped_bytes
        self._parts.append(kept)

    def add_last(self, text: str) -> None:
        """Adds a value or a traceback, on lines of its own."""
        kept, dropped_bytes = _cut(text, self._last_bytes_left)
        self._last_bytes_left -= len(kept.encode())
        self._last.append(kept)
        if dropped_bytes:
            self.add_note(f"{dropped_bytes} more bytes are not shown")

    def add_note(self, text: str) -> None:
        self._last.append(f"[{text}]")

    @property
    def text(self) -> str:
        printed = "".join(self._parts)
        if self._dropped_bytes:
            printed += f"\n[{self._dropped_bytes} more bytes were printed]\n"
        elif printed and self._last and not printed.endswith("\n"):
            printed += "\n"
        return printed + "".join(f"{text}\n" for text in self._last)


def _cut(text: str, bytes_max: int) -> tuple[str, int]:
    """Returns the beginning of `text` that fits, and the number of bytes that do not."""
    raw = text.encode("utf-8", "replace")
    kept = raw[:bytes_max].decode("utf-8", "ignore")
    return kept, len(raw) - len(kept.encode())


class Sandbox:
    """Runs cells, each in a process that is cleared or replaced afterwards."""

    def __init__(
        self, pool: AsyncMonty, output_bytes_max: int, state_bytes_max: int, limits: ResourceLimits = LIMITS
    ) -> None:
        self._pool = pool
        self._limits = limits
        self._output_bytes_max = output_bytes_max
        self._state_bytes_max = state_bytes_max

    async def run(self, code: str, state: str | None) -> Ran:
        shown = _Shown(self._output_bytes_max)
        try:
            return await self._run(code, state, shown)
        except _StateUnreadable:
            shown.add_note("The variables of earlier calls are lost: they cannot be read any more.")
            return await self._run(code, None, shown)

    async def _run(self, code: str, state: str | None, shown: _Shown) -> Ran:
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

    async def _keep(self, session: AsyncMontySession, shown: _Shown) -> Ran:
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


async def _feed(session: AsyncMontySession, cell: Cell, shown: _Shown) -> None:
    """Runs the cell and shows its own exceptions. Raises MontyError if a limit ended it."""
    try:
        await session.feed_run(cell.code, print_callback=shown.add_printed)
        if cell.shown_line is not None:
            await _show_value(session, shown)
    except (MontyRuntimeError, MontySyntaxError) as error:
        if _is_limit(error):
            raise
        if _EXCEPTION_ARGUMENTS in str(error):
            shown.add_note(_ENDED_BY_EXCEPTION)
            return
        shown.add_last(mend_traceback(cell, error.display()))


async def _show_value(session: AsyncMontySession, shown: _Shown) -> None:
    """Shows the cell's value by running `repr` inside: outside, the value may have another one."""
    value = await session.feed_run(
        f"None if {SHOWN_NAME} is None else repr({SHOWN_NAME})", print_callback=shown.add_printed
    )
    if value is not None:
        shown.add_last(str(value))


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


def make_server(output_bytes_max: int, state_bytes_max: int, processes: int) -> MCPServer[Sandbox]:
    @asynccontextmanager
    async def lifespan(_: MCPServer[Sandbox]) -> AsyncIterator[Sandbox]:
        async with AsyncMonty(max_processes=processes, request_timeout=_REQUEST_TIMEOUT_S) as pool:
            yield Sandbox(pool, output_bytes_max, state_bytes_max)

    server = MCPServer(PYTHON.server_label, log_level="WARNING", lifespan=lifespan)

    # Read-only and idempotent: a call changes nothing anywhere. Even the variables change only through the
    # state in its result, so that a call whose result was lost can be made again.
    @server.tool(
        name=PYTHON.functions[0].name,
        description=DESCRIPTION,
        annotations=ToolAnnotations(
            title="Python",
            read_only_hint=True,
            destructive_hint=False,
            idempotent_hint=True,
            open_world_hint=False,
        ),
    )
    async def python(code: str, ctx: Context[Sandbox, object]) -> CallToolResult:
        request = ctx.request_context
        state = (request.meta or {}).get(SESSION_META_KEY)
        ran = await request.lifespan_context.run(code, state if isinstance(state, str) else None)
        return CallToolResult(
            content=[TextContent(text=ran.text)],
            is_error=ran.has_failed,
            _meta=None if ran.state is None else {SESSION_META_KEY: ran.state},
        )

    return server


def main() -> None:
    """Serves stdio, or with `--http PORT` Streamable HTTP, for trusted callers, who send the state."""
    parser = argparse.ArgumentParser(prog="python -m tool_runner.builtin.python")
    parser.add_argument("--http", type=int, metavar="PORT", help="serve Streamable HTTP at /mcp, not stdio")
    parser.add_argument("--host", default="127.0.0.1", help="address for --http (default: %(default)s)")
    parser.add_argument("--output-bytes-max", type=int, default=256 * 1024)
    parser.add_argument("--state-bytes-max", type=int, default=2**20)
    parser.add_argument("--processes", type=int, default=max(4, 2 * (os.cpu_count() or 1)))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    server = make_server(arguments.output_bytes_max, arguments.state_bytes_max, arguments.processes)
    if arguments.http is None:
        asyncio.run(server.run_stdio_async())
    else:
        server.run("streamable-http", host=arguments.host, port=arguments.http)


if __name__ == "__main__":
    main()
