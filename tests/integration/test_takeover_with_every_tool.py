"""Two responses in a chain, with every kind of tool, taken over at every event boundary: byte for byte.

A search and the page that it found, code and the variable that it set, an MCP server and the page of its
session, a custom tool of the client's: the second response continues what the first one began with each.
The tool runner, its servers and the sandbox are real.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any

import pytest

from shared.ids import call_id
from shared.responses import ResponseRequest, ServerSecrets
from shared.settings import Settings
from shared.store import job_queue, keys
from shared.store.keys import ResponseKey
from shared.store.log.event_log import Entry
from shared.store.redis.client import RedisClient
from shared.tool_calls import ToolTask
from tests.edges import serving as serving_api
from tests.integration.stateful_servers import PagesServer
from tests.integration.stateful_servers import serving as serving_app
from tests.patience import PATIENCE_S
from tests.requests import read_record
from tests.sandboxing import need_bubblewrap
from tests.working import Worker, finish, keep_journal, leave_behind, restore_journal, working
from tool_runner import servers
from tool_runner.calls_in_flight import CallsInFlight
from tool_runner.kept_session import SessionStore
from tool_runner.run_tool import Outcome, Tools
from tool_runner.stdio_servers import StdioServers
from worker.engines.scripted.script import Script

pytestmark = pytest.mark.slow

SCRIPT = Script.parse("""
[[scene]]
name = "begin"
match = 'Begin'
[[scene.turn]]
call = { tool = "browser.search", arguments = { query = "fencing token" } }
[[scene.turn]]
call = { tool = "python", code = "x = '𓀀'" }
[[scene.turn]]
call = { tool = "pages.visit", arguments = { page = "é" } }
[[scene.turn]]
call = { tool = "functions.patch", arguments = { input = "+é" } }
[[scene.turn]]
final = "This is never said: the client has a call to run."

