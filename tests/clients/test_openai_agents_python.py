"""`openai-agents` for Python."""

import pytest

from tests.clients.answers import ADDED, REFUSED, WEATHER, counted
from tests.clients.conftest import Ask

pytestmark = pytest.mark.parametrize("stream", [False, True], ids=["run", "stream"])


def test_a_tool_loop_and_what_follows(python: Ask, stream: bool) -> None:
    assert python("openai_agents", "tool_loop", stream=stream) == [WEATHER, counted(3)]


@pytest.mark.parametrize(("approves", "answer"), [(None, ADDED), (True, ADDED), (False, REFUSED)])
def test_hosted_mcp(python: Ask, stream: bool, approves: bool | None, answer: str) -> None:
    assert python("openai_agents", "hosted_mcp", stream=stream, approves=approves) == answer


def test_a_session_that_is_a_conversation(python: Ask, stream: bool) -> None:
    report = python("openai_agents", "conversation", stream=stream)
    assert report["texts"] == [counted(3), counted(4)]
    assert report["roles"] == ["user", "assistant", "user", "assistant"]
