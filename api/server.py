"""The server of a process that answers HTTP: how many connections it may have, and how it ends.

Owns draining and the options of uvicorn that every such process has; the app, and what a signal means to its
streams, are the caller's.
"""

import asyncio
import logging
import os
import resource
import signal
import socket
from collections.abc import Callable
from types import FrameType
from typing import Any, Protocol

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.door import is_loopback
from api.tenants import Tenants
from shared import process
from shared.settings import Settings

_SHUTDOWN_GRACE_S = 5
"""How long calls in progress may take to end after the streams have ended."""
_LAST_FRAMES_S = 0.1
_OTHER_FILES = 256
"""The number of open files besides clients' connections, such as connections to Redis."""

_log = logging.getLogger("api")


class Streams(Protocol):
    """What a signal ends: the state of an app."""

    is_draining: bool
    """Further calls should go to another process."""
    end_streams: Callable[[], None]


def check_host(settings: Settings, tenants: Tenants, host: str) -> None:
    """Raises Misuse for an address at which strangers would be served."""
    if tenants.is_open and not settings.open_hosts and not is_loopback(host):
        raise process.Misuse(
            "without ANTIPHON_API_KEYS anybody who reaches this node is served, so the host must be "
            f"a loopback address, not {host}; set ANTIPHON_API_KEYS, or, if the network keeps others "
            "out, name the hosts by which this node is called in ANTIPHON_OPEN_HOSTS (docs/configuration.md)"
        )


def fit_connections(settings: Settings, files_each: int = 1) -> Settings:
    """Raises this process's limit of open files to what its connections need, or lowers their number.

    `files_each`: how many files one connection of a client needs, itself included.
    """
    others = _OTHER_FILES + settings.http_excess_connections_max
    wanted = settings.http_connections_max * files_each + others
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed == wanted:
        return settings
    fitting = max(1, (allowed - others) // files_each)
    _log.warning("the limit of open files (%d) leaves room for %d connections", allowed, fitting)
    return settings.model_copy(update={"http_connections_max": fitting})


class DrainingServer(uvicorn.Server):
    """Continues for `grace_s` after a signal, then ends its streams, then itself.

    A second signal ends it at once.
    """

    def __init__(self, config: uvicorn.Config, streams: Streams, grace_s: float) -> None:
        super().__init__(config)
        self._streams = streams
        self._grace_s = grace_s
        self._draining: asyncio.Task[None] | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Starts draining, or ends at once if it is draining already. Called in a signal handler."""
        if self._streams.is_draining:
            self._loop.call_soon_threadsafe(self._streams.end_streams)
            super().handle_exit(sig, frame)
            return
        self._streams.is_draining = True
        self._loop.call_soon_threadsafe(self._drain, sig)

    def _drain(self, sig: int) -> None:
        self._draining = asyncio.ensure_future(self._end_slowly(sig))

    async def _end_slowly(self, sig: int) -> None:
        await asyncio.sleep(self._grace_s)
        self._streams.end_streams()
        await asyncio.sleep(_LAST_FRAMES_S)
        super().handle_exit(sig, None)


def configure(
    app: ASGIApp,
    settings: Settings,
    host: str,
    port: int,
    http: type[HttpToolsProtocol],
    **of_sockets: Any,
) -> uvicorn.Config:
    """Returns how an app is served. `of_sockets`: the options of WebSockets, if it has any."""
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        loop="uvloop",
        http=http,
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=settings.http_idle_timeout_s,
        timeout_graceful_shutdown=_SHUTDOWN_GRACE_S,
        **of_sockets,
    )


def end_with(task: "asyncio.Task[None]") -> None:
    """Ends the process, which without this task would leave its readers waiting; a supervisor restarts it."""
    if task.cancelled():
        return
    _log.critical("the %s has stopped", task.get_name(), exc_info=task.exception())
    os.kill(os.getpid(), signal.SIGTERM)
