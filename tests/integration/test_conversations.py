"""Conversations over a real Valkey, as two tenants at one API node see them."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from shared.settings import Settings
from shared.store import keys
from shared.store.keys import ConversationKey
from shared.store.redis.client import RedisClient
from shared.store.redis.scripts import LuaScript
from tests.conversing import (
    CALL,
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
from tests.kept import count_kept, kept_keys
from tests.patience import PATIENCE_S


@pytest_asyncio.fixture
async def client(redis: RedisClient, settings: Settings, tmp_path: Path) -> AsyncIterator[Client]:
    async with serving(settings, tmp_path) as client:
        yield client


# --- the conversation -------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"", b"{}", b'{"items": null, "metadata": null}', b'{"items": []}'])
async def test_a_conversation_may_begin_with_nothing(client: Client, body: bytes) -> None:
    made = (await client.post("/conversations", content=body)).json()
    told = {"id": made["id"], "object": "conversation", "created_at": CREATED_AT_S, "metadata": {}}
    assert made == told
    assert (await client.get(f"/conversations/{made['id']}")).json() == told
    assert await read(client, made["id"]) == []


async def test_metadata_is_replaced_as_a_whole(client: Client) -> None:
    conversation = await create(client, metadata={"a": "1", "b": "2"})
    path = f"/conversations/{conversation}"
    assert (await client.get(path)).json()["metadata"] == {"a": "1", "b": "2"}
    for metadata, told in (({"c": "3"}, {"c": "3"}), (None, {})):
        updated = (await client.post(path, json={"metadata": metadata})).json()
        assert updated["metadata"] == told
        assert (await client.get(path)).json() == updated


async def test_a_deleted_conversation_leaves_nothing(client: Client, redis: RedisClient) -> None:
    conversation = await create(client, say("a"), metadata={"a": "b"})
    deleted = await client.delete(f"/conversations/{conversation}")
    assert deleted.json() == {"id": conversation, "object": "conversation.deleted", "deleted": True}
    assert await count_kept(redis) == 0
    assert error_of(await client.delete(f"/conversations/{conversation}"))[0] == 404


CALLS: list[tuple[str, str, Any]] = [
    ("GET", "", None),
    ("POST", "", {"metadata": {}}),
    ("DELETE", "", None),
    ("POST", "/items", {"items": [say("a")]}),
    ("POST", "/items", {"items": [OUTPUT]}),
    ("GET", "/items", None),
    ("GET", "/items?after=msg_1", None),
    ("GET", "/items/msg_1", None),
    ("DELETE", "/items/msg_1", None),
]


@pytest.mark.parametrize(("method", "path", "body"), CALLS)
async def test_somebody_elses_conversation_is_as_unknown_as_one_that_never_was(
    client: Client, redis: RedisClient, method: str, path: str, body: Any
) -> None:
    theirs = await create(client, say("a", id="msg_1"))
    before = await count_kept(redis)
    for conversation in (theirs, UNKNOWN, "conv_1", "x}:state{"):
        answer = await client.request(
            method,
            f"/conversations/{conversation}{path}",
            json=body,
            headers={"authorization": "Bearer other"},
        )
        assert error_of(answer) == (404, "conversation_id", "conversation_not_found")
        message = f"Conversation with id '{conversation}' not found."
        assert answer.json()["error"]["message"] == message
    assert await count_kept(redis) == before
    assert await texts(client, theirs) == ["a"]


# --- items ------------------------------------------------------------------------------------------


async def test_items_stay_in_the_order_of_their_coming(client: Client) -> None:
    conversation = await create(client, *[say(str(number)) for number in range(20)])
    added = (await add(client, conversation, *[say(str(number)) for number in range(20, 25)])).json()
    items = await read(client, conversation)
    assert [item["content"][0]["text"] for item in items] == [str(number) for number in range(25)]
    assert added == {
        "object": "list",
        "data": items[20:],
        "first_id": items[20]["id"],
        "last_id": items[24]["id"],
        "has_more": False,
    }


@pytest.mark.parametrize("order", ["asc", "desc", None])
@pytest.mark.parametrize("limit", [1, 7, 23, 24, 100, None])
async def test_who_pages_sees_every_item_once(client: Client, order: str | None, limit: int | None) -> None:
    conversation = await create(client, *[say(str(number)) for number in range(20)])
    await add(client, conversation, *[say(str(number)) for number in range(20, 24)])
    query: dict[str, Any] = {
        name: value for name, value in (("order", order), ("limit", limit)) if value is not None
    }
    seen: list[str] = []
    for _ in range(25):
        listed = (await client.get(f"/conversations/{conversation}/items", params=query)).json()
        assert listed["first_id"] == listed["data"][0]["id"]
        assert len(listed["data"]) == min(limit or 20, 24 - len(seen))
        seen += [item["content"][0]["text"] for item in listed["data"]]
        query["after"] = listed["last_id"]
        if not listed["has_more"]:
            break
    oldest_first = [str(number) for number in range(24)]
    assert seen == (oldest_first if order == "asc" else oldest_first[::-1])


@pytest.mark.parametrize("item_id", ["msg_1", "msg/b", "msg%41", "msgü?x=y#z", "msg..", "msg a"])
async def test_an_item_is_found_and_taken_out_by_its_id(client: Client, item_id: str) -> None:
    conversation = await create(client, say("a"), say("b", id=item_id), say("c"), metadata={"m": "n"})
    path = httpx.URL(
        f"http://localhost/v1/conversations/{conversation}/items/",
        raw_path=f"/v1/conversations/{conversation}/items/".encode()
        + "".join(f"%{byte:02X}" for byte in item_id.encode()).encode(),
    )
    found = (await client.get(path)).json()
    assert (found["id"], found["content"][0]["text"]) == (item_id, "b")
    told = (await client.delete(path)).json()
    assert (told["id"], told["object"], told["metadata"]) == (conversation, "conversation", {"m": "n"})
    assert await texts(client, conversation) == ["a", "c"]
    for method in ("GET", "DELETE"):
        assert error_of(await client.request(method, path)) == (404, "item_id", "item_not_found")


async def test_an_item_that_was_taken_out_can_come_back_at_the_end(client: Client) -> None:
    conversation = await create(client, say("a", id="msg_m"), say("b"))
    await client.delete(f"/conversations/{conversation}/items/msg_m")
    await add(client, conversation, say("c", id="msg_m"))
    assert await texts(client, conversation) == ["b", "c"]


async def test_a_call_adds_all_its_items_or_none(client: Client) -> None:
    conversation = await create(client, say("a", id="msg_m"))
    refused = await add(client, conversation, say("b"), say("other", id="msg_m"))
    assert error_of(refused) == (400, "items", "item_already_in_conversation")
    assert refused.json()["error"]["message"] == "Item already in conversation"
    assert await texts(client, conversation) == ["a"]


async def test_an_item_is_not_added_twice_to_a_conversation(client: Client) -> None:
    conversation = await create(client, say("a", id="msg_m"), say("b", id="msg_n"))
    again = await add(client, conversation, say("c"), say("a", id="msg_m"))
    assert error_of(again) == (400, "items", "item_already_in_conversation")
    assert await texts(client, conversation) == ["a", "b"]


async def test_an_addition_whose_reply_was_lost_is_not_made_twice(
    client: Client, redis: RedisClient, settings: Settings
) -> None:
    conversation = ConversationKey("one", await create(client))
    add = LuaScript("records/conversation_add", is_confirmed=True)
    for call in ("0" * 16, "1" * 16, "0" * 16):  # the first comes again after another one's
        adding = add(
            f"msg_{call}",
            b'{"id": "msg"}',
            conversation=keys.conversation(conversation),
            items=keys.conversation_items(conversation),
            order=keys.conversation_order(conversation),
            ttl_ms=60_000,
            call=call,
            bytes_max=10_000,
            created_at="",
            metadata="",
        )
        assert await redis.run(adding) == [b"ok"]
    assert len(await read(client, conversation.conversation_id)) == 2


async def test_items_of_calls_at_the_same_time_do_not_mix(client: Client) -> None:
    conversation = await create(client)
    await asyncio.gather(
        *[add(client, conversation, *[say(f"{call} {place}") for place in range(3)]) for call in range(20)]
    )
    found = await texts(client, conversation)
    assert len(found) == 60
    for start in range(0, 60, 3):
        call = found[start].partition(" ")[0]
        assert found[start : start + 3] == [f"{call} {place}" for place in range(3)]


async def test_an_output_may_answer_a_call_that_is_in_the_conversation(client: Client) -> None:
    conversation = await create(client, CALL)
    assert (await add(client, conversation, OUTPUT)).status_code == 200
    assert [item["type"] for item in await read(client, conversation)] == [CALL["type"], OUTPUT["type"]]
    refused = await add(client, conversation, OUTPUT | {"call_id": "d"})
    assert error_of(refused) == (400, "items", None)


TOO_MANY = "array_above_max_length"
REFUSALS: list[tuple[str, dict[str, Any], str | None, str | None]] = [
    ("", {"items": "text"}, "items", "invalid_type"),
    ("", {"items": {}}, "items", "invalid_type"),
    ("", {"items": [say(str(number)) for number in range(21)]}, "items", TOO_MANY),
    ("", {"items": [say("a"), "text"]}, "items[1]", "invalid_type"),
    ("", {"items": [{"role": "user"}]}, "items[0].content", "missing_required_parameter"),
    ("", {"items": [say("a", id="msg_m"), say("a", id="msg_m")]}, "items", None),
    ("", {"items": [say("a", id="item_1")]}, "items[0].id", "invalid_value"),
    ("/KNOWN/items", {"items": [say("a", id="item_1")]}, "items[0].id", "invalid_value"),
    (
        "",
        {"items": [{"type": "compaction", "encrypted_content": "x"}]},
        "items[0].encrypted_content",
        "invalid_encrypted_content",
    ),
    ("", {"items": [OUTPUT]}, "items", None),
    ("", {"items": [say("a"), {"id": "msg_0_" + "a" * 32 + "_0"}]}, "items", None),
    ("", {"metadata": []}, "metadata", "invalid_type"),
    ("", {"metadata": {"k": 1}}, "metadata.k", "invalid_type"),
    ("", {"metadata": {str(number): "v" for number in range(17)}}, "metadata", "object_above_max_properties"),
    ("/KNOWN", {}, "metadata", "missing_required_parameter"),
    ("/KNOWN", {"metadata": {"k": "v" * 513}}, "metadata.k", "string_above_max_length"),
    ("/KNOWN/items", {}, "items", "missing_required_parameter"),
    ("/KNOWN/items", {"items": []}, "items", "invalid_value"),
    ("/KNOWN/items", {"items": [say(str(number)) for number in range(21)]}, "items", TOO_MANY),
    ("/KNOWN/items", {"items": [say("a"), {"type": "x"}]}, "items[1].type", "invalid_value"),
]


@pytest.mark.parametrize(("path", "body", "param", "code"), REFUSALS)
async def test_a_bad_body_is_refused_by_name_and_nothing_is_written(
    client: Client,
    redis: RedisClient,
    path: str,
    body: dict[str, Any],
    param: str | None,
    code: str | None,
) -> None:
    known = await create(client, metadata={"a": "b"})
    before = await count_kept(redis)
    answer = await client.post("/conversations" + path.replace("KNOWN", known), json=body)
    is_reference = any(set(item) == {"id"} for item in body.get("items", ()) if isinstance(item, dict))
    assert error_of(answer) == (404 if is_reference else 400, param, code)
    assert await count_kept(redis) == before
    assert (await client.get(f"/conversations/{known}")).json()["metadata"] == {"a": "b"}
    assert await read(client, known) == []


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "order=up"])
async def test_a_bad_query_is_refused_by_name(client: Client, query: str) -> None:
    conversation = await create(client, say("a"))
    answer = await client.get(f"/conversations/{conversation}/items?{query}")
    assert error_of(answer) == (400, query.partition("=")[0], "invalid_value")


async def test_a_list_after_an_item_that_is_gone_says_that_it_is_gone(client: Client) -> None:
    conversation = await create(client, say("a", id="msg_m"), say("b"))
    await client.delete(f"/conversations/{conversation}/items/msg_m")
    answer = await client.get(f"/conversations/{conversation}/items?after=msg_m")
    assert error_of(answer) == (404, "after", None)
    assert answer.json()["error"]["message"] == "No item found with id 'msg_m'"


async def test_a_full_conversation_takes_no_more_until_there_is_room(
    redis: RedisClient, settings: Settings, tmp_path: Path
) -> None:
    small = settings.model_copy(update={"context_bytes_max": 2_000})
    async with serving(small, tmp_path) as client:
        conversation = await create(client, say("a" * 1_500, id="msg_m"))
        refused = await add(client, conversation, say("b" * 300), say("c" * 300))
        assert error_of(refused) == (400, "items", "conversation_too_large")
        assert len(await read(client, conversation)) == 1
        await client.delete(f"/conversations/{conversation}/items/msg_m")
        assert (await add(client, conversation, say("b" * 1_500))).status_code == 200
        too_large = {"items": [say("d" * 2_000)]}
        answer = await client.post("/conversations", json=too_large)
        assert error_of(answer) == (400, "items", "conversation_too_large")


# --- time -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "", None),
        ("POST", "", {"metadata": {"c": "d"}}),
        ("POST", "/items", {"items": [say("c")]}),
        ("GET", "/items", None),
        ("GET", "/items/msg_m", None),
        ("DELETE", "/items/msg_m", None),
    ],
)
async def test_every_touch_keeps_a_conversation_for_the_whole_retention(
    client: Client, redis: RedisClient, settings: Settings, method: str, path: str, body: Any
) -> None:
    conversation = await create(client, say("a", id="msg_m"), say("b"))
    names = await kept_keys(redis)
    assert len(names) == 3
    for name in names:
        await redis.command("PEXPIRE", name, 60_000)
    answer = await client.request(method, f"/conversations/{conversation}{path}", json=body)
    assert answer.status_code == 200
    left_ms = [await redis.command("PTTL", name) for name in names]
    assert min(left_ms) > settings.conversation_retention_s * 1000 - 60_000


async def test_without_redis_every_call_is_answered_soon(settings: Settings, tmp_path: Path) -> None:
    away = settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0", "redis_timeout_s": 0.3})
    async with serving(away, tmp_path) as client, asyncio.timeout(PATIENCE_S):
        answers = [await client.post("/conversations", json={"items": [say("a")]})]
        for method, path, body in CALLS:
            answers.append(await client.request(method, f"/conversations/{UNKNOWN}{path}", json=body))
    assert [(answer.status_code, answer.headers["retry-after"]) for answer in answers] == [
        (503, "1") for _ in answers
    ]


async def test_an_include_that_no_item_could_answer_is_refused_by_name(client: Client) -> None:
    conversation = await create(client, say("Hello", id="msg_1"))
    made = (await client.post("/responses", json={"input": "Hello", "background": True})).json()["id"]
    items = f"/conversations/{conversation}/items"
    paths = (items, f"{items}/msg_1", f"/responses/{made}", f"/responses/{made}/input_items")
    for path in paths:
        for form in ("include", "include[]", "include[0]"):
            for value, code in (
                ("file_search_call.results", "unsupported_parameter"),
                ("nonsense", "invalid_value"),
            ):
                refused = await client.get(path, params={form: value})
                assert error_of(refused) == (400, "include", code)
                assert value in refused.json()["error"]["message"]
        plain = await client.get(path)
        told = ["message.output_text.logprobs", "code_interpreter_call.outputs"]
        asked = await client.get(path, params={"include": told})
        assert (asked.status_code, asked.json()) == (200, plain.json())
    refused = await client.post(items, params={"include": "nonsense"}, json={"items": [say("more")]})
    assert error_of(refused) == (400, "include", "invalid_value")
    assert await texts(client, conversation) == ["Hello"]


async def test_what_an_include_asks_for_is_returned_with_every_item(client: Client) -> None:
    outputs = [{"type": "logs", "logs": "2\n"}]
    ran = {
        "type": "code_interpreter_call",
        "container_id": "c",
        "status": "completed",
        "code": "print(1 + 1)",
    }
    conversation = await create(client, say("Hello"), ran | {"outputs": outputs})
    (_, kept) = await read(client, conversation)
    assert kept["outputs"] == outputs
