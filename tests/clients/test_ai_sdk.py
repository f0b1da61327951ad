"""Vercel's AI SDK with `@ai-sdk/openai`."""

import pytest

from tests.clients.answers import (
    ADDED,
    AWKWARD,
    AWKWARD_ANSWERS,
    CLIENT_TOOLS,
    LEASES,
    MULTIPLIED,
    REFUSED,
    SEARCH,
    SEARCHED,
    TOO_LONG,
    TOO_LONG_SAID,
    WEATHER,
    counted,
)
from tests.clients.conftest import Ask
from tests.clients.sent import THOUGHT, carried, thoughts_read


def test_text(node: Ask) -> None:
    reports = node.both("ai_sdk", "text", question="Count from 1 to 20")
    assert reports == [{"text": counted(20), "sums": True}] * 2


def test_silence_and_awkward_characters(node: Ask, awkward: str) -> None:
    reports = node.at(awkward).each("ai_sdk", "text", AWKWARD)
    assert [report["text"] for report in reports] == AWKWARD_ANSWERS


def test_a_tool_loop(node: Ask) -> None:
    assert node.both("ai_sdk", "tool_loop") == [{"text": WEATHER, "steps": 2}] * 2


def test_an_agent_that_stores_nothing_keeps_its_reasoning_and_shows_the_summary(node: Ask) -> None:
    """It asks for sealed reasoning by itself, and drops an item that has none."""
    for report in node.both("ai_sdk", "stateless"):
        assert report["text"] == WEATHER
        assert report["shown"] == ["The user asks for the weather in Oslo.", "The function has answered."]
        assert "content" not in carried(report["sent"])
        assert thoughts_read(node, report["sent"]) == [THOUGHT]


@pytest.mark.parametrize(
    ("approval", "approves", "answer"),
    [
        ("never", None, {"asked": 0, "text": ADDED}),
        ("always", True, {"asked": 1, "text": ADDED}),
        ("always", False, {"asked": 1, "text": REFUSED}),
    ],
)
def test_hosted_mcp(node: Ask, approval: str, approves: bool | None, answer: object) -> None:
    assert node.both("ai_sdk", "hosted_mcp", approval=approval, approves=approves) == [answer] * 2


def test_a_server_whose_tools_say_little_of_themselves(node: Ask, sparse: str) -> None:
    """A tool without a description, and a listing that fails."""
    nowhere = "http://127.0.0.1:9/mcp"
    cases = [
        {"mcp": server, "approval": "never", "stream": s}
        for server in (sparse, nowhere)
        for s in (False, True)
    ]
    reports = node.each("ai_sdk", "hosted_mcp", cases)
    assert [report["asked"] for report in reports] == [0] * 4


def test_a_response_that_fails_is_an_error_with_our_words(node: Ask, awkward: str) -> None:
    for question, words in (("Please fail", "The model kept calling"), (TOO_LONG, TOO_LONG_SAID)):
        whole, streamed = node.at(awkward).both("ai_sdk", "failure", question=question)
        assert words in whole
        assert words in streamed


def test_the_code_interpreter_and_what_follows(node: Ask) -> None:
    for report in node.both("ai_sdk", "code_interpreter"):
        assert report["texts"] == MULTIPLIED
        assert report["codes"] == ["123*456\n"]
        assert report["outputs"] == [[{"type": "logs", "logs": "56088"}]]


@pytest.mark.parametrize(("kind", "question", "answer"), CLIENT_TOOLS)
def test_a_tool_that_it_runs_itself(node: Ask, kind: str, question: str, answer: str) -> None:
    reports = node.both("ai_sdk", "client_tool", kind=kind, question=question)
    assert reports == [[answer, counted(3)]] * 2


def test_a_web_search_with_its_sources_and_what_follows(node: Ask) -> None:
    for report in node.both("ai_sdk", "web_search", question=SEARCH):
        assert report["texts"] == [SEARCHED, counted(3)]
        assert report["cited"] == [
            [mark, LEASES, "Leases and fencing tokens"] for mark in ("【1†L2-L3】", "【2†L1】", "【0†L4】")
        ]
        assert LEASES in report["found"]
        assert [action["type"] for action in report["actions"]] == ["search", "openPage", "findInPage"]
        assert {"type": "url", "url": LEASES} in report["sources"]
