"""What the model reads of a request that a client has sent: the test asks the same again, with its prompt."""

from typing import Any

import httpx

from tests.clients.conftest import Ask
from tests.patience import PATIENCE_S

THOUGHT = "The user asks for the weather in Oslo. The function get_weather knows it."
"""What the scripted engine thinks before it calls the function."""


def thoughts_read(client: Ask, sent: list[dict[str, Any]]) -> list[str]:
    """Returns the reasoning that the model reads in the prompt of the last of the requests."""
    body = {**sent[-1], "stream": False, "enable_response_messages": True}
    answer = httpx.post(f"{client.known['url']}/responses", json=body, timeout=PATIENCE_S)
    assert answer.status_code == 200, answer.text
    prompt = answer.json()["input_messages"]
    return [
        part["text"]
        for message in prompt
        if message.get("channel") == "analysis"
        for part in message["content"]
    ]


def carried(sent: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the reasoning item in the last of the requests."""
    item: dict[str, Any]
    (item,) = [item for item in sent[-1]["input"] if item.get("type") == "reasoning"]
    return item
