"""`langchain-openai` on the Responses API."""

from tests.clients.answers import (
    ADDED,
    AWKWARD,
    AWKWARD_ANSWERS,
    LEASES,
    MULTIPLIED,
    REFUSED,
    SEARCH,
    SEARCHED,
    TOO_LONG,
    WEATHER,
    counted,
)
from tests.clients.conftest import Ask
from tests.clients.sent import THOUGHT, carried, thoughts_read

STYLES = [{}, {"output_version": "responses/v1"}, {"use_previous_response_id": True}]
"""How a chat model reports its answers, and continues from one."""


def test_text(python: Ask) -> None:
    reports = python.both("langchain", "text", question="Count from 1 to 20")
    assert reports == [{"text": counted(20), "tokens": True}] * 2


def test_silence_and_awkward_characters(python: Ask, awkward: str) -> None:
    reports = python.at(awkward).each("langchain", "text", AWKWARD)
    assert [report["text"] for report in reports] == AWKWARD_ANSWERS


def test_a_prompt_that_is_too_long_is_an_exception_of_its_own(python: Ask, awkward: str) -> None:
    """By our words in a stream; for a whole answer it looks for the code where its `openai` has none."""
    whole, streamed = python.at(awkward).both("langchain", "failure", question=TOO_LONG)
    assert "BadRequestError" in whole
    assert "ContextOverflowError" in streamed


def test_a_tool_loop_and_what_follows(python: Ask) -> None:
    cases = [{"options": style, "stream": stream} for style in STYLES for stream in (False, True)]
    reports = python.each("langchain", "tool_loop", cases)
    assert reports == [{"calls": [{"city": "Oslo"}], "texts": [WEATHER, counted(3)]}] * 6


def test_an_agent_that_stores_nothing_keeps_its_reasoning(python: Ask) -> None:
    """Of a stream it keeps the summary and the sealed text, but not the text."""
    for report in python.both("langchain", "stateless"):
        assert report["text"] == WEATHER
        assert carried(report["sent"])["encrypted_content"]
        assert thoughts_read(python, report["sent"]) == [THOUGHT]


def test_hosted_mcp_and_what_follows(python: Ask) -> None:
    for report in python.both("langchain", "hosted_mcp"):
        assert report["kinds"] == ["mcp_list_tools", "reasoning", "mcp_call", "text"]
        assert report["texts"] == [ADDED, ADDED]


def test_an_approval_by_the_id_of_the_response_that_asks(python: Ask) -> None:
    for approves, text in ((True, ADDED), (False, REFUSED)):
        for report in python.both("langchain", "approval", approves=approves):
            assert (report["asked"], report["text"][: len(text)]) == (1, text)


def test_the_code_interpreter_and_what_follows(python: Ask) -> None:
    cases = [{"options": style, "stream": stream} for style in STYLES for stream in (False, True)]
    for report in python.each("langchain", "code_interpreter", cases):
        assert report["kinds"] == ["reasoning", "code_interpreter_call", "text"]
        assert report["texts"] == MULTIPLIED


def test_a_web_search_and_what_follows(python: Ask) -> None:
    cases = [
        {"kind": kind, "options": style, "stream": stream, "question": SEARCH}
        for kind in ("web_search", "web_search_preview")
        for style in STYLES
        for stream in (False, True)
    ]
    for report in python.each("langchain", "web_search", cases):
        assert [kind for kind in report["kinds"] if kind != "reasoning"] == ["web_search_call"] * 3 + ["text"]
        assert report["texts"] == [SEARCHED, counted(3)]
        assert report["cited"] == [LEASES] * 3
