"""The session of a response with an MCP server: from runner to runner, to the next response, and its end."""

import asyncio
import json
import signal
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from shared.settings import Settings
from shared.store.keys import ResponseKey
from shared.store.owning import lease
from shared.store.owning.lease import Acquired
from shared.store.records import admission, response_store
from shared.store.redis.client import RedisClient
from shared.tool_calls import ToolCall, ToolOutput
from tests.integration.mcp_servers import stdio_entry
from tests.integration.stateful_servers import PagesServer, Recorded, make_sdk_server
from tests.integration.stateful_servers import serving as serving_app
from tests.integration.test_tool_runner import OWNER, Response, start_process
from tests.integration.test_tool_runner import serving as serving_runner
from tests.integration.test_tool_sessions import ANEW, Journal, running
from tests.patience import until
from tests.requests import accept, make_request
from tests.working import finish, keep_journal, leave_behind, restore_journal, working
from tool_runner import session_keeper
from tool_runner.session_keeper import SessionKeeper
from worker.engines.scripted.script import Script

LOOPBACK = [ip_network("127.0.0.0/8")]


async def begin(
    redis: RedisClient, settings: Settings, parent: Response | None = None, *, is_stored: bool = True
) -> Response:
    request = make_request(store=is_stored)
    key = ResponseKey("tenant", request.response.id)
    continued = parent.lease.key if parent else None
    await response_store.create(redis, settings, admission.NewResponse.of(key, request, {}, parent=continued))
    acquired = await lease.acquire(redis, settings, key, OWNER)
    assert isinstance(acquired, Acquired)
    return Response(redis, settings, acquired.lease)


async def ask(response: Response, url: str, name: str, **arguments: Any) -> str:
    result = await response.run(ToolCall("pages", name, json.dumps(arguments), url))
    assert isinstance(result, ToolOutput), result
    return result.output


async def test_a_session_goes_on_with_another_runner_when_one_is_killed_between_two_calls(
    redis: RedisClient, settings: Settings
) -> None:
    server = PagesServer()
    async with serving_app(server) as url:
        response = await begin(redis, settings)
        runner = await start_process(settings, ANTIPHON_EGRESS_NETWORKS='["127.0.0.0/8"]')
        try:
            assert await ask(response, url, "visit", page="a") == "a"
        finally:
            runner.send_signal(signal.SIGKILL)
            await runner.communicate()
        begun = len(server.received)
        async with serving_runner(settings, egress_networks=LOOPBACK):
            assert await ask(response, url, "look") == "a"
    assert server.sent(begun)[0] == "tools/call"
    assert len(server.ids) == 1


async def test_a_session_goes_on_in_a_response_that_continues_another(
    redis: RedisClient, settings: Settings
) -> None:
    server = PagesServer()
    async with serving_app(server) as url, serving_runner(settings, egress_networks=LOOPBACK):
        first = await begin(redis, settings)
        await ask(first, url, "visit", page="a")
        await first.close()
        second = await begin(redis, settings, parent=first)
        assert await ask(second, url, "look") == "a"
        apart = await begin(redis, settings)
        assert await ask(apart, url, "look") == "about:blank"


async def test_a_session_ends_with_a_response_that_nobody_can_continue(
    redis: RedisClient, settings: Settings
) -> None:
    server = PagesServer()
    async with serving_app(server) as url, serving_runner(settings, egress_networks=LOOPBACK):
        kept, unkept = [await begin(redis, settings, is_stored=is_stored) for is_stored in (True, False)]
        await ask(kept, url, "visit", page="kept")
        await ask(unkept, url, "visit", page="unkept")
        await kept.close()
        await unkept.close()
        await until(lambda: list(server.sessions.values()) == ["kept"])


async def test_a_session_ends_when_no_response_has_continued_it_for_long(
    redis: RedisClient, settings: Settings
) -> None:
    server = PagesServer()
    async with (
        serving_app(server) as url,
        serving_runner(settings, egress_networks=LOOPBACK, tool_session_idle_s=0.1),
    ):
        first = await begin(redis, settings)
        await ask(first, url, "visit", page="a")
        await first.close()
        await until(lambda: not server.sessions)
        second = await begin(redis, settings, parent=first)
        assert (await ask(second, url, "look")).endswith("\nabout:blank")


async def test_a_runner_does_not_end_a_session_that_another_one_has_used_since(
    redis: RedisClient, settings: Settings, tmp_path: Path
) -> None:
    """The response has ended for both of them; only the second one knows that the session goes on."""
    server = PagesServer()
    response = await begin(redis, settings, is_stored=False)
    journal = Journal(response=response.lease.key)
    async with serving_app(server) as url, running(tmp_path) as one, running(tmp_path) as other:
        keepers = [
            SessionKeeper(redis, settings, name, runner.tools.sessions)
            for name, runner in (("one", one), ("other", other))
        ]
        await one.ask(url, "visit", journal, page="a")
        await keepers[0].close()
        await other.ask(url, "look", journal)
        await keepers[1].close()
        await response.close()
        await keepers[0].close()
        await one.tools.sessions.close()
        assert list(server.sessions.values()) == ["a"]
        await keepers[1].close()
        await until(lambda: not server.sessions)
    assert server.sent().count("DELETE") == 1


