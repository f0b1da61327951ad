"""What users of the public client do all day, against a whole cluster."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from openai import AsyncOpenAI, NotFoundError, OpenAI
from openai.pagination import SyncCursorPage
from openai.types.responses import Response

from tests.patience import PATIENCE_S
from tests.running import RunningCluster
from tests.streams import read_frames, without_comments

WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
PYTHON: Any = {"type": "mcp", "server_label": "code_interpreter", "server_url": "IGNORED"}


@pytest.fixture
def client(cluster: RunningCluster) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{cluster.urls[0]}/v1", api_key="any", max_retries=0) as client:
        yield client


@pytest_asyncio.fixture
async def nodes(cluster: RunningCluster) -> AsyncIterator[list[httpx.AsyncClient]]:
    headers = {"authorization": "Bearer any"}
    clients = [httpx.AsyncClient(base_url=url, headers=headers, timeout=PATIENCE_S) for url in cluster.urls]
    yield clients
    for one in clients:
        await one.aclose()


def test_plain_text_in_and_out(client: OpenAI) -> None:
    response = client.responses.create(model="default", input="Hello!")
    assert response.status == "completed"
    assert response.output_text
    assert response.completed_at is not None
    assert response.usage is not None
    assert response.usage.input_tokens_details.cached_tokens == 0


def test_a_session_that_began_elsewhere_goes_on(client: OpenAI) -> None:
    """Its items of tools that do not exist here are told to the model, and listed as they were sent."""
    image: Any = {"type": "image_generation_call", "id": "ig_1", "status": "completed", "result": "aGk="}
    found = [{"filename": "a.md", "text": "Ospreys.", "file_id": "file_1", "score": 0.5, "attributes": None}]
    search: Any = {
        "type": "file_search_call",
        "id": "fs_1",
        "status": "completed",
        "queries": ["birds"],
        "results": found,
    }
    history: Any = [
        {"role": "user", "content": "Look."},
        search,
        image,
        {"role": "user", "content": "Hello!"},
    ]
    response = client.responses.create(
        model="default", input=history, extra_body={"enable_response_messages": True}
    )
    assert response.status == "completed"
    read: Any = (response.model_extra or {})["input_messages"]
    texts = [part["text"] for message in read for part in message["content"] if "text" in part]
    assert '{"queries": ["birds"]}' in texts
    assert "a.md:\nOspreys." in texts
    listed = client.responses.input_items.list(response.id, order="asc").data
    sent = [item.model_dump(exclude_unset=True) for item in listed]
    assert sent[1:3] == [search, image]


def test_the_clients_own_pages_list_the_responses(client: OpenAI) -> None:
    """The client has no method for it; its pages and types fit."""
    made = [
        client.responses.create(model="default", input="Hello!", metadata={"list": "mine"}).id
        for _ in range(3)
    ]
    client.responses.create(model="default", input="Hello!", metadata={"list": "mine"}, store=False)
    query = {"limit": 2, "metadata[list]": "mine", "status": "completed"}
    pages = client.get_api_list(
        "/responses", model=Response, page=SyncCursorPage[Response], options={"params": query}
    )
    listed = list(pages)
    assert [each.id for each in listed] == made[::-1]
    assert {(each.status, each.object) for each in listed} == {("completed", "response")}


def test_streamed_and_whole_say_the_same(client: OpenAI) -> None:
    whole = client.responses.create(model="default", input="Count from 1 to 20").output_text
    deltas = [
        event.delta
        for event in client.responses.create(model="default", input="Count from 1 to 20", stream=True)
        if event.type == "response.output_text.delta"
    ]
    assert "".join(deltas) == whole
    assert whole.split(", ")[:3] == ["1", "2", "3"]


def test_a_function_call_ends_the_response_and_its_output_goes_on(client: OpenAI) -> None:
    question: Any = {"role": "user", "content": "What is the weather in Oslo?"}
    first = client.responses.create(model="default", input=[question], tools=[WEATHER])
    call = first.output[-1]
    assert call.type == "function_call"
    assert json.loads(call.arguments) == {"city": "Oslo"}
    output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "-31 degrees, snow"}
    replayed: list[Any] = [item.to_dict() for item in first.output]
    second = client.responses.create(model="default", input=[question, *replayed, output], tools=[WEATHER])
    assert "-31" in second.output_text


def test_the_token_limit_ends_in_incomplete(client: OpenAI) -> None:
    stream = client.responses.create(
        model="default", input="Count from 1 to 1000", max_output_tokens=40, stream=True
    )
    events = list(stream)
    assert events[-1].type == "response.incomplete"
    response = events[-1].response
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.usage is not None
    assert response.usage.output_tokens == 40
    assert response.output[-1].status == "incomplete"  # type: ignore[union-attr]


def test_max_tool_calls_stops_the_tools_and_not_the_answer(client: OpenAI) -> None:
    response = client.responses.create(
        model="default", input="Multiply 12*12 using python.", tools=[PYTHON], max_tool_calls=1
    )
    assert [item.type for item in response.output].count("mcp_call") == 1
    assert response.status == "completed"


@pytest.mark.parametrize("expression", ["7*6", "-12*4.5", "99999*99999"])
def test_the_answer_comes_out_of_the_tools_result(client: OpenAI, expression: str) -> None:
    response = client.responses.create(
        model="default", input=f"Multiply {expression} with python.", tools=[PYTHON]
    )
    call = next(item for item in response.output if item.type == "mcp_call")
    assert float(call.output or "nan") == eval(expression)
    assert (call.output or "").strip() in response.output_text.replace(",", "")


def test_create_fields_are_echoed(client: OpenAI) -> None:
    fields: dict[str, Any] = {
        "instructions": "Be brief.",
        "metadata": {"a": "b"},
        "temperature": 0.5,
        "top_p": 0.9,
        "max_output_tokens": 500,
        "max_tool_calls": 3,
        "parallel_tool_calls": False,
        "truncation": "auto",
        "user": "u1",
        "tool_choice": "none",
        "prompt_cache_key": "k",
        "safety_identifier": "s",
        "store": True,
    }
    response = client.responses.create(model="default", input="Hi", reasoning={"effort": "low"}, **fields)
    echoed = response.to_dict()
    assert {name: echoed[name] for name in fields} == fields
    assert echoed["reasoning"]["effort"] == "low"


def test_unstored_responses_are_streamed_and_never_retrievable(client: OpenAI) -> None:
    events = list(client.responses.create(model="default", input="Hello", store=False, stream=True))
    assert events[-1].type == "response.completed"
    with pytest.raises(NotFoundError):
        client.responses.retrieve(events[-1].response.id)


def test_several_turns_in_input_are_read(client: OpenAI) -> None:
    turns: Any = [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hello there."},
        {"role": "user", "content": [{"type": "input_text", "text": "Count from 1 to 3"}]},
    ]
    assert client.responses.create(model="default", input=turns).output_text.startswith("1, 2, 3")


def test_malformed_harmony_still_ends_in_one_legal_terminal_event(client: OpenAI) -> None:
    for kind in ("bad header", "missing start", "unknown tool", "cut in the middle"):
        events = list(
            client.responses.create(model="default", input=f"Emit malformed Harmony: {kind}", stream=True)
        )
        terminal = [
            e for e in events if e.type in ("response.completed", "response.incomplete", "response.failed")
        ]
        assert len(terminal) == 1
        assert events[-1] is terminal[0]


async def test_a_stream_of_one_node_resumes_on_another_from_every_cursor(
    nodes: list[httpx.AsyncClient],
) -> None:
    body = {
        "model": "default",
        "input": "Multiply 123*456 using python.",
        "tools": [PYTHON],
        "stream": True,
    }
    whole = (await nodes[0].post("/v1/responses", json=body)).content
    frames = read_frames(whole)
    response_id = frames[0].data["response"]["id"]
    blocks = [block + b"\n\n" for block in without_comments(whole).split(b"\n\n")[:-1]]
    for cursor in range(-1, len(frames) + 1):
        params: dict[str, Any] = {"stream": "true", "starting_after": cursor}
        rest = await nodes[1].get(f"/v1/responses/{response_id}", params=params)
        if cursor >= len(frames):
            assert (rest.status_code, rest.json()["error"]["code"]) == (400, "cursor_beyond_end")
            continue
        assert rest.status_code == 200
        assert rest.content == b"".join(blocks[cursor + 1 :])


async def test_a_reader_who_joins_while_it_is_generated_sees_the_same_bytes(
    nodes: list[httpx.AsyncClient],
) -> None:
    body = {"model": "default", "input": "Count from 1 to 3000", "stream": True}
    async with nodes[0].stream("POST", "/v1/responses", json=body) as stream:
        chunks = stream.aiter_bytes()
        first = await anext(chunks)
        response_id = read_frames(first[: first.index(b"\n\n") + 2])[0].data["response"]["id"]
        joined = asyncio.create_task(
            nodes[1].get(f"/v1/responses/{response_id}", params={"stream": "true", "starting_after": 5})
        )
        whole = first + b"".join([chunk async for chunk in chunks])
    frames = whole.split(b"\n\n")
    assert (await joined).content == b"\n\n".join(frames[6:])


async def test_two_hundred_responses_with_tools_at_once_all_complete_with_no_number_missing(
    nodes: list[httpx.AsyncClient], cluster: RunningCluster
) -> None:
    limits = httpx.Limits(max_connections=200)
    async with httpx.AsyncClient(base_url=cluster.urls[0], limits=limits, timeout=100) as client:

        async def multiply(number: int) -> None:
            body = {
                "model": "default",
                "input": f"Multiply {number}*1000 using python.",
                "tools": [PYTHON],
                "stream": True,
            }
            frames = read_frames((await client.post("/v1/responses", json=body)).content)
            assert [frame.id for frame in frames] == list(range(len(frames)))
            response = frames[-1].data["response"]
            assert frames[-1].event == "response.completed"
            assert f"{number:,},000" in response["output"][-1]["content"][0]["text"].replace("**", "")

        await asyncio.gather(*(multiply(number) for number in range(101, 301)))


async def test_an_async_client_follows_a_response_by_its_id(cluster: RunningCluster) -> None:
    async with AsyncOpenAI(base_url=f"{cluster.urls[1]}/v1", api_key="any", max_retries=0) as client:
        created = await client.responses.create(model="default", input="Hello")
        stream = await client.responses.retrieve(created.id, stream=True)
        events = [event async for event in stream]
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert events[-1].type == "response.completed"
