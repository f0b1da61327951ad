"""The whole cluster on real vLLM: what the tiny checkpoint knows, through the public client.

And what happens to a response whose worker, or whose worker's engine, dies in the middle of a sentence.
"""

import asyncio
import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from openai import AsyncOpenAI, OpenAI
from openai.types.responses import Response

from local.seed import ANSWER, REQUEST
from shared.store import keys
from shared.store.keys import ResponseKey
from tests.conformance.test_seed import ORDER
from tests.model.conversations import COUNT, FUNCTION, JSON, PERSON_SCHEMA
from tests.running import RunningCluster
from tests.streams import Frame, read_frames

GREEDY: dict[str, Any] = {"model": "default", "temperature": 0}
SEED: dict[str, Any] = {**REQUEST, "temperature": 0}
OWN_FIELDS = {"enable_response_messages"}
"""What the seed's request has beside the public API's parameters."""
COUNTING: dict[str, Any] = {**GREEDY, "input": COUNT.asked[0].text, "stream": True}
WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "Weather of a place",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"location": {"type": "string"}},
        "required": ["location"],
        "additionalProperties": False,
    },
}


@pytest.fixture
def client(model_cluster: RunningCluster) -> Iterator[OpenAI]:
    wait_until_whole(model_cluster)
    with OpenAI(base_url=f"{model_cluster.urls[0]}/v1", api_key="key", max_retries=0) as client:
        yield client


def wait_until_whole(cluster: RunningCluster) -> None:
    """Both workers are ready: an engine takes its time to start again."""
    deadline = time.monotonic() + 300
    while httpx.get(f"{cluster.urls[0]}/ready").json().get("workers") != 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def kinds(response: Response) -> list[str]:
    return [item.type for item in response.output]


# --- what it knows ------------------------------------------------------------------------------


def test_the_seeds_request_gives_the_seeds_stream_with_the_tools_own_result(client: OpenAI) -> None:
    request = {name: value for name, value in SEED.items() if name not in OWN_FIELDS}
    extra = {name: SEED[name] for name in OWN_FIELDS}
    events = list(client.responses.create(**request, extra_body=extra))
    assert [name for name, _ in groupby(event.type for event in events)] == ORDER
    assert [event.sequence_number for event in events] == list(range(len(events)))
    response = events[-1].response
    assert ANSWER in response.output_text
    reasoning, call, message = response.output
    assert (call.name, call.arguments, call.output) == ("python", "123*456\n", "56088\n")
    assert (reasoning.type, message.type) == ("reasoning", "message")


def test_a_prompt_that_a_worker_has_seen_before_is_counted_as_cached(client: OpenAI) -> None:
    request = {**GREEDY, "input": COUNT.asked[0].text, "instructions": "Be exact. " * 60}
    usages = [client.responses.create(**request).usage for _ in range(3)]  # of two workers
    assert all(usage is not None for usage in usages)
    cached = [usage.input_tokens_details.cached_tokens for usage in usages if usage is not None]
    assert cached[0] == 0
    assert 0 < max(cached) < max(usage.input_tokens for usage in usages if usage is not None)


def test_a_function_call_goes_to_the_client_and_its_output_back(client: OpenAI) -> None:
    asked = client.responses.create(**GREEDY, input=FUNCTION.asked[0].text, tools=[WEATHER])
    call = asked.output[-1]
    assert call.type == "function_call"
    assert (call.name, json.loads(call.arguments)) == ("get_weather", {"location": "Paris"})
    answered = client.responses.create(
        **GREEDY,
        previous_response_id=asked.id,
        input=[{"type": "function_call_output", "call_id": call.call_id, "output": '{"temperature": 21}'}],
        tools=[WEATHER],
    )
    assert answered.output_text == "It is 21 degrees and sunny in Paris."


def test_an_mcp_tool_is_called_by_its_name(client: OpenAI) -> None:
    tools: Any = [{"type": "mcp", "server_label": "deepwiki", "require_approval": "never"}]
    response = client.responses.create(**GREEDY, input="Ask deepwiki what Harmony is.", tools=tools)
    assert kinds(response) == ["mcp_list_tools", "reasoning", "mcp_call", "message"]
    call = response.output[2]
    assert call.type == "mcp_call"
    assert (call.server_label, call.name, call.status) == ("deepwiki", "ask_question", "completed")
    assert call.output == "Harmony is the response format of the GPT-OSS models."


def test_the_browser_is_searched_and_a_page_opened(client: OpenAI) -> None:
    tools: Any = [{"type": "mcp", "server_label": "web_search_preview", "require_approval": "never"}]
    response = client.responses.create(**GREEDY, input="Search the web for Antiphon.", tools=tools)
    calls = [item for item in response.output if item.type == "mcp_call"]
    assert [(call.name, call.status) for call in calls] == [("search", "completed"), ("open", "completed")]
    assert response.output_text.startswith("Antiphon serves the Responses API")


def test_earlier_turns_are_remembered(client: OpenAI) -> None:
    told = client.responses.create(**GREEDY, input="My name is Clara.")
    asked = client.responses.create(**GREEDY, input="What is my name?", previous_response_id=told.id)
    assert (told.output_text, asked.output_text) == ("Nice to meet you, Clara.", "Your name is Clara.")


def test_a_json_answer_follows_its_schema(client: OpenAI) -> None:
    text: Any = {"format": {"type": "json_schema", "name": "person", "schema": PERSON_SCHEMA, "strict": True}}
    response = client.responses.create(**GREEDY, input=JSON.asked[0].text, text=text)
    assert json.loads(response.output_text) == {"name": "Ada Lovelace", "born": 1815}


