"""`parallel_tool_calls`: whether the calls that a model writes in one turn all reach the client."""

import pytest

from shared import events
from shared.frames import decode
from shared.responses import FunctionCall
from shared.settings import Settings
from shared.store.redis.client import RedisClient
from tests.requests import accept, make_request
from tests.working import finish, working
from worker.engines.scripted.script import Script

TWO_CALLS = Script.parse("""
[[scene]]
name = "two calls in one turn"
[[scene.turn]]
raw = '<|channel|>commentary to=functions.first <|constrain|>json<|message|>{"a": 1}<|end|><|start|>assistant<|channel|>commentary to=functions.second <|constrain|>json<|message|>{"b": 2}<|call|>'
[[scene.turn]]
final = "Both answered."
""")  # noqa: E501  one turn is one line
FUNCTIONS = [
    {"type": "function", "name": name, "parameters": {"type": "object"}, "strict": None}
    for name in ("first", "second")
]


@pytest.mark.parametrize(("is_parallel", "called"), [(True, ["first", "second"]), (False, ["first"])])
async def test_without_parallel_calls_a_turn_ends_with_its_first_call(
    redis: RedisClient, settings: Settings, is_parallel: bool, called: list[str]
) -> None:
    request = make_request("Call both", tools=FUNCTIONS, parallel_tool_calls=is_parallel)
    async with working(redis, settings, TWO_CALLS) as worker:
        entries = await finish(redis, worker, await accept(redis, settings, request))
    last = decode(entries[-1].frame)
    assert isinstance(last, events.ResponseCompleted)
    assert [item.name for item in last.response.output if isinstance(item, FunctionCall)] == called
    assert all(item.status == "completed" for item in last.response.output)  # type: ignore[union-attr]
