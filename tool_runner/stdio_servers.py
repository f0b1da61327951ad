"""Runs the processes of stdio servers that all calls share: one for each server, replaced when it has ended.

Owns which processes run; knows nothing of calls. `held_connections.py` holds the connections to them, and
`mcp_sessions.py` runs the processes that belong to one response.
"""

import asyncio
from collections.abc import Mapping
from functools import partial

from tool_runner import mcp_transports
from tool_runner.held_connections import HeldConnection
from tool_runner.mcp_client import Connection
from tool_runner.servers import Server, StdioServer


class StdioServers:
    """Runs each server's process at most once; `close` ends them all."""

    def __init__(self, start_timeout_s: float) -> None:
        self._start_timeout_s = start_timeout_s
        self._running: dict[StdioServer, HeldConnection] = {}

    def start(self, servers: Mapping[str, Server]) -> None:
        """Starts every stdio server among `servers` that all calls share, without waiting, so that the first
        call need not wait."""
        for server in servers.values():
            if isinstance(server, StdioServer) and not server.per_response:
                self._find(server)

    async def connect(self, server: StdioServer) -> Connection:
        """Returns the connection to the server's process, starting it if necessary. Raises ServerFailed."""
        return await self._find(server).connection()

    def _find(self, server: StdioServer) -> HeldConnection:
        process = self._running.get(server)
        if process is None or not process.is_usable:
            name, open_ = f"stdio server {server.command}", partial(mcp_transports.open_stdio, server)
            process = self._running[server] = HeldConnection(name, open_, self._start_timeout_s)
        return process

    async def close(self) -> None:
        await asyncio.gather(*(process.close() for process in self._running.values()))
