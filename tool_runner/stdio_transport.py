"""Runs a command as an MCP server, whose messages are lines on its stdin and stdout.

Stands in for the SDK's transport, which joins a line anew with each piece of it, and sets it no limit: an
answer of 64 MB took the tool runner 45 s. Owns how the process begins and ends; `bounded_lines.py` owns how
its lines are read, `mcp_transports.py` opens connections on it.
"""

import asyncio
import logging
import os
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import msgspec
from mcp import types
from mcp.client.stdio import get_default_environment
from mcp.shared.message import SessionMessage
from pydantic import ValidationError

from tool_runner.bounded_lines import BoundedLines, RefusedLine, find_id
from tool_runner.passages import IncomingPassage, Passage

_log = logging.getLogger(__name__)

_CHUNK_BYTES = 2**16
_EXIT_S = 2.0
"""How long a process may take to end once its input has, and again after SIGTERM."""
_POLL_S = 0.01


@asynccontextmanager
async def run_stdio(
    command: str, args: Sequence[str], env: Mapping[str, str]
) -> AsyncIterator[tuple[Any, Any]]:
    """Starts the command in a session of its own, with a minimal environment and `env`; it ends with the
    context. Yields its messages and the way to it. Raises OSError if it cannot be started."""
    process = await asyncio.create_subprocess_exec(
        command,
        *args,
        stdin=PIPE,
        stdout=PIPE,
        env=get_default_environment() | dict(env),
        start_new_session=True,
    )
    try:
        yield _Messages(process), _Input(process)
    finally:
        with anyio.CancelScope(shield=True):
            await _stop(process)


class _Messages(IncomingPassage):
    def __init__(self, process: Process) -> None:
        assert process.stdout is not None
        self._stdout = process.stdout
        self._lines = BoundedLines(lambda: self._stdout.read(_CHUNK_BYTES))

    async def receive(self) -> SessionMessage:
        """Returns the next message; an answer that cannot be read fails its call, and anything else of that
        kind is left out. Raises anyio.EndOfStream."""
        while True:
            line = await self._lines.next()
            if line is None:
                raise anyio.EndOfStream
            message = _read(line)
            if message is not None:
                return SessionMessage(message)

    async def aclose(self) -> None:
        """The process ends with its context."""


def _read(line: bytes | RefusedLine) -> Any:
    """Returns a line's message, the error in its place, or None for neither."""
    if isinstance(line, RefusedLine):
        id_, reason = line.id, line.reason
    else:
        try:
            return types.jsonrpc_message_adapter.validate_json(line, by_name=False)
        except ValidationError:
            id_, reason = find_id(line, line), "the server's answer is not what MCP allows"
    if id_ is None:
        _log.warning("a line of a stdio server is left out: %s", reason)
        return None
    error = types.ErrorData(code=types.PARSE_ERROR, message=reason)
    return types.JSONRPCError(jsonrpc="2.0", id=msgspec.json.decode(id_), error=error)


class _Input(Passage):
    def __init__(self, process: Process) -> None:
        assert process.stdin is not None
        self._stdin = process.stdin

    async def send(self, item: SessionMessage) -> None:
        """Raises anyio.BrokenResourceError if the process reads nothing any more."""
        line = item.message.model_dump_json(by_alias=True, exclude_unset=True)
        try:
            self._stdin.write(line.encode(errors="replace") + b"\n")
            await self._stdin.drain()
        except OSError:
            raise anyio.BrokenResourceError from None

    async def aclose(self) -> None:
        self._stdin.close()


async def _stop(process: Process) -> None:
    """Ends a process as MCP says: its input ends, and if it does not end with that, it is killed with all
    that it has started."""
    assert process.stdin is not None
    assert process.stdout is not None
    draining = asyncio.create_task(_drain(process.stdout))  # it may be writing, and read nothing until then
    process.stdin.close()
    if not await _within(_EXIT_S, lambda: process.returncode is not None):
        _signal(process, signal.SIGTERM)
        if not await _within(_EXIT_S, lambda: not _signal(process, 0)):
            _signal(process, signal.SIGKILL)
        if not await _within(_EXIT_S, lambda: process.returncode is not None):
            _log.warning("the process %d of a stdio server does not end", process.pid)
    draining.cancel()
    _close(process)


async def _drain(stdout: asyncio.StreamReader) -> None:
    with suppress(OSError):
        while await stdout.read(_CHUNK_BYTES):
            pass


async def _within(seconds: float, is_so: Callable[[], bool]) -> bool:
    """Polls: `Process.wait` waits for the pipes, too, which others may have inherited."""
    until_s = anyio.current_time() + seconds
    while not is_so():
        if anyio.current_time() >= until_s:
            return False
        await asyncio.sleep(_POLL_S)
    return True


def _signal(process: Process, number: int) -> bool:
    """Sends a signal to the process and all that it has started; returns False if nothing of it is left."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # something of it is left that belongs to somebody else
    return True


def _close(process: Process) -> None:
    """Closes the pipes, one of which something may still hold that the process has started."""
    transport = getattr(process, "_transport", None)  # asyncio shows it to nobody
    if transport is not None:
        with suppress(PermissionError):
            transport.close()
