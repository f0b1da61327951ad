"""Parses and checks the launcher's arguments, and turns its errors into a message and an exit code.

Owns the command line; each command has a module of its own.
"""

import argparse
import asyncio
import os
import sys
from pathlib import Path

from local import record, status
from local.cells import Cells
from local.cluster import Cluster, PortTaken
from local.models import join_engine_args, name_models
from local.record import FolderInUse
from local.roles import DependencyMissing, check_dependencies
from local.supervisor import DeadOnArrival
from local.up import run_until_signalled
from local.valkey import ValkeyError
from shared.arguments import make_range

_PROCESSES_MAX = 64
_CELLS_MAX = 8
_EXPECTED = (DeadOnArrival, DependencyMissing, FolderInUse, PortTaken, ValkeyError, TimeoutError, OSError)


def main(arguments: list[str]) -> int:
    """Runs a command; returns the exit code: 0 for success, 1 for a failure, with a message on stderr.

    Wrong arguments exit with code 2.
    """
    parser = make_parser()
    chosen = parser.parse_args(arguments)
    try:
        match chosen.command:
            case "up":
                return run_up(parser, chosen)
            case "status":
                return status.show(chosen.data)
            case _:
                check_dependencies(engine="scripted")
                from local.demo import run  # imports the openai client, which may not be installed

                return asyncio.run(run())
    except _EXPECTED as error:
        print(f"antiphon: {error}", file=sys.stderr)
        return 1


def run_up(parser: argparse.ArgumentParser, chosen: argparse.Namespace) -> int:
    if chosen.port and chosen.port + chosen.apis - 1 > 65_535:
        parser.error(f"argument --port: {chosen.apis} API nodes from {chosen.port} on exceed port 65535")
    if chosen.metrics_port and chosen.metrics_port + _count_processes(chosen) - 1 > 65_535:
        parser.error(
            f"argument --metrics-port: from {chosen.metrics_port} on, the processes exceed port 65535"
        )
    if chosen.script is not None and not chosen.script.is_file():
        parser.error(f"argument --script: there is no file {chosen.script}")
    settings = read_settings(parser, chosen)
    chosen_or_set = {**os.environ, **settings}
    check_dependencies(
        chosen_or_set.get("ANTIPHON_ENGINE", "scripted"), chosen_or_set.get("ANTIPHON_PYTHON_TOOL", "monty")
    )
    if chosen.cells > 1 and chosen.redis_url:
        parser.error("argument --cells: each cell has a Valkey of its own, so there can be no --redis-url")
    cluster = Cluster(
        data=chosen.data,
        apis=chosen.apis,
        workers=chosen.workers,
        tool_runners=chosen.tool_runners,
        port=chosen.port,
        metrics_port=chosen.metrics_port,
        redis_url=chosen.redis_url,
        settings=settings,
    )
    running = Cells(cluster, chosen.cells) if chosen.cells > 1 else cluster
    asyncio.run(run_until_signalled(running, ends_with_parent=chosen.end_with_parent))
    return 0


def _count_processes(chosen: argparse.Namespace) -> int:
    """Returns how many processes may have metrics: of each cell, and the router in front of several."""
    of_a_cell = chosen.apis + chosen.workers + chosen.tool_runners + 1  # one may deliver webhooks
    return int(chosen.cells * of_a_cell + (chosen.cells > 1))