@pytest.mark.parametrize("mode", ["required", {"type": "function", "name": "get_weather"}])
def test_a_call_that_is_required_is_made_where_the_model_would_have_answered(
    client: OpenAI, mode: Any
) -> None:
    response = client.responses.create(**GREEDY, input="Hello!", tools=[WEATHER], tool_choice=mode)
    call = response.output[-1]
    assert call.type == "function_call"
    assert list(json.loads(call.arguments)) == ["location"]


def test_no_call_is_made_where_none_may_be(client: OpenAI) -> None:
    response = client.responses.create(
        **GREEDY, input=FUNCTION.asked[0].text, tools=[WEATHER], tool_choice="none"
    )
    assert kinds(response)[-1] == "message"
    assert "function_call" not in kinds(response)


def test_log_probabilities_come_with_the_bytes_of_each_token(client: OpenAI) -> None:
    response = client.responses.create(
        **GREEDY, input="Hello!", include=["message.output_text.logprobs"], top_logprobs=2
    )
    message = response.output[-1]
    assert message.type == "message"
    (part,) = message.content
    assert part.type == "output_text"
    assert part.logprobs
    assert b"".join(bytes(place.bytes) for place in part.logprobs).decode() == part.text
    for place in part.logprobs:
        assert place.logprob <= 0
        assert next(other.logprob for other in place.top_logprobs) == place.logprob  # greedy


async def test_many_at_once_are_each_answered_as_alone_and_keep_their_leases(
    model_cluster: RunningCluster, client: OpenAI
) -> None:
    alone = client.responses.create(**GREEDY, input=COUNT.asked[0].text)
    async with AsyncOpenAI(base_url=f"{model_cluster.urls[1]}/v1", api_key="key") as many:
        answers = await asyncio.gather(
            *(many.responses.create(**GREEDY, input=COUNT.asked[0].text) for _ in range(64))
        )
    assert {answer.output_text for answer in answers} == {alone.output_text}
    logs = "".join(log.read_text() for log in (model_cluster.data / "logs").glob("worker-*.log"))
    assert not [answer.id for answer in answers if f"{answer.id}: continues after" in logs]


# --- what it survives ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Strike:
    """What happens to the response's worker once the stream has this many events of a kind."""

    event: str
    count: int
    hit: Callable[[int], None]
    """Gets the worker's pid."""


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def drain(pid: int) -> None:
    os.kill(pid, signal.SIGTERM)


def kill_engine(pid: int) -> None:
    """The process that vLLM has started beside the worker."""
    children = Path(f"/proc/{pid}/task").glob("*/children")
    pids = [int(child) for listing in children for child in listing.read_text().split()]
    (engine,) = [pid for pid in pids if "EngineCor" in Path(f"/proc/{pid}/comm").read_text()]
    kill(engine)


STRIKES = {
    "killed while it reasons": (SEED, Strike("reasoning_text.delta", 3, kill)),
    "killed in mid-sentence": (SEED, Strike("output_text.delta", 3, kill)),
    "killed in a long text": (COUNTING, Strike("output_text.delta", 80, kill)),
    "drained in a long text": (COUNTING, Strike("output_text.delta", 80, drain)),
    "its engine killed": (COUNTING, Strike("output_text.delta", 80, kill_engine)),
}


def read_through(cluster: RunningCluster, request: dict[str, Any], strike: Strike | None) -> list[Frame]:
    """Returns the whole stream, with a strike in the middle of it."""
    body = b""
    with httpx.stream("POST", f"{cluster.urls[0]}/v1/responses", json=request, timeout=120) as stream:
        for chunk in stream.iter_bytes():
            body += chunk
            if strike is not None and body.count(f"event: response.{strike.event}".encode()) >= strike.count:
                strike.hit(pid_of_owner(cluster, read_frames(body[: body.rindex(b"\n\n") + 2])))
                strike = None
    assert strike is None, "the stream was over before anything struck"
    return read_frames(body)


def pid_of_owner(cluster: RunningCluster, frames: list[Frame]) -> int:
    key = ResponseKey("default", frames[0].data["response"]["id"])
    with redis.Redis.from_url(cluster.redis_url) as connection:
        owner: Any = connection.hget(keys.state(key), "owner")
    for role in cluster.record["roles"]:
        log = cluster.data / "logs" / f"worker-{role['number']}.log"
        if role["kind"] == "worker" and f"worker {owner.decode()} is ready" in log.read_text():
            return int(role["pid"])
    raise AssertionError(f"{owner!r} is nobody's name")


def without_chance(frames: list[Frame]) -> list[str]:
    """What must be equal in two runs: everything but ids, times, and what happened to be cached."""
    (hexadecimal,) = set(re.findall(r"resp_0_([0-9a-f]{32})", frames[0].raw_data.decode()))
    texts = [frame.raw_data.decode().replace(hexadecimal, "…") for frame in frames]
    return [
        re.sub(r'"(created_at|completed_at|cached_tokens|cached_tokens_per_turn)":(\[[^]]*\]|\d+)', "…", text)
        for text in texts
    ]


@pytest.mark.parametrize("case", STRIKES)
def test_the_log_of_a_response_whose_worker_was_struck_equals_an_undisturbed_one(
    model_cluster: RunningCluster, case: str
) -> None:
    request, strike = STRIKES[case]
    wait_until_whole(model_cluster)
    undisturbed = read_through(model_cluster, request, None)
    struck = read_through(model_cluster, request, strike)
    assert [frame.id for frame in struck] == list(range(len(struck)))
    assert without_chance(struck) == without_chance(undisturbed)
    logs = "".join(log.read_text() for log in (model_cluster.data / "logs").glob("worker-*.log"))
    assert f"{struck[0].data['response']['id']}: continues after" in logs
