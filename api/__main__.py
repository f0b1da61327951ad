"""Starts an API node: `python -m api [--host H] [--port P]`. Owns the command line, not the app."""

import argparse
import ipaddress
import logging
import signal
import sys
from collections.abc import Sequence

import uvicorn
from pydantic import ValidationError

from api.app import create_app
from api.auth import KeyFileInvalid, Keyring
from shared.settings import Settings

_SHUTDOWN_GRACE_S = 5
"""Streams end at once when the server is told to stop; calls that wait have this long."""
_KEEP_ALIVE_S = 75
"""Longer than the idle time of usual proxies (60 s), so that it is they who close connections."""
_USAGE_ERROR = 2

_log = logging.getLogger("api")


def main(argv: Sequence[str] | None = None) -> int:
    args = _parse(argv)
    try:
        settings = Settings()
        keyring = Keyring.load(settings.api_keys)
    except (ValidationError, KeyFileInvalid) as error:
        return _refuse(str(error))
    if keyring.is_open and not is_loopback(args.host):
        return _refuse(
            "without ANTIPHON_API_KEYS any key is accepted, so the host must be a loopback address, "
            f"not {args.host}"
        )
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if keyring.is_open:
        _log.warning("ANTIPHON_API_KEYS is not set: any key is accepted, and all callers are one tenant")
    # The server ends in order when it is told to, and then raises the signal once more.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    _serve(settings, keyring, args.host, args.port)
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m api", description="An API node of Antiphon.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    return parser.parse_args(argv)


def _refuse(reason: str) -> int:
    print(f"api: {reason}", file=sys.stderr)
    return _USAGE_ERROR


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _serve(settings: Settings, keyring: Keyring, host: str, port: int) -> None:
    uvicorn.run(
        create_app(settings, keyring),
        host=host,
        port=port,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_SHUTDOWN_GRACE_S,
    )


if __name__ == "__main__":
    sys.exit(main())
