"""Responses over a WebSocket: the events of a stream, byte for byte, on a connection that stays."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.patience import PATIENCE_S, until
from tests.running import RunningCluster
from tests.sockets import Socket, socket_to
from tests.streams import read_frames

COUNT = "Count from 1 to 20"
LONG = "Count slowly to 1000"
"""Takes a minute: the response is cancelled long before."""


async def stream_of(url: str, response_id: str, after: int = -1) -> list[bytes]:
    """The JSON of the events after a number, as a node streams them."""
    params: dict[str, Any] = {"stream": "true", "starting_after": after}
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_S) as client:
        answer = await client.get(f"/v1/responses/{response_id}", params=params)
    assert answer.status_code == 200
    return [frame.raw_data for frame in read_frames(answer.content)]


async def test_the_messages_are_the_data_of_the_stream_and_the_connection_goes_on(
    cluster: RunningCluster,
) -> None:
    async with socket_to(cluster.urls[0]) as socket:
        for stored in (True, False):
            await socket.create(COUNT, store=stored)
            messages = await socket.messages()
            response = json.loads(messages[-1])["response"]
            assert response["status"] == "completed"
            assert [json.loads(each)["sequence_number"] for each in messages] == [*range(len(messages))]
            for url in cluster.urls:
                assert await stream_of(url, response["id"]) == messages


async def test_a_cut_socket_is_resumed_by_http_on_another_node_byte_for_byte(cluster: RunningCluster) -> None:
    async def cut(stored: bool, after: int) -> None:
        async with socket_to(cluster.urls[0]) as socket:
            await socket.create(COUNT, store=stored)
            seen = [await socket.receive() for _ in range(after + 1)]
            socket.cut()
        response_id = json.loads(seen[0])["response"]["id"]
        rest = await stream_of(cluster.urls[1], response_id, after)
        assert json.loads(rest[-1])["type"] == "response.completed"
        assert await stream_of(cluster.urls[0], response_id) == [*seen, *rest]

    await asyncio.gather(*(cut(stored, after) for after in (0, 1, 7, 30) for stored in (True, False)))


async def test_lanes_name_their_events_and_add_nothing_else(cluster: RunningCluster) -> None:
    async with socket_to(cluster.urls[0]) as socket:
        lanes = ("a", "b.c", "d-1")
        for lane in lanes:
            await socket.create(COUNT, stream_id=lane)
        events: dict[str, list[bytes]] = {lane: [] for lane in lanes}
        ended: dict[str, str] = {}
        while len(ended) < len(lanes):
            message = await socket.receive()
            event = json.loads(message)
            events[event["stream_id"]].append(message)
            if event["type"] == "response.completed":
                ended[event["stream_id"]] = event["response"]["id"]
        for lane in lanes:
            named = [f',"stream_id":"{lane}"}}'.encode()] * len(events[lane])
            plain = [message[:-1] for message in await stream_of(cluster.urls[1], ended[lane])]
            assert events[lane] == [a + b for a, b in zip(plain, named, strict=True)]


async def test_a_response_that_lost_its_socket_lives_for_its_grace_and_no_longer(
    cluster: RunningCluster,
) -> None:
    async with socket_to(cluster.urls[0]) as socket:
        await socket.create(LONG)
        response_id = (await socket.event())["response"]["id"]
    async with AsyncOpenAI(base_url=f"{cluster.urls[1]}/v1", api_key="any") as client:

        async def has_ended() -> bool:
            response = await client.responses.retrieve(response_id)
            return response.status in ("cancelled", "completed")

        await until(has_ended)
        assert (await client.responses.retrieve(response_id)).status == "cancelled"


async def test_a_response_is_cancelled_on_its_socket(cluster: RunningCluster) -> None:
    async with socket_to(cluster.urls[0]) as socket:
        await socket.create(LONG, store=False)
        created = await socket.event()
        await socket.send(type="response.cancel", response_id=created["response"]["id"])
        assert (await socket.response())["status"] == "cancelled"
        assert (await socket.say())["status"] == "completed"


async def test_what_is_not_stored_is_continued_from_the_last_response_of_a_lane(
    cluster: RunningCluster,
) -> None:
    async with socket_to(cluster.urls[0]) as socket:
        first = await socket.say("Count from 1 to 3", store=False)
        second = await say_on(socket, first, stream_id="fork")
        third = await say_on(socket, first)
        assert first["usage"]["input_tokens"] < second["usage"]["input_tokens"]
        assert second["usage"]["input_tokens"] == third["usage"]["input_tokens"]
        await socket.create(COUNT, previous_response_id=first["id"])
        assert await socket.refusal() == (400, "previous_response_not_found")
        assert (await say_on(socket, third))["usage"]["input_tokens"] > third["usage"]["input_tokens"]
        stored = await say_on(socket, second, store=True, stream_id="fork")
    async with socket_to(cluster.urls[1]) as other:
        assert (await say_on(other, stored))["status"] == "completed"


async def say_on(socket: Socket, response: dict[str, Any], **fields: Any) -> dict[str, Any]:
    fields = {"store": False, "previous_response_id": response["id"]} | fields
    return await socket.say("Count from 1 to 4", **fields)


async def test_a_warm_up_is_continued_and_generates_nothing(cluster: RunningCluster) -> None:
    async with socket_to(cluster.urls[0]) as socket:
        for stored in (True, False):
            warm = await socket.say("Be brief.", generate=False, store=stored)
            assert (warm["status"], warm["output"]) == ("completed", [])
            assert (await say_on(socket, warm))["output"]


@pytest.mark.filterwarnings("ignore:connect:DeprecationWarning")
def test_the_clients_own_connection(cluster: RunningCluster) -> None:
    with OpenAI(base_url=f"{cluster.urls[0]}/v1", api_key="any") as client:
        with client.responses.connect() as connection:
            connection.response.create(model="default", input="Count from 1 to 3", store=False)
            texts, ids = [""], list[str]()
            for event in connection:
                if event.type == "response.output_text.delta":
                    texts[-1] += event.delta
                if event.type == "response.completed":
                    ids.append(event.response.id)
                    assert event.response.output_text == texts[-1]
                    if len(ids) == 2:
                        break
                    texts.append("")
                    connection.response.create(
                        model="default", input="Count from 1 to 4", store=False, previous_response_id=ids[0]
                    )
                assert event.type != "error"
        assert texts[1].replace(",", " ").split()[:4] == ["1", "2", "3", "4"]
