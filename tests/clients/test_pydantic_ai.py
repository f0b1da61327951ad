"""`pydantic-ai` on the Responses API."""

from tests.clients.answers import (
    ADDED,
    AWKWARD,
    AWKWARD_ANSWERS,
    MULTIPLIED,
    SEARCH,
    SEARCHED,
    WEATHER,
    counted,
)
from tests.clients.conftest import Ask
from tests.clients.sent import THOUGHT, carried, thoughts_read


def test_text(python: Ask) -> None:
    assert python.both("pydantic", "text", question="Count from 1 to 20") == [counted(20)] * 2


def test_silence_and_awkward_characters(python: Ask, awkward: str) -> None:
    assert python.at(awkward).each("pydantic", "text", AWKWARD) == AWKWARD_ANSWERS


def test_a_tool_loop_and_what_follows(python: Ask) -> None:
    assert python.both("pydantic", "tool_loop") == [[WEATHER, counted(3), counted(3)]] * 2


def test_an_agent_that_stores_nothing_keeps_its_reasoning(python: Ask) -> None:
    for report in python.both("pydantic", "stateless"):
        assert report["text"] == WEATHER
        assert carried(report["sent"])["encrypted_content"]
        assert thoughts_read(python, report["sent"]) == [THOUGHT]


def test_hosted_mcp_and_what_follows(python: Ask) -> None:
    assert python.both("pydantic", "hosted_mcp") == [[ADDED, ADDED]] * 2


def test_code_execution_and_what_follows(python: Ask) -> None:
    for included in (False, True):
        for report in python.both("pydantic", "code_interpreter", by_label=False, included=included):
            assert report["texts"] == MULTIPLIED
            assert [call["code"] for call in report["calls"]] == ["123*456\n"]
            assert ("56088" in str(report["returned"])) == included


def test_code_execution_by_the_label_of_a_server(python: Ask) -> None:
    for report in python.both("pydantic", "code_interpreter", by_label=True, included=False):
        assert report["texts"] == MULTIPLIED
        assert [call["tool_args"] for call in report["calls"] if "tool_args" in call] == [
            {"code": "123*456\n"}
        ]
        assert "56088" in str(report["returned"])


def test_a_web_search_and_what_follows(python: Ask) -> None:
    for included in (False, True):
        for report in python.both("pydantic", "web_search", question=SEARCH, included=included):
            assert report["texts"] == [SEARCHED, counted(3)]
            assert [call["type"] for call in report["calls"]] == ["search", "open_page", "find_in_page"]
            assert ("sources" in report["returned"][0]) == included
