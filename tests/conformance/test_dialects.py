"""The dialects of events: who asks for one gets it from every reader, on every node.

Open Responses' own suite is not part of this repository; its event names are.
"""

from collections.abc import Iterator
from itertools import groupby
from typing import Any

import httpx
import pytest

from tests.patience import PATIENCE_S
from tests.running import RunningCluster
from tests.streams import read_frames

ASKED: dict[str, Any] = {
    "model": "default",
    "input": "Multiply 123*456",
    "tools": [{"type": "mcp", "server_label": "code_interpreter"}],
    "stream": True,
}
REASONING = {
    "openai": ["content_part.added", "reasoning_text.delta", "reasoning_text.done", "content_part.done"],
    "vllm": ["reasoning_part.added", "reasoning_text.delta", "reasoning_text.done", "reasoning_part.done"],
    "open-responses": ["content_part.added", "reasoning.delta", "reasoning.done", "content_part.done"],
}
"""What comes between `output_item.added` and `output_item.done` of a reasoning item."""


@pytest.fixture
def nodes(cluster: RunningCluster) -> Iterator[list[httpx.Client]]:
    nodes = [httpx.Client(base_url=url, timeout=PATIENCE_S) for url in cluster.urls]
    yield nodes
    for node in nodes:
        node.close()


@pytest.mark.parametrize("dialect", REASONING)
def test_every_reader_on_every_node_gets_the_dialect_of_the_create_call(
    nodes: list[httpx.Client], dialect: str
) -> None:
    """Whatever the reader's own header says, which clients send with every call."""
    created = nodes[0].post("/v1/responses", json=ASKED, headers={"Antiphon-Dialect": dialect}).content
    frames = read_frames(created)
    names = [name.removeprefix("response.") for name, _ in groupby(frame.event for frame in frames)]
    assert names[2:8] == ["output_item.added", *REASONING[dialect], "output_item.done"]
    assert names[8:] == [
        *("output_item.added", "mcp_call.in_progress", "mcp_call_arguments.delta", "mcp_call_arguments.done"),
        *("mcp_call.completed", "output_item.done", "output_item.added", "content_part.added"),
        *("output_text.delta", "output_text.done", "content_part.done", "output_item.done", "completed"),
    ]
    final = frames[-1].data["response"]
    path, other = f"/v1/responses/{final['id']}", {"Antiphon-Dialect": "openai"}
    pieces = [piece + b"\n\n" for piece in created.removesuffix(b"\n\n").split(b"\n\n")]
    for number in range(-1, len(pieces)):
        params = {"stream": "true", "starting_after": str(number)}
        rest = nodes[1].get(path, params=params, headers=other).content
        assert rest == b"".join(pieces[number + 1 :])
    assert nodes[1].get(path).json() == final


def test_a_repeated_call_that_asks_for_another_dialect_is_another_call(nodes: list[httpx.Client]) -> None:
    asked = {"model": "default", "input": "Hello", "background": True}
    key = {"Idempotency-Key": "dialects"}
    first = nodes[0].post("/v1/responses", json=asked, headers=key | {"Antiphon-Dialect": "vllm"})
    again = nodes[1].post("/v1/responses", json=asked, headers=key | {"Antiphon-Dialect": "vllm"})
    assert first.json()["id"] == again.json()["id"]
    for headers in (key, key | {"Antiphon-Dialect": "open-responses"}):
        refused = nodes[1].post("/v1/responses", json=asked, headers=headers)
        assert refused.status_code == 409
        assert refused.json()["error"]["code"] == "idempotency_key_reused"


@pytest.mark.parametrize("dialect", ["", "OpenAI", "vllm, openai"])
def test_an_unknown_dialect_is_refused(nodes: list[httpx.Client], dialect: str) -> None:
    refused = nodes[0].post("/v1/responses", json=ASKED, headers={"Antiphon-Dialect": dialect})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "Antiphon-Dialect"
