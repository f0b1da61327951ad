"""Streams an answer and survives every broken connection: continues where it was, on any API node.

python examples/reconnecting_client.py --url http://127.0.0.1:8000 "Count slowly to 100"

Owns the retries; events that were missed come from the server, which keeps every event.
"""

import argparse
import os
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import Any

from openai import APIConnectionError, InternalServerError, OpenAI, RateLimitError, Stream
from openai.types.responses import ResponseStreamEvent

TERMINAL = ("response.completed", "response.incomplete", "response.failed")
FAILURES_MAX = 30
PAUSE_S = 0.2


def follow(clients: Sequence[OpenAI], request: dict[str, Any]) -> Iterator[ResponseStreamEvent]:
    """Yields every event of a new response, once and in order, up to its terminal event.

    `clients` are tried in turn, since any node serves any response. Raises what the last one raised after
    `FAILURES_MAX` connections in a row without an event.
    """
    idempotency_key = str(uuid.uuid4())
    response_id, seen, failures = "", -1, 0
    for client in cycle(clients):
        error: Exception | None = None
        try:
            for event in _connect(client, request, idempotency_key, response_id, seen):
                seen, failures = event.sequence_number, 0
                if event.type == "response.created":
                    response_id = event.response.id
                yield event
                if event.type in TERMINAL:
                    return
        except (APIConnectionError, InternalServerError, RateLimitError) as broken:
            error = broken
        # A stream that ends before its terminal event is broken too: the node is shutting down.
        failures += 1
        if failures >= FAILURES_MAX:
            raise error or RuntimeError("the stream ended early again and again")
        print(f"[cut after event {seen}, going on]", file=sys.stderr)
        time.sleep(PAUSE_S)


def _connect(
    client: OpenAI, request: dict[str, Any], idempotency_key: str, response_id: str, seen: int
) -> Stream[ResponseStreamEvent]:
    """Requests the events after number `seen`.

    Until the id is known, sends the same request again: its key makes it the same response.
    """
    if response_id:
        return client.responses.retrieve(response_id, stream=True, starting_after=seen)
    headers = {"Idempotency-Key": idempotency_key}
    # In the background, so that it is not cancelled while no client is connected.
    stream: Stream[ResponseStreamEvent] = client.responses.create(
        **request, background=True, stream=True, extra_headers=headers
    )
    return stream


def main() -> None:
    parser = argparse.ArgumentParser(description="Stream an answer through any number of broken connections.")
    parser.add_argument("input", nargs="?", default="Count slowly to 100")
    parser.add_argument("--url", action="append", help="an API node; may be given several times")
    parser.add_argument("--model", default="default")
    parser.add_argument("--events", action="store_true", help="show events instead of the text")
    chosen = parser.parse_args()
    urls = chosen.url or ["http://127.0.0.1:8000"]
    api_key = os.environ.get("OPENAI_API_KEY", "any")
    # `follow` does the retries, so the client must not.
    clients = [OpenAI(base_url=f"{url}/v1", api_key=api_key, max_retries=0, timeout=60) for url in urls]
    for event in follow(clients, {"model": chosen.model, "input": chosen.input}):
        if chosen.events:
            print(event.sequence_number, event.type, flush=True)
        elif event.type == "response.output_text.delta":
            print(event.delta, end="", flush=True)
        if event.type == "response.created":
            print(f"[{event.response.id}]", file=sys.stderr)
        if event.type in ("response.incomplete", "response.failed"):
            sys.exit(f"\n{event.response.id} ended as {event.response.status}")
    print()


if __name__ == "__main__":
    main()
