"""Runs the processes of stdio servers: one for each server, shared by all calls, replaced when it has ended.

Owns the processes' lives; knows nothing of calls. `mcp_client.py` speaks to them.
"""

import asyncio
import logging
import math
from collections.abc import Mapping

import anyio

from shared.responses import McpProtocolError
from tool_runner import mcp_client
from tool_runner.answers import CONNECTION_CLOSED
from tool_runner.mcp_client import Connection, ServerFailed
from tool_runner.servers import Server, StdioServer

_log = logging.getLogger(__name__)


class StdioServers:
    """Runs each server's process at most once; `close` ends them all."""

    def __init__(self, start_timeout_s: float) -> None:
        self._start_timeout_s = start_timeout_s
        self._running: dict[StdioServer, _Process] = {}

    def start(self, servers: Mapping[str, Server]) -> None:
        """Starts every stdio server among `servers` without waiting, so that the first call need not wait."""
        for server in servers.values():
            if isinstance(server, StdioServer):
                self._find(server)

    async def connect(self, server: StdioServer) -> Connection:
        """Returns the connection to the server's process, starting it if necessary. Raises ServerFailed."""
        return await self._find(server).connection()

    def _find(self, server: StdioServer) -> "_Process":
        process = self._running.get(server)
        if process is None or not process.is_usable:
            process = self._running[server] = _Process(server, self._start_timeout_s)
        return process

    async def close(self) -> None:
        await asyncio.gather(*(process.close() for process in self._running.values()))


class _Process:
    """One process, held by a task of its own because the SDK's contexts belong to one task."""

    def __init__(self, server: StdioServer, start_timeout_s: float) -> None:
        self._server = server
        self._has_ended = asyncio.Event()
        self._is_closing = False
        self._ready: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
        self._scope = anyio.CancelScope(deadline=anyio.current_time() + start_timeout_s)
        self._task = asyncio.create_task(self._run())

    @property
    def is_usable(self) -> bool:
        return not self._has_ended.is_set() and not self._task.done()

    async def connection(self) -> Connection:
        return await asyncio.shield(self._ready)

    async def close(self) -> None:
        self._is_closing = True
        self._scope.cancel()
        await self._task

    async def _run(self) -> None:
        failure = ServerFailed(McpProtocolError(CONNECTION_CLOSED, "the server did not start in time"))
        try:
            with self._scope:
                async with mcp_client.open_stdio(self._server, self._has_ended) as connection:
                    self._scope.deadline = math.inf
                    self._ready.set_result(connection)
                    await self._has_ended.wait()
                    _log.warning("stdio server %s has ended", self._server.command)
        except ServerFailed as failed:
            failure = failed
        finally:
            self._has_ended.set()
            if not self._ready.done():
                if not self._is_closing:
                    _log.warning("stdio server %s: %s", self._server.command, failure)
                self._ready.set_exception(failure)
                self._ready.exception()  # marks it as retrieved, as no caller may be waiting
