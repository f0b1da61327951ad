"""`python -m bench [NAME …]`: runs measurements, one after the other, and prints a table for each.

Owns the command line; each measurement has a module of its own.
"""

import argparse
import asyncio
import importlib.util
import os
import platform
import sys
from datetime import UTC, datetime

from bench import first_token, gpu, memory, relay, stuck_reader, takeover, vllm

NAMES = ("doorbell", "background", "relay", "memory", "stuck-reader", "takeover")
WITH_VLLM = ("vllm", "gpu")
"""Run only if they are named: they need vLLM, which has an environment of its own."""


async def measure(name: str, options: argparse.Namespace) -> str:
    match name:
        case "doorbell":
            return await first_token.measure_doorbell()
        case "background":
            return await first_token.measure_background()
        case "relay":
            return await relay.measure()
        case "memory":
            return await memory.measure()
        case "stuck-reader":
            return await stuck_reader.measure(options.pause)
        case "takeover":
            return await takeover.measure(options.kills)
        case "vllm":
            return await vllm.measure(options.rounds)
        case "gpu":
            return await gpu.measure(is_tiny=options.tiny, more_engine_args=options.engine_args)
        case _:
            raise ValueError(name)


def describe_machine() -> str:
    cores = os.cpu_count()
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.system()} {platform.machine()}, {cores} cores, "
        f"load {os.getloadavg()[0]:.1f} before the first measurement, Python {platform.python_version()}"
    )


async def run(names: list[str], options: argparse.Namespace) -> None:
    print(describe_machine(), flush=True)
    for name in names:
        print(f"\n## {name}\n\n{await measure(name, options)}", flush=True)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure a cluster on this machine.")
    named = f"{', '.join(NAMES)}; none: all of these. With vLLM installed: {', '.join(WITH_VLLM)}"
    parser.add_argument("names", nargs="*", metavar="NAME", help=named)
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
    parser.add_argument(
        "--rounds",
        type=int,
        default=vllm.ROUNDS,
        metavar="N",
        help="how often each way is measured for `vllm` (default: %(default)d)",
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
    for name in chosen.names:
        if name not in (*NAMES, *WITH_VLLM):
            parser.error(f"there is no measurement {name!r}; there are {', '.join((*NAMES, *WITH_VLLM))}")
        if name in WITH_VLLM and importlib.util.find_spec("vllm") is None:
            parser.error(f"{name!r} needs vLLM; {sys.executable} lacks it (`make bench-vllm` brings it)")
    asyncio.run(run(chosen.names or list(NAMES), chosen))


if __name__ == "__main__":
    main()
