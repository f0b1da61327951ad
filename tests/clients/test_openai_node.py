"""The `openai` package for node."""

from tests.clients.answers import AWKWARD, AWKWARD_ANSWERS, GREETING, TOO_LONG, counted
from tests.clients.conftest import Ask


def test_a_whole_answer(node: Ask) -> None:
    assert node.one("openai_node", "whole") == {"text": counted(20), "status": "completed"}


def test_a_stream_event_by_event(node: Ask) -> None:
    report = node.one("openai_node", "streamed", question="Count from 1 to 20")
    assert report["text"] == counted(20)
    assert report["numbers"] == list(range(len(report["numbers"])))
    assert report["besides"] == []
    assert report["last"] == "response.completed"


def test_silence_and_awkward_characters(node: Ask, awkward: str) -> None:
    """With keep-alives as events, which have no number, and as comments, which it does not show."""
    reports = node.at(awkward).each("openai_node", "streamed", AWKWARD[:3])
    assert [report["text"] for report in reports] == AWKWARD_ANSWERS[:3]
    assert [report["besides"] for report in reports] == [["keepalive"], [], []]
    for report in reports:
        assert report["numbers"] == list(range(len(report["numbers"])))
    assert node.at(awkward).each("openai_node", "accumulated_text", AWKWARD[:3]) == AWKWARD_ANSWERS[:3]


def test_its_accumulator_reaches_the_final_response(node: Ask) -> None:
    report = node.one("openai_node", "accumulated")
    assert report["kinds"] == ["reasoning", "mcp_call", "message"]
    assert report["text"] == r"The product of \(123 \times 456\) is **56,088**."


def test_a_function_is_called_and_its_output_goes_on(node: Ask) -> None:
    report = node.one("openai_node", "function_loop")
    assert report["arguments"] == {"city": "Oslo"}
    assert "-31 degrees, snow" in report["text"]


def test_a_compacted_conversation_goes_on(node: Ask) -> None:
    report = node.one("openai_node", "compacted")
    assert report == {"object": "response.compaction", "kinds": ["message", "compaction"], "text": counted(3)}


def test_its_socket_continues_what_is_not_stored(node: Ask) -> None:
    assert node.one("openai_node", "socket") == [counted(3), counted(4)]


def test_a_background_stream_is_resumed_where_it_was_left(node: Ask) -> None:
    assert node.one("openai_node", "resumed") == {"text": counted(40), "status": "completed"}


def test_a_conversation_is_listed_as_it_was_said(node: Ask) -> None:
    (_, hello), (_, greeting), (_, count), (_, numbers) = told = node.one("openai_node", "conversation")
    assert [role for role, _ in told] == ["user", "assistant", "user", "assistant"]
    assert (hello, count, numbers) == ("Hello", "Count from 1 to 3", counted(3))
    assert greeting.startswith(GREETING)


def test_a_mistake_is_an_error_of_its_own_kind(node: Ask) -> None:
    report = node.one("openai_node", "refused", body={"temperature": 3})
    assert (report["kind"], report["status"], report["param"]) == ("BadRequestError", 400, "temperature")


def test_a_prompt_that_is_too_long_has_its_code_also_in_a_stream(node: Ask, awkward: str) -> None:
    bodies = [{"input": TOO_LONG}, {"input": TOO_LONG, "stream": True}]
    reports = node.at(awkward).each("openai_node", "refused", [{"body": body} for body in bodies])
    assert [report["code"] for report in reports] == ["context_length_exceeded"] * 2
    assert [report["kind"] for report in reports] == ["BadRequestError", "APIError"]
