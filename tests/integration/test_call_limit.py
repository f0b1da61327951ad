"""Calls beyond `max_tool_calls`: none is made or leaves an item, and the model reads a refusal."""

from itertools import pairwise
from typing import Any

import msgspec
import pytest

from shared import events
from shared.frames import decode
from shared.responses import McpTool
from shared.settings import Settings
from shared.store.log.event_log import Entry
from shared.store.redis.client import RedisClient
from shared.tool_calls import ToolCall, ToolListing, ToolsListed
from tests.requests import accept, make_request
from tests.working import Answer, calculate, finish, working
from worker.engines.scripted.script import Script

PYTHON = {"type": "mcp", "server_label": "code_interpreter", "require_approval": "never"}
THREE_TIMES = "Call python 3 times"


def final_of(entries: list[Entry]) -> Any:
    last = decode(entries[-1].frame)
    assert isinstance(last, events.ResponseCompleted)
    return last.response


@pytest.mark.parametrize(("limit", "made"), [(1, 1), (2, 2), (3, 3)])
async def test_a_call_beyond_the_limit_leaves_no_item_and_is_reported_to_the_model(
    redis: RedisClient, settings: Settings, limit: int, made: int
) -> None:
    asked: list[ToolCall | ToolListing] = []

    def answer(task: ToolCall | ToolListing) -> Answer:
        asked.append(task)
        return calculate(task)

    request = make_request(THREE_TIMES, tools=[PYTHON], max_tool_calls=limit)
    request = msgspec.structs.replace(request, enable_response_messages=True)
    async with working(redis, settings, answer=answer) as worker:
        entries = await finish(redis, worker, await accept(redis, settings, request))
    response = final_of(entries)
    output = [_as_dict(item) for item in response.output]
    kinds = [item["type"] for item in output]
    assert len(asked) == kinds.count("mcp_call") == made
    assert all(item["status"] == "completed" for item in output)
    told = [message for message in response.output_messages if message["role"] == "tool"]
    refused = [message for message in told if f"no more than {limit} tool calls" in str(message)]
    assert len(told) == min(3, made + 1)  # the script gives up when it reads that
    assert len(refused) == len(told) - made
    added = [e.item.id for e in _events(entries) if isinstance(e, events.OutputItemAdded)]
    done = [e.item.id for e in _events(entries) if isinstance(e, events.OutputItemDone)]
    assert added == done == [item["id"] for item in output]


SCRIPT = """
[[scene]]
name = "a call on another channel"
match = 'call on (?P<channel>[a-z]+)'
[[scene.turn]]
raw = '<|channel|>{{channel}} to={recipient} {constrain}<|message|>{text}<|call|>'
[[scene.turn]]
final = "Done."

[[scene]]
name = "else"
[[scene.turn]]
final = "?"
"""


@pytest.mark.parametrize("channel", ["analysis", "commentary"])
@pytest.mark.parametrize("kind", ["python", "mcp"])
async def test_a_tools_answer_is_on_the_channel_of_its_call(
    redis: RedisClient, settings: Settings, channel: str, kind: str
) -> None:
    """Also where the model does not keep to the one that the guide gives it."""
    said = {
        "python": {"recipient": "python", "constrain": "code", "text": "1+1"},
        "mcp": {"recipient": "wiki.ask", "constrain": "<|constrain|>json", "text": "{{}}"},
    }
    script = Script.parse(SCRIPT.format(**said[kind]))
    wiki = PYTHON | {"server_label": "wiki"}
    request = make_request(f"call on {channel}", tools=[PYTHON, wiki])
    request = msgspec.structs.replace(request, enable_response_messages=True)

    def answer(task: ToolCall | ToolListing) -> Answer:
        return calculate(task) if isinstance(task, ToolCall) else ToolsListed((McpTool("ask", {}),))

    async with working(redis, settings, script, answer=answer) as worker:
        entries = await finish(redis, worker, await accept(redis, settings, request))
    messages = final_of(entries).output_messages
    [(call, told)] = [(one, other) for one, other in pairwise(messages) if other["role"] == "tool"]
    assert call["channel"] == told["channel"] == channel


def _as_dict(item: Any) -> dict[str, Any]:
    return dict(msgspec.json.decode(msgspec.json.encode(item)))


def _events(entries: list[Entry]) -> list[events.StreamEvent]:
    return [decode(entry.frame) for entry in entries]
