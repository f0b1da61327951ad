"""`python -m worker [--engine-args …]`: starts a worker; ends on SIGTERM.

Its settings come from the environment; the argument goes over the one that it names.
"""

import argparse
import asyncio
import gc
import logging
import signal
import sys

import uvloop
from pydantic import ValidationError

from shared.settings import Settings
from worker.app import make_engine, run
from worker.engine import EngineUnavailable
from worker.engines.script import ScriptError


async def _main(settings: Settings) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    await run(settings, make_engine(settings), stopped)


def read_settings(arguments: list[str]) -> Settings:
    """Raises SystemExit for arguments that are not a worker's."""
    parser = argparse.ArgumentParser(prog="python -m worker", description="One worker of Antiphon.")
    parser.add_argument(
        "--engine-args",
        metavar="FLAGS",
        help="flags of vLLM in one string, or the path of a YAML file with them "
        "(default: $ANTIPHON_ENGINE_ARGS); a single flag is written --engine-args=--enforce-eager",
    )
    chosen = parser.parse_args(arguments)
    return Settings() if chosen.engine_args is None else Settings(engine_args=chosen.engine_args)


def main() -> int:
    """0: told to stop. 1: the engine cannot start, or died. 2: a setting, or the script that one names, is
    wrong; stderr says which."""
    try:
        settings = read_settings(sys.argv[1:])
    except ValidationError as error:
        print(f"worker: {error}", file=sys.stderr)
        return 2
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("arq").setLevel(logging.WARNING)
    # A long record makes a million objects; with the default threshold they are walked 1,400 times.
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_main(settings))
    except (EngineUnavailable, ScriptError) as error:
        print(f"worker: {error}", file=sys.stderr)
        return 2 if isinstance(error, ScriptError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
