"""`python -m worker [--engine-args …]`: starts a worker; ends on SIGTERM.

Its settings come from the environment; the argument goes over the one that it names.
"""

import argparse
import sys

import uvloop

from shared import process
from shared.settings import Settings
from worker.app import make_engine, run
from worker.engines.protocol import EngineUnavailable
from worker.engines.scripted.script import ScriptError


def main() -> int:
    """0: told to stop. 1: the engine cannot start, or died. 2: a setting, or the script that one names, is
    wrong; stderr says which."""
    return process.start(
        "worker",
        _run,
        lambda: read_settings(sys.argv[1:]),
        misuses=(ScriptError,),
        failures=(EngineUnavailable,),
    )


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


def _run(settings: Settings) -> None:
    process.collect_rarely()
    process.run_until_told(
        lambda stopped: run(settings, make_engine(settings), stopped), uvloop.new_event_loop
    )


if __name__ == "__main__":
    sys.exit(main())
