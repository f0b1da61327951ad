"""`pydantic-ai` on the Responses API."""

import pytest

from tests.clients.answers import ADDED, WEATHER, counted
from tests.clients.conftest import Ask

pytestmark = pytest.mark.parametrize("stream", [False, True], ids=["run", "stream"])


def test_text(python: Ask, stream: bool) -> None:
    assert python("pydantic", "count", stream=stream) == counted(20)


def test_a_tool_loop_and_what_follows(python: Ask, stream: bool) -> None:
    assert python("pydantic", "tool_loop", stream=stream) == [WEATHER, counted(3), counted(3)]


def test_hosted_mcp_and_what_follows(python: Ask, stream: bool) -> None:
    assert python("pydantic", "hosted_mcp", stream=stream) == [ADDED, ADDED]
