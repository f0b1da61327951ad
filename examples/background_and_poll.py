"""Starts a response in the background, polls it until it has ended, and shows the answer.

python examples/background_and_poll.py --url http://127.0.0.1:8000 "Multiply 123*456"

Keeps no connection between two polls: another process, on another machine, could make the next one.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable

from openai import OpenAI
from openai.types.responses import Response
from openai.types.responses.tool_param import Mcp

PYTHON: Mcp = {"type": "mcp", "server_label": "code_interpreter"}


def poll(client: OpenAI, response: Response, every_s: float, report: Callable[[Response], None]) -> Response:
    """Returns the response once it has ended; calls `report` with the response at each new status."""
    status = None
    while True:
        if response.status != status:
            status = response.status
            report(response)
        if status not in ("queued", "in_progress"):
            return response
        time.sleep(every_s)
        response = client.responses.retrieve(response.id)


def show_status(response: Response) -> None:
    print(f"{response.id} {response.status}", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description="Create a response in the background and poll it.")
    parser.add_argument("input", nargs="?", default="Multiply 123*456")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--model", default="default")
    parser.add_argument("--every", type=float, default=0.5, metavar="S", help="seconds between two polls")
    chosen = parser.parse_args()
    client = OpenAI(base_url=f"{chosen.url}/v1", api_key=os.environ.get("OPENAI_API_KEY", "any"))
    response = client.responses.create(
        model=chosen.model,
        input=chosen.input,
        tools=[PYTHON],
        background=True,
    )
    try:
        response = poll(client, response, chosen.every, show_status)
    except KeyboardInterrupt:
        response = client.responses.cancel(response.id)
        show_status(response)
    if response.status != "completed":
        sys.exit(f"no answer: {response.status} {response.error or response.incomplete_details or ''}")
    print(response.output_text)


if __name__ == "__main__":
    main()
