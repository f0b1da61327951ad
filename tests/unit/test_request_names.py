"""A client's own name for a request comes into the log, with ours."""

import logging
from collections.abc import Iterator

import pytest

from api.request_names import WithRequest
from tests.edges import client_of, edge_alone, error_of


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    added = WithRequest()
    caplog.handler.addFilter(added)
    with caplog.at_level(logging.INFO, logger="api"):
        yield caplog
    caplog.handler.removeFilter(added)


async def test_a_named_request_leaves_a_line_and_others_leave_none(log: pytest.LogCaptureFixture) -> None:
    async with client_of(edge_alone()) as client:
        answer = await client.get("/v1/models/a%0Ab?x=1", headers={"X-Client-Request-Id": "mine: 100%d"})
        await client.get("/v1/models")
    (line,) = log.messages
    assert line.startswith("GET /v1/models/a%0Ab: 404 in ")
    assert line.endswith(f" ms [{answer.headers['x-request-id']}, client's mine: 100%d]")


async def test_whatever_is_logged_of_a_request_has_its_names(log: pytest.LogCaptureFixture) -> None:
    async with client_of(edge_alone()) as client:
        named = await client.post(
            "/v1/responses", json={"input": "Hello"}, headers={"X-Client-Request-Id": "mine"}
        )
        other = await client.post("/v1/responses", json={"input": "Hello"})
    away = [line for line in log.messages if "Redis is unavailable" in line]
    ours = [answer.headers["x-request-id"] for answer in (named, other)]
    assert [line.partition(" [")[2] for line in away] == [f"{ours[0]}, client's mine]", f"{ours[1]}]"]


@pytest.mark.parametrize("name", [b"", b"a" * 513, "é".encode(), b"a\x1b[2J", b"a\tb"])
async def test_a_name_that_cannot_be_logged_is_refused(name: bytes, log: pytest.LogCaptureFixture) -> None:
    async with client_of(edge_alone()) as client:
        refused = await client.get("/v1/models", headers={b"X-Client-Request-Id": name})
    assert refused.status_code == 400
    assert error_of(refused)["param"] == "X-Client-Request-Id"
    assert log.messages == []
