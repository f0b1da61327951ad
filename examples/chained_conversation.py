"""Holds a conversation of several turns, each sent alone: the server keeps the rest, and Python's variables.

python examples/chained_conversation.py --url http://127.0.0.1:8000 "Run this python code: x = 6" \\
    "Run this python code: x * 7"

Keeps only the last response's id; every turn may go to another API node.
"""

import argparse
import os
from collections.abc import Iterator, Sequence
from itertools import cycle

from openai import OpenAI
from openai.types.responses import Response
from openai.types.responses.tool_param import Mcp

TURNS = [
    "Run this python code: primes = [n for n in range(2, 50) if all(n % d for d in range(2, n))]",
    "Run this python code: len(primes)",
    "Run this python code: sum(primes)",
]
PYTHON: Mcp = {"type": "mcp", "server_label": "code_interpreter"}


def talk(clients: Sequence[OpenAI], model: str, turns: Sequence[str]) -> Iterator[Response]:
    """Yields one response for each turn. Tools and instructions are not inherited: each turn sends its
    own."""
    previous_response_id = None
    for client, turn in zip(cycle(clients), turns, strict=False):
        response = client.responses.create(
            model=model,
            input=turn,
            tools=[PYTHON],
            previous_response_id=previous_response_id,
        )
        yield response
        previous_response_id = response.id


def main() -> None:
    parser = argparse.ArgumentParser(description="Chain responses by previous_response_id.")
    parser.add_argument("turns", nargs="*", default=TURNS)
    parser.add_argument("--url", action="append", help="an API node; may be given several times")
    parser.add_argument("--model", default="default")
    chosen = parser.parse_args()
    api_key = os.environ.get("OPENAI_API_KEY", "any")
    clients = [
        OpenAI(base_url=f"{url}/v1", api_key=api_key) for url in chosen.url or ["http://127.0.0.1:8000"]
    ]
    for turn, response in zip(chosen.turns, talk(clients, chosen.model, chosen.turns), strict=True):
        print(f"> {turn}\n{response.output_text}\n", flush=True)


if __name__ == "__main__":
    main()
