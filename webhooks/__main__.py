"""`python -m webhooks`: delivers the ends of responses until SIGTERM or SIGINT.

`python -m webhooks dead-letters [TENANT …]` lists what was given up, and what waits.
"""

import argparse
import asyncio
import logging
import sys
from collections.abc import Sequence

from shared import process
from shared.settings import Settings
from shared.store.redis.connections import REDIS_AWAY
from shared.tenants_file import FileInvalid
from webhooks import app
from webhooks.dead_letters import list_lines


def main(arguments: Sequence[str]) -> int:
    """Returns 0 after a signal, or when everything is listed; 1 if Redis is unavailable; 2 if a setting or
    the tenants file is invalid. stderr says which."""
    parser = argparse.ArgumentParser(prog="python -m webhooks", description="Delivers webhooks.")
    commands = parser.add_subparsers(dest="command", metavar="dead-letters")
    listing = commands.add_parser("dead-letters", help="list what was given up, and what waits")
    listing.add_argument("tenants", nargs="*", metavar="TENANT", help="default: all in the tenants file")
    chosen = parser.parse_args(arguments)
    if chosen.command == "dead-letters":
        return process.start(
            app.ROLE,
            lambda settings: asyncio.run(_print_lines(settings, chosen.tenants)),
            misuses=(FileInvalid,),
            failures=REDIS_AWAY,
        )
    return process.start(app.ROLE, _run, misuses=(FileInvalid,))


def _run(settings: Settings) -> None:
    for name in ("httpx2", "httpcore2"):  # they would log addresses, which may contain secrets
        logging.getLogger(name).setLevel(logging.CRITICAL)
    process.collect_rarely()
    process.run_until_stopped(lambda stopped: app.run(settings, stopped))


async def _print_lines(settings: Settings, tenants: Sequence[str]) -> None:
    async for line in list_lines(settings, tenants):
        print(line)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
