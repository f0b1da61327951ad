"""`python -m api [--host H] [--port P]`: runs an API node. Owns the command line."""

import argparse
import logging
import signal
import sys
from collections.abc import Sequence
from typing import cast

import uvicorn

from api.app import Edge, create_app
from api.door import SOCKET_PATH
from api.http_protocol import make_protocol
from api.request_names import name_requests_in_log
from api.routes.health import PROBED
from api.server import DrainingServer, Streams, check_host, configure, fit_connections
from api.socket_protocol import make_socket_protocol
from api.tenants import Tenants
from shared import process
from shared.settings import Settings
from shared.tenants_file import FileInvalid

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
    check_host(settings, tenants, host)
    if tenants.is_open:
        _log.warning("ANTIPHON_API_KEYS is not set: any key is accepted, and all callers are one tenant")
    if not settings.seal_keys:
        _log.warning(
            "ANTIPHON_SEAL_KEYS is not set: agents that include sealed reasoning, as Codex, pydantic-ai and "
            "the AI SDK do by themselves, are refused (docs/deploy.md says how to make a key)"
        )
    settings = fit_connections(settings)
    # The server shuts down in order on a signal, and then raises the signal again.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    process.collect_rarely()
    _serve(settings, tenants, host, port)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m api", description="An API node of Antiphon.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    return parser.parse_args(argv)


def make_config(app: Edge, settings: Settings, host: str, port: int) -> uvicorn.Config:
    """Returns how the app is served."""
    return configure(
        app,
        settings,
        host,
        port,
        make_protocol(settings, PROBED, [SOCKET_PATH]),
        ws=make_socket_protocol(settings, app.state.bodies),
        ws_max_size=settings.body_bytes_max,
        ws_ping_interval=settings.socket_ping_s,
        ws_ping_timeout=settings.socket_ping_s,
        ws_per_message_deflate=False,
    )


def _serve(settings: Settings, tenants: Tenants, host: str, port: int) -> None:
    app = create_app(settings, tenants)
    streams = cast(Streams, app.state)
    DrainingServer(make_config(app, settings, host, port), streams, settings.drain_grace_s).run()


if __name__ == "__main__":
    sys.exit(main())
