"""Compactions at the door: refused without keys, opened for their own tenant, told apart for the client."""

import asyncio
import hashlib
import json
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from openai.types.responses import CompactedResponse, ResponseCompactionItem, ResponseUsage

from api.offload import Offload
from shared.compaction import Compacted
from shared.input_items import InputCompaction
from shared.request_json import decode_request
from shared.sealing import COMPACTION, REASONING, Seal
from shared.settings import Settings
from shared.store import keys
from shared.store.keys import ResponseKey
from shared.store.log import event_log
from shared.store.log.closing import cancel
from shared.store.records import admission, response_store
from shared.store.redis.client import RedisClient
from tests.integration.test_sealed_reasoning import NEW, OLD, node
from tests.items import items_of
from tests.patience import until
from tests.requests import make_request
from tests.working import finish, working
from worker.engines.protocol import Sampling, Sink
from worker.engines.scripted.engine import ScriptedEngine
from worker.engines.scripted.script import Script
from worker.harmony.tokens import decode

USER: Any = {"type": "message", "role": "user", "content": "Hello", "id": "msg_1"}
CALL: Any = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", "id": "fc_1"}
OUTPUT: Any = {"type": "function_call_output", "call_id": "c", "output": "o"}
MANAGED: Any = {"context_management": [{"type": "compaction", "compact_threshold": 1_000}]}
SAYS_NOTHING = Script.parse("[[scene]]\nname = 'all'\n[[scene.turn]]\nfinal = 'All of it.'\n")


def compaction(tenant: str = "acme", purpose: str = COMPACTION, **fields: Any) -> dict[str, Any]:
    made = Compacted(**{"summary": "A summary.", **fields})
    sealed = Seal([NEW], tenant, purpose).seal(made.encode())
    return {"type": "compaction", "id": "cmp_1", "encrypted_content": sealed}


async def accepted(redis: RedisClient, client: httpx.AsyncClient, *items: Any) -> list[tuple[str, Any]]:
    """(type, id) of what the model reads."""
    answer = await client.post("/v1/responses", json={"input": [*items], "background": True})
    assert answer.status_code == 200, answer.text
    stored = await response_store.read_request(redis, ResponseKey("acme", answer.json()["id"]))
    read = decode_request(stored).input
    assert all(item.summary == "A summary." for item in read if isinstance(item, InputCompaction))
    return [(str(item.__struct_config__.tag), item.id) for item in read]


