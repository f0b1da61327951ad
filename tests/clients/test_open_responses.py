"""Vercel's AI SDK with `@ai-sdk/open-responses`."""

from tests.clients.answers import AWKWARD, AWKWARD_ANSWERS, GREETING, WEATHER
from tests.clients.conftest import Ask


def test_text_and_reasoning(node: Ask) -> None:
    for report in node.both("open_responses", "text", question="Hello"):
        assert report["text"].startswith(GREETING)
        assert report["reasoning"] == ["The user greets. I greet back."]


def test_silence_and_awkward_characters(node: Ask, awkward: str) -> None:
    reports = node.at(awkward).each("open_responses", "text", AWKWARD)
    assert [report["text"] for report in reports] == AWKWARD_ANSWERS


def test_a_tool_loop(node: Ask) -> None:
    assert node.both("open_responses", "tool_loop") == [{"text": WEATHER, "steps": 2}] * 2
