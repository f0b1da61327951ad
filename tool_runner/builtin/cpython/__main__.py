"""`python -m tool_runner.builtin.cpython`: serves CPython over MCP, on stdio or with `--http PORT`."""

import argparse
import asyncio
import functools
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tool_runner.builtin.cells import Sandbox, make_parser, make_server, serve
from tool_runner.builtin.cpython.bubblewrap import WORK_FOLDER, Limits, NoSandbox
from tool_runner.builtin.cpython.guard import start_guard
from tool_runner.builtin.cpython.sandbox import open_sandbox
from tool_runner.builtin.cpython.session import Interpreter, Walls

DESCRIPTION = """\
Runs Python code as a notebook cell: shows what it prints, then the value of its last expression. \
Variables, functions, imports and the files in {folder} stay for the next calls. CPython {version} with its \
whole standard library; no network, and no packages but those of its environment."""
_MIB = 2**20


def main() -> int:
    """Serves until its input ends or a signal comes.

    Returns 2 if there is no sandbox here; stderr says why.
    """
    arguments = _make_parser().parse_args()
    mark = start_guard()
    limits = Limits(
        memory_bytes=arguments.memory_mib * _MIB,
        files_bytes=arguments.files_mib * _MIB,
        processes=arguments.threads,
        cell_s=arguments.cell_seconds,
        idle_s=arguments.idle_seconds,
    )
    try:
        walls = Walls.find(arguments.python, limits, mark)
        # One is tried before anything is served, so that what is missing here is said now.
        asyncio.run(_try(walls))
    except NoSandbox as error:
        print(f"antiphon: {error}", file=sys.stderr)
        return 2

    @asynccontextmanager
    async def open_here() -> AsyncIterator[Sandbox]:
        start = functools.partial(Interpreter.start, walls)
        sizes = (arguments.output_bytes_max, arguments.processes, arguments.sessions)
        async with open_sandbox(start, limits, *sizes) as sandbox:
            yield sandbox

    description = DESCRIPTION.format(folder=WORK_FOLDER, version=walls.runtime.version)
    serve(make_server(description, open_here), arguments.http, arguments.host)
    return 0


async def _try(walls: Walls) -> None:
    interpreter = await Interpreter.start(walls)
    if not interpreter.counts_kernel_memory:
        print(
            "antiphon: this kernel does not tell how many files and sockets the Python tool's sessions have: "
            "only a limit on the memory of this server's container bounds what it keeps for them",
            file=sys.stderr,
        )
    await interpreter.close()


def _make_parser() -> argparse.ArgumentParser:
    parser, limits = make_parser("tool_runner.builtin.cpython"), Limits()
    parser.add_argument(
        "--python",
        type=Path,
        default=Path(getattr(sys, "_base_executable", sys.executable)),
        metavar="PATH",
        help="the Python that runs the code, such as one with packages (default: %(default)s)",
    )
    add = functools.partial(parser.add_argument, metavar="N")
    add("--sessions", type=int, default=32, help="sessions that are kept at a time (default: %(default)s)")
    add(
        "--memory-mib",
        type=int,
        default=limits.memory_bytes // _MIB,
        help="of a session (default: %(default)s)",
    )
    add(
        "--files-mib",
        type=int,
        default=limits.files_bytes // _MIB,
        help="of a session (default: %(default)s)",
    )
    add(
        "--threads",
        type=int,
        default=limits.processes,
        help="and processes of a session (default: %(default)s)",
    )
    add("--cell-seconds", type=float, default=limits.cell_s, help="before it is ended (default: %(default)s)")
    add("--idle-seconds", type=float, default=limits.idle_s, help="of a session (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
