"""Answers Prometheus: GET /metrics on a port of its own, for the process of any role.

Owns that port and how often metrics are made; `metrics.py` owns what they are. It needs no key: whoever
reaches the port reads them, so it is not the port of the API, and is closed unless the operator opens it
(docs/adr/0059-metrics.md).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from shared import metrics
from shared.settings import Settings

_log = logging.getLogger(__name__)

_FRESH_S = 1.0
"""What was made is given to whoever asks within this time: it costs the same for any number of them."""
_HEAD_TIMEOUT_S, _HEAD_BYTES_MAX = 5.0, 8 * 1024
_CONNECTIONS_MAX = 16
_BIND_AGAIN_S = 5.0
"""The process before this one may still have the port."""
_SAMPLE_S = 0.25

Refresh = Callable[[], Awaitable[None]]
"""Brings gauges up to date that are read elsewhere. Raises nothing."""


def services(
    settings: Settings, role: str, name: str, refresh: Sequence[Refresh] = ()
) -> list[Coroutine[Any, Any, None]]:
    """Returns what a role runs, besides its work, to be read by Prometheus; nothing without a port.

    `name`: of the process. `refresh`: called before metrics are made.
    """
    if not settings.metrics_port:
        return []
    metrics.PROCESS.labels(role, name).set(1)
    return [_Listener(settings, role, refresh).run(), _watch_loop()]


async def _watch_loop() -> None:
    """Measures how late the event loop is, until cancelled."""
    clock = asyncio.get_running_loop().time
    while True:
        due_s = clock() + _SAMPLE_S
        await asyncio.sleep(_SAMPLE_S)
        metrics.LOOP_DELAY.observe(max(0.0, clock() - due_s))


class _Listener:
    def __init__(self, settings: Settings, role: str, refresh: Sequence[Refresh]) -> None:
        self._address = settings.metrics_host, settings.metrics_port
        self._role = role
        self._refresh = refresh
        self._making = asyncio.Lock()
        self._made, self._made_s = b"", float("-inf")
        self._connections = set[asyncio.StreamWriter]()

    async def run(self) -> None:
        """Answers until cancelled. A port that is taken is tried again: it must not keep a role from its
        work."""
        host, port = self._address
        has_failed = False
        while True:
            try:
                server = await asyncio.start_server(self._serve, host, port, limit=_HEAD_BYTES_MAX)
                break
            except OSError as taken:
                if not has_failed:
                    _log.error("metrics are not served on %s:%d yet: %s", host, port, taken)
                has_failed = True
                await asyncio.sleep(_BIND_AGAIN_S)
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            server.close()
            for writer in self._connections:
                writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers one request; the connection ends with it."""
        if len(self._connections) >= _CONNECTIONS_MAX:
            writer.transport.abort()
            return
        self._connections.add(writer)
        try:
            async with asyncio.timeout(_HEAD_TIMEOUT_S):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(await self._answer(head))
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # it has left, or is no client of HTTP
        finally:
            self._connections.discard(writer)
            writer.close()

    async def _answer(self, head: bytes) -> bytes:
        method, _, rest = head.partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        if path != b"/metrics":
            return _response("404 Not Found", b"GET /metrics\n")
        if method not in (b"GET", b"HEAD"):
            return _response("405 Method Not Allowed", b"GET /metrics\n")
        made = await self._make()
        return _response("200 OK", made, is_head=method == b"HEAD")

    async def _make(self) -> bytes:
        clock = asyncio.get_running_loop().time
        async with self._making:
            if clock() - self._made_s > _FRESH_S:
                for refresh in self._refresh:
                    await refresh()
                self._made, self._made_s = await metrics.render(self._role), clock()
        return self._made


def _response(status: str, body: bytes, *, is_head: bool = False) -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\ncontent-type: {metrics.CONTENT_TYPE}\r\ncontent-length: {len(body)}\r\n"
        "cache-control: no-store\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + (b"" if is_head else body)
