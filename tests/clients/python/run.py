"""Runs one scenario and prints its report as JSON: `python -m tests.clients.python.run CLIENT SCENARIO`.

What the scenario is to know comes as JSON on stdin, in a list: once for each time that it is to run. Runs in
`.venv-clients`, where nothing of Antiphon's is.
"""

import asyncio
import importlib
import inspect
import json
import sys


def main() -> None:
    client, scenario = sys.argv[1:]
    module = importlib.import_module(f"tests.clients.python.{client}")
    play = getattr(module, scenario)
    reports = [asyncio.run(_wait(play(known))) for known in json.load(sys.stdin)]
    json.dump(reports, sys.stdout)


async def _wait(report: object) -> object:
    return await report if inspect.isawaitable(report) else report


if __name__ == "__main__":
    main()
