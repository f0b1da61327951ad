"""`python -m tool_runner`: reads the settings, runs the tool runner until SIGTERM or SIGINT."""

import asyncio
import logging
import signal
import sys

from pydantic import ValidationError

from shared.settings import Settings
from tool_runner import app
from tool_runner.servers import BadServersFile


def main() -> int:
    """0: told to stop. 2: a setting or the file of servers is wrong; stderr says which."""
    try:
        settings = Settings()
    except ValidationError as error:
        print(f"tool_runner: {error}", file=sys.stderr)
        return 2
    _log_to_stderr(settings)
    try:
        asyncio.run(_run(settings))
    except BadServersFile as error:
        print(f"tool_runner: {error}", file=sys.stderr)
        return 2
    return 0


async def _run(settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await app.run(settings, stop)


def _log_to_stderr(settings: Settings) -> None:
    logging.basicConfig(
        level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr
    )
    # What servers do wrong becomes a result, and these would log addresses and what servers said.
    for name in ("mcp", "client", "httpx2", "httpcore2"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.getLogger("arq").setLevel(logging.WARNING)


if __name__ == "__main__":
    sys.exit(main())
