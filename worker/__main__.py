"""`python -m worker`: starts a worker with the settings of the environment; ends on SIGTERM."""

import asyncio
import logging
import signal
import sys

from shared.settings import Settings
from worker.app import UnknownEngine, make_engine, run
from worker.engines.script import ScriptError


async def _main(settings: Settings) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    await run(settings, make_engine(settings), stopped)


def main() -> None:
    settings = Settings()
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("arq").setLevel(logging.WARNING)
    try:
        asyncio.run(_main(settings))
    except (UnknownEngine, ScriptError) as error:
        sys.exit(f"worker: {error}")


if __name__ == "__main__":
    main()
