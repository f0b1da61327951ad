"""What responses read from their conversation and add to it; the test plays the worker."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from shared import lifecycle
from shared.events import frame
from shared.lifecycle import TerminalEvent
from shared.responses import (
    FunctionCall,
    InputTokensDetails,
    Message,
    OutputText,
    OutputTokensDetails,
    Reasoning,
    ReasoningText,
    Response,
    ResponseError,
    ResponseRequest,
    Usage,
)
from shared.settings import Settings
from shared.store import event_log, keys, lease
from shared.store.closing import closing_of
from shared.store.event_log import Draft
from shared.store.keys import ConversationKey, ResponseKey
from shared.store.lease import Acquired
from shared.store.redis_client import RedisClient
from tests.conversing import (
    CREATED_AT_S,
    OUTPUT,
    UNKNOWN,
    Client,
    add,
    create,
    error_of,
    read,
    say,
    serving,
    texts,
)

USAGE = Usage(1, InputTokensDetails(), 1, OutputTokensDetails(), 2)


@pytest_asyncio.fixture
async def client(redis: RedisClient, settings: Settings, tmp_path: Path) -> AsyncIterator[Client]:
    async with serving(settings, tmp_path) as client:
        yield client


class PlayedWorker:
    """Takes a response and ends it as it is told, in one append."""

    def __init__(self, redis: RedisClient, settings: Settings) -> None:
        self._redis = redis
        self._settings = settings

    async def take(self, response_id: str) -> tuple[Acquired, ResponseRequest]:
        acquired = await lease.acquire(self._redis, self._settings, ResponseKey("one", response_id), "played")
        assert isinstance(acquired, Acquired)
        return acquired, msgspec.json.decode(acquired.request, type=ResponseRequest)

    async def close(self, acquired: Acquired, request: ResponseRequest, event: TerminalEvent) -> None:
        first = acquired.next_sequence_number
        closing = closing_of(event, "one", self._settings, request.input)
        drafts = [Draft(frame(event, first))]
        await event_log.append(self._redis, self._settings, acquired.lease, first, drafts, closing)


@pytest.fixture
def worker(redis: RedisClient, settings: Settings) -> PlayedWorker:
    return PlayedWorker(redis, settings)


async def ask(client: Client, **fields: object) -> str:
    answer = await client.post("/responses", json={"background": True, **fields})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


def answered(response: Response, text: str) -> Response:
    message = Message(f"msg_{response.id}", "completed", "assistant", (OutputText(text),))
    return msgspec.structs.replace(response, output=(message,))


def complete(response: Response) -> TerminalEvent:
    return lifecycle.complete(answered(response, "answer"), USAGE, CREATED_AT_S)


def cut_short(response: Response) -> TerminalEvent:
    return lifecycle.cut_short(answered(response, "answer"), USAGE, "max_output_tokens")


def fail(response: Response) -> TerminalEvent:
    return lifecycle.fail(answered(response, "answer"), ResponseError("server_error", "no"))


@pytest.mark.parametrize("end", [complete, cut_short, fail, lifecycle.cancel], ids=lambda end: end.__name__)
async def test_only_a_response_that_has_an_answer_joins_its_conversation(
    client: Client, worker: PlayedWorker, end: Any
) -> None:
    conversation = await create(client, say("before"))
    response_id = await ask(client, input=[say("a"), say("b")], conversation={"id": conversation})
    acquired, request = await worker.take(response_id)
    await worker.close(acquired, request, end(request.response))
    joined = ["a", "b", "answer"] if end in (complete, cut_short) else []
    assert await texts(client, conversation) == ["before", *joined]


async def test_a_response_reads_what_was_in_the_conversation_when_it_was_created(
    client: Client, worker: PlayedWorker
) -> None:
    conversation = await create(client, say("a"))
    first, second = [await ask(client, input=text, conversation=conversation) for text in ("b", "c")]
    await add(client, conversation, say("d"))
    third = await ask(client, input="e", conversation=conversation)
    for response_id in (first, second, third):
        acquired, request = await worker.take(response_id)
        expected = ["a", "d"] if response_id == third else ["a"]
        assert [item["content"][0]["text"] for item in request.context] == expected
        await worker.close(acquired, request, complete(request.response))
    assert await texts(client, conversation) == ["a", "d", "b", "answer", "c", "answer", "e", "answer"]


async def test_deleting_the_conversation_of_a_running_response_loses_nothing_else(
    client: Client, worker: PlayedWorker, redis: RedisClient
) -> None:
    conversation = await create(client, say("a"))
    response_id = await ask(client, input="b", conversation=conversation)
    acquired, request = await worker.take(response_id)
    await client.delete(f"/conversations/{conversation}")
    await worker.close(acquired, request, complete(request.response))
    told = (await client.get(f"/responses/{response_id}")).json()
    assert (told["status"], told["conversation"]) == ("completed", {"id": conversation})
    assert told["output"][0]["content"][0]["text"] == "answer"
    key = ConversationKey("one", conversation)
    names = [keys.conversation(key), keys.conversation_items(key), keys.conversation_order(key)]
    assert await redis.command("EXISTS", *names) == 0


async def test_an_output_may_answer_a_call_of_an_earlier_response(
    client: Client, worker: PlayedWorker
) -> None:
    conversation = await create(client)
    acquired, request = await worker.take(await ask(client, input="b", conversation=conversation))
    call = FunctionCall("fc_1", "completed", "c", "f", "{}")
    calling = msgspec.structs.replace(request.response, output=(call,))
    await worker.close(acquired, request, lifecycle.complete(calling, USAGE, CREATED_AT_S))
    await ask(client, input=[OUTPUT], conversation=conversation)
    refused = await client.post(
        "/responses", json={"input": [OUTPUT | {"call_id": "d"}], "conversation": conversation}
    )
    assert error_of(refused) == (400, "input", None)


async def test_a_reference_to_a_responses_item_becomes_the_item(client: Client, worker: PlayedWorker) -> None:
    acquired, request = await worker.take(await ask(client, input="b"))
    await worker.close(acquired, request, complete(request.response))
    conversation = await create(client, {"type": "item_reference", "id": request.input[0]["id"]})
    assert await read(client, conversation) == request.input


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"conversation": UNKNOWN}, (404, "conversation", "conversation_not_found")),
        ({"conversation": {"id": "x"}}, (404, "conversation", "conversation_not_found")),
        ({"conversation": {}}, (400, "conversation.id", "missing_required_parameter")),
        ({"conversation": 5}, (400, "conversation", "invalid_value")),
        (
            {"conversation": UNKNOWN, "previous_response_id": "resp_0_" + "a" * 32},
            (400, "conversation", "invalid_value"),
        ),
    ],
)
async def test_a_response_without_a_conversation_to_join_is_refused_and_not_written(
    client: Client, redis: RedisClient, fields: dict[str, Any], expected: tuple[int, str, str]
) -> None:
    answer = await client.post("/responses", json={"input": "a", **fields})
    assert error_of(answer) == expected
    assert await redis.command("DBSIZE") == 0


async def test_an_item_that_the_server_has_already_is_refused_and_not_read_twice(
    client: Client, worker: PlayedWorker, redis: RedisClient
) -> None:
    conversation = await create(client, say("a", id="msg_m"), say("b"))
    acquired, request = await worker.take(await ask(client, input=[say("c", id="msg_n")]))
    await worker.close(acquired, request, complete(request.response))
    parent, output = request.response.id, f"msg_{request.response.id}"
    before = await redis.command("DBSIZE")
    for fields, twice in (
        ({"conversation": conversation, "input": [say("a", id="msg_m"), say("c")]}, "msg_m"),
        ({"conversation": conversation, "input": [{"id": "msg_m"}]}, "msg_m"),
        ({"previous_response_id": parent, "input": [say("c", id="msg_n")]}, "msg_n"),
        ({"previous_response_id": parent, "input": [{"type": "item_reference", "id": output}]}, output),
        ({"input": [say("c", id="msg_n"), say("d", id="msg_n")]}, "msg_n"),
        ({"input": [{"id": output}, {"id": output}]}, output),
    ):
        refused = await client.post("/responses", json=fields)
        assert error_of(refused) == (400, "input", None)
        assert refused.json()["error"]["message"] == (
            f"Duplicate item found with id {twice}. Remove duplicate items from your input and try again."
        )
        counted = await client.post("/responses/input_tokens", json=fields)
        assert error_of(counted) == error_of(refused)
    assert await redis.command("DBSIZE") == before


@pytest.mark.parametrize("nothing", [{}, {"input": None}, {"input": []}])
async def test_a_response_that_continues_something_needs_no_input(
    client: Client, worker: PlayedWorker, nothing: dict[str, Any]
) -> None:
    conversation = await create(client, say("a"))
    acquired, request = await worker.take(await ask(client, conversation=conversation, **nothing))
    assert [item["content"][0]["text"] for item in request.context] == ["a"]
    await worker.close(acquired, request, complete(request.response))
    assert await texts(client, conversation) == ["a", "answer"]
    chained = await ask(client, previous_response_id=request.response.id, **nothing)
    _, request = await worker.take(chained)
    assert [item["content"][0]["text"] for item in request.context] == ["a", "answer"]
    assert request.input == []
    refused = await client.post("/responses", json=nothing)
    assert error_of(refused)[:2] == (400, "input")


async def test_a_call_that_was_left_without_its_output_stops_what_follows(
    client: Client, worker: PlayedWorker
) -> None:
    conversation = await create(client)
    acquired, request = await worker.take(await ask(client, input="b", conversation=conversation))
    call = FunctionCall("fc_1", "completed", "c", "f", "{}")
    calling = msgspec.structs.replace(request.response, output=(call,))
    await worker.close(acquired, request, lifecycle.complete(calling, USAGE, CREATED_AT_S))
    for place in ({"conversation": conversation}, {"previous_response_id": request.response.id}):
        for items in ({}, {"input": "also"}):
            refused = await client.post("/responses", json={**place, **items})
            assert error_of(refused) == (400, "input", None)
            assert refused.json()["error"]["message"] == "No tool output found for function call c."
        await ask(client, input=[OUTPUT, say("also")], **place)


async def test_reasoning_of_a_turn_that_goes_on_is_kept_whatever_was_said_before_the_call(
    client: Client, worker: PlayedWorker
) -> None:
    acquired, request = await worker.take(await ask(client, input="b"))
    thought = Reasoning("rs_1", "completed", content=(ReasoningText("thinking"),))
    said = Message("msg_1", "completed", "assistant", (OutputText("I look."),))
    call = FunctionCall("fc_1", "completed", "c", "f", "{}")
    calling = msgspec.structs.replace(request.response, output=(thought, said, call))
    await worker.close(acquired, request, lifecycle.complete(calling, USAGE, CREATED_AT_S))
    _, going_on = await worker.take(
        await ask(client, input=[OUTPUT], previous_response_id=request.response.id)
    )
    kinds = ["message", "reasoning", "message", "function_call"]
    assert [item["type"] for item in going_on.context] == kinds
