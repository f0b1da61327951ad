"""The calls that a model writes in one turn: all reach the client or their tools, wherever an owner dies."""

import asyncio
from typing import Any

import msgspec
import pytest

from shared import events
from shared.frames import decode
from shared.responses import FunctionCall
from shared.settings import Settings
from shared.store import keys
from shared.store.log.response_log import NewEntry
from shared.store.owning import lease
from shared.store.owning.lease import Acquired
from shared.store.redis.client import RedisClient
from shared.store.tools import tool_journal
from shared.store.tools.tool_journal import Claim
from shared.tool_calls import ToolCall
from tests.appending import append_through
from tests.items import items_of
from tests.patience import until
from tests.requests import accept, make_request
from tests.working import calculate, finish, working
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


LABELS = ("one", "two")
TWO_SERVERS = Script.parse(
    """
[[scene]]
name = "two servers in one turn"
[[scene.turn]]
call = [{ tool = "one.ask", arguments = { q = 1 } }, { tool = "two.ask", arguments = { q = 2 } }]
[[scene.turn]]
final = "{result_1|strip}, {result_2|strip}."
"""
)


def on_both() -> Any:
    tools = [{"type": "mcp", "server_label": label, "require_approval": "never"} for label in LABELS]
    listed = [
        {"type": "mcp_list_tools", "id": f"mcpl_{label}", "server_label": label}
        | {"tools": [{"name": "ask", "input_schema": {"type": "object"}}]}
        for label in LABELS
    ]
    return msgspec.structs.replace(make_request("Call both", tools=tools), context=items_of(listed))


async def test_calls_that_still_run_when_their_worker_dies_are_waited_for_and_not_made_again(
    redis: RedisClient, settings: Settings
) -> None:
    """The second one answers first; nothing else is queued."""
    request = on_both()
    async with working(redis, settings, TWO_SERVERS) as worker:
        whole = await finish(redis, worker, await accept(redis, settings, request))
        assert b"ask ran, ask ran." in whole[-1].frame
    written = max(i for i, entry in enumerate(whole) if b"mcp_call_arguments.done" in entry.frame)
    await redis.command("FLUSHALL")
    async with working(redis, settings, TWO_SERVERS, answer=None) as worker:
        key = await accept(redis, settings, request)
        dead = await lease.acquire(redis, settings, key, "dead")
        assert isinstance(dead, Acquired)
        drafts = [NewEntry(entry.frame, entry.tokens) for entry in whole[1 : written + 1]]
        await append_through(worker.appender, dead.lease, 1, drafts)
        claims = []
        for index, label in enumerate(LABELS):
            task = ToolCall(label, "ask", f'{{"q":{index + 1}}}')
            await tool_journal.submit(redis, settings, dead.lease, index, task)
            intent = await tool_journal.claim(redis, settings, key, index, "runner")
            assert intent is not None
            claims.append(Claim(key, index, "runner", intent))
        await redis.command("DEL", keys.TOOLS_QUEUE)
        await redis.command("HSET", keys.state(key), "lease_until_ms", 1)
        finishing = asyncio.create_task(finish(redis, worker, key))

        async def has_next_owner() -> bool:
            return bool(await redis.command("HGET", keys.state(key), "owner") != b"dead")

        await until(has_next_owner)
        for claim in reversed(claims):
            await tool_journal.finish(redis, claim, calculate(claim.intent.task), None)
        assert [entry.frame for entry in await finishing] == [entry.frame for entry in whole]
        assert await redis.command("EXISTS", keys.TOOLS_QUEUE) == 0
