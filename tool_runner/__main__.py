"""`python -m tool_runner`: runs the tool runner until SIGTERM or SIGINT."""

import logging
import sys

from shared import process
from shared.settings import Settings
from tool_runner import app
from tool_runner.servers import BadServersFile


def main() -> int:
    """Runs the tool runner.

    Returns 0 after a signal, 2 if a setting or the servers file is invalid; stderr says which.
    """
    return process.start(app.ROLE, _run, misuses=(BadServersFile,))


def _run(settings: Settings) -> None:
    # Servers' errors become results, while these libraries would log addresses and servers' texts.
    for name in ("mcp", "client", "httpx2", "httpcore2"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    process.collect_rarely()
    process.run_until_stopped(lambda stopped: app.run(settings, stopped))


if __name__ == "__main__":
    sys.exit(main())
