"""Vercel's AI SDK with `@ai-sdk/open-responses`."""

import pytest

from tests.clients.answers import GREETING, WEATHER
from tests.clients.conftest import Ask

pytestmark = pytest.mark.parametrize("stream", [False, True], ids=["generate", "stream"])


def test_text_and_reasoning(node: Ask, stream: bool) -> None:
    report = node("open_responses", "greet", stream=stream)
    assert report["text"].startswith(GREETING)
    assert report["reasoning"] == ["The user greets. I greet back."]


def test_a_tool_loop(node: Ask, stream: bool) -> None:
    assert node("open_responses", "tool_loop", stream=stream) == {"text": WEATHER, "steps": 2}