[[scene]]
name = "go on"
[[scene.turn]]
call = { tool = "browser.open", arguments = { id = 0 } }
[[scene.turn]]
call = { tool = "python", code = "x" }
[[scene.turn]]
call = { tool = "pages.look", arguments = {} }
[[scene.turn]]
final = "{result_2|strip} {result_3} 【0†L4】【1†L3】"
""")
INCLUDE = ["code_interpreter_call.outputs", "web_search_call.action.sources"]


class NotedTools(Tools):
    """Notes at the beginning of each call what the journal had of the sessions with servers."""

    def __init__(self, redis: RedisClient, settings: Settings, stdio: StdioServers) -> None:
        super().__init__(settings, servers.load(settings), stdio, runner="runner")
        self._redis = redis
        self.sessions_before: dict[ResponseKey, list[list[bytes]]] = {}

    async def run(
        self,
        task: ToolTask,
        secrets: ServerSecrets | None,
        session: str | None,
        store: SessionStore | None = None,
        tenant: str = "",
        call: str = "",
    ) -> Outcome:
        assert store is not None
        journal = await keep_journal(self._redis, store.response)
        noted = self.sessions_before.setdefault(store.response, [])
        noted.append(fields_of(journal, lambda name: name.startswith("session:")))
        return await super().run(task, secrets, session, store, tenant, call)


def fields_of(journal: Sequence[bytes], is_wanted: Any) -> list[bytes]:
    fields = zip(journal[::2], journal[1::2], strict=True)
    return [part for field in fields if is_wanted(field[0].decode()) for part in field]


@asynccontextmanager
async def running(redis: RedisClient, settings: Settings) -> AsyncIterator[NotedTools]:
    """Runs a tool runner."""
    stdio = StdioServers(PATIENCE_S)
    tools = NotedTools(redis, settings, stdio)
    calls = CallsInFlight(redis, settings, "runner", tools)
    handlers = {"start_tool_call": calls.start}
    serving = job_queue.serve(settings.redis_url, keys.TOOLS_QUEUE, handlers, calls.room)
    tasks = [asyncio.create_task(flow) for flow in (calls.run(), serving)]
    try:
        yield tools
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await calls.close()
        await tools.close()
        await stdio.close()


@dataclass
class Whole:
    """An undisturbed response, and what its journal had at each moment."""

    request: ResponseRequest
    log: list[Entry]
    journal: list[bytes]
    sessions: list[list[bytes]] = field(default_factory=list)
    """Before each call, and at the end."""

    def journal_after(self, calls: int) -> list[bytes]:
        """The journal when so many calls had returned and the next was not submitted."""
        indices = sorted({int(name) for name in map(call_of, self.journal[::2]) if name})
        made = list(map(str, indices[:calls]))
        return [*fields_of(self.journal, lambda name: call_of(name.encode()) in made), *self.sessions[calls]]


def call_of(name: bytes) -> str:
    index = name.decode().partition(":")[0]
    return index if index.isdecimal() else ""


def calls_in(entries: Sequence[Entry]) -> int:
    """How many calls, and listings, have a result in the log."""
    done = (b"_call.completed", b"mcp_list_tools.completed")
    return sum(any(kind in entry.frame.partition(b"\n")[0] for kind in done) for entry in entries)


async def run_whole(
    redis: RedisClient, worker: Worker, tools: NotedTools, settings: Settings, body: dict[str, Any]
) -> Whole:
    """Has the API accept the response, so that it begins with the sessions of the one it continues."""
    async with serving_api(settings) as client:
        answer = await client.post("/v1/responses", json=body | {"background": True, "include": INCLUDE})
        assert answer.status_code == 200, answer.text
        key = ResponseKey("default", answer.json()["id"])
        log = await finish(redis, worker, key)
    record, journal = await read_record(redis, key), await keep_journal(redis, key)
    assert record is not None
    at_end = fields_of(journal, lambda name: name.startswith("session:"))
    return Whole(record.request, log, journal, [*tools.sessions_before[key], at_end])


@pytest.mark.parametrize("python_tool", ["monty", "cpython"])
async def test_wherever_a_worker_dies_in_a_chain_with_every_tool_its_log_is_that_of_an_undisturbed_run(
    redis: RedisClient, settings: Settings, python_tool: str
) -> None:
    if python_tool == "cpython":
        await asyncio.to_thread(need_bubblewrap)
    changes = {"python_tool": python_tool, "web_search": "local"}
    settings = settings.model_copy(update=changes | {"egress_networks": [ip_network("127.0.0.0/8")]})
    server = PagesServer()
    async with (
        serving_app(server) as url,
        running(redis, settings) as tools,
        working(redis, settings, SCRIPT, answer=None) as worker,
    ):
        body: dict[str, Any] = {
            "model": "default",
            "input": "Begin",
            "tools": [
                {"type": "web_search"},
                {"type": "code_interpreter", "container": {"type": "auto"}},
                {"type": "mcp", "server_label": "pages", "server_url": url, "require_approval": "never"},
                {"type": "custom", "name": "patch"},
            ],
        }
        first = await run_whole(redis, worker, tools, settings, body)
        assert b"custom_tool_call_input.done" in b"".join(entry.frame for entry in first.log)
        output = {"type": "custom_tool_call_output", "output": "Done."}
        output["call_id"] = call_id(first.request.response.id, 4)
        parent = first.request.response.id
        more = {"input": [output, {"role": "user", "content": "Go on"}], "previous_response_id": parent}
        second = await run_whole(redis, worker, tools, settings, body | more)
        assert "'𓀀' é 【0†L4】【1†L3】" in second.log[-1].frame.decode()
        assert second.log[-1].frame.count(b'"url_citation"') == 2
        assert server.visits == server.sent().count("initialize") == 1
        for whole in (first, second):
            await check_every_boundary(redis, settings, worker, whole)


async def check_every_boundary(redis: RedisClient, settings: Settings, worker: Worker, whole: Whole) -> None:
    """The journal is as it was at that moment: it has the calls that the log has or, at some of the
    boundaries, those of the whole response."""
    assert calls_in(whole.log) == len(whole.sessions) - 1
    for length in range(2, len(whole.log)):  # the API has written two
        journals = [whole.journal_after(calls_in(whole.log[:length]))]
        if b".delta\n" not in whole.log[length - 1].frame:
            journals.append(whole.journal)
        for journal in journals:
            await redis.command("FLUSHALL")
            key = await leave_behind(redis, settings, worker, whole.request, whole.log[:length])
            await restore_journal(redis, key, journal)
            again = await finish(redis, worker, key)
            assert [entry.frame for entry in again] == [entry.frame for entry in whole.log], length
            assert list(map(made_of, again)) == list(map(made_of, whole.log))


def made_of(entry: Entry) -> tuple[tuple[int, ...], bytes]:
    return entry.tokens, entry.token_record