def read_settings(parser: argparse.ArgumentParser, chosen: argparse.Namespace) -> dict[str, str]:
    """Returns the settings given by arguments, which override the environment's."""
    settings = {}
    if chosen.engine is not None:
        settings["ANTIPHON_ENGINE"] = chosen.engine
    if chosen.python_tool is not None:
        settings["ANTIPHON_PYTHON_TOOL"] = chosen.python_tool
    if chosen.script is not None:
        settings["ANTIPHON_SCRIPT"] = str(chosen.script.resolve())
    if chosen.model is not None or chosen.engine_args is not None:
        if (chosen.engine or os.environ.get("ANTIPHON_ENGINE")) != "vllm":
            parser.error("argument --model, --engine-args: they require --engine vllm")
        engine_args = chosen.engine_args
        if engine_args is None:
            engine_args = os.environ.get("ANTIPHON_ENGINE_ARGS", "")
        settings["ANTIPHON_ENGINE_ARGS"] = join_engine_args(chosen.model, engine_args)
        try:
            name_models(settings["ANTIPHON_ENGINE_ARGS"])
        except ValueError as error:
            parser.error(f"argument --engine-args: {error}")
    return settings


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of all commands."""
    parser = argparse.ArgumentParser(prog="python -m local", description="Antiphon on this machine.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="up | status | demo")
    _add_up(commands.add_parser("up", help="start everything; Ctrl-C ends it"))
    shown = commands.add_parser("status", help="show what is running in a data folder")
    shown.add_argument("--data", type=Path, default=record.FOLDER_DEFAULT, metavar="DIR")
    commands.add_parser("demo", help="show a stream being cut and resumed on another API node")
    return parser


def _add_up(up: argparse.ArgumentParser) -> None:
    count = make_range(1, _PROCESSES_MAX)
    up.add_argument(
        "--port",
        type=make_range(0, 65_535),
        default=8000,
        metavar="P",
        help="API nodes listen on 127.0.0.1:P, P+1, …; 0 takes any free ports (default: %(default)s)",
    )
    up.add_argument(
        "--metrics-port",
        type=make_range(0, 65_535),
        default=0,
        metavar="P",
        help="each process, of each cell, serves its metrics for Prometheus, on 127.0.0.1:P, P+1, …; "
        "`python -m local status` shows which where (default: none does)",
    )
    up.add_argument("--apis", type=count, default=1, metavar="N", help="API nodes (default: 1)")
    up.add_argument(
        "--cells",
        type=make_range(1, _CELLS_MAX),
        default=1,
        metavar="N",
        help="whole clusters, each a cell, with a router on port P in front (default: 1, without one)",
    )
    up.add_argument("--workers", type=count, default=1, metavar="N", help="workers (default: 1)")
    up.add_argument("--tool-runners", type=count, default=1, metavar="N", help="tool runners (default: 1)")
    up.add_argument(
        "--data",
        type=Path,
        default=record.FOLDER_DEFAULT,
        metavar="DIR",
        help="logs, cluster.json and the Valkey's data (default: %(default)s)",
    )
    up.add_argument(
        "--engine",
        choices=("scripted", "vllm"),
        help="the engine (default: $ANTIPHON_ENGINE, else scripted)",
    )
    up.add_argument(
        "--model",
        metavar="NAME",
        help="the model of the engine vllm, a name or a folder (default: openai/gpt-oss-20b)",
    )
    up.add_argument(
        "--engine-args",
        metavar="FLAGS",
        help="flags of vLLM in one string, or the path of a YAML file with them "
        "(default: $ANTIPHON_ENGINE_ARGS); a single flag is written --engine-args=--enforce-eager",
    )
    up.add_argument(
        "--script",
        type=Path,
        metavar="FILE",
        help="the script of the scripted engine (default: $ANTIPHON_SCRIPT)",
    )
    up.add_argument(
        "--redis-url",
        default=os.environ.get("ANTIPHON_REDIS_URL", ""),
        metavar="URL",
        help="a Redis or Valkey to use (default: $ANTIPHON_REDIS_URL, else a Valkey of its own)",
    )
    up.add_argument(
        "--python-tool",
        choices=("monty", "cpython"),
        help="the sandbox of the Python tool; cpython needs bubblewrap "
        "(default: $ANTIPHON_PYTHON_TOOL, else monty)",
    )
    up.add_argument("--end-with-parent", action="store_true", help=argparse.SUPPRESS)
