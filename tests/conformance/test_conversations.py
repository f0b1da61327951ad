"""Conversations as users of the public client hold them, on two nodes of one cluster."""

from typing import Any

import pytest
from openai import AsyncOpenAI, BadRequestError, NotFoundError, OpenAI

from tests.running import RunningCluster

WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
PYTHON: Any = {"type": "mcp", "server_label": "code_interpreter", "server_url": "IGNORED"}
NOTED: Any = {"role": "user", "content": "My name is Ada."}


def texts(client: OpenAI, conversation: str) -> list[str]:
    """Every message, oldest first; the client asks for page after page."""
    pages = client.conversations.items.list(conversation, order="asc", limit=2)
    return [item.content[0].text for item in pages if item.type == "message"]  # type: ignore[union-attr]


def what_the_model_read(response: Any) -> list[tuple[str, str]]:
    """(role, text) of the messages in the prompt, without the system's."""
    return [
        (message["role"], message["content"][0].get("text") or message["content"][0].get("instructions"))
        for message in response.input_messages
        if message["role"] != "system"
    ]


def test_a_conversation_lives_on_every_node_until_it_is_deleted(nodes: list[OpenAI]) -> None:
    one, other = nodes
    made = one.conversations.create(items=[NOTED], metadata={"topic": "names"})
    assert made.metadata == {"topic": "names"}
    assert other.conversations.retrieve(made.id) == made
    assert other.conversations.update(made.id, metadata={"topic": "poets"}).metadata == {"topic": "poets"}
    added = other.conversations.items.create(made.id, items=[{"role": "assistant", "content": "Hello Ada."}])
    assert [item.type for item in added.data] == ["message"]
    item_id = added.data[0].id
    assert item_id is not None
    assert one.conversations.items.retrieve(item_id, conversation_id=made.id) == added.data[0]
    assert texts(one, made.id) == ["My name is Ada.", "Hello Ada."]
    assert one.conversations.items.delete(item_id, conversation_id=made.id).id == made.id
    assert texts(other, made.id) == ["My name is Ada."]
    gone = one.conversations.delete(made.id)
    assert (gone.id, gone.deleted, gone.object) == (made.id, True, "conversation.deleted")
    with pytest.raises(NotFoundError, match=f"Conversation with id '{made.id}' not found."):
        other.conversations.retrieve(made.id)


def test_responses_go_on_where_the_conversation_is(nodes: list[OpenAI]) -> None:
    one, other = nodes
    conversation = one.conversations.create(items=[NOTED]).id
    asked: dict[str, Any] = {
        "model": "default",
        "conversation": conversation,
        "extra_body": {"enable_response_messages": True},
    }
    first = one.responses.create(input="Count from 1 to 3", instructions="Be brief.", **asked)
    second = other.responses.create(input="Count from 1 to 4", **asked)
    assert first.conversation is not None
    assert first.conversation.id == conversation
    assert (first.output_text, second.output_text) == ("1, 2, 3", "1, 2, 3, 4")
    turns = ["My name is Ada.", "Count from 1 to 3", "1, 2, 3", "Count from 1 to 4", "1, 2, 3, 4"]
    assert texts(one, conversation) == turns
    assert what_the_model_read(first) == [
        ("developer", "Be brief."),
        ("user", "My name is Ada."),
        ("user", "Count from 1 to 3"),
    ]
    roles = ["user", "user", "assistant", "user"]
    assert what_the_model_read(second) == list(zip(roles, turns, strict=False))


def test_the_tokens_of_the_input_grow_with_the_conversation(nodes: list[OpenAI]) -> None:
    one, other = nodes
    conversation = one.conversations.create().id
    counts: list[int] = []
    for number in (3, 4, 5):
        asked: dict[str, Any] = {"input": f"Count from 1 to {number}", "conversation": conversation}
        count = other.responses.input_tokens.count(model="default", **asked).input_tokens
        response = one.responses.create(model="default", **asked)
        assert response.usage is not None
        assert response.usage.input_tokens == count
        counts.append(count)
    assert counts[0] < counts[1] < counts[2]


def test_calls_and_outputs_of_a_function_stay_in_the_conversation(nodes: list[OpenAI]) -> None:
    one, other = nodes
    conversation = one.conversations.create().id
    asked: dict[str, Any] = {"model": "default", "conversation": conversation, "tools": [WEATHER]}
    call = one.responses.create(input="What is the weather in Oslo?", **asked).output[-1]
    assert call.type == "function_call"
    output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "-31 degrees"}
    assert "-31" in other.responses.create(input=[output], **asked).output_text
    kinds = [item.type for item in one.conversations.items.list(conversation, order="asc")]
    assert [kind for kind in kinds if kind != "reasoning"] == [
        "message",
        "function_call",
        "function_call_output",
        "message",
    ]


def test_calls_of_servers_stay_in_the_conversation(nodes: list[OpenAI]) -> None:
    one, other = nodes
    conversation = one.conversations.create().id
    for client, product in ((one, "12*12"), (other, "13*13")):
        response = client.responses.create(
            model="default",
            input=f"Multiply {product} using python.",
            tools=[PYTHON],
            conversation=conversation,
        )
        assert str(eval(product)) in response.output_text
    kinds = [item.type for item in one.conversations.items.list(conversation, order="asc", limit=100)]
    assert kinds.count("mcp_call") == 2
    assert kinds.count("message") == 4


def test_a_response_has_a_conversation_or_a_parent_and_not_both(nodes: list[OpenAI]) -> None:
    client = nodes[0]
    conversation = client.conversations.create().id
    parent = client.responses.create(model="default", input="Count from 1 to 3")
    with pytest.raises(BadRequestError) as refused:
        client.responses.create(
            model="default", input="Hi", conversation=conversation, previous_response_id=parent.id
        )
    assert refused.value.code == "mutually_exclusive_parameters"
    assert texts(client, conversation) == []


async def test_streamed_and_background_responses_join_the_conversation(cluster: RunningCluster) -> None:
    url = f"{cluster.urls[1]}/v1"
    async with AsyncOpenAI(base_url=url, api_key="any", max_retries=0) as client:
        conversation = (await client.conversations.create()).id
        stream = await client.responses.create(
            model="default", input="Count from 1 to 3", conversation=conversation, stream=True
        )
        events = [event async for event in stream]
        assert events[-1].type == "response.completed"
        background = await client.responses.create(
            model="default", input="Count from 1 to 4", conversation=conversation, background=True
        )
        again = await client.responses.retrieve(background.id, stream=True)
        assert [event.type async for event in again][-1] == "response.completed"
        found = [item async for item in client.conversations.items.list(conversation, order="asc", limit=1)]
        assert [item.content[0].text for item in found if item.type == "message"] == [  # type: ignore[union-attr]
            "Count from 1 to 3",
            "1, 2, 3",
            "Count from 1 to 4",
            "1, 2, 3, 4",
        ]