async def test_calls_over_http_with_sse_are_handed_over_to_the_runner_with_the_connection(
    redis: RedisClient, settings: Settings
) -> None:
    app = Recorded(make_sdk_server().sse_app())
    async with (
        serving_app(app) as origin,
        serving_runner(settings, egress_networks=LOOPBACK),
        serving_runner(settings, egress_networks=LOOPBACK),
    ):
        responses = [await begin(redis, settings) for _ in range(4)]
        for number in map(str, range(1, 6)):
            said = await asyncio.gather(*(ask(response, f"{origin}/sse", "step") for response in responses))
            assert said == [number] * 4
    assert app.received.count(("GET", "/sse")) == 4


async def test_a_call_is_made_here_if_the_runner_with_the_connection_is_gone(
    redis: RedisClient, settings: Settings
) -> None:
    app = Recorded(make_sdk_server().sse_app())
    async with serving_app(app) as origin:
        response = await begin(redis, settings)
        async with serving_runner(settings, egress_networks=LOOPBACK):
            assert await ask(response, f"{origin}/sse", "step") == "1"
        async with serving_runner(settings, egress_networks=LOOPBACK):
            told = await ask(response, f"{origin}/sse", "step")
            assert told.startswith(ANEW)
            assert told.endswith("\n1")
            assert await ask(response, f"{origin}/sse", "step") == "2"


async def say_pid(response: Response, label: str) -> str:
    result = await response.run(ToolCall(label, "say_pid", "{}"))
    assert isinstance(result, ToolOutput), result
    return result.output


async def test_a_command_of_the_operators_may_have_a_process_for_each_response(
    redis: RedisClient, settings: Settings, tmp_path: Path
) -> None:
    path = tmp_path / "servers.json"
    path.write_text(json.dumps({"shared": stdio_entry(), "own": stdio_entry() | {"per_response": True}}))
    async with (
        serving_runner(settings, mcp_servers=path, tool_processes_max=2),
        serving_runner(settings, mcp_servers=path, tool_processes_max=2),
    ):
        one, two = await begin(redis, settings, is_stored=False), await begin(redis, settings)
        pids = [[await say_pid(response, "own") for response in (one, two)] for _ in range(3)]
        assert pids[0] == pids[1] == pids[2]
        assert pids[0][0] != pids[0][1]
        await two.close()
        third = await begin(redis, settings, parent=two)
        assert await say_pid(third, "own") == pids[0][1]
        await one.close()

        def has_ended() -> bool:
            return not Path(f"/proc/{pids[0][0]}").exists()

        await until(has_ended)


async def test_beyond_the_limit_the_process_that_was_used_least_recently_ends(
    redis: RedisClient, settings: Settings, tmp_path: Path
) -> None:
    path = tmp_path / "servers.json"
    path.write_text(json.dumps({"own": stdio_entry() | {"per_response": True}}))
    async with serving_runner(settings, mcp_servers=path, tool_processes_max=1):
        one, two = await begin(redis, settings), await begin(redis, settings)
        first = await say_pid(one, "own")
        second = await say_pid(two, "own")
        await until(lambda: not Path(f"/proc/{first}").exists())
        assert (await say_pid(one, "own")).startswith(ANEW)
        await until(lambda: not Path(f"/proc/{second}").exists())


SCRIPT = Script.parse(
    """
[[scene]]
name = "pages"
[[scene.turn]]
analysis = "I open it."
call = { tool = "pages.visit", arguments = { page = "é😀" } }
[[scene.turn]]
call = { tool = "pages.look", arguments = {} }
[[scene.turn]]
final = "It is {result}."
"""
)


async def test_whenever_a_worker_and_a_runner_die_the_log_is_that_of_an_undisturbed_run(
    redis: RedisClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the last call, the journal has nothing: another runner makes it, in the session of the first."""
    # Nothing is swept: between two deaths the response does not exist, and its session would be ended.
    monkeypatch.setattr(session_keeper, "_SWEEP_S", 3600.0)
    server = PagesServer()
    async with serving_app(server) as url, working(redis, settings, SCRIPT, answer=None) as worker:
        tool = {"type": "mcp", "server_label": "pages", "server_url": url, "require_approval": "never"}
        request = make_request("Open the page", tools=[tool])
        async with serving_runner(settings, egress_networks=LOOPBACK):
            key = await accept(redis, settings, request)
            whole = await finish(redis, worker, key)
        assert "It is é😀." in whole[-1].frame.decode()
        journal = await keep_journal(redis, key)
        last = max(int(name.split(b":")[0]) for name in journal[::2] if name.endswith(b":intent"))
        pairs = list(zip(journal[::2], journal[1::2], strict=True))
        kept = [part for pair in pairs if not pair[0].startswith(b"%d:" % last) for part in pair]
        async with serving_runner(settings, egress_networks=LOOPBACK):
            for length in range(1, len(whole)):
                await redis.command("FLUSHALL")
                key = await leave_behind(redis, settings, worker, request, whole[:length])
                await restore_journal(redis, key, kept)
                again = await finish(redis, worker, key)
                assert [entry.frame for entry in again] == [entry.frame for entry in whole], length
    assert server.visits == 1
    assert server.sent().count("initialize") == 1


@pytest.mark.parametrize("is_stored", [True, False])
async def test_a_runner_that_stops_ends_what_nobody_can_continue(
    redis: RedisClient, settings: Settings, is_stored: bool
) -> None:
    server = PagesServer()
    async with serving_app(server) as url:
        async with serving_runner(settings, egress_networks=LOOPBACK):
            response = await begin(redis, settings, is_stored=is_stored)
            await ask(response, url, "look")
            await response.close()
        assert bool(server.sessions) is is_stored