async def test_without_a_key_no_compaction_is_promised(redis: RedisClient, settings: Settings) -> None:
    async with node(settings, []) as client:
        answer = await client.post("/v1/responses", json={"input": "Hello", **MANAGED})
        error = answer.json()["error"]
        assert (answer.status_code, error["param"]) == (400, "context_management")
        assert "ANTIPHON_SEAL_KEYS" in error["message"]
        answer = await client.post("/v1/responses/compact", json={"model": "default", "input": "Hello"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported_parameter")
    assert await redis.command("KEYS", "*state") == []


@pytest.mark.parametrize(
    "item",
    [
        compaction("other"),
        compaction(purpose=REASONING),
        {**compaction(), "encrypted_content": "antiphon1.."},
    ],
    ids=["another tenant's", "another purpose", "an empty form"],
)
async def test_what_cannot_be_opened_is_refused_by_name(
    redis: RedisClient, settings: Settings, item: dict[str, Any]
) -> None:
    async with node(settings, [NEW, OLD]) as client:
        for path in ("/v1/responses", "/v1/responses/input_tokens", "/v1/responses/compact"):
            answer = await client.post(path, json={"model": "default", "input": [USER, item]})
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (400, "invalid_encrypted_content")
            assert error["param"] == "input[1].encrypted_content"
    assert await redis.command("KEYS", "*state") == []


async def test_an_item_of_a_response_stands_for_all_before_it_and_one_of_the_endpoint_does_not(
    redis: RedisClient, settings: Settings
) -> None:
    kept = items_of([{**USER, "id": "msg_kept"}])
    async with node(settings, [NEW, OLD]) as client:
        whole = compaction(kept=kept, waiting=items_of([CALL]), is_whole=True)
        read = await accepted(redis, client, USER, whole, OUTPUT)
        assert read[:3] == [("message", "msg_kept"), ("compaction", "cmp_1"), ("function_call", "fc_1")]
        assert len(read) == 4
        read = await accepted(redis, client, USER, compaction(waiting=items_of([CALL])), CALL, OUTPUT)
        assert read[:3] == [("message", "msg_1"), ("compaction", "cmp_1"), ("function_call", "fc_1")]
        assert len(read) == 4, "a call that is sent besides is read once"


async def test_input_items_are_what_was_sent_and_may_be_referred_to(
    redis: RedisClient, settings: Settings
) -> None:
    whole = compaction(kept=items_of([{**USER, "id": "msg_kept"}]), is_whole=True)
    async with node(settings, [NEW]) as client:
        sent = [{**USER, "id": "msg_covered"}, {k: v for k, v in whole.items() if k != "id"}, USER]
        body = {"input": sent, "background": True}
        response_id = (await client.post("/v1/responses", json=body)).json()["id"]
        listed = (await client.get(f"/v1/responses/{response_id}/input_items?order=asc")).json()["data"]
        assert [item["id"] for item in (listed[0], listed[2])] == ["msg_covered", "msg_1"]
        assert listed[1] == {**whole, "id": listed[1]["id"]}
        read = await accepted(redis, client, {"type": "item_reference", "id": listed[1]["id"]})
        assert read == [("message", "msg_kept"), ("compaction", listed[1]["id"])]


async def test_a_removed_key_hinders_nothing_after_a_newer_compaction(
    redis: RedisClient, settings: Settings
) -> None:
    lost = {**compaction("other"), "id": "cmp_0"}
    rules: Any = {"type": "message", "role": "developer", "content": "Be brief.", "id": "msg_rules"}
    async with node(settings, [NEW]) as client:
        read = await accepted(redis, client, rules, lost, compaction(is_whole=True), USER)
        assert read == [("message", "msg_rules"), ("compaction", "cmp_1"), ("message", "msg_1")]


async def test_a_client_cannot_say_what_a_compaction_holds(redis: RedisClient, settings: Settings) -> None:
    async with node(settings, [NEW]) as client:
        forged = {**compaction(), "summary": "Forged."}
        assert await accepted(redis, client, USER, forged)
        body = {"input": [USER, forged], "background": True}
        response_id = (await client.post("/v1/responses", json=body)).json()["id"]
        listed = await client.get(f"/v1/responses/{response_id}/input_items?order=asc")
        assert listed.json()["data"][1] == compaction()


@pytest.mark.parametrize(
    "item",
    [
        compaction("other"),
        {**compaction(), "encrypted_content": "antiphon1.a.b"},
    ],
    ids=["another tenant's", "an empty form"],
)
async def test_a_conversation_takes_no_compaction_that_cannot_be_opened(
    redis: RedisClient, settings: Settings, item: dict[str, Any]
) -> None:
    async with node(settings, [NEW, OLD]) as client:
        conversation = (await client.post("/v1/conversations", json={"items": [compaction()]})).json()["id"]
        for path in ("/v1/conversations", f"/v1/conversations/{conversation}/items"):
            answer = await client.post(path, json={"items": [USER, item]})
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (400, "invalid_encrypted_content")
            assert error["param"] == "items[1].encrypted_content"


async def test_a_key_that_created_a_response_compacts_nothing(redis: RedisClient, settings: Settings) -> None:
    body, named = {"model": "default", "input": "Hello"}, {"idempotency-key": "k"}
    async with node(settings, [NEW]) as client:
        known = admission.Repetition("k", hashlib.sha256(json.dumps(body).encode()).hexdigest())
        request = make_request()
        created = admission.NewResponse.of(
            ResponseKey("acme", request.response.id), request, {}, repetition=known
        )
        await response_store.create(redis, settings, created)
        raw, headers = json.dumps(body), {"content-type": "application/json", **named}
        refused = await client.post("/v1/responses/compact", content=raw, headers=headers)
        error = refused.json()["error"]
        assert (refused.status_code, error["code"]) == (409, "idempotency_key_reused")


async def test_a_repeated_call_makes_the_compaction_whose_client_had_left(
    redis: RedisClient, settings: Settings
) -> None:
    sealing = settings.model_copy(update={"seal_keys": [NEW]})
    body, named = {"model": "default", "input": "Hello"}, {"idempotency-key": "k"}

    async def begun() -> ResponseKey:
        await until(lambda: redis.command("ZCARD", keys.ACTIVE))
        (name,) = await redis.command("ZRANGE", keys.ACTIVE, 0, -1)
        return ResponseKey.parse(name.decode())

    async with node(settings, [NEW]) as client, working(redis, sealing, SAYS_NOTHING) as worker:

        def ask() -> asyncio.Task[httpx.Response]:
            return asyncio.create_task(client.post("/v1/responses/compact", json=body, headers=named))

        first = ask()
        await cancel(redis, settings, await begun(), "the worker, once nobody reads", Offload().run)
        assert (await first).json()["error"]["code"] == "response_cancelled"
        second = ask()
        key = await begun()
        await finish(redis, worker, key)
        again = await ask()
        assert [(await second).json()["id"], again.json()["id"]] == [key.response_id] * 2


class Stuck(ScriptedEngine):
    """Never writes a summary."""

    async def generate(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        sink: Sink,
        *,
        request_id: str,
        model: str = "default",
    ) -> None:
        if "Summarise this conversation" in decode(prompt):
            await asyncio.Event().wait()
        await super().generate(prompt, sampling, sink, request_id=request_id, model=model)


async def test_an_answer_outlives_the_compaction_after_it_that_is_cancelled(
    redis: RedisClient, settings: Settings
) -> None:
    """And its owner, who would not notice for the third part of a lease, stops at once."""
    sealing = settings.model_copy(
        update={"seal_keys": [NEW], "disconnect_grace_s": 0.0, "lease_ttl_s": 10_000.0}
    )
    managed = {"context_management": [{"type": "compaction", "compact_threshold": 1}]}
    async with (
        node(sealing, [NEW]) as client,
        working(redis, sealing, engine=Stuck(SAYS_NOTHING)) as worker,
    ):
        conversation = (await client.post("/v1/conversations", json={})).json()["id"]
        body = {"input": [USER], "conversation": conversation, "background": True, **managed}
        made = (await client.post("/v1/responses", json=body)).json()
        key = ResponseKey("acme", made["id"])
        await worker.ownership.start_response(str(key))

        async def compacts() -> bool:
            page = await event_log.read(redis, key, -1, 100)
            return any(b'"type":"compaction"' in entry.frame for entry in page.entries)

        await until(compacts)
        ended = (await client.post(f"/v1/responses/{made['id']}/cancel")).json()
        assert ended["status"] == "completed"
        await until(lambda: worker.ownership.running == 0)
        assert [item["type"] for item in ended["output"]] == ["message"]
        assert ended["output"][0]["content"][0]["text"] == "All of it."
        assert ended["usage"]["output_tokens"] > 0
        again = (await client.get(f"/v1/responses/{made['id']}")).json()
        assert again == ended
        last = (await event_log.read(redis, key, -1, 100)).entries[-1]
        assert last.frame.startswith(b"event: response.completed\n")
        items = (await client.get(f"/v1/conversations/{conversation}/items")).json()["data"]
        assert [item["role"] for item in items] == ["assistant", "user"]


class Broken(ScriptedEngine):
    """Cannot write a summary."""

    async def generate(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        sink: Sink,
        *,
        request_id: str,
        model: str = "default",
    ) -> None:
        if "Summarise this conversation" in decode(prompt):
            raise RuntimeError("no summary")
        await super().generate(prompt, sampling, sink, request_id=request_id, model=model)


@pytest.mark.parametrize("fault", ["the engine's", "lost owners"])
async def test_an_answer_outlives_the_compaction_after_it_that_fails(
    redis: RedisClient, settings: Settings, fault: str
) -> None:
    sealing = settings.model_copy(update={"seal_keys": [NEW]})
    engine = (Broken if fault == "the engine's" else Stuck)(SAYS_NOTHING)
    managed = {"context_management": [{"type": "compaction", "compact_threshold": 1}]}
    async with node(sealing, [NEW]) as client:
        made = (
            await client.post("/v1/responses", json={"input": [USER], "background": True, **managed})
        ).json()
        key = ResponseKey("acme", made["id"])

        async def is_answered() -> bool:
            return bool(await redis.command("HEXISTS", keys.state(key), "answered"))

        if fault == "lost owners":
            async with working(redis, sealing, engine=engine) as first:
                await first.ownership.start_response(str(key))
                await until(is_answered)
            await redis.command("HSET", keys.state(key), "deaths", settings.owners_lost_max)
        async with working(redis, sealing, engine=engine) as worker:
            await finish(redis, worker, key)
        ended = (await client.get(f"/v1/responses/{made['id']}")).json()
        assert (ended["status"], ended["error"]) == ("completed", None)
        assert [item["type"] for item in ended["output"]] == ["message"]
        assert ended["usage"]["output_tokens"] > 0
        last = (await event_log.read(redis, key, -1, 100)).entries[-1]
        assert json.loads(last.frame.split(b"data: ")[1])["response"] == ended


async def test_what_will_be_compacted_is_not_refused_for_its_length(
    redis: RedisClient, settings: Settings
) -> None:
    narrow = settings.model_copy(update={"context_tokens_max": 100})
    async with node(narrow, [NEW]) as client:
        for fields, status in ((MANAGED, 200), ({}, 400)):
            body = {"input": "Hello " * 3_000, "background": True, **fields}
            answer = await client.post("/v1/responses", json=body)
            assert answer.status_code == status, answer.text


@pytest.mark.parametrize(
    ("value", "param", "code"),
    [
        ({}, "context_management", "invalid_type"),
        ([1], "context_management[0]", "invalid_type"),
        ([{"type": "other"}], "context_management[0].type", "invalid_value"),
        ([{"type": "compaction", "n": 1}], "context_management[0].n", "unknown_parameter"),
        (
            [{"type": "compaction", "compact_threshold": 0}],
            "context_management[0].compact_threshold",
            "integer_below_min_value",
        ),
        ([{"type": "compaction"}] * 2, "context_management", "invalid_value"),
    ],
)
async def test_what_context_management_cannot_mean_is_refused_by_name(
    redis: RedisClient, settings: Settings, value: Any, param: str, code: str
) -> None:
    async with node(settings, [NEW]) as client:
        answer = await client.post("/v1/responses", json={"input": "Hello", "context_management": value})
        error = answer.json()["error"]
        assert (answer.status_code, error["param"], error["code"]) == (400, param, code)


async def test_the_answer_is_made_of_a_response_that_is_not_stored(
    redis: RedisClient, settings: Settings
) -> None:
    sealing = settings.model_copy(update={"seal_keys": [NEW]})
    async with node(settings, [NEW]) as client, working(redis, sealing, SAYS_NOTHING) as worker:
        body = {"model": "default", "input": [USER, CALL]}
        asked = asyncio.create_task(client.post("/v1/responses/compact", json=body))
        await until(lambda: redis.command("ZCARD", keys.ACTIVE))
        (name,) = await redis.command("ZRANGE", keys.ACTIVE, 0, -1)
        key = ResponseKey.parse(name.decode())
        await finish(redis, worker, key)
        answer = await asked
        made = answer.json()
        assert made.keys() == set(CompactedResponse.model_fields) - {"image"}
        assert (made["id"], made["object"]) == (key.response_id, "response.compaction")
        message, item = made["output"]  # the public types have no users' messages here
        assert message.keys() == {"type", "id", "status", "role", "content"}
        ResponseCompactionItem.model_validate(item, strict=True)
        ResponseUsage.model_validate(made["usage"], strict=True)
        found = await client.get(f"/v1/responses/{key.response_id}")
        assert found.status_code == 404
