"""`langchain-openai` on the Responses API."""

from typing import Any

import pytest

from tests.clients.answers import ADDED, WEATHER, counted
from tests.clients.conftest import Ask

pytestmark = pytest.mark.parametrize("stream", [False, True], ids=["invoke", "stream"])


def test_text(python: Ask, stream: bool) -> None:
    assert python("langchain", "count", stream=stream) == {"text": counted(20), "tokens": True}


@pytest.mark.parametrize(
    "options", [{}, {"output_version": "responses/v1"}, {"use_previous_response_id": True}], ids=str
)
def test_a_tool_loop_and_what_follows(python: Ask, stream: bool, options: dict[str, Any]) -> None:
    report = python("langchain", "tool_loop", stream=stream, options=options)
    assert report == {"calls": [{"city": "Oslo"}], "texts": [WEATHER, counted(3)]}


def test_hosted_mcp_and_what_follows(python: Ask, stream: bool) -> None:
    report = python("langchain", "hosted_mcp", stream=stream)
    assert report["kinds"] == ["mcp_list_tools", "reasoning", "mcp_call", "text"]
    assert report["texts"] == [ADDED, ADDED]
