"""Summaries of reasoning, and sealed reasoning that a client sends back, with the public client."""

from collections.abc import Iterator
from typing import Any

import pytest
from openai import OpenAI

from tests.running import RunningCluster

WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
ASKED: Any = {"role": "user", "content": "What is the weather in Oslo?"}
THOUGHT = "The user asks for the weather in Oslo. The function get_weather knows it."
SENTENCE = "This sentence is one of many that were prepared; it reasons about nothing."
STATELESS: Any = {"store": False, "include": ["reasoning.encrypted_content"]}


@pytest.fixture
def clients(cluster: RunningCluster) -> Iterator[list[OpenAI]]:
    clients = [OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) for url in cluster.urls]
    yield clients
    for client in clients:
        client.close()


def thoughts_read(response: Any) -> list[str]:
    """The reasoning that the model read in its prompt."""
    messages = response.to_dict()["input_messages"]
    analysis = [message for message in messages if message.get("channel") == "analysis"]
    return [part["text"] for message in analysis for part in message["content"]]


@pytest.mark.parametrize(
    ("reasoning", "summary"),
    [
        ({"summary": "auto"}, [SENTENCE] * 3),
        ({"generate_summary": "detailed"}, [SENTENCE] * 3),
        ({"effort": "low"}, []),
    ],
)
def test_a_summary_comes_in_parts_as_it_is_made_and_stands_in_the_item(
    clients: list[OpenAI], reasoning: Any, summary: list[str]
) -> None:
    told: list[str] = []
    item: Any = None
    for event in clients[0].responses.create(
        model="default", input="Think for 3 steps", reasoning=reasoning, stream=True
    ):
        match event.type:
            case "response.reasoning_summary_part.added":
                assert event.summary_index == len(told)
                told.append(event.part.text)
            case "response.reasoning_summary_text.delta":
                told[event.summary_index] += event.delta
            case "response.reasoning_summary_text.done":
                assert event.text == told[event.summary_index]
            case "response.reasoning_summary_part.done":
                assert event.part.text == told[event.summary_index]
            case "response.output_item.done" if event.item.type == "reasoning":
                item = event.item
            case "response.completed":
                assert event.response.output[0] == item
            case _:
                pass
    assert told == [part.text for part in item.summary] == summary
    assert item.content[0].text == "\n\n".join([SENTENCE] * 3)


@pytest.mark.parametrize("is_streamed", [False, True])
def test_sealed_reasoning_comes_back_to_any_node_and_the_model_reads_it(
    clients: list[OpenAI], is_streamed: bool
) -> None:
    """As agents with `store: false` send it that keep neither `content` nor a `status`."""
    fields: Any = {"model": "default", "tools": [WEATHER], **STATELESS}
    if is_streamed:
        with clients[0].responses.stream(input=[ASKED], **fields) as stream:
            stream.until_done()
            first = stream.get_final_response()
    else:
        first = clients[0].responses.create(input=[ASKED], **fields)
    output_items: list[Any] = [item.to_dict() for item in first.output]
    thought, call = output_items
    assert isinstance(thought["encrypted_content"], str)
    assert thought["content"] == [{"type": "reasoning_text", "text": THOUGHT}]
    carried: Any = {name: thought[name] for name in ("id", "type", "summary", "encrypted_content")}
    output: Any = {"type": "function_call_output", "call_id": call["call_id"], "output": "-31 degrees"}
    second = clients[1].responses.create(
        input=[ASKED, carried, call, output], **fields, extra_body={"enable_response_messages": True}
    )
    assert thoughts_read(second) == [THOUGHT]
    assert "-31" in second.output_text


def test_a_chain_reads_the_reasoning_whatever_was_included(clients: list[OpenAI]) -> None:
    first = clients[0].responses.create(
        model="default",
        input=[ASKED],
        tools=[WEATHER],
        include=["reasoning.encrypted_content"],
        reasoning={"summary": "concise"},
    )
    output: Any = {"type": "function_call_output", "call_id": first.output[-1].call_id, "output": "0"}  # type: ignore[union-attr]
    second = clients[1].responses.create(
        model="default",
        previous_response_id=first.id,
        input=[output],
        tools=[WEATHER],
        extra_body={"enable_response_messages": True},
    )
    assert thoughts_read(second) == [THOUGHT]
    listed = clients[1].responses.input_items.list(second.id, order="asc").data
    reasoning = next(item.to_dict() for item in listed if item.type == "reasoning")
    assert reasoning["content"] == [{"type": "reasoning_text", "text": THOUGHT}]
    assert "encrypted_content" not in reasoning
    assert "encrypted_content" in clients[1].responses.retrieve(first.id).output[0].to_dict()


def test_a_summary_without_the_reasoning_is_what_the_model_reads_instead(clients: list[OpenAI]) -> None:
    parts = [{"type": "summary_text", "text": text} for text in ("First I look.", "Then I call.")]
    thought: Any = {"type": "reasoning", "summary": parts}
    response = clients[0].responses.create(
        model="default",
        input=[ASKED, thought],
        extra_body={"enable_response_messages": True},
    )
    assert thoughts_read(response) == ["First I look.\nThen I call."]
