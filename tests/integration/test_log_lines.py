"""What the roles log of a response names it, its tenant and its attempt, and says nothing of its content."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from shared.logs import JsonLines, WithSubject
from shared.settings import Settings
from shared.store.redis.client import RedisClient
from tests.requests import accept, make_request
from tests.working import finish, leave_behind, working


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


async def test_a_takeover_is_logged_with_its_response_and_attempt(
    redis: RedisClient, settings: Settings, logged: io.StringIO
) -> None:
    asked = "Count from 1 to 5, my secret"
    async with working(redis, settings) as worker:
        request = make_request(asked)
        entries = await finish(redis, worker, await accept(redis, settings, request))
        await redis.command("FLUSHALL")
        key = await leave_behind(redis, settings, worker, request, entries[:4])
        await finish(redis, worker, key)
    lines = [json.loads(line) for line in logged.getvalue().splitlines()]
    (line,) = [line for line in lines if "continues after" in line["message"]]
    assert (line["tenant"], line["response_id"], line["attempt"]) == (*key, 2)
    assert "secret" not in logged.getvalue()
