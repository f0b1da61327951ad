"""Code whose worker dies: two calls in each sandbox, of which the second reads what the first defined."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from shared.responses import ResponseRequest
from shared.settings import Settings
from shared.store.log.event_log import Entry
from shared.store.redis.client import RedisClient
from tests.patience import PATIENCE_S
from tests.requests import accept, make_request
from tests.sandboxing import need_bubblewrap
from tests.working import Worker, finish, keep_journal, leave_behind, restore_journal, working
from tool_runner import app
from worker.engines.scripted.script import Script

TOOL: Any = {"type": "code_interpreter", "container": {"type": "auto"}}
SCRIPT = Script.parse("""
[[scene]]
name = "once"
match = 'once$'
[[scene.turn]]
call = { tool = "python", code = "x = 6*7" }
[[scene.turn]]
final = "Done."

[[scene]]
name = "twice"
[[scene.turn]]
analysis = "First one."
call = { tool = "python", code = "x = 6*7" }
[[scene.turn]]
analysis = "Then the other."
call = { tool = "python", code = "print('𓀀', x)" }
[[scene.turn]]
final = "It is {result_2|strip}, after {result_1|strip|or:nothing}."
""")


@pytest_asyncio.fixture(params=["monty", "cpython"])
async def settings(settings: Settings, request: pytest.FixtureRequest) -> Settings:
    if request.param == "cpython":
        await asyncio.to_thread(need_bubblewrap)
    return settings.model_copy(update={"python_tool": request.param})


@pytest_asyncio.fixture
async def worker(redis: RedisClient, settings: Settings) -> AsyncIterator[Worker]:
    """With a real tool runner beside it."""
    stop = asyncio.Event()
    running = asyncio.create_task(app.run(settings, stop))
    async with working(redis, settings, SCRIPT, answer=None) as worker:
        yield worker
    stop.set()
    async with asyncio.timeout(PATIENCE_S):
        await running


def ask(text: str, include: list[str]) -> ResponseRequest:
    return msgspec.structs.replace(make_request(text, tools=[TOOL]), include=include)


async def run(
    redis: RedisClient, settings: Settings, worker: Worker, request: ResponseRequest
) -> tuple[list[Entry], list[bytes]]:
    """Returns the log and the journal of an undisturbed run."""
    key = await accept(redis, settings, request)
    return await finish(redis, worker, key), await keep_journal(redis, key)


def sessions_in(journal: Sequence[bytes]) -> list[bytes]:
    fields = zip(journal[::2], journal[1::2], strict=True)
    return [part for field in fields if field[0].startswith(b"session:") for part in field]


def calls_done(entries: Sequence[Entry]) -> int:
    return sum(b"code_interpreter_call.completed" in entry.frame for entry in entries)


@pytest.mark.parametrize("include", [[], ["code_interpreter_call.outputs"]], ids=["not shown", "shown"])
async def test_wherever_its_worker_dies_the_code_finds_its_variables_and_no_byte_differs(
    redis: RedisClient, settings: Settings, worker: Worker, include: list[str]
) -> None:
    """The journal is as it was at that moment: with the variables after each call that had returned."""
    request = ask("Twice", include)
    _, after_one = await run(redis, settings, worker, ask("once", include))
    whole, after_both = await run(redis, settings, worker, request)
    assert "It is 𓀀 42, after nothing." in whole[-1].frame.decode()
    journals = [[], sessions_in(after_one), after_both]
    for length in range(1, len(whole)):
        await redis.command("FLUSHALL")
        key = await leave_behind(redis, settings, worker, request, whole[:length])
        await restore_journal(redis, key, journals[calls_done(whole[:length])])
        again = await finish(redis, worker, key)
        assert [entry.frame for entry in again] == [entry.frame for entry in whole], length
        assert [(e.tokens, e.token_record) for e in again] == [(e.tokens, e.token_record) for e in whole]
