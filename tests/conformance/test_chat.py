"""Chat completions as the public client reads them, against a whole cluster, and the responses they are."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openai import NotFoundError, OpenAI

from tests.patience import PATIENCE_S
from tests.running import RunningCluster
from tests.streams import read_frames

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
COUNTED = ", ".join(map(str, range(1, 21)))


def ask(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "default", "messages": [{"role": "user", "content": text}], **more}


@pytest.fixture
def client(cluster: RunningCluster) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{cluster.urls[0]}/v1", api_key="any", max_retries=0) as client:
        yield client


def text_of(chunks: list[Any], name: str = "content") -> str:
    return "".join(getattr(each.choices[0].delta, name, None) or "" for each in chunks if each.choices)


def test_a_chat_streamed_and_whole_says_the_same(client: OpenAI) -> None:
    whole = client.chat.completions.create(**ask("Hello!"))
    *chunks, last = client.chat.completions.create(
        **ask("Hello!", stream=True, stream_options={"include_usage": True})
    )
    (choice,) = whole.choices
    thought = choice.message.reasoning_content
    assert choice.message.content == text_of(chunks)
    assert thought == text_of(chunks, "reasoning_content") != ""
    assert choice.message.reasoning == text_of(chunks, "reasoning") == thought
    assert choice.finish_reason == chunks[-1].choices[0].finish_reason == "stop"
    assert last.choices == []
    assert last.usage == whole.usage
    response = client.responses.create(model="default", input="Hello!")
    assert (response.output_text, response.usage and response.usage.total_tokens) == (
        choice.message.content,
        whole.usage and whole.usage.total_tokens,
    )


@pytest.mark.parametrize("streamed", [False, True])
def test_a_tool_call_is_answered_and_the_chat_goes_on(client: OpenAI, streamed: bool) -> None:
    asked = ask("What is the weather in Oslo?", tools=[WEATHER])
    if streamed:
        with client.chat.completions.stream(**asked) as stream:
            stream.until_done()
            choice: Any = stream.get_final_completion().choices[0]
    else:
        choice = client.chat.completions.create(**asked).choices[0]
    (call,) = choice.message.tool_calls
    assert (choice.finish_reason, choice.message.content or "") == ("tool_calls", "")
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Oslo"})
    asked["messages"] += [
        choice.message.to_dict(),
        {"role": "tool", "tool_call_id": call.id, "content": "-3 degrees"},
    ]
    said = client.chat.completions.create(**asked).choices[0].message
    assert said.content == "The weather in Oslo, as `get_weather` reports it: -3 degrees"


def test_limits_log_probabilities_and_formats_are_those_of_responses(client: OpenAI) -> None:
    counted = client.chat.completions.create(
        **ask("Count from 1 to 20", logprobs=True, top_logprobs=1, max_completion_tokens=10)
    ).choices[0]
    assert counted.finish_reason == "length"
    assert counted.logprobs is not None
    told = b"".join(bytes(each.bytes or ()) for each in counted.logprobs.content or ())
    assert told.decode() == counted.message.content
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}
    assert client.chat.completions.create(**ask("Hello!", response_format=form, tools=[WEATHER])).choices


@pytest.mark.parametrize("streamed", [False, True])
def test_a_stop_sequence_ends_the_answer_and_the_response(client: OpenAI, streamed: bool) -> None:
    asked = ask("Count slowly to 5000", stop=[" 11", "9, 10"], store=True, stream=streamed)
    raw = client.chat.completions.with_raw_response.create(**asked)
    if streamed:
        chunks = list(raw.parse())
        text, reason = text_of(chunks), chunks[-1].choices[0].finish_reason
    else:
        choice = raw.parse().choices[0]
        text, reason = choice.message.content or "", choice.finish_reason
    assert (text, reason) == ("1, 2, 3, 4, 5, 6, 7, 8, ", "stop")
    response = client.responses.retrieve(raw.headers["x-response-id"])
    assert response.status == "cancelled"


def test_a_chat_is_stored_only_if_it_asks_for_that(client: OpenAI) -> None:
    first = client.chat.completions.with_raw_response.create(**ask("Hello!"))
    with pytest.raises(NotFoundError):
        client.responses.retrieve(first.headers["x-response-id"])
    asked = ask("Hello!", store=True, metadata={"a": "b"})
    kept = client.chat.completions.with_raw_response.create(**asked)
    response = client.responses.retrieve(kept.headers["x-response-id"])
    assert (response.output_text, response.metadata) == (
        kept.parse().choices[0].message.content,
        {"a": "b"},
    )


def test_a_chat_that_is_cut_goes_on_as_a_response_of_another_node(cluster: RunningCluster) -> None:
    asked = ask("Count slowly to 20", stream=True)
    text, cursor = "", ""
    with httpx.stream("POST", f"{cluster.urls[0]}/v1/chat/completions", json=asked) as answer:
        response_id = answer.headers["x-response-id"]
        for line in answer.iter_lines():
            if line.startswith("id: "):
                cursor = line.removeprefix("id: ")
            elif line.startswith("data: "):
                text += json.loads(line.removeprefix("data: "))["choices"][0]["delta"].get("content") or ""
            if "5" in text:
                break
    address = f"{cluster.urls[1]}/v1/responses/{response_id}?stream=true&starting_after={cursor}"
    rest = read_frames(httpx.get(address, timeout=PATIENCE_S).content)
    assert [frame.id for frame in rest] == list(range(int(cursor) + 1, rest[-1].id + 1))
    text += "".join(frame.data["delta"] for frame in rest if frame.data["type"].endswith("text.delta"))
    assert text == COUNTED


def test_the_same_key_gives_the_same_chat(client: OpenAI) -> None:
    headers = {"Idempotency-Key": "a chat that is repeated"}
    first, again = (client.chat.completions.create(**ask("Hello!"), extra_headers=headers) for _ in "12")
    assert first == again
