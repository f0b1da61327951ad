"""Serves `code_interpreter` over MCP: one tool, `python`, that runs a notebook cell. Runs no code itself.

Owns what every sandbox behind it has in common: the interface, the command line, and how much a cell may
show. `python.py` and `cpython` are the sandboxes.
"""

import argparse
import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from mcp.server.mcpserver import Context, MCPServer
from mcp.types import CallToolResult, TextContent, ToolAnnotations

from shared.hosted_tools import PYTHON
from shared.tool_calls import CALL_META_KEY, SESSION_META_KEY

_NOTES_BYTES = 512


@dataclass(frozen=True, slots=True)
class Ran:
    """The outcome of a cell: the text to show, whether the sandbox failed, and the new state."""

    text: str
    has_failed: bool = False
    state: str | None = None
    """None if the state before the cell is kept."""


class Sandbox(Protocol):
    """Runs cells. `state`: the last that an earlier cell of the same response or its chain returned; `call`:
    the name of the call (`tool_calls.CALL_META_KEY`), if it has one."""

    async def run(self, code: str, state: str | None, call: str | None) -> Ran: ...


class CellOutput:
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

    @property
    def dropped_bytes(self) -> int:
        """How much of what was printed is not shown."""
        return self._dropped_bytes

    def add_printed(self, text: str) -> None:
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


def make_server(
    description: str, open_sandbox: Callable[[], AbstractAsyncContextManager[Sandbox]]
) -> MCPServer[Sandbox]:
    """Returns the server of a sandbox that is open while the server runs.

    `description`: of the tool, for clients that list it.
    """

    @asynccontextmanager
    async def lifespan(_: MCPServer[Sandbox]) -> AsyncIterator[Sandbox]:
        async with open_sandbox() as sandbox:
            yield sandbox

    server = MCPServer(PYTHON.server_label, log_level="WARNING", lifespan=lifespan)

    # Read-only and idempotent: a call changes nothing outside its session, and the state with which it is
    # made says which call it is, so that one whose result was lost can be made again.
    @server.tool(
        name=PYTHON.functions[0].name,
        description=description,
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
        meta = request.meta or {}
        state, call = (
            value if isinstance(value := meta.get(key), str) else None
            for key in (SESSION_META_KEY, CALL_META_KEY)
        )
        ran = await request.lifespan_context.run(code, state, call)
        return CallToolResult(
            content=[TextContent(text=ran.text)],
            is_error=ran.has_failed,
            _meta=None if ran.state is None else {SESSION_META_KEY: ran.state},
        )

    return server


def make_parser(module: str) -> argparse.ArgumentParser:
    """Returns the arguments that the tool runner gives every such server, and how it is reached."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}")
    parser.add_argument("--http", type=int, metavar="PORT", help="serve Streamable HTTP at /mcp, not stdio")
    parser.add_argument("--host", default="127.0.0.1", help="address for --http (default: %(default)s)")
    parser.add_argument("--output-bytes-max", type=int, default=256 * 1024, metavar="BYTES")
    parser.add_argument("--state-bytes-max", type=int, default=2**20, metavar="BYTES")
    parser.add_argument(
        "--processes",
        type=int,
        default=max(4, 2 * (os.cpu_count() or 1)),
        metavar="N",
        help="cells that run at a time (default: %(default)s)",
    )
    return parser


def serve(server: MCPServer[Sandbox], http: int | None, host: str) -> None:
    """Serves stdio, or Streamable HTTP at a port, for trusted callers, who send the state."""
    logging.basicConfig(level=logging.WARNING)
    if http is None:
        asyncio.run(server.run_stdio_async())
    else:
        server.run("streamable-http", host=host, port=http)
