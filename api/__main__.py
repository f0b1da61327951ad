"""`python -m api [--host H] [--port P]`: runs an API node. Owns the command line and the server."""

import argparse
import asyncio
import logging
import resource
import signal
import socket
import sys
from collections.abc import Sequence
from types import FrameType

import uvicorn

from api.app import Edge, create_app
from api.door import SOCKET_PATH, is_loopback
from api.http_protocol import make_protocol
from api.request_names import name_requests_in_log
from api.routes.health import PROBED
from api.socket_protocol import make_socket_protocol
from api.tenants import Tenants
from shared import process
from shared.settings import Settings
from shared.tenants_file import FileInvalid

_SHUTDOWN_GRACE_S = 5
"""How long calls in progress may take to end after the streams have ended."""
_LAST_FRAMES_S = 0.1
_OTHER_FILES = 256
"""The number of open files besides clients' connections, such as connections to Redis."""

_log = logging.getLogger("api")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the node.

    Returns 0 after a signal, 2 if a setting or the tenants file is invalid; stderr says which.
    """
    args = _parse(argv)
    return process.start("api", lambda settings: _run(settings, args.host, args.port), misuses=(FileInvalid,))


def _run(settings: Settings, host: str, port: int) -> None:
    name_requests_in_log()
    tenants = Tenants.load(settings.api_keys)
    if tenants.is_open and not settings.open_hosts and not is_loopback(host):
        raise process.Misuse(
            "without ANTIPHON_API_KEYS anybody who reaches this node is served, so the host must be "
            f"a loopback address, not {host}; set ANTIPHON_API_KEYS, or, if the network keeps others "
            "out, name the hosts by which this node is called in ANTIPHON_OPEN_HOSTS (docs/configuration.md)"
        )
    if tenants.is_open:
        _log.warning("ANTIPHON_API_KEYS is not set: any key is accepted, and all callers are one tenant")
    if not settings.seal_keys:
        _log.warning(
            "ANTIPHON_SEAL_KEYS is not set: agents that include sealed reasoning, as Codex, pydantic-ai and "
            "the AI SDK do by themselves, are refused (docs/deploy.md says how to make a key)"
        )
    settings = _fit_connections(settings)
    # The server shuts down in order on a signal, and then raises the signal again.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    process.collect_rarely()
    _serve(settings, tenants, host, port)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m api", description="An API node of Antiphon.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    return parser.parse_args(argv)


def _fit_connections(settings: Settings) -> Settings:
    """Raises this process's limit of open files to what its connections need, or lowers their number."""
    others = _OTHER_FILES + settings.http_excess_connections_max
    wanted = settings.http_connections_max + others
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed == wanted:
        return settings
    fitting = max(1, allowed - others)
    _log.warning("the limit of open files (%d) leaves room for %d connections", allowed, fitting)
    return settings.model_copy(update={"http_connections_max": fitting})


class DrainingServer(uvicorn.Server):
    """Continues for `grace_s` after a signal, then ends its streams, then itself.

    A second signal ends it at once.
    """

    def __init__(self, config: uvicorn.Config, app: Edge, grace_s: float) -> None:
        super().__init__(config)
        self._edge = app
        self._grace_s = grace_s
        self._draining: asyncio.Task[None] | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Starts draining, or ends at once if it is draining already. Called in a signal handler."""
        if self._edge.state.is_draining:
            self._loop.call_soon_threadsafe(self._edge.state.end_streams)
            super().handle_exit(sig, frame)
            return
        self._edge.state.is_draining = True
        self._loop.call_soon_threadsafe(self._drain, sig)

    def _drain(self, sig: int) -> None:
        self._draining = asyncio.ensure_future(self._end_slowly(sig))

    async def _end_slowly(self, sig: int) -> None:
        await asyncio.sleep(self._grace_s)
        self._edge.state.end_streams()
        await asyncio.sleep(_LAST_FRAMES_S)
        super().handle_exit(sig, None)


def make_config(app: Edge, settings: Settings, host: str, port: int) -> uvicorn.Config:
    """Returns how the app is served."""
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        loop="uvloop",
        http=make_protocol(settings, PROBED, [SOCKET_PATH]),
        ws=make_socket_protocol(settings, app.state.bodies),
        ws_max_size=settings.body_bytes_max,
        ws_ping_interval=settings.socket_ping_s,
        ws_ping_timeout=settings.socket_ping_s,
        ws_per_message_deflate=False,
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=settings.http_idle_timeout_s,
        timeout_graceful_shutdown=_SHUTDOWN_GRACE_S,
    )


def _serve(settings: Settings, tenants: Tenants, host: str, port: int) -> None:
    app = create_app(settings, tenants)
    DrainingServer(make_config(app, settings, host, port), app, settings.drain_grace_s).run()


if __name__ == "__main__":
    sys.exit(main())
