"""Vercel's AI SDK with `@ai-sdk/openai`."""

import pytest

from tests.clients.answers import ADDED, REFUSED, WEATHER, counted
from tests.clients.conftest import Ask
from tests.running import RunningCluster

pytestmark = pytest.mark.parametrize("stream", [False, True], ids=["generate", "stream"])


def test_text(node: Ask, stream: bool) -> None:
    assert node("ai_sdk", "count", stream=stream) == {"text": counted(20), "sums": True}


def test_a_tool_loop(node: Ask, stream: bool) -> None:
    assert node("ai_sdk", "tool_loop", stream=stream) == {"text": WEATHER, "steps": 2}


@pytest.mark.parametrize(
    ("approval", "approves", "answer"),
    [
        ("never", None, {"asked": 0, "text": ADDED}),
        ("always", True, {"asked": 1, "text": ADDED}),
        ("always", False, {"asked": 1, "text": REFUSED}),
    ],
)
def test_hosted_mcp(node: Ask, stream: bool, approval: str, approves: bool | None, answer: object) -> None:
    report = node("ai_sdk", "hosted_mcp", stream=stream, approval=approval, approves=approves)
    assert report == answer


def test_a_response_that_fails_is_an_error_with_our_words(
    node: Ask, awkward: RunningCluster, stream: bool
) -> None:
    report = node("ai_sdk", "failure", url=f"{awkward.urls[0]}/v1", stream=stream)
    assert "The model kept calling 'nowhere.nothing'" in report
