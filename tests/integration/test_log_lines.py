"""What the roles log of a response names it, its tenant and its attempt, and says nothing of its content."""

import io
import json
import logging
from collections.abc import Iterator

import msgspec
import pytest

from shared.logs import JsonLines, WithSubject
from shared.settings import Settings
from shared.store.redis.client import RedisClient
from shared.trace_origin import TraceOrigin
from tests.requests import accept, make_request
from tests.spans import exporting
from tests.working import finish, leave_behind, working

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
CLIENTS = f"00-{TRACE_ID}-b7ad6b7169203331-01"


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines("worker"))
    handler.addFilter(WithSubject())
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield stream
    root.removeHandler(handler)
    root.setLevel(level)


@pytest.fixture
def traced() -> Iterator[None]:
    with exporting("worker"):
        yield


async def test_a_takeover_is_logged_with_its_response_attempt_and_trace(
    redis: RedisClient, settings: Settings, logged: io.StringIO, traced: None
) -> None:
    asked = "Count from 1 to 5, my secret"
    async with working(redis, settings) as worker:
        request = msgspec.structs.replace(make_request(asked), trace=TraceOrigin(CLIENTS, 0))
        entries = await finish(redis, worker, await accept(redis, settings, request))
        await redis.command("FLUSHALL")
        key = await leave_behind(redis, settings, worker, request, entries[:4])
        await finish(redis, worker, key)
    lines = [json.loads(line) for line in logged.getvalue().splitlines()]
    (line,) = [line for line in lines if "continues after" in line["message"]]
    assert (line["tenant"], line["response_id"], line["attempt"]) == (*key, 2)
    assert line["trace_id"] == TRACE_ID
    assert "secret" not in logged.getvalue()
