"""Compacted contexts with the public client: the endpoint, its item on any node, and `context_management`."""

from typing import Any

import pytest
from openai import BadRequestError, OpenAI

SAID: Any = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "We launch on Tuesday."},
    {"role": "assistant", "content": "Understood: Tuesday."},
    {"role": "user", "content": "Tell support first."},
]
CALL: Any = {"type": "function_call", "call_id": "call_1", "name": "get_weather", "arguments": "{}"}
OUTPUT: Any = {"type": "function_call_output", "call_id": "call_1", "output": "-31 degrees"}
SUMMARY = "user: We launch on Tuesday.\nassistant: Understood: Tuesday.\nuser: Tell support first."
SHOWN: Any = {"enable_response_messages": True}


def read_by_model(response: Any, role: str) -> list[str]:
    """The texts of a role in the prompt."""
    messages = [message for message in response.to_dict()["input_messages"] if message["role"] == role]
    return [message["content"][0].get("text") or "" for message in messages]


def items_of(answer: Any) -> Any:
    return [item.to_dict(warnings=False) for item in answer.output]  # its types have no messages of users


def test_a_conversation_is_compacted_and_goes_on_from_that_on_another_node(nodes: list[OpenAI]) -> None:
    answer = nodes[0].responses.compact(model="default", input=SAID, prompt_cache_key="k")
    assert answer.object == "response.compaction"
    assert answer.to_dict(warnings=False).keys() == {"id", "object", "created_at", "output", "usage"}
    assert answer.usage.output_tokens > 0
    *kept, item = items_of(answer)
    assert [(each["role"], each["content"][0]["text"]) for each in kept] == [
        (each["role"], each["content"]) for each in SAID if each["role"] != "assistant"
    ]
    assert item.keys() == {"id", "type", "encrypted_content"}
    assert item["id"].startswith("cmp_")
    assert "Tuesday" not in item["encrypted_content"]
    asked: Any = [*kept, item, {"role": "user", "content": "Count from 1 to 3"}]
    response = nodes[1].responses.create(model="default", input=asked, extra_body=SHOWN)
    assert response.output_text == "1, 2, 3"
    launch, support, summary, count = read_by_model(response, "user")
    assert (launch, support, count) == ("We launch on Tuesday.", "Tell support first.", "Count from 1 to 3")
    assert summary.endswith(SUMMARY)
    listed = nodes[0].responses.input_items.list(response.id, order="asc").data
    assert listed[3].to_dict() == item, "it is listed as it was sent"
    chained = nodes[0].responses.compact(model="default", previous_response_id=response.id)
    assert [each["type"] for each in items_of(chained)] == ["message", "message", "compaction"]
    assert items_of(chained)[1]["content"][0]["text"] == "Count from 1 to 3", (
        "those before are in the summary"
    )


def test_calls_that_wait_are_within_the_item(nodes: list[OpenAI]) -> None:
    answer = nodes[0].responses.compact(model="default", input=[*SAID, CALL])
    assert [item["type"] for item in items_of(answer)] == ["message"] * 3 + ["compaction"]
    response = nodes[1].responses.create(model="default", input=[*items_of(answer), OUTPUT], extra_body=SHOWN)
    assert response.status == "completed"
    (output,) = read_by_model(response, "tool")
    assert output == "-31 degrees"
    with pytest.raises(BadRequestError, match="No tool output found for function call call_1"):
        nodes[0].responses.create(model="default", input=items_of(answer))


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_response_compacts_its_context_and_its_chain_goes_on(
    nodes: list[OpenAI], is_streamed: bool
) -> None:
    fields: Any = {
        "model": "default",
        "input": SAID,
        "context_management": [{"type": "compaction", "compact_threshold": 10}],
    }
    if is_streamed:
        with nodes[0].responses.stream(**fields) as stream:
            stream.until_done()
            first = stream.get_final_response()
    else:
        first = nodes[0].responses.create(**fields)
    *_, message, item = items_of(first)
    assert (message["type"], item["type"]) == ("message", "compaction")
    asked: Any = {"model": "default", "input": "Count from 1 to 3", "extra_body": SHOWN}
    stored = nodes[1].responses.create(previous_response_id=first.id, **asked)
    sent = nodes[1].responses.create(
        **asked | {"input": [*SAID, *items_of(first), {"role": "user", "content": asked["input"]}]}
    )
    for response in (stored, sent):
        texts = read_by_model(response, "user")
        assert texts[:2] == ["We launch on Tuesday.", "Tell support first."]
        assert SUMMARY in texts[2]
        assert texts[3:] == ["Count from 1 to 3"]
        assert read_by_model(response, "assistant") == [], "nothing before the compaction is read again"


def test_a_conversation_goes_on_from_the_compaction_of_its_last_response(nodes: list[OpenAI]) -> None:
    conversation = nodes[0].conversations.create(items=SAID).id
    managed: Any = [{"type": "compaction", "compact_threshold": 10}]
    asked: Any = {"model": "default", "conversation": conversation}
    nodes[0].responses.create(input="Count from 1 to 2", context_management=managed, **asked)
    second = nodes[1].responses.create(input="Count from 1 to 3", extra_body=SHOWN, **asked)
    texts = read_by_model(second, "user")
    assert [text for text in texts if text.startswith("Count")] == ["Count from 1 to 2", "Count from 1 to 3"]
    assert "assistant: Understood: Tuesday." in texts[3]
    assert read_by_model(second, "assistant") == []


def test_what_cannot_be_compacted_is_refused_by_name(nodes: list[OpenAI]) -> None:
    with pytest.raises(BadRequestError) as refused:
        nodes[0].responses.compact(model=None, input="Hello")
    assert (refused.value.code, refused.value.param) == ("missing_required_parameter", "model")
    with pytest.raises(BadRequestError) as refused:
        nodes[0].responses.compact(model="default")
    assert refused.value.param == "input"
    with pytest.raises(BadRequestError) as refused:
        nodes[0].responses.compact(model="default", input="Hello", extra_body={"n": 1})
    assert (refused.value.code, refused.value.param) == ("unknown_parameter", "n")
    foreign: Any = [{"type": "compaction", "encrypted_content": "gAAAAABforeign"}]
    with pytest.raises(BadRequestError) as refused:
        nodes[0].responses.compact(model="default", input=foreign)
    assert (refused.value.code, refused.value.param) == (
        "invalid_encrypted_content",
        "input[0].encrypted_content",
    )
