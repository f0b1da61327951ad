"""What responses read from their conversation and add to it; the test plays the worker."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from api.offload import Offload
from shared import lifecycle
from shared.frames import frame
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
from shared.store import keys
from shared.store.keys import ConversationKey, ResponseKey
from shared.store.log import closing
from shared.store.log.closing import closing_of
from shared.store.log.response_log import NewEntry
from shared.store.owning import lease
from shared.store.owning.lease import Acquired
from shared.store.records import response_store
from shared.store.records.admission import ConversationMoved, Membership, NewResponse
from shared.store.redis.client import RedisClient
from tests.appending import append
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
from tests.items import shown
from tests.kept import count_kept
from tests.requests import make_request

USAGE = Usage(1, InputTokensDetails(), 1, OutputTokensDetails(), 2)


@pytest_asyncio.fixture
async def client(redis: RedisClient, settings: Settings, tmp_path: Path) -> AsyncIterator[Client]:
    async with serving(settings, tmp_path) as client:
        yield client


class PlayedWorker:
    """Acquires a response and closes it as specified, in one append."""

    def __init__(self, redis: RedisClient, settings: Settings) -> None:
        self._redis = redis
        self._settings = settings

    async def take(self, response_id: str) -> tuple[Acquired, ResponseRequest]:
        acquired = await lease.acquire(self._redis, self._settings, ResponseKey("one", response_id), "played")
        assert isinstance(acquired, Acquired)
        stored = await response_store.read_request(self._redis, acquired.lease.key)
        return acquired, msgspec.json.decode(stored, type=ResponseRequest)

    async def close(self, acquired: Acquired, request: ResponseRequest, event: TerminalEvent) -> None:
        first = acquired.next_sequence_number
        ending = closing_of(event, "one", self._settings, request.input)
        drafts = [NewEntry(frame(event, first))]
        await append(self._redis, self._settings, acquired.lease, first, drafts, ending)


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
    first = await ask(client, input="b", conversation=conversation)
    await add(client, conversation, say("c"))
    for response_id, expected in ((first, ["a"]), ("", ["a", "c", "b", "answer"])):
        acquired, request = await worker.take(
            response_id or await ask(client, input="d", conversation=conversation)
        )
        assert [item["content"][0]["text"] for item in shown(request.context)] == expected
        await worker.close(acquired, request, complete(request.response))
    assert await texts(client, conversation) == ["a", "c", "b", "answer", "d", "answer"]


# --- one at a time ----------------------------------------------------------------------------------


async def refused_as_second(client: Client, conversation: str, **fields: object) -> bool:
    answer = await client.post("/responses", json={"input": "x", "conversation": conversation, **fields})
    if answer.status_code == 200:
        return False
    assert error_of(answer) == (400, "conversation", "conversation_locked")
    message = "Another process is currently operating on this conversation. Please retry in a few seconds."
    assert answer.json()["error"]["message"] == message
    return True


@pytest.mark.parametrize("store", [True, False])
@pytest.mark.parametrize("end", ["complete", "cut_short", "fail", "cancel", "abandon", "lose"])
async def test_a_second_response_of_a_conversation_waits_for_the_end_of_the_first_whatever_that_is(
    client: Client, worker: PlayedWorker, redis: RedisClient, settings: Settings, end: str, store: bool
) -> None:
    conversation = await create(client, say("a"))
    first = await ask(client, input="b", conversation=conversation)
    key = ResponseKey("one", first)
    assert await refused_as_second(client, conversation)  # it waits in the queue
    acquired, request = await worker.take(first)
    assert await refused_as_second(client, conversation, store=store)
    match end:
        case "cancel":
            assert (await client.post(f"/responses/{first}/cancel")).status_code == 200
        case "abandon":
            assert await closing.cancel(redis, settings, key, "another worker", Offload().run) == "ended"
        case "lose":  # a failover that takes back its acceptance, or an outage longer than it is kept
            await redis.command("DEL", keys.state(key), keys.log(key))
        case _:
            event = {"complete": complete, "cut_short": cut_short, "fail": fail}[end](request.response)
            await worker.close(acquired, request, event)
    assert not await refused_as_second(client, conversation, background=True)
    assert await refused_as_second(client, conversation)


async def test_a_deleted_response_leaves_its_conversation_free(client: Client, worker: PlayedWorker) -> None:
    conversation = await create(client)
    acquired, request = await worker.take(await ask(client, input="b", conversation=conversation))
    await worker.close(acquired, request, complete(request.response))
    assert (await client.delete(f"/responses/{request.response.id}")).status_code == 200
    await ask(client, input="c", conversation=conversation)


async def test_of_many_at_once_one_is_accepted_and_the_others_write_nothing(
    client: Client, redis: RedisClient
) -> None:
    conversation = await create(client, say("a"))
    body = {"input": "b", "conversation": conversation, "background": True}
    answers = await asyncio.gather(*[client.post("/responses", json=body) for _ in range(20)])
    assert sorted(answer.status_code for answer in answers) == [200, *[400] * 19]
    assert len(await redis.command("KEYS", "*:state")) == 1


async def test_a_repeated_call_gets_its_response_however_long_that_runs(client: Client) -> None:
    conversation = await create(client)
    body = {"input": "b", "conversation": conversation, "background": True}
    made = [
        (await client.post("/responses", json=body, headers={"idempotency-key": "k"})).json()["id"]
        for _ in range(3)
    ]
    assert len(set(made)) == 1
    assert await refused_as_second(client, conversation)


async def test_other_conversations_and_branches_are_not_locked(client: Client, worker: PlayedWorker) -> None:
    one, other = await create(client), await create(client)
    acquired, request = await worker.take(await ask(client, input="b", conversation=one))
    await worker.close(acquired, request, complete(request.response))
    await ask(client, input="c", conversation=one)
    await ask(client, input="d", conversation=other)
    await ask(client, input="e", previous_response_id=request.response.id)
    counted = await client.get(f"/conversations/{one}/items")
    assert counted.status_code == 200


@pytest.mark.parametrize("is_gone", [False, True])
async def test_a_conversation_that_moved_on_while_it_was_read_is_not_answered_from_what_it_was(
    client: Client, redis: RedisClient, settings: Settings, is_gone: bool
) -> None:
    conversation = await create(client, say("a"))
    key = ConversationKey("one", conversation)
    place = await redis.command("HGET", keys.conversation(key), "next")
    if is_gone:
        await client.delete(f"/conversations/{conversation}")
    else:
        await add(client, conversation, say("b"))
    before = await count_kept(redis)
    request = make_request()
    draft = NewResponse.of(
        ResponseKey("one", request.response.id), request, {}, membership=Membership(key, place)
    )
    with pytest.raises(ConversationMoved):
        await response_store.create(redis, settings, draft)
    assert await count_kept(redis) == before


async def test_a_response_that_is_not_kept_reads_its_conversation_and_leaves_it_as_it_was(
    worker: PlayedWorker, settings: Settings, tmp_path: Path
) -> None:
    allowing = settings.model_copy(update={"allow_unstored_background": True})
    async with serving(allowing, tmp_path) as client:
        conversation = await create(client, say("a"))
        acquired, request = await worker.take(
            await ask(client, input="b", conversation=conversation, store=False)
        )
        assert [item["content"][0]["text"] for item in shown(request.context)] == ["a"]
        assert request.response.conversation is not None
        await worker.close(acquired, request, complete(request.response))
        assert await texts(client, conversation) == ["a"]


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
    conversation = await create(client, {"type": "item_reference", "id": request.input[0].id})
    assert await read(client, conversation) == shown(request.input)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"conversation": UNKNOWN}, (404, "conversation", "conversation_not_found")),
        ({"conversation": {"id": "conv_x"}}, (404, "conversation", "conversation_not_found")),
        ({"conversation": {"id": "x"}}, (400, "conversation", "invalid_id_prefix")),
        ({"conversation": {}}, (400, "conversation.id", "missing_required_parameter")),
        ({"conversation": 5}, (400, "conversation", "invalid_type")),
        (
            {"conversation": UNKNOWN, "previous_response_id": "resp_0_" + "a" * 32},
            (400, None, "mutually_exclusive_parameters"),
        ),
    ],
)
async def test_a_response_without_a_conversation_to_join_is_refused_and_not_written(
    client: Client, redis: RedisClient, fields: dict[str, Any], expected: tuple[int, str | None, str]
) -> None:
    answer = await client.post("/responses", json={"input": "a", **fields})
    assert error_of(answer) == expected
    assert await count_kept(redis) == 0


async def test_an_item_that_the_server_has_already_is_refused_and_not_read_twice(
    client: Client, worker: PlayedWorker, redis: RedisClient
) -> None:
    conversation = await create(client, say("a", id="msg_m"), say("b"))
    acquired, request = await worker.take(await ask(client, input=[say("c", id="msg_n")]))
    await worker.close(acquired, request, complete(request.response))
    parent, output = request.response.id, f"msg_{request.response.id}"
    before = await count_kept(redis)
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
    assert await count_kept(redis) == before


@pytest.mark.parametrize("nothing", [{}, {"input": None}, {"input": []}])
async def test_a_response_that_continues_something_needs_no_input(
    client: Client, worker: PlayedWorker, nothing: dict[str, Any]
) -> None:
    conversation = await create(client, say("a"))
    acquired, request = await worker.take(await ask(client, conversation=conversation, **nothing))
    assert [item["content"][0]["text"] for item in shown(request.context)] == ["a"]
    await worker.close(acquired, request, complete(request.response))
    assert await texts(client, conversation) == ["a", "answer"]
    chained = await ask(client, previous_response_id=request.response.id, **nothing)
    _, request = await worker.take(chained)
    assert [item["content"][0]["text"] for item in shown(request.context)] == ["a", "answer"]
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
    assert [item["type"] for item in shown(going_on.context)] == kinds
