"""Sealed reasoning at the door: opened for the tenant it was sealed for, with any of the keys, or refused."""

import base64
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from api.app import create_app
from api.tenants import Tenants
from shared.input_items import EarlierThought, InputReasoning
from shared.request_json import decode_request
from shared.sealing import REASONING, Seal
from shared.settings import Settings
from shared.store.keys import ResponseKey
from shared.store.records import response_store
from shared.store.redis.client import RedisClient
from shared.tenants_file import Roster

OLD, NEW = (SecretStr(base64.urlsafe_b64encode(bytes([n] * 32)).decode()) for n in (1, 2))
INCLUDED = {"include": ["reasoning.encrypted_content"]}
ASKED = {"role": "user", "content": "Hello"}


@asynccontextmanager
async def node(settings: Settings, keys: Sequence[SecretStr]) -> AsyncIterator[httpx.AsyncClient]:
    """Yields a client of the tenant acme."""
    digests = {hashlib.sha256(name.encode()).hexdigest(): name for name in ("acme", "other")}
    app = create_app(settings.model_copy(update={"seal_keys": list(keys)}), Tenants(Roster(digests)))
    headers = {"authorization": "Bearer acme"}
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=headers) as client,
    ):
        yield client


def seal(text: str, key: SecretStr = NEW, tenant: str = "acme") -> str:
    return Seal([key], tenant, REASONING).seal(text)


def carrying(sealed: str, **fields: Any) -> dict[str, Any]:
    item = {"type": "reasoning", "summary": [], "encrypted_content": sealed, **fields}
    return {"input": [ASKED, item], "background": True}


async def thought_kept(redis: RedisClient, answer: httpx.Response) -> InputReasoning:
    """The reasoning item of the accepted request, as its worker reads it."""
    assert answer.status_code == 200, answer.text
    stored = await response_store.read_request(redis, ResponseKey("acme", answer.json()["id"]))
    (thought,) = [item for item in decode_request(stored).input if isinstance(item, InputReasoning)]
    return thought


@pytest.mark.parametrize("key", [OLD, NEW])
async def test_reasoning_that_any_of_the_keys_sealed_is_read(
    redis: RedisClient, settings: Settings, key: SecretStr
) -> None:
    async with node(settings, [NEW, OLD]) as client:
        answer = await client.post("/v1/responses", json=carrying(seal("Thought. 𓀀", key)))
        thought = await thought_kept(redis, answer)
    assert thought.content == [EarlierThought("Thought. 𓀀")]
    assert not thought.encrypted_content


@pytest.mark.parametrize(
    "sealed",
    [seal("t", tenant="other"), seal("t", OLD), seal("t")[:-4], "gAAAAABforeign", "antiphon1", "antiphon1.."],
    ids=["another tenant's", "a key that is gone", "cut off", "a foreign one", "no form", "an empty form"],
)
async def test_what_cannot_be_opened_is_refused_and_nothing_is_written(
    redis: RedisClient, settings: Settings, sealed: str
) -> None:
    async with node(settings, [NEW]) as client:
        for path in ("/v1/responses", "/v1/responses/input_tokens"):
            answer = await client.post(path, json={**carrying(sealed), "background": None})
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (400, "invalid_encrypted_content")
            assert sealed[4:] not in answer.text or len(sealed) < 10
    assert await redis.command("KEYS", "*state") == []


async def test_without_a_key_sealed_reasoning_is_neither_promised_nor_read(
    redis: RedisClient, settings: Settings
) -> None:
    async with node(settings, []) as client:
        answer = await client.post("/v1/responses", json={"input": "Hello", "store": False, **INCLUDED})
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (400, "unsupported_parameter")
        assert error["param"] == "include"
        assert "seal_keys" in error["message"]
        answer = await client.get(f"/v1/responses/resp_{'0' * 48}?include[]={INCLUDED['include'][0]}")
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "include")
        answer = await client.post("/v1/responses", json=carrying(seal("t")))
        assert answer.json()["error"]["code"] == "invalid_encrypted_content"
    assert await redis.command("KEYS", "*state") == []


async def test_reasoning_in_a_conversation_is_opened_when_a_response_reads_it(
    redis: RedisClient, settings: Settings
) -> None:
    async with node(settings, [NEW]) as client:
        items = carrying(seal("Thought."))["input"]
        conversation = (await client.post("/v1/conversations", json={"items": items})).json()["id"]
        body = {"input": "Go on.", "conversation": conversation, "background": True}
        answer = await client.post("/v1/responses", json=body)
        stored = await response_store.read_request(redis, ResponseKey("acme", answer.json()["id"]))
        thoughts = [item for item in decode_request(stored).context if isinstance(item, InputReasoning)]
        assert [thought.content for thought in thoughts] == [[EarlierThought("Thought.")]]
        listed = await client.get(f"/v1/conversations/{conversation}/items")
        assert seal("Thought.") in listed.text, "what was added stays as it is"


async def test_what_is_opened_counts_against_the_bounds_of_a_request(
    redis: RedisClient, settings: Settings
) -> None:
    bounded = settings.model_copy(update={"context_bytes_max": 1_000})
    async with node(bounded, [NEW]) as client:
        answer = await client.post("/v1/responses", json=carrying(seal("\x01" * 300)))
        assert answer.json()["error"]["code"] == "context_too_large"
