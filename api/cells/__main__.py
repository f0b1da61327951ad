"""`python -m api.cells [--host H] [--port P]`: runs a router in front of cells. Owns the command line."""

import argparse
import signal
import sys
from collections.abc import Sequence

from api.cells.app import Router, make_config
from api.request_names import name_requests_in_log
from api.server import DrainingServer, check_host, fit_connections
from api.tenants import Tenants
from shared import process
from shared.settings import Settings
from shared.tenants_file import FileInvalid


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the router.

    Returns 0 after a signal, 2 if a setting or the tenants file is invalid; stderr says which.
    """
    args = _parse(argv)
    return process.start(
        "router", lambda settings: _run(settings, args.host, args.port), misuses=(FileInvalid,)
    )


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m api.cells", description="A router in front of cells.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    return parser.parse_args(argv)


def _run(settings: Settings, host: str, port: int) -> None:
    if not settings.cells:
        raise process.Misuse("ANTIPHON_CELLS names no cell (docs/scale.md)")
    name_requests_in_log()
    tenants = Tenants.load(settings.api_keys)
    check_host(settings, tenants, host)
    settings = fit_connections(settings, files_each=2)  # a client's, and that of the node which answers it
    # The server shuts down in order on a signal, and then raises the signal again.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    router = Router(settings, tenants)
    config = make_config(router, settings, tenants, host, port)
    DrainingServer(config, router, settings.drain_grace_s).run()


if __name__ == "__main__":
    sys.exit(main())
