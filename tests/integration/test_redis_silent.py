"""A Redis that accepts everything and answers nothing: no call of a client waits for it for ever."""

import asyncio
import base64
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute
from pydantic import SecretStr

from api.app import build
from api.tenants import Tenants
from local.valkey import Valkey
from shared.settings import Settings
from shared.store.redis.confirmation import Durability
from tests.edges import HELLO, UNKNOWN_ID, error_of, serving
from tests.proxy import proxying

TIMEOUT_S = 10.0
ANSWERED_WITHIN_S = 25.0
"""An answer takes one timeout. What waits for three of them, as a command does that is sent again, fails."""

CONVERSATION = "conv_0_" + "a" * 32
MESSAGE = {"type": "message", "role": "user", "content": "Hello"}
CHAT = {"model": "default", "messages": [{"role": "user", "content": "Hello"}]}
CALLS: dict[tuple[str, str], list[Any]] = {
    ("POST", "/v1/responses"): [
        HELLO,
        HELLO | {"stream": True},
        HELLO | {"background": True},
        HELLO | {"background": True, "stream": True},
        HELLO | {"previous_response_id": UNKNOWN_ID},
        HELLO | {"conversation": CONVERSATION},
        {"input": [MESSAGE, {"type": "item_reference", "id": UNKNOWN_ID.replace("resp", "msg") + "_i0"}]},
    ],
    ("POST", "/v1/chat/completions"): [CHAT, CHAT | {"stream": True}],
    ("POST", "/v1/responses/input_tokens"): [HELLO, HELLO | {"conversation": CONVERSATION}],
    ("POST", "/v1/responses/compact"): [
        HELLO | {"model": "default"},
        {"model": "default", "previous_response_id": UNKNOWN_ID},
    ],
    ("GET", "/v1/responses"): [None],
    ("GET", "/v1/responses/{response_id}"): [None],
    ("POST", "/v1/responses/{response_id}/cancel"): [None],
    ("DELETE", "/v1/responses/{response_id}"): [None],
    ("GET", "/v1/responses/{response_id}/input_items"): [None],
    ("POST", "/v1/conversations"): [{}, {"items": [MESSAGE]}],
    ("GET", "/v1/conversations/{conversation_id}"): [None],
    ("POST", "/v1/conversations/{conversation_id}"): [{"metadata": {}}],
    ("DELETE", "/v1/conversations/{conversation_id}"): [None],
    ("POST", "/v1/conversations/{conversation_id}/items"): [
        {"items": [MESSAGE]},
        {"items": [{"type": "function_call_output", "call_id": "c", "output": "o"}]},
    ],
    ("GET", "/v1/conversations/{conversation_id}/items"): [None],
    ("GET", "/v1/conversations/{conversation_id}/items/{item_id:path}"): [None],
    ("DELETE", "/v1/conversations/{conversation_id}/items/{item_id:path}"): [None],
    ("GET", "/console/cluster"): [None],
    ("GET", "/console/responses/{response_id}"): [None],
    ("GET", "/console/responses/{response_id}/events"): [None],
    ("GET", "/ready"): [None],
}
"""Every route that asks Redis -> the bodies it is called with."""
SEAL_KEY = SecretStr(base64.b64encode(bytes(32)).decode())
"""Compaction needs one."""
REPEATED = ("POST", "/v1/responses", {"input": "Again"})
"""Called with an Idempotency-Key."""
CONSOLE_KEY = SecretStr("the-key-of-the-console")
ASKING_NOTHING = {
    ("GET", "/health"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{model:path}"),
    ("GET", "/console"),
    ("GET", "/console/files/{name}"),
    ("POST", "/console/workers/{owner}/kill"),
}


def test_every_route_is_called_here() -> None:
    routes = [route for route in build(Settings(), Tenants()).routes if isinstance(route, APIRoute)]
    assert {(method, route.path) for route in routes for method in route.methods - {"HEAD"}} == {
        *CALLS,
        *ASKING_NOTHING,
    }


@pytest.mark.parametrize("durable", ["no", "aof"])
async def test_every_route_defers_its_caller_in_time(
    valkey: Valkey, settings: Settings, durable: Durability
) -> None:
    calls = [(method, _path_of(route), body) for (method, route), bodies in CALLS.items() for body in bodies]
    calls.append(("GET", f"/v1/responses/{UNKNOWN_ID}?stream=true", None))
    calls.append(REPEATED)
    async with proxying(valkey.port) as proxy:
        changed = {"redis_url": proxy.url, "redis_timeout_s": TIMEOUT_S, "durable_writes": durable}
        through = settings.model_copy(update={**changed, "seal_keys": [SEAL_KEY], "console_key": CONSOLE_KEY})
        async with serving(through) as client:
            assert (await client.get("/v1/responses/" + UNKNOWN_ID)).status_code == 404
            proxy.cut()
            async with asyncio.timeout(ANSWERED_WITHIN_S):
                answers = await asyncio.gather(*(_call(client, *call) for call in calls))
            proxy.heal()
    for call, answer in zip(calls, answers, strict=True):
        assert answer.status_code == 503, (call, answer.text)
        assert answer.headers["retry-after"] == "1"
        if call[1] != "/ready":
            assert error_of(answer)["code"] == "service_unavailable"


async def _call(client: httpx.AsyncClient, method: str, path: str, body: Any) -> httpx.Response:
    headers = {"idempotency-key": "k"} if body is REPEATED[2] else {}
    if path.startswith("/console"):
        headers["authorization"] = f"Bearer {CONSOLE_KEY.get_secret_value()}"
        path += "?tenant=default"
    return await client.request(method, path, json=body, headers=headers)


def _path_of(route: str) -> str:
    route = route.replace("{response_id}", UNKNOWN_ID).replace("{conversation_id}", CONVERSATION)
    return route.replace("{item_id:path}", "msg_1")
