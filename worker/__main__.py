"""`python -m worker [--engine-args …]`: runs one worker until SIGTERM.

Settings come from the environment; the argument overrides the setting that it names.
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
    """Runs the worker and returns its exit code.

    0: stopped by a signal. 1: the engine could not start, or died. 2: a setting is invalid, or the script
    that a setting names; stderr says which.
    """
    return process.start(
        "worker",
        _run,
        lambda: read_settings(sys.argv[1:]),
        misuses=(ScriptError,),
        failures=(EngineUnavailable,),
    )


def read_settings(arguments: list[str]) -> Settings:
    """Reads the settings, with the command line overriding the environment.

    Raises SystemExit for unknown arguments.
    """
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
    process.run_until_stopped(
        lambda stopped: run(settings, make_engine(settings), stopped), uvloop.new_event_loop
    )


if __name__ == "__main__":
    sys.exit(main())
