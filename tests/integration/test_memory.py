"""What unit tests of an attempt learn in memory is true: on Redis the same request leaves the same log."""

from typing import Any

import msgspec
import pytest

from shared.settings import Settings
from shared.store.redis.client import RedisClient
from tests.memory import attempt
from tests.requests import accept, make_request
from tests.working import finish, working

PYTHON: Any = {"type": "mcp", "server_label": "code_interpreter", "require_approval": "never"}
REQUESTS = {
    "several tool calls": make_request("Call python 3 times", tools=[PYTHON], max_tool_calls=2),
    "logprobs": msgspec.structs.replace(
        make_request("Hello", top_logprobs=1), include=["message.output_text.logprobs"]
    ),
    "the token limit": make_request("Count from 1 to 1000", max_output_tokens=23),
}


@pytest.mark.parametrize("name", REQUESTS)
async def test_a_log_in_memory_is_the_one_that_redis_would_have(
    redis: RedisClient, settings: Settings, name: str
) -> None:
    request = REQUESTS[name]
    async with working(redis, settings) as worker:
        _, *kept = await finish(redis, worker, await accept(redis, settings, request))
    assert (await attempt(request, settings=settings)).read() == kept
