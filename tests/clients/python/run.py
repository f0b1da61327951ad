"""Runs one scenario and prints its report as JSON: `python -m tests.clients.python.run CLIENT SCENARIO`.

What the scenario is to know comes as JSON on stdin. Runs in `.venv-clients`, where nothing of Antiphon's is.
"""

import asyncio
import importlib
import inspect
import json
import sys
from collections.abc import Awaitable


def main() -> None:
    client, scenario = sys.argv[1:]
    module = importlib.import_module(f"tests.clients.python.{client}")
    report = getattr(module, scenario)(json.load(sys.stdin))
    if inspect.isawaitable(report):
        report = asyncio.run(_wait(report))
    json.dump(report, sys.stdout)


async def _wait(report: Awaitable[object]) -> object:
    return await report


if __name__ == "__main__":
    main()
