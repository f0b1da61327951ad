"""JSON answers are compressed for clients that accept it, and nothing else is."""

import gzip
import json
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from api.compression import Compression, accepts_gzip
from api.offload import INLINE_BYTES_MAX
from tests.edges import client_of, edge_alone

NAMES = [f"model-{number}" for number in range(30)]


@pytest_asyncio.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(edge_alone(models=NAMES)) as client:
        yield client


async def raw_answer(
    client: httpx.AsyncClient, path: str, method: str = "GET", **headers: str
) -> tuple[httpx.Response, bytes]:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    async with client.stream(method, path, headers=names) as answer:
        return answer, b"".join([chunk async for chunk in answer.aiter_raw()])


async def test_a_large_answer_is_compressed_for_a_client_that_accepts_it(client: httpx.AsyncClient) -> None:
    plain, body = await raw_answer(client, "/v1/models", accept_encoding="identity")
    packed, fewer = await raw_answer(client, "/v1/models", accept_encoding="br, gzip;q=0.8")
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert gzip.decompress(fewer) == body
    assert int(packed.headers["content-length"]) == len(fewer) < len(body)
    assert plain.headers["vary"] == packed.headers["vary"] == "accept-encoding"
    assert packed.headers["x-request-id"]
    assert [model["id"] for model in json.loads(body)["data"]] == [*NAMES, "default"]


async def test_a_small_answer_is_not(client: httpx.AsyncClient) -> None:
    answer, body = await raw_answer(client, "/v1/models/default", accept_encoding="gzip")
    assert not {"content-encoding", "vary"} & set(answer.headers)
    assert json.loads(body)["id"] == "default"


@pytest.mark.parametrize(
    ("accepted", "is_accepted"),
    [
        (["gzip"], True),
        (["deflate", "GZIP ; q=1.000"], True),
        (["gzip;q=0"], False),
        (["gzip; q=0.000, br"], False),
        (["*"], False),
        (["x-gzip, agzip"], False),
        ([], False),
    ],
)
def test_what_a_client_accepts(accepted: list[str], is_accepted: bool) -> None:
    assert accepts_gzip(accepted) == is_accepted


@pytest.mark.parametrize("size", [2_000, 2 * INLINE_BYTES_MAX])
async def test_only_whole_json_is_compressed(size: int) -> None:
    text = b'"' + b"a" * size + b'"'

    async def pieces() -> AsyncIterator[bytes]:
        yield text

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await answers[scope["path"]](scope, receive, send)

    length, packed, json_ = {"content-length": str(len(text))}, {"content-encoding": "br"}, "application/json"
    answers: dict[str, Response] = {
        "/events": StreamingResponse(pieces(), media_type="text/event-stream"),
        "/pieces": StreamingResponse(pieces(), media_type=json_, headers=length),
        "/packed": Response(text, media_type=json_, headers=packed),
        "/text": Response(text, media_type="text/plain"),
        "/json": Response(text, media_type=json_),
    }

    transport = httpx.ASGITransport(Compression(answer, 1_024))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        for path in ("/events", "/pieces", "/packed", "/text"):
            _, body = await raw_answer(client, path, accept_encoding="gzip")
            assert body == text, path
        _, body = await raw_answer(client, "/json", accept_encoding="gzip")
        assert gzip.decompress(body) == text
