"""What is admitted by its headers alone, and the answers to browsers. Nothing here uses Redis."""

import hashlib
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from api.__main__ import main
from api.tenants import Tenants
from shared.settings import Settings
from shared.tenants_file import Roster
from tests.edges import HELLO, UNKNOWN_ID, client_of, edge_alone, error_of

APP = "https://app.example"
KEY = {"authorization": "Bearer k"}


def with_keys(**settings: Any) -> httpx.AsyncClient:
    return client_of(edge_alone(Tenants(Roster({hashlib.sha256(b"k").hexdigest(): "t"})), **settings))


async def is_let_in(client: httpx.AsyncClient, **headers: str) -> bool:
    answer = await client.get("/v1/models", headers=headers)
    if answer.status_code == 200:
        return True
    assert answer.status_code == 403
    assert error_of(answer)["code"] in ("host_not_allowed", "origin_not_allowed")
    return False


OWN_HOSTS = [
    "localhost",
    "LocalHost:8000",
    "localhost.",
    "127.0.0.1.:8000",
    "api.localhost",
    "127.0.0.1:8000",
    "127.9.9.9",
    "[::1]:8000",
    "[::1]",
]
FOREIGN_HOSTS = [
    "evil.example",
    "localhost.evil.example:8000",
    "10.0.0.5",
    "0.0.0.0",
    "[::2]:80",
    "127.0.0.1.x",
    "localhost..",
    ".",
]


async def test_without_keys_a_host_that_is_not_loopback_is_refused_whoever_it_leads_to() -> None:
    async with client_of(edge_alone()) as client:
        assert [host for host in OWN_HOSTS if not await is_let_in(client, host=host)] == []
        assert [host for host in FOREIGN_HOSTS if await is_let_in(client, host=host)] == []
        answer = await client.post("/v1/responses", json=HELLO, headers={"host": "evil.example"})
        assert error_of(answer)["param"] == "Host"


async def test_of_two_hosts_none_is_believed() -> None:
    hosts = [("host", "localhost"), ("host", "evil.example")]
    for client in (client_of(edge_alone()), with_keys()):
        async with client:
            answer = await client.get("/v1/models", headers=[*hosts, *KEY.items()])
            assert answer.status_code == 400
            assert (error_of(answer)["code"], error_of(answer)["param"]) == ("invalid_host", "Host")


async def test_without_keys_a_page_of_somebody_elses_starts_nothing() -> None:
    async with client_of(edge_alone()) as client:
        for origin in (
            "https://evil.example",
            "null",
            "http://localhost:9999",
            "http://localhost.evil.example",
        ):
            answer = await client.post("/v1/responses", json=HELLO, headers={"origin": origin})
            assert (answer.status_code, error_of(answer)["param"]) == (403, "Origin")
            answer = await client.post(f"/v1/responses/{UNKNOWN_ID}/cancel", headers={"origin": origin})
            assert answer.status_code == 403
        for kind in (
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data",
            "",
            "application/jsonp",
        ):
            answer = await client.post("/v1/responses", content=b"{}", headers={"content-type": kind})
            assert (answer.status_code, error_of(answer)["param"]) == (415, "Content-Type")
        assert await is_let_in(client, origin="http://localhost")
        kind = "Application/JSON; charset=utf-8"
        answer = await client.post("/v1/responses", content=b"[]", headers={"content-type": kind})
        assert error_of(answer)["code"] == "invalid_json"


async def test_the_operator_may_name_hosts_and_origins() -> None:
    async with client_of(edge_alone(open_hosts=["GPU-box.lan"], cors_origins=[APP])) as client:
        assert await is_let_in(client, host="gpu-box.lan:8000")
        assert await is_let_in(client, origin=APP)
        assert not await is_let_in(client, host="other.lan")
        assert not await is_let_in(client, origin=f"{APP}:444")


async def test_with_keys_it_is_the_key_that_counts() -> None:
    foreign = {"host": "api.example", "origin": "https://evil.example", "content-type": "text/plain"}
    async with with_keys() as client:
        answer = await client.get("/v1/models", headers=KEY | foreign)
        assert answer.status_code == 200
        assert "access-control-allow-origin" not in answer.headers
        assert (await client.get("/v1/models", headers=foreign)).status_code == 401
        answer = await client.post("/v1/responses", content=b"[]", headers=KEY | foreign)
        assert error_of(answer)["code"] == "invalid_json"


