"""The tool runner as a whole: calls come in over the queue, results go out into the journal."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from local.valkey import Valkey
from shared.events import ResponseFailed
from shared.frames import frame
from shared.responses import HttpError, McpProtocolError, ServerSecrets
from shared.settings import Settings
from shared.store import job_queue, keys
from shared.store.log.response_log import Closing, NewEntry
from shared.store.owning import lease, presence
from shared.store.owning.lease import Acquired, Lease
from shared.store.records import admission, response_store
from shared.store.redis.client import RedisClient
from shared.store.redis.subscription import Subscription
from shared.store.tools import tool_journal
from shared.store.tools.tool_journal import CallState
from shared.tool_calls import (
    ToolCall,
    ToolFailure,
    ToolListing,
    ToolOutput,
    ToolResult,
    ToolsListed,
    ToolTask,
)
from tests.appending import append
from tests.integration.mcp_servers import ROOT, serving_http, stdio_entry
from tests.patience import PATIENCE_S, until
from tests.requests import make_request
from tool_runner import app

OWNER = "worker-test"


class Response:
    """One response of one worker, whose tool calls are numbered as they are made."""

    def __init__(self, redis: RedisClient, settings: Settings, held: Lease) -> None:
        self._redis = redis
        self._settings = settings
        self.lease = held
        self.calls = 0

    @classmethod
    async def begin(
        cls,
        redis: RedisClient,
        settings: Settings,
        secrets: Mapping[str, ServerSecrets] | None = None,
        tenant: str = "tenant",
    ) -> "Response":
        request = make_request()
        key = keys.ResponseKey(tenant, request.response.id)
        await response_store.create(redis, settings, admission.NewResponse.of(key, request, secrets or {}))
        acquired = await lease.acquire(redis, settings, key, OWNER)
        assert isinstance(acquired, Acquired)
        return cls(redis, settings, acquired.lease)

    async def submit(self, task: ToolTask) -> int:
        index = self.calls
        self.calls += 1
        await tool_journal.submit(self._redis, self._settings, self.lease, index, task)
        return index

    async def result(self, index: int) -> ToolResult:
        async def is_in() -> bool:
            return (await self.look(index)).result is not None

        await until(is_in)
        result = (await self.look(index)).result
        assert result is not None
        return result

    async def look(self, index: int) -> CallState:
        (state,) = await tool_journal.read_states(self._redis, self._settings, [(self.lease.key, index)])
        return state

    async def run(self, task: ToolTask) -> ToolResult:
        return await self.result(await self.submit(task))

    async def python(self, code: str) -> str:
        result = await self.run(ToolCall("code_interpreter", "python", json.dumps({"code": code}), "IGNORED"))
        assert isinstance(result, ToolOutput), result
        return result.output

    async def close(self) -> None:
        failed = NewEntry(frame(ResponseFailed(make_request().response), 1))
        closing = Closing("cancelled", b"{}", 60)
        await append(self._redis, self._settings, self.lease, 1, [failed], closing)


@asynccontextmanager
async def serving(settings: Settings, **changes: Any) -> AsyncIterator[Settings]:
    """A tool runner in this process, from ready to stopped."""
    settings = settings.model_copy(update=changes)
    stop = asyncio.Event()
    running = asyncio.create_task(app.run(settings, stop))
    try:
        yield settings
    finally:
        stop.set()
        async with asyncio.timeout(PATIENCE_S):
            await running


@asynccontextmanager
async def hearing(url: str, channel: str) -> AsyncIterator[asyncio.Queue[bytes]]:
    """Collects what is published on the channel meanwhile."""
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    listener = RedisClient.connect_listener(url)
    subscription = Subscription(listener)
    await subscription.add(channel)
    listening = asyncio.create_task(
        subscription.listen(lambda _, message: heard.put_nowait(message), lambda: None)
    )
    try:
        yield heard
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        await subscription.close()
        await listener.close()


@pytest.fixture
def with_pipe(settings: Settings, tmp_path: Path) -> Settings:
    """Settings whose operator configured the server `pipe`."""
    path = tmp_path / "servers.json"
    path.write_text(json.dumps({"pipe": stdio_entry()}))
    return settings.model_copy(update={"mcp_servers": path})


def call(name: str, arguments: dict[str, Any], url: str | None = None, *, label: str = "pipe") -> ToolCall:
    return ToolCall(label, name, json.dumps(arguments), url)


async def test_a_call_returns_its_output_and_its_worker_is_notified(
    redis: RedisClient, with_pipe: Settings
) -> None:
    async with hearing(with_pipe.redis_url, keys.results(OWNER)) as heard, serving(with_pipe):
        response = await Response.begin(redis, with_pipe)
        assert await response.run(call("add", {"a": 2, "b": 3})) == ToolOutput("5")
        async with asyncio.timeout(PATIENCE_S):
            assert await heard.get() == f"{response.lease.key} 0".encode()


async def test_python_keeps_its_variables_from_runner_to_runner(
    redis: RedisClient, settings: Settings
) -> None:
    response = await Response.begin(redis, settings)
    async with serving(settings):
        assert await response.python("x = 123 * 456\nx") == "56088\n"
    async with serving(settings):
        assert await response.python("x + 1") == "56089\n"
        other = await Response.begin(redis, settings)
        assert "NameError" in await other.python("x")


async def test_failures_are_results_and_the_runner_goes_on(redis: RedisClient, with_pipe: Settings) -> None:
    async with serving(with_pipe):
        response = await Response.begin(redis, with_pipe)
        nowhere = call("add", {}, "http://127.0.0.1:1025/mcp", label="away")
        for task, kind in ((nowhere, HttpError), (call("add", {}, label="unknown"), McpProtocolError)):
            result = await response.run(task)
            assert isinstance(result, ToolFailure)
            assert isinstance(result.error, kind)
        assert isinstance(await response.run(call("die", {})), ToolFailure)
        assert await response.run(call("add", {"a": 1, "b": 1})) == ToolOutput("2")


async def test_the_secrets_of_a_request_are_sent_to_its_server_alone(
    redis: RedisClient, settings: Settings
) -> None:
    with serving_http("--require-header", "authorization=Bearer hunter2") as url:
        async with serving(settings, egress_networks=[ip_network("127.0.0.0/8")]):
            secrets = {"mine": ServerSecrets({}, "hunter2")}
            response = await Response.begin(redis, settings, secrets)
            add = {"a": 1, "b": 1}
            assert await response.run(call("add", add, url, label="mine")) == ToolOutput("2")
            refused = await response.run(call("add", add, url, label="other"))
    assert refused == ToolFailure(HttpError(401, "the server answered 401 Unauthorized"))


async def test_a_runner_lists_the_tools_of_a_server(redis: RedisClient, with_pipe: Settings) -> None:
    async with serving(with_pipe):
        response = await Response.begin(redis, with_pipe)
        listed = await response.run(ToolListing("pipe"))
    assert isinstance(listed, ToolsListed)
    assert {"add", "fail", "wait"} <= {tool.name for tool in listed.tools}


async def test_a_call_without_an_answer_fails_in_time(
    redis: RedisClient, with_pipe: Settings, tmp_path: Path
) -> None:
    async with serving(with_pipe, tool_timeout_s=10.0):  # the server's start is within it
        response = await Response.begin(redis, with_pipe)
        result = await response.run(call("wait", {"folder": str(tmp_path)}))
    assert result == ToolFailure(McpProtocolError(-32001, "the server 'pipe' did not answer within 10 s"))


async def test_a_call_that_outlives_its_claim_keeps_it(
    redis: RedisClient, with_pipe: Settings, tmp_path: Path
) -> None:
    async with serving(with_pipe):
        response = await Response.begin(redis, with_pipe)
        index = await response.submit(call("hold", {"folder": str(tmp_path)}))
        await until(_has_lines(tmp_path / "held", 1))
        states = []
        ends_ms = await lease.now_ms(redis) + int(3 * with_pipe.tool_claim_ttl_s * 1000)

        async def is_over() -> bool:
            states.append(await response.look(index))
            return await lease.now_ms(redis) > ends_ms

        await until(is_over)
        (tmp_path / "go").touch()
        assert await response.result(index) == ToolOutput("held")
    assert {state.standing for state in states} == {"running"}


async def test_a_closed_response_cancels_its_calls_on_their_servers(
    redis: RedisClient, with_pipe: Settings, tmp_path: Path
) -> None:
    async with serving(with_pipe):
        response = await Response.begin(redis, with_pipe)
        index = await response.submit(call("wait", {"folder": str(tmp_path)}))
        await until(_has_lines(tmp_path / "started", 1))
        await response.close()
        await until(_has_lines(tmp_path / "cancelled", 1))
        assert (await response.look(index)).result is None


async def test_a_call_whose_job_comes_twice_runs_once(
    redis: RedisClient, with_pipe: Settings, tmp_path: Path
) -> None:
    async with serving(with_pipe), serving(with_pipe):
        response = await Response.begin(redis, with_pipe)
        index = await response.submit(call("hold", {"folder": str(tmp_path)}))
        await until(_has_lines(tmp_path / "held", 1))
        for again in range(4):
            await ring_for(redis, response.lease, index, again)
        await until(_is_empty(redis, keys.TOOLS_QUEUE))
        (tmp_path / "go").touch()
        assert await response.result(index) == ToolOutput("held")
    assert await _has_lines(tmp_path / "held", 1)()


async def ring_for(redis: RedisClient, held: Lease, index: int, again: int) -> None:
    """Queues the job of a call once more and waits until a runner took it."""
    job_id = f"again-{index}-{again}"
    job = job_queue.tool_job(held.key, index)
    await redis.command("SET", keys.job(job_id), job, "PX", 60_000)
    await redis.command("ZADD", keys.TOOLS_QUEUE, 1, job_id)
    await redis.command("PEXPIRE", keys.TOOLS_QUEUE, 60_000)
    await redis.command("RPUSH", keys.doorbell(keys.TOOLS_QUEUE), "1")
    await redis.command("PEXPIRE", keys.doorbell(keys.TOOLS_QUEUE), 60_000)

    async def is_taken() -> bool:
        return not await redis.command("EXISTS", keys.job(job_id))

    await until(is_taken)


@pytest.mark.parametrize("in_flight_max", [256, 10])
async def test_a_hundred_calls_at_once_are_all_answered(
    redis: RedisClient, settings: Settings, in_flight_max: int
) -> None:
    async with serving(settings, tool_calls_in_flight_max=in_flight_max):
        responses = [await Response.begin(redis, settings) for _ in range(100)]
        shown = await asyncio.gather(*(response.python(f"{i} * 2") for i, response in enumerate(responses)))
    assert shown == [f"{i * 2}\n" for i in range(100)]


async def test_no_more_calls_run_than_the_limit_allows(
    redis: RedisClient, with_pipe: Settings, tmp_path: Path
) -> None:
    async with serving(with_pipe, tool_calls_in_flight_max=3, tenant_share_max=1.0):
        response = await Response.begin(redis, with_pipe)
        for _ in range(8):
            await response.submit(call("wait", {"folder": str(tmp_path)}))
        await until(_has_lines(tmp_path / "started", 3))
        claim = await redis.command("HGET", keys.tools(response.lease.key), "0:claim")

        async def is_renewed() -> bool:
            return bool(await redis.command("HGET", keys.tools(response.lease.key), "0:claim") != claim)

        await until(is_renewed)  # a second has passed: who could have been taken has been
        assert await _has_lines(tmp_path / "started", 3)()
        assert await redis.command("ZCARD", keys.TOOLS_QUEUE) == 5
        await response.close()
        await until(_has_lines(tmp_path / "cancelled", 3))


async def have_ended(response: Response) -> int:
    """How many of its calls have a result."""
    states = [await response.look(i) for i in range(response.calls)]
    return sum(state.result is not None for state in states)


async def test_one_tenants_endless_loops_leave_sandboxes_to_the_others(
    redis: RedisClient, settings: Settings
) -> None:
    async with serving(settings, sandboxes_max=4):
        greedy = [await Response.begin(redis, settings, tenant="greedy") for _ in range(8)]
        for response in greedy:
            await response.submit(
                ToolCall("code_interpreter", "python", '{"code": "while True: pass"}', "IGNORED")
            )

        async def are_taken() -> bool:
            return bool(await redis.command("ZCARD", keys.TOOLS_QUEUE) == 0)

        await until(are_taken)
        other = await Response.begin(redis, settings, tenant="other")
        assert await other.python("1 + 1") == "2\n"
        # A cell may run for 30 s. In the order of their coming, five of them would have ended first.
        assert sum([await have_ended(response) for response in greedy]) <= 2
        for response in greedy:
            await response.close()


async def test_one_tenants_slow_calls_leave_room_to_the_others(
    redis: RedisClient, with_pipe: Settings, tmp_path: Path
) -> None:
    async with serving(with_pipe, tool_calls_in_flight_max=4):
        greedy = await Response.begin(redis, with_pipe, tenant="greedy")
        for _ in range(12):
            await greedy.submit(call("wait", {"folder": str(tmp_path)}))
        await until(_has_lines(tmp_path / "started", 2))
        other = await Response.begin(redis, with_pipe, tenant="other")
        assert await other.run(call("add", {"a": 1, "b": 1})) == ToolOutput("2")
        assert await _has_lines(tmp_path / "started", 2)()
        assert await have_ended(greedy) == 0
        await greedy.close()


async def test_a_call_that_waits_for_its_turn_is_claimed_and_can_be_cancelled(
    redis: RedisClient, with_pipe: Settings, tmp_path: Path
) -> None:
    async with serving(with_pipe, tool_calls_in_flight_max=2):
        first = await Response.begin(redis, with_pipe)
        await first.submit(call("wait", {"folder": str(tmp_path)}))
        await until(_has_lines(tmp_path / "started", 1))
        second, third = [await Response.begin(redis, with_pipe) for _ in range(2)]
        for response in (second, third):
            await response.submit(call("add", {"a": 1, "b": 1}))

        async def is_claimed() -> bool:
            return bool(await redis.command("HEXISTS", keys.tools(third.lease.key), "0:claim"))

        await until(is_claimed)
        await second.close()
        await first.close()
        assert await third.result(0) == ToolOutput("2")
        assert await have_ended(second) == 0


async def test_a_runner_is_seen_while_it_lives(redis: RedisClient, settings: Settings) -> None:
    async def is_seen() -> bool:
        return await presence.count(redis, "tool_runner") == 1

    async with serving(settings):
        await until(is_seen)
    assert await presence.count(redis, "tool_runner") == 0


async def test_a_runner_goes_on_when_redis_comes_back(tmp_path: Path) -> None:
    with Valkey(tmp_path) as valkey:
        settings = Settings(redis_url=valkey.url)
        redis = RedisClient.connect(valkey.url, timeout_s=PATIENCE_S)
        async with serving(settings):
            first = await Response.begin(redis, settings)
            assert await first.python("x = 1\nx") == "1\n"
            valkey.stop()
            valkey.start()
            assert await first.python("x + 1") == "2\n"
        await redis.close()


def _is_empty(redis: RedisClient, queue: str) -> Callable[[], Awaitable[bool]]:
    """Whether every job has been taken."""

    async def ask() -> bool:
        return bool(await redis.command("ZCARD", queue) == 0)

    return ask


def _has_lines(path: Path, count: int) -> Callable[[], Awaitable[bool]]:
    """Returns True if the file has exactly this many lines."""

    def has_lines() -> bool:
        return path.exists() and len(path.read_text().splitlines()) == count

    async def ask() -> bool:
        return has_lines()

    return ask


async def start_process(settings: Settings, **changes: str) -> asyncio.subprocess.Process:
    environment = {**os.environ, "ANTIPHON_REDIS_URL": settings.redis_url, **changes}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tool_runner", cwd=ROOT, env=environment, stderr=asyncio.subprocess.PIPE
    )


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
async def test_a_runner_that_ends_leaves_no_process_behind(
    redis: RedisClient, with_pipe: Settings, ending: signal.Signals
) -> None:
    runner = await start_process(with_pipe, ANTIPHON_MCP_SERVERS=str(with_pipe.mcp_servers))
    response = await Response.begin(redis, with_pipe)
    assert await response.python("1 + 1") == "2\n"
    said = await response.run(call("say_pid", {}))
    assert isinstance(said, ToolOutput)
    runner.send_signal(ending)
    async with asyncio.timeout(PATIENCE_S):
        assert await runner.wait() == (0 if ending is not signal.SIGKILL else -ending)

    async def is_gone() -> bool:
        try:
            os.kill(int(said.output), 0)
        except ProcessLookupError:
            return True
        return False

    await until(is_gone)
    if ending is not signal.SIGKILL:  # a killed one cannot say that it has gone
        assert await presence.count(redis, "tool_runner") == 0


async def test_a_runner_with_a_wrong_file_of_servers_says_so_and_does_not_start(
    settings: Settings, tmp_path: Path
) -> None:
    path = tmp_path / "servers.json"
    path.write_text('{"crm": {"url": "crm.example.org"}}')
    runner = await start_process(settings, ANTIPHON_MCP_SERVERS=str(path))
    _, said = await runner.communicate()
    assert runner.returncode == 2
    assert f"{path}: server 'crm': url must be an http or https URL" in said.decode()


async def test_a_runner_with_a_wrong_setting_names_it(settings: Settings) -> None:
    runner = await start_process(settings, ANTIPHON_TOOL_TIMEOUT_S="soon")
    _, said = await runner.communicate()
    assert runner.returncode == 2
    assert "tool_timeout_s" in said.decode()
