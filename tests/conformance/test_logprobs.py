"""Log probabilities as the public client reads them, streamed and not, against a whole cluster."""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import pytest
from openai import BadRequestError, OpenAI
from openai.types.responses import ResponseOutputText

from tests.running import RunningCluster

TEXT = "𓀀 é 😀"
ASKED: Any = {
    "input": f"Repeat {TEXT} 3 times",
    "include": ["message.output_text.logprobs"],
    "top_logprobs": 3,
}


@pytest.fixture
def client(cluster: RunningCluster) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{cluster.urls[0]}/v1", api_key="any", max_retries=0) as client:
        yield client


def part_of(response: Any) -> ResponseOutputText:
    part = response.output[-1].content[0]
    assert isinstance(part, ResponseOutputText)
    return part


def joined(logprobs: Sequence[Any] | None) -> bytes:
    return bytes(chain.from_iterable(each.bytes for each in logprobs or ()))


def test_a_whole_response_has_one_for_each_token_of_its_text(client: OpenAI) -> None:
    response = client.responses.create(model="default", **ASKED)
    part = part_of(response)
    assert joined(part.logprobs) == part.text.encode()
    assert response.top_logprobs == 3
    for each in part.logprobs or ():  # the engine plays a script: what it says is certain
        assert [(top.token, top.bytes, top.logprob) for top in each.top_logprobs] == [
            (each.token, each.bytes, 0.0)
        ]
    assert part_of(client.responses.retrieve(response.id)) == part


def test_streamed_deltas_have_those_of_the_whole(client: OpenAI) -> None:
    events = list(client.responses.create(model="default", stream=True, **ASKED))
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    (done,) = [event for event in events if event.type == "response.output_text.done"]
    (last,) = [event for event in events if event.type == "response.completed"]
    told: list[Any] = list(chain.from_iterable(delta.logprobs for delta in deltas))
    assert joined(told) == done.text.encode() == joined(done.logprobs)
    assert [each.to_dict() for each in told] == [
        each.to_dict() for each in part_of(last.response).logprobs or ()
    ]
    assert all(joined(delta.logprobs) == delta.delta.encode() for delta in deltas)
    assert max(len(delta.logprobs) for delta in deltas) > 1


def test_the_clients_own_stream_reader_takes_them(client: OpenAI) -> None:
    with client.responses.stream(model="default", **ASKED) as stream:
        deltas = [event for event in stream if event.type == "response.output_text.delta"]
        part = part_of(stream.get_final_response())
    assert joined(part.logprobs) == "".join(delta.delta for delta in deltas).encode()


@pytest.mark.parametrize("asked", [{}, {"top_logprobs": 5}, {"include": ["reasoning.encrypted_content"]}])
def test_who_does_not_ask_gets_empty_lists(client: OpenAI, asked: Any) -> None:
    events = list(client.responses.create(model="default", input="Hello!", stream=True, **asked))
    assert all(e.logprobs == [] for e in events if e.type == "response.output_text.delta")
    (last,) = [event for event in events if event.type == "response.completed"]
    assert part_of(last.response).logprobs == []


def test_an_answer_with_them_is_continued_and_sent_back(client: OpenAI) -> None:
    first = client.responses.create(model="default", **ASKED)
    second = client.responses.create(model="default", input="Hello!", previous_response_id=first.id)
    assert second.status == "completed"
    said: list[Any] = [item.to_dict() for item in first.output]
    third = client.responses.create(model="default", input=[*said, {"role": "user", "content": "Hello!"}])
    assert third.output_text == second.output_text


def test_fields_of_vllm_are_taken_beside_those_of_the_api(client: OpenAI) -> None:
    extra = {"seed": 1, "top_k": 5, "min_p": 0.1, "repetition_penalty": 1.2, "logit_bias": {"7": -5}}
    response = client.responses.create(model="default", input="Hello!", extra_body=extra)
    assert response.status == "completed"
    with pytest.raises(BadRequestError) as refused:
        client.responses.create(model="default", input="Hello!", extra_body={"min_p": 2})
    assert refused.value.param == "min_p"
