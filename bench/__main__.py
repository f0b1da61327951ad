"""`python -m bench [NAME …]`: runs measurements, one after the other, and prints tables for each.

Owns the command line; each measurement has a module of its own.
"""

import argparse
import asyncio
import importlib.util
import os
import platform
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime

from bench import (
    affinity,
    append,
    first_token,
    fleet,
    gpu,
    growth,
    idle,
    memory,
    metrics,
    node_killed,
    page,
    queue,
    relay,
    replay,
    step,
    stuck_reader,
    takeover,
    vllm,
)
from bench.page import Result
from bench.scale import FULL, QUICK, Scale

MEASUREMENTS: Mapping[str, Callable[[Scale], Awaitable[Result]]] = {
    "relay": relay.measure,
    "lag": relay.measure_lag,
    "step": step.measure,
    "metrics": metrics.measure,
    "append": append.measure,
    "idle": idle.measure,
    "growth": growth.measure,
    "replay": replay.measure,
    "background": first_token.measure_background,
    "queue": queue.measure,
    "simulate": fleet.measure,
}
MORE = ("doorbell", "memory", "stuck-reader", "node-killed", "takeover")
"""Left out of the quick form."""
WITH_VLLM = ("vllm", "affinity", "gpu")
"""Run only if they are named: they need vLLM, which has an environment of its own."""
_QUICK = "quick"


async def measure(name: str, scale: Scale, options: argparse.Namespace) -> Result:
    match name:
        case "doorbell":
            return await first_token.measure_doorbell(scale)
        case "memory":
            return await memory.measure()
        case "stuck-reader":
            return await stuck_reader.measure(options.pause)
        case "node-killed":
            return await node_killed.measure(scale)
        case "takeover":
            return await takeover.measure(options.kills)
        case "vllm":
            return await vllm.measure(scale.rounds)
        case "affinity":
            return await affinity.measure(scale.rounds)
        case "gpu":
            return await gpu.measure(is_tiny=options.tiny, more_engine_args=options.engine_args)
        case _:
            return await MEASUREMENTS[name](scale)


def describe_machine() -> str:
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}"
    )


async def run(names: list[str], scale: Scale, options: argparse.Namespace) -> None:
    print(describe_machine(), flush=True)
    for name in names:
        begun_s, load = time.monotonic(), os.getloadavg()[0]
        found = await measure(name, scale, options)
        took_s = time.monotonic() - begun_s
        loads = (
            f"Load of the machine: {load:.1f} before, {os.getloadavg()[0]:.1f} after, with this measurement"
        )
        found = replace(found, text=f"{found.text}\n{loads}; {describe_machine()}.")
        print(f"\n## {name} ({took_s:.0f} s)\n\n{found.text}", flush=True)
        if options.write:
            page.write(name, found)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure a cluster on this machine.")
    named = ", ".join((*MEASUREMENTS, *MORE))
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"{named}; none: all of these. {_QUICK}: those that are named, or all but the last "
        f"{len(MORE)}, in a smaller form. With vLLM installed: {', '.join(WITH_VLLM)}",
    )
    parser.add_argument("--write", action="store_true", help="write the results into docs/performance.md")
    parser.add_argument("--rounds", type=int, metavar="N", help="how often each alternative is measured")
    parser.add_argument(
        "--pause",
        type=float,
        default=10.0,
        metavar="S",
        help="how long the stuck reader reads nothing (default: %(default)g)",
    )
    parser.add_argument(
        "--kills",
        type=int,
        default=10,
        metavar="N",
        help="how many owners are killed for `takeover` (default: %(default)d)",
    )
    parser.add_argument("--tiny", action="store_true", help="`gpu` without one: a tiny shape on the CPU")
    parser.add_argument(
        "--engine-args",
        default="",
        metavar="FLAGS",
        help="more flags of vLLM for `gpu`, in one string: --engine-args=--tensor-parallel-size=2",
    )
    return parser


def main() -> None:
    parser = make_parser()
    chosen = parser.parse_args()
    if platform.system() != "Linux":
        parser.error("what processes use is read as Linux tells it; there is nothing to read on this system")
    names = [name for name in chosen.names if name != _QUICK]
    scale, otherwise = (QUICK, [*MEASUREMENTS]) if _QUICK in chosen.names else (FULL, [*MEASUREMENTS, *MORE])
    known = (*MEASUREMENTS, *MORE, *WITH_VLLM)
    for name in names:
        if name not in known:
            parser.error(f"there is no measurement {name!r}; there are {', '.join(known)}")
        if name in WITH_VLLM and importlib.util.find_spec("vllm") is None:
            parser.error(f"{name!r} needs vLLM; {sys.executable} lacks it (`make bench-vllm` brings it)")
    if chosen.rounds is not None:
        scale = replace(scale, rounds=chosen.rounds)
    asyncio.run(run(names or otherwise, scale, chosen))


if __name__ == "__main__":
    main()
