"""`openai-agents` for Python."""

import json

import pytest

from tests.clients.answers import (
    ACTIONS,
    ADDED,
    AWKWARD,
    AWKWARD_ANSWERS,
    CLIENT_TOOLS,
    LEASES,
    MULTIPLIED,
    REFUSED,
    SEARCH,
    SEARCHED,
    WEATHER,
    counted,
)
from tests.clients.conftest import Ask
from tests.clients.sent import THOUGHT, carried, thoughts_read


def test_silence_and_awkward_characters(python: Ask, awkward: str) -> None:
    assert python.at(awkward).each("openai_agents", "text", AWKWARD) == AWKWARD_ANSWERS


def test_a_tool_loop_and_what_follows(python: Ask) -> None:
    assert python.both("openai_agents", "tool_loop") == [[WEATHER, counted(3)]] * 2


def test_a_tool_loop_and_what_follows_on_one_socket_that_stores_nothing(python: Ask) -> None:
    for report in python.both("openai_agents", "socket"):
        assert report == {"texts": [WEATHER, counted(3)], "connections": 1}


def test_an_agent_that_stores_nothing_keeps_its_reasoning(python: Ask) -> None:
    for report in python.both("openai_agents", "stateless"):
        assert report["text"] == WEATHER
        assert carried(report["sent"])["summary"] == [{"type": "summary_text", "text": THOUGHT}]
        assert carried(report["sent"])["encrypted_content"]
        assert thoughts_read(python, report["sent"]) == [THOUGHT]


def test_hosted_mcp(python: Ask) -> None:
    cases = [{"approves": approves, "stream": s} for approves in (None, True, False) for s in (False, True)]
    assert python.each("openai_agents", "hosted_mcp", cases) == [ADDED] * 4 + [REFUSED] * 2


def test_a_run_that_waits_for_leave_goes_on_from_its_state_as_text(python: Ask) -> None:
    for approves, text in ((True, ADDED), (False, REFUSED)):
        for report in python.both("openai_agents", "interrupted", approves=approves):
            assert [json.loads(arguments) for arguments in report["about"]] == [{"a": 2, "b": 3}]
            assert (report["left"], report["text"][: len(text)]) == (0, text)


def test_a_session_that_is_a_conversation(python: Ask) -> None:
    for report in python.both("openai_agents", "conversation"):
        assert report["texts"] == [counted(3), counted(4)]
        assert report["roles"] == ["user", "assistant", "user", "assistant"]


@pytest.mark.parametrize("mode", ["input", "previous_response_id"])
def test_a_session_that_is_compacted(python: Ask, mode: str) -> None:
    for report in python.both("openai_agents", "compacted", mode=mode):
        assert report["texts"] == [counted(3), counted(4)]
        assert report["left"][-1] == "compaction"
        assert set(report["left"][:-1]) == {"message"}


def test_the_code_interpreter_and_what_follows(python: Ask) -> None:
    for included in (False, True):
        for report in python.both("openai_agents", "code_interpreter", included=included):
            assert report["texts"] == MULTIPLIED
            assert report["calls"] == [["code_interpreter_call", "123*456\n", "completed"]]
            assert report["logs"] == [["56088"] if included else []]


@pytest.mark.parametrize(("kind", "question", "answer"), CLIENT_TOOLS)
def test_a_tool_that_it_runs_itself(python: Ask, kind: str, question: str, answer: str) -> None:
    reports = python.both("openai_agents", "client_tool", kind=kind, question=question)
    assert reports == [[answer, counted(3)]] * 2


def test_a_web_search_and_what_follows(python: Ask) -> None:
    for report in python.both("openai_agents", "web_search", question=SEARCH):
        assert report["texts"] == [SEARCHED, counted(3)]
        assert report["actions"] == ACTIONS
        assert report["cited"] == [LEASES] * 3
