"""`@openai/agents`: every usage is validated, and a run's state is text and comes back."""

import pytest

from tests.clients.answers import (
    ACTIONS,
    ADDED,
    AWKWARD,
    AWKWARD_ANSWERS,
    CLIENT_TOOLS,
    MULTIPLIED,
    SEARCH,
    SEARCHED,
    WEATHER,
    counted,
)
from tests.clients.conftest import Ask


def test_a_streamed_run_with_a_tool_and_its_state_there_and_back(node: Ask) -> None:
    assert node.one("openai_agents", "streamed_run") == {"text": WEATHER, "turns": 2, "sums": True}


def test_silence_and_awkward_characters(node: Ask, awkward: str) -> None:
    assert node.at(awkward).each("openai_agents", "text", AWKWARD) == AWKWARD_ANSWERS


def test_runs_that_go_on_by_id_and_by_their_whole_history(node: Ask) -> None:
    assert node.one("openai_agents", "chained_runs") == [ADDED] * 3


def test_a_run_that_waits_for_leave_goes_on_from_its_state_as_text(node: Ask) -> None:
    assert node.one("openai_agents", "approval") == {"asked": 1, "text": ADDED}


def test_the_code_interpreter_and_what_follows(node: Ask) -> None:
    for included in (False, True):
        logs = [{"type": "logs", "logs": "56088"}] if included else None
        for report in node.both("openai_agents", "code_interpreter", included=included):
            assert report["texts"] == MULTIPLIED
            assert report["calls"] == [["code_interpreter_call", "completed", "123*456\n", logs]]


@pytest.mark.parametrize(("kind", "question", "answer"), [one for one in CLIENT_TOOLS if one[0] != "custom"])
def test_a_tool_that_it_runs_itself(node: Ask, kind: str, question: str, answer: str) -> None:
    """It has no custom tools."""
    reports = node.both("openai_agents", "client_tool", kind=kind, question=question)
    assert reports == [[answer, counted(3)]] * 2


def test_a_web_search_and_what_follows(node: Ask) -> None:
    for report in node.both("openai_agents", "web_search", question=SEARCH):
        assert report["texts"] == [SEARCHED, counted(3)]
        assert report["actions"] == ACTIONS
