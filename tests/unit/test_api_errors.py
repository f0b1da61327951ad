"""The edge alone: every refusal is in the envelope, with our headers, and does not use Redis."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from api.app import Edge
from api.errors import ClientError
from api.routes.access import with_body
from api.tenants import Tenants
from shared.settings import Settings
from shared.store.records.admission import KeyReused
from shared.tenants_file import Roster
from tests.edges import HELLO, UNKNOWN_ID, client_of, edge_alone, error_of


@pytest_asyncio.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(edge_alone(body_bytes_max=1000)) as client:
        yield client


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "unknown_url"),
        ("GET", "/docs", 404, "unknown_url"),
        ("GET", "/openapi.json", 404, "unknown_url"),
        ("POST", "/v1/response/", 404, "unknown_url"),
        ("GET", f"/v1/responses/{UNKNOWN_ID}/x", 404, "unknown_url"),
        ("PUT", "/v1/responses", 405, "method_not_allowed"),
        ("PUT", f"/v1/responses/{UNKNOWN_ID}", 405, "method_not_allowed"),
        ("POST", "/health", 405, "method_not_allowed"),
        ("GET", "/v1/models/other", 404, "model_not_found"),
        ("GET", "/v1/responses/nonsense", 404, "response_not_found"),
        ("GET", f"/v1/responses/{UNKNOWN_ID.upper()}", 404, "response_not_found"),
    ],
)
async def test_an_unknown_address_is_reported_in_the_envelope(
    client: httpx.AsyncClient, method: str, path: str, status: int, code: str
) -> None:
    answer = await client.request(method, path)
    assert answer.status_code == status
    error = error_of(answer)
    assert (error["code"], error["type"]) == (code, "invalid_request_error")


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/responses", "GET, HEAD, POST"),
        (f"/v1/responses/{UNKNOWN_ID}", "DELETE, GET, HEAD"),
        ("/v1/models", "GET, HEAD"),
        ("/v1/chat/completions", "POST"),
    ],
)
async def test_a_wrong_method_is_told_all_that_the_address_has(
    client: httpx.AsyncClient, path: str, allowed: str
) -> None:
    answer = await client.patch(path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


@pytest.mark.parametrize("host", ["[", "", "a b", ":::"])
async def test_a_host_that_makes_no_address_is_no_fault(client: httpx.AsyncClient, host: str) -> None:
    answer = await client.get("/nowhere", headers={"host": host})
    expected = (403, "host_not_allowed") if host else (404, "unknown_url")
    assert (answer.status_code, error_of(answer)["code"]) == expected


@pytest.mark.parametrize(
    "query", ["starting_after=x", "starting_after=1.5", "starting_after=", "stream=maybe"]
)
async def test_a_query_parameter_that_makes_no_sense_is_named(client: httpx.AsyncClient, query: str) -> None:
    answer = await client.get(f"/v1/responses/{UNKNOWN_ID}?{query}")
    assert answer.status_code == 400
    assert error_of(answer)["param"] == query.partition("=")[0]


@pytest.mark.parametrize("name", ["Last-Event-ID", "Antiphon-Keep-Alive"])
async def test_a_header_that_makes_no_sense_is_named(client: httpx.AsyncClient, name: str) -> None:
    answer = await client.get(f"/v1/responses/{UNKNOWN_ID}?stream=true", headers={name: "x"})
    assert (answer.status_code, error_of(answer)["param"]) == (400, name)


async def pieces(count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield b" " * 100


async def test_a_body_without_a_stated_length_is_counted_as_it_arrives(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/responses", content=pieces(11))
    assert answer.status_code == 413
    assert error_of(answer)["code"] == "request_too_large"


@pytest.mark.parametrize("stated", ["1", "nonsense", "1001"])
async def test_a_body_is_measured_whatever_its_header_says(client: httpx.AsyncClient, stated: str) -> None:
    answer = await client.post("/v1/responses", content=b" " * 1001, headers={"content-length": stated})
    assert answer.status_code == 413


async def keep(body: bytes) -> bytes:
    return body


def being_sent(app: Edge, *messages: Message, **headers: str) -> Request:
    """A POST whose body comes in these messages, and after them nothing."""
    coming = list(messages)

    async def receive() -> Message:
        if coming:
            return coming.pop(0)
        never: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        return await never

    fields = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "headers": fields, "app": app}, receive)


def some(body: bytes, *, more: bool = True) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


async def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    app = edge_alone()
    with pytest.raises(ClientError) as refused:
        await with_body(being_sent(app), Settings(http_body_timeout_s=0.01), keep)
    assert (refused.value.status, refused.value.code) == (408, "request_timeout")


MIB = 2**20
BODIES: dict[str, Any] = {"body_bytes_max": MIB, "bodies_bytes_max": 4 * MIB, "http_body_timeout_s": 0.2}


async def test_bodies_together_have_a_bound_and_small_ones_a_part_of_it() -> None:
    app = edge_alone(**BODIES)
    settings: Settings = app.state.settings
    held, going_on = 0, asyncio.Event()

    async def hold(_body: bytes) -> None:
        nonlocal held
        held += 1
        await going_on.wait()

    def large() -> Request:
        return being_sent(app, some(b" " * (MIB // 2)), some(b" " * (MIB // 2), more=False))

    def small() -> Request:
        return being_sent(app, some(b" " * 2**16, more=False))

    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(with_body(large(), settings, hold))
        while held < 3:
            await asyncio.sleep(0)
        assert app.state.bodies.held_bytes == 3 * MIB
        for refused in (large(), being_sent(app, content_length=str(MIB))):
            with pytest.raises(ClientError) as error:
                await with_body(refused, settings, keep)
            assert (error.value.status, error.value.code) == (503, "service_unavailable")
            assert error.value.headers == {"connection": "close", "retry-after": "1"}
        assert app.state.bodies.held_bytes == 3 * MIB
        for _ in range(16):
            group.create_task(with_body(small(), settings, hold))
        while held < 19:
            await asyncio.sleep(0)
        with pytest.raises(ClientError):
            await with_body(small(), settings, keep)
        going_on.set()
    assert app.state.bodies.held_bytes == 0
    assert len(await with_body(large(), settings, keep)) == MIB


async def test_a_body_is_given_back_however_its_request_ends() -> None:
    app = edge_alone(**BODIES)

    async def fail(_body: bytes) -> None:
        raise KeyReused

    late, gone = being_sent(app, some(b" ")), being_sent(app, some(b" "), {"type": "http.disconnect"})
    packed = being_sent(app, some(b" ", more=False), content_encoding="gzip")
    too_large = being_sent(app, *[some(b" " * 2**16)] * 17)
    for request, work, expected in (
        (late, keep, ClientError),
        (gone, keep, ClientDisconnect),
        (packed, keep, ClientError),
        (too_large, keep, ClientError),
        (being_sent(app, some(b" ", more=False)), fail, KeyReused),
    ):
        with pytest.raises(expected):
            await with_body(request, app.state.settings, work)
        assert app.state.bodies.held_bytes == 0
    waiting = asyncio.create_task(with_body(being_sent(app, some(b" ")), app.state.settings, keep))
    while not app.state.bodies.held_bytes:
        await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert app.state.bodies.held_bytes == 0


def test_a_node_has_room_for_the_largest_body() -> None:
    with pytest.raises(ValidationError, match="bodies_bytes_max"):
        Settings(body_bytes_max=1000, bodies_bytes_max=1999)


async def test_a_body_of_just_the_size_that_is_accepted_is_read(client: httpx.AsyncClient) -> None:
    body = json.dumps(HELLO).encode()
    answer = await client.post("/v1/responses", content=body + b" " * (1000 - len(body)))
    # It was read and found right: only then is Redis asked, which is not there.
    assert (answer.status_code, error_of(answer)["code"]) == (503, "service_unavailable")


async def test_a_key_is_asked_for_where_keys_are_configured() -> None:
    tenants = Tenants(Roster({hashlib.sha256(b"k").hexdigest(): "t"}))
    async with client_of(edge_alone(tenants)) as client:
        answers = [
            await client.post("/v1/responses", json=HELLO),
            await client.get(f"/v1/responses/{UNKNOWN_ID}", headers={"authorization": "Bearer other"}),
            await client.get("/v1/models"),
            await client.get("/v1/models/default"),
        ]
        assert (await client.get("/health")).status_code == 200
        assert (await client.get("/v1/models", headers={"authorization": "Bearer k"})).status_code == 200
    for answer in answers:
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert error_of(answer)["code"] == "invalid_api_key"


async def test_models_are_listed_by_their_configured_names() -> None:
    names = ["openai/gpt-oss-20b", "other"]
    async with client_of(edge_alone(models=names, context_tokens_max=1_000)) as client:
        listed = (await client.get("/v1/models")).json()
        one = (await client.get("/v1/models/openai/gpt-oss-20b")).json()
        alias = (await client.get("/v1/models/default")).json()
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == [*names, "default"]
    assert [one, alias] == [listed["data"][0], listed["data"][-1]]
    assert (one["object"], one["owned_by"], type(one["created"])) == ("model", "antiphon", int)
    assert one["max_model_len"] == 1_000


async def test_the_name_that_stands_for_a_model_is_listed_once() -> None:
    async with client_of(edge_alone()) as client:
        listed = (await client.get("/v1/models")).json()
    assert [model["id"] for model in listed["data"]] == ["default"]


async def test_the_process_is_healthy_whatever_else_is_wrong() -> None:
    async with client_of(edge_alone()) as client:
        health, ready = await client.get("/health"), await client.get("/ready")
    assert (health.status_code, health.json()) == (200, {"status": "ok"})
    assert ready.status_code == 503
    assert ready.json() == {
        "status": "not ready",
        "redis": False,
        "workers": 0,
        "tool_runners": 0,
        "cell": "0",
    }


OTHER_FIELDS = st.dictionaries(st.text().filter(lambda name: name != "input"), st.text())


@given(st.binary(max_size=200) | OTHER_FIELDS.map(lambda fields: json.dumps(fields).encode()))
def test_any_body_gets_an_envelope_and_never_a_fault(raw: bytes) -> None:
    async def post() -> httpx.Response:
        async with client_of(edge_alone()) as client:
            return await client.post("/v1/responses", content=raw)

    answer = asyncio.run(post())
    assert 400 <= answer.status_code < 500
    assert error_of(answer)["type"] == "invalid_request_error"
