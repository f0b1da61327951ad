"""Holds a connection open that many calls use: one to a stdio server's process, or over HTTP with SSE.

Owns the task that holds it; knows nothing of calls. `mcp_transports.py` opens it.
"""

import asyncio
import logging
import math
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import anyio

from shared.responses import McpProtocolError
from tool_runner.answers import CONNECTION_CLOSED
from tool_runner.mcp_client import Connection, ServerFailed

_log = logging.getLogger(__name__)

Open = Callable[[asyncio.Event], AbstractAsyncContextManager[Connection]]
"""Opens the connection, which sets the event if the server ends it."""


class HeldConnection:
    """One connection, held by a task of its own because the SDK's contexts belong to one task."""

    def __init__(self, name: str, open_: Open, start_timeout_s: float) -> None:
        """`name`: for the log."""
        self._name = name
        self._open = open_
        self._has_ended = asyncio.Event()
        self._is_closing = False
        self._ready: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
        self._scope = anyio.CancelScope(deadline=anyio.current_time() + start_timeout_s)
        self._task = asyncio.create_task(self._run())

    @property
    def is_usable(self) -> bool:
        return not self._has_ended.is_set() and not self._task.done()

    async def connection(self) -> Connection:
        """Returns the connection once it is open. Raises ServerFailed."""
        return await asyncio.shield(self._ready)

    async def close(self) -> None:
        self._is_closing = True
        self._scope.cancel()
        await self._task

    async def _run(self) -> None:
        failure = ServerFailed(McpProtocolError(CONNECTION_CLOSED, "the server did not start in time"))
        try:
            with self._scope:
                async with self._open(self._has_ended) as connection:
                    self._scope.deadline = math.inf
                    self._ready.set_result(connection)
                    await self._has_ended.wait()
                    _log.warning("%s has ended", self._name)
        except ServerFailed as failed:
            failure = failed
        finally:
            self._has_ended.set()
            if not self._ready.done():
                if not self._is_closing:
                    _log.warning("%s: %s", self._name, failure)
                self._ready.set_exception(failure)
                self._ready.exception()  # marks it as retrieved, as no caller may be waiting