async def test_pages_of_the_origins_that_are_named_may_call_and_read() -> None:
    async with with_keys(cors_origins=[APP, "http://127.0.0.1:5173"]) as client:
        for path, status in (("/v1/models", 200), ("/v1/models/other", 404), ("/nowhere", 404)):
            answer = await client.get(path, headers=KEY | {"origin": APP})
            assert answer.status_code == status
            assert answer.headers["access-control-allow-origin"] == APP
            exposed = answer.headers["access-control-expose-headers"].split(", ")
            told = {"x-request-id", "openai-processing-ms", "openai-version", "antiphon-cells-missing"}
            assert told | {"retry-after", "retry-after-ms"} <= set(exposed)
            assert "origin" in answer.headers["vary"]
        # An error that a page cannot read is no answer to it: also without a key.
        answer = await client.get("/v1/models", headers={"origin": APP})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (401, APP)
        for origin in ("https://evil.example", f"{APP}.evil.example", "null", "http://127.0.0.1"):
            answer = await client.get("/v1/models", headers=KEY | {"origin": origin})
            assert "access-control-allow-origin" not in answer.headers
            assert "origin" in answer.headers["vary"]


async def test_a_preflight_is_answered_without_a_key() -> None:
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,x-a"}
    async with with_keys(cors_origins=[APP]) as client:
        answer = await client.options("/v1/responses", headers=asked | {"origin": APP})
        assert (answer.status_code, answer.content) == (204, b"")
        assert answer.headers["access-control-allow-origin"] == APP
        assert "POST" in answer.headers["access-control-allow-methods"]
        assert answer.headers["access-control-allow-headers"] == "authorization,x-a"
        answer = await client.options("/v1/responses", headers=asked | {"origin": "https://evil.example"})
        assert (answer.status_code, error_of(answer)["code"]) == (403, "origin_not_allowed")
        assert "access-control-allow-origin" not in answer.headers
        assert (await client.options("/v1/responses", headers=KEY)).status_code == 405


@pytest.mark.parametrize(
    "origin", ["*", "null", "app.example", f"{APP}/", "https://APP.example", f"{APP}/page"]
)
def test_what_no_browser_would_write_is_no_origin(origin: str) -> None:
    with pytest.raises(ValidationError, match="cors_origins"):
        Settings(cors_origins=[origin])


async def test_a_slash_at_the_end_makes_no_other_address() -> None:
    async with client_of(edge_alone()) as client:
        for path in ("/v1/models/", "/v1/models/default/", "/health/"):
            assert (await client.get(path)).status_code == 200
        answer = await client.post("/v1/responses/", content=b"[]")
        assert error_of(answer)["code"] == "invalid_json"
        assert (await client.get("/v1/models//")).status_code == 404


def test_a_wider_address_without_keys_must_be_meant(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("ANTIPHON_API_KEYS", raising=False)
    assert main(["--host", "0.0.0.0"]) == 2
    said = capsys.readouterr().err
    assert "ANTIPHON_OPEN_HOSTS" in said
    assert "ANTIPHON_API_KEYS" in said


async def test_a_complaint_repeats_a_few_hundred_characters_at_most() -> None:
    long = "x" * 5000
    async with client_of(edge_alone()) as client:
        answers = [
            await client.get(f"/v1/models/{long}"),
            await client.get(f"/v1/responses/{long}"),
            await client.get(f"/v1/conversations/{long}"),
            await client.get(f"/{long}"),
            await client.get("/v1/models", headers={"host": long}),
            await client.get("/v1/models", headers={"origin": long}),
            await client.post("/v1/responses", json=HELLO, headers={"content-encoding": long}),
            *[
                await client.post("/v1/responses", json=HELLO | fields)
                for fields in (
                    {"model": long[:256]},
                    {"previous_response_id": long},
                    {"metadata": {long: "a"}},
                    {"input": [{"type": long}]},
                    {"input": [{"type": "item_reference", "id": long}]},
                    {"input": [{"type": "function_call_output", "call_id": long, "output": ""}]},
                    {"tool_choice": {"type": "function", "name": long}},
                    {"tools": [{"type": long}]},
                    {"tools": [{"type": "mcp", "server_label": long}]},
                    {"text": {"format": {"type": long}}},
                    {"include": [long]},
                )
            ],
        ]
    for answer in answers:
        assert answer.status_code in (400, 403, 404, 415), answer.text
        assert len(answer.content) < 1500, answer.text


async def test_a_packed_body_is_refused_and_not_read_as_something_else() -> None:
    async with client_of(edge_alone()) as client:
        for encoding in ("gzip", "br", "zstd", "gzip, identity"):
            answer = await client.post("/v1/responses", json=HELLO, headers={"content-encoding": encoding})
            assert (answer.status_code, error_of(answer)["code"]) == (415, "unsupported_content_encoding")
        in_two_lines = [("content-encoding", "identity"), ("content-encoding", "gzip")]
        for headers in (in_two_lines, [("transfer-encoding", "gzip, chunked")]):
            answer = await client.post("/v1/responses", content=b"[]", headers=headers)
            assert (answer.status_code, error_of(answer)["code"]) == (415, "unsupported_content_encoding")
        answer = await client.post("/v1/responses", content=b"[]", headers={"content-encoding": "identity"})
        assert error_of(answer)["code"] == "invalid_json"
