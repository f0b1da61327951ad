"""`python -m bench [NAME …]`: runs measurements, one after the other, and prints a table for each.

Reads the arguments; each measurement has a module of its own.
"""

import argparse
import asyncio
import os
import platform
from datetime import UTC, datetime

from bench import first_token, memory, relay, stuck_reader, takeover

NAMES = ("doorbell", "background", "relay", "memory", "stuck-reader", "takeover")


async def measure(name: str, pause_s: float, kills: int) -> str:
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
            return await stuck_reader.measure(pause_s)
        case "takeover":
            return await takeover.measure(kills)
        case _:
            raise ValueError(name)


def describe_machine() -> str:
    cores = os.cpu_count()
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.system()} {platform.machine()}, {cores} cores, "
        f"load {os.getloadavg()[0]:.1f} before the first measurement, Python {platform.python_version()}"
    )


async def run(names: list[str], pause_s: float, kills: int) -> None:
    print(describe_machine(), flush=True)
    for name in names:
        print(f"\n## {name}\n\n{await measure(name, pause_s, kills)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure a cluster on this machine.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(NAMES)}; none: all of them")
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
    chosen = parser.parse_args()
    if platform.system() != "Linux":
        parser.error("what processes use is read as Linux tells it; there is nothing to read on this system")
    for name in chosen.names:
        if name not in NAMES:
            parser.error(f"there is no measurement {name!r}; there are {', '.join(NAMES)}")
    asyncio.run(run(chosen.names or list(NAMES), chosen.pause, chosen.kills))


if __name__ == "__main__":
    main()
