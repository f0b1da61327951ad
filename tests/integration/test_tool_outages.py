"""Tool calls during an outage of Redis, or whose runner ends: living runners continue, lost ones are noticed
soon."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from local.valkey import Valkey
from shared.settings import Settings
from shared.store import keys
from shared.store.owning import lease
from shared.store.redis.client import RedisClient
from shared.store.redis.insisting import insist
from shared.store.redis.joint_scripts import StoreCall
from shared.store.tools import tool_journal
from shared.store.tools.tool_journal import Claim, Claiming
from shared.tool_calls import ToolCall, ToolFailure, ToolOutput, describe
from tests.integration.mcp_servers import stdio_entry
from tests.integration.stateful_servers import PagesServer, Received
from tests.integration.stateful_servers import serving as serving_app
from tests.integration.test_tool_runner import OWNER, Response, hearing, serving
from tests.patience import PATIENCE_S, outlast, until
from tests.proxy import Proxy, proxying
from tool_runner import servers
from tool_runner.calls_in_flight import CallsInFlight
from tool_runner.run_tool import Tools
from tool_runner.stdio_servers import StdioServers
from worker.response.remote_tools import RemoteTools

pytestmark = pytest.mark.slow

CLAIM_TTL_S = 0.9


@pytest.fixture
def own(tmp_path: Path) -> Settings:
    """Settings without an address: claims that lapse soon, and a server `pipe`."""
    path = tmp_path / "servers.json"
    path.write_text(json.dumps({"pipe": stdio_entry()}))
    return Settings(mcp_servers=path, tool_claim_ttl_s=CLAIM_TTL_S, redis_timeout_s=1.0)


def dwell(folder: Path) -> ToolCall:
    return ToolCall("pipe", "dwell", json.dumps({"folder": str(folder)}))


def lines(folder: Path, name: str) -> int:
    path = folder / name
    return len(path.read_text().splitlines()) if path.exists() else 0


async def has_started(folder: Path, times: int = 1) -> None:
    await until(lambda: lines(folder, "started") >= times)


async def outlast_two_claims() -> None:
    await outlast(2 * CLAIM_TTL_S)


async def hang(valkey: Valkey, _proxy: Proxy) -> None:
    os.kill(valkey.pid, signal.SIGSTOP)
    await outlast_two_claims()
    os.kill(valkey.pid, signal.SIGCONT)


async def restart(valkey: Valkey, _proxy: Proxy) -> None:
    valkey.stop()
    await outlast_two_claims()
    valkey.start()


async def cut_off(_valkey: Valkey, proxy: Proxy) -> None:
    proxy.cut()
    await outlast_two_claims()
    proxy.heal()


OUTAGES: dict[str, Callable[[Valkey, Proxy], Awaitable[None]]] = {
    "it hangs": hang,
    "it restarts": restart,
    "nothing reaches it": cut_off,
}


@pytest.mark.parametrize("outage", OUTAGES)
@pytest.mark.parametrize("is_repeatable", [True, False])
async def test_a_call_outlives_an_outage_of_redis_that_is_longer_than_its_claim(
    own: Settings, tmp_path: Path, outage: str, is_repeatable: bool
) -> None:
    with Valkey(tmp_path) as valkey:
        async with proxying(valkey.port) as proxy:
            settings = own.model_copy(update={"redis_url": proxy.url})
            redis = RedisClient.connect(settings.redis_url, timeout_s=1.0)
            async with serving(settings), serving(settings):
                response = await insist(lambda: Response.begin(redis, settings), PATIENCE_S)
                calling = asyncio.create_task(
                    RemoteTools(redis, settings).call(
                        response.lease, 0, dwell(tmp_path), is_repeatable=is_repeatable
                    )
                )
                await has_started(tmp_path)
                await OUTAGES[outage](valkey, proxy)
                await outlast_two_claims()  # every lost runner has been noticed
                (tmp_path / "go").touch()
                async with asyncio.timeout(PATIENCE_S):
                    assert await calling == ToolOutput("done")
            await redis.close()
    assert [lines(tmp_path, name) for name in ("started", "ended", "cancelled")] == [1, 1, 0]


async def test_a_session_that_begins_during_an_outage_is_there_for_the_next_call(
    own: Settings, tmp_path: Path
) -> None:
    server = PagesServer()
    with Valkey(tmp_path) as valkey:
        async with proxying(valkey.port) as proxy, serving_app(server) as url:
            loopback = [ip_network("127.0.0.0/8")]
            settings = own.model_copy(update={"redis_url": proxy.url, "egress_networks": loopback})
            redis = RedisClient.connect(settings.redis_url, timeout_s=1.0)

            def cut_off_when_it_begins(received: Received) -> None:
                if received.what == "initialize":
                    proxy.cut()

            server.intercept = cut_off_when_it_begins
            async with serving(settings):
                response = await insist(lambda: Response.begin(redis, settings), PATIENCE_S)
                tools = RemoteTools(redis, settings)
                visit = ToolCall("pages", "visit", '{"page": "a"}', url)
                visiting = asyncio.create_task(tools.call(response.lease, 0, visit, is_repeatable=False))
                await until(lambda: "initialize" in server.sent())
                await outlast_two_claims()
                proxy.heal()
                async with asyncio.timeout(PATIENCE_S):
                    assert await visiting == ToolOutput("a")
                    look = ToolCall("pages", "look", "{}", url)
                    assert await tools.call(response.lease, 1, look, is_repeatable=False) == ToolOutput("a")
            await redis.close()
    assert server.sent().count("initialize") == 1


@pytest.fixture
def stopping(own: Settings, settings: Settings) -> Settings:
    """Claims last longer than any test: what goes on at once did not wait for one to lapse."""
    return own.model_copy(update={"redis_url": settings.redis_url, "tool_claim_ttl_s": 600.0})


@pytest.mark.parametrize("is_repeatable", [True, False])
async def test_a_worker_that_polls_first_after_an_outage_waits_for_the_runner(
    valkey: Valkey, redis: RedisClient, settings: Settings, is_repeatable: bool
) -> None:
    """However late the runner is, as long as it is no more than a claim."""
    settings = settings.model_copy(update={"tool_claim_ttl_s": CLAIM_TTL_S})
    response, claim = await take_one(redis, settings)

    async def is_lapsed() -> bool:
        return (await response.look(0)).standing == "lapsed"

    async with proxying(valkey.port) as proxy:
        far = RedisClient.connect(proxy.url, timeout_s=0.2)
        tools = RemoteTools(far, settings)
        calling = asyncio.create_task(
            tools.call(response.lease, 0, claim.intent.task, is_repeatable=is_repeatable)
        )
        await until(looked_since(redis, await count_looks(redis)))
        proxy.cut()
        await until(is_lapsed)
        proxy.heal()
        await until(looked_since(redis, await count_looks(redis)))
        assert await tool_journal.renew(redis, settings, [claim]) == []
        assert await tool_journal.finish(redis, claim, ToolOutput("2"), None)
        async with asyncio.timeout(PATIENCE_S):
            assert await calling == ToolOutput("2")
        await far.close()
    assert await redis.command("HGET", keys.tools(claim.key), "0:job") == f"{claim.key}:tool:0".encode()


async def count_looks(redis: RedisClient) -> int:
    """Scripts that were run by now, this one's own not counted: it is none."""
    said = await redis.command("INFO", "commandstats")
    return int(said["cmdstat_evalsha"]["calls"])


def looked_since(redis: RedisClient, before: int) -> Callable[[], Awaitable[bool]]:
    """Only the worker runs scripts meanwhile: two more, so that one has begun since."""

    async def is_so() -> bool:
        return await count_looks(redis) >= before + 2

    return is_so


@asynccontextmanager
async def listening(redis: RedisClient, settings: Settings) -> AsyncIterator[RemoteTools]:
    """A worker's tools that get runners' notifications, and would poll too late for any test otherwise."""
    tools = RemoteTools(redis, settings)
    async with hearing(settings.redis_url, keys.results(OWNER)) as heard:

        async def pass_on() -> None:
            while True:
                tools.on_result(await heard.get())

        passing = asyncio.create_task(pass_on())
        yield tools
        passing.cancel()


@pytest.mark.parametrize("is_repeatable", [True, False])
async def test_a_stopped_runner_gives_its_calls_back_at_once(
    redis: RedisClient, stopping: Settings, tmp_path: Path, is_repeatable: bool
) -> None:
    response = await Response.begin(redis, stopping)
    async with listening(redis, stopping) as tools:
        async with serving(stopping, drain_grace_s=0.05):
            call = tools.call(response.lease, 0, dwell(tmp_path), is_repeatable=is_repeatable)
            calling = asyncio.create_task(call)
            await has_started(tmp_path)
        assert lines(tmp_path, "cancelled") == 1  # its server was notified before any runner could call again
        (tmp_path / "go").touch()
        async with serving(stopping), asyncio.timeout(PATIENCE_S):
            result = await calling
    if is_repeatable:
        assert result == ToolOutput("done")
    else:
        assert isinstance(result, ToolFailure)
        assert "unknown" in describe(result.error)
    assert lines(tmp_path, "started") == (2 if is_repeatable else 1)


async def test_a_call_that_was_given_back_before_it_began_is_made_whatever_it_is(
    redis: RedisClient, stopping: Settings, tmp_path: Path
) -> None:
    (tmp_path / "go").touch()
    response = await Response.begin(redis, stopping)
    await response.submit(dwell(tmp_path))
    key = response.lease.key
    assert await tool_journal.claim(redis, stopping, key, 0, "stopped") is not None
    await tool_journal.release(redis, [(key, 0, "stopped", False)])
    async with listening(redis, stopping) as tools, serving(stopping), asyncio.timeout(PATIENCE_S):
        result = await tools.call(response.lease, 0, dwell(tmp_path), is_repeatable=False)
    assert result == ToolOutput("done")
    assert lines(tmp_path, "started") == 1


async def test_a_call_whose_job_was_lost_before_anybody_took_it_is_queued_again(
    redis: RedisClient, own: Settings, settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "go").touch()
    here = own.model_copy(update={"redis_url": settings.redis_url})
    response = await Response.begin(redis, here)
    await response.submit(dwell(tmp_path))
    await redis.command("DEL", keys.TOOLS_QUEUE, keys.doorbell(keys.TOOLS_QUEUE))
    async with serving(here), asyncio.timeout(PATIENCE_S):
        result = await RemoteTools(redis, here).call(response.lease, 0, dwell(tmp_path), is_repeatable=False)
    assert result == ToolOutput("done")
    assert lines(tmp_path, "started") == 1


async def test_a_verdict_on_a_claim_that_was_renewed_meanwhile_is_not_taken(
    redis: RedisClient, settings: Settings
) -> None:
    response, claim = await take_one(redis, settings)
    await redis.command("HSET", keys.tools(claim.key), "0:claim", "runner 1")
    lapsed = await response.look(0)
    assert lapsed.standing == "lapsed"
    assert await tool_journal.renew(redis, settings, [claim]) == []
    verdict = ToolOutput("lost")
    assert await tool_journal.resolve(redis, response.lease, 0, verdict, lapsed.claim) is None
    await tool_journal.retry(redis, settings, response.lease, 0, lapsed.claim)
    assert (await response.look(0)).standing == "running"
    assert await tool_journal.resolve(redis, response.lease, 0, verdict, "runner ") == verdict
    assert await tool_journal.renew(redis, settings, [claim]) == [claim]


@pytest.mark.parametrize("standing", ["lapsed", "unqueued"])
async def test_a_runner_is_lost_only_where_it_could_have_renewed_for_a_whole_claim(
    redis: RedisClient, settings: Settings, standing: str
) -> None:
    """Whatever the worker has seen: another server may have become the primary since."""
    response, claim = await take_one(redis, settings)
    tools = keys.tools(claim.key)
    if standing == "lapsed":
        await redis.command("HSET", tools, "0:claim", "runner 1")
    else:
        await redis.command("HDEL", tools, "0:claim")
        await redis.command("ZREM", keys.TOOLS_QUEUE, await redis.command("HGET", tools, "0:job"))
    await lease.lapsed(redis, settings, 10)
    await redis.command("HSET", keys.PULSE, "since_ms", 1)
    steady = await response.look(0)
    assert (steady.standing, steady.is_steady) == (standing, True)
    history = await redis.command("HGET", keys.PULSE, "history")
    verdict, after_s = ToolOutput("lost"), settings.tool_claim_ttl_s
    for field, value in (("history", "another's"), ("since_ms", await lease.now_ms(redis) + 60_000)):
        await redis.command("HSET", keys.PULSE, "since_ms", 1, "history", history)
        await redis.command("HSET", keys.PULSE, field, value)
        assert not (await response.look(0)).is_steady
        judged = steady.claim
        assert (
            await tool_journal.resolve(redis, response.lease, 0, verdict, judged, lost_after_s=after_s)
            is None
        )
        await tool_journal.retry(redis, settings, response.lease, 0, judged, lost_after_s=after_s)
        assert (await response.look(0)).standing == standing
    await redis.command("HSET", keys.PULSE, "since_ms", 1, "heard_ms", await lease.now_ms(redis))
    await redis.command("HSET", keys.PULSE, "history", history)
    settled = await tool_journal.resolve(
        redis, response.lease, 0, verdict, steady.claim, lost_after_s=after_s
    )
    assert settled == verdict


async def test_a_claim_is_kept_while_it_waits_for_its_confirmation_and_then_given_back(
    redis: RedisClient, own: Settings, settings: Settings
) -> None:
    """A server that could be promoted may lack it for longer than it lasts: one that joins does."""
    unsure = own.model_copy(update={"redis_url": settings.redis_url, "durable_writes": "replica"})
    response = await Response.begin(redis, own)
    await response.submit(ToolCall("pipe", "add", "{}"))
    # A server that does not have the script yet would answer so only after the wait for a confirmation.
    await tool_journal.release(redis, [(response.lease.key, 0, "another", False)])
    client = RedisClient.connect(settings.redis_url, timeout_s=2 * PATIENCE_S, durability="replica")
    calls = CallsInFlight(client, unsure, "runner", Tools(unsure, {}, StdioServers(1.0)))
    running = asyncio.create_task(calls.run())
    starting = asyncio.create_task(calls.start(str(response.lease.key), 0))
    claims: set[str] = set()

    async def is_renewed_twice() -> bool:
        claims.add((await response.look(0)).claim)
        return len(claims - {""}) > 2

    async def is_given_back() -> bool:
        return (await response.look(0)).standing == "unbegun"

    try:
        await until(is_renewed_twice)
        assert not starting.done()
        starting.cancel()
        await until(is_given_back)
    finally:
        for task in (starting, running):
            task.cancel()
        await asyncio.wait([starting, running])
        await calls.close()
        await client.close()


async def test_who_is_not_sure_of_a_claim_makes_none_by_renewing(
    redis: RedisClient, settings: Settings
) -> None:
    """Otherwise it would be given back while the next runner takes it, belong to no one, and lapse."""
    response, claim = await take_one(redis, settings)
    unsure = Claiming(claim.key, claim.call_index, claim.runner)
    assert await tool_journal.renew(redis, settings, [unsure]) == []
    assert (await response.look(0)).standing == "running"
    await tool_journal.release(redis, [(claim.key, 0, claim.runner, False)])
    await tool_journal.retry(redis, settings, response.lease, 0, (await response.look(0)).claim)
    assert await tool_journal.renew(redis, settings, [unsure]) == []
    assert (await response.look(0)).standing == "queued"


class Delayed(RedisClient):
    """Claims wait before they go out, as on a connection that has to be made again first."""

    is_waiting: asyncio.Event
    may_go: asyncio.Event

    async def run(self, call: StoreCall) -> Any:
        if call.script.name == "tools/claim":
            self.is_waiting.set()
            await self.may_go.wait()
        return await super().run(call)


async def test_a_call_that_another_has_given_back_while_it_was_being_claimed_is_made(
    redis: RedisClient, own: Settings, settings: Settings
) -> None:
    """A renewal meanwhile found the other's claim: that says nothing of the claim that is under way."""
    with_url = own.model_copy(update={"redis_url": settings.redis_url})
    response, claim = await take_one(redis, own, {"a": 1, "b": 2})
    client = Delayed.connect(settings.redis_url, timeout_s=PATIENCE_S)
    client.is_waiting, client.may_go = asyncio.Event(), asyncio.Event()
    tools = Tools(with_url, servers.load(with_url), StdioServers(PATIENCE_S))
    calls = CallsInFlight(client, with_url, "another", tools)
    running = asyncio.create_task(calls.run())
    starting = asyncio.create_task(calls.start(str(claim.key), 0))
    try:
        await client.is_waiting.wait()
        await outlast_two_claims()
        await tool_journal.release(redis, [(claim.key, 0, claim.runner, False)])
        await tool_journal.retry(redis, own, response.lease, 0, (await response.look(0)).claim)
        client.may_go.set()
        await starting
        assert await response.result(0) == ToolOutput("3")
    finally:
        for task in (starting, running):
            task.cancel()
        await asyncio.wait([starting, running])
        await calls.drain(0.0)
        await calls.close()
        await client.close()


class Unheard(RedisClient):
    """Results arrive without a notification, as on a primary that has been replaced."""

    async def run(self, call: StoreCall) -> Any:
        reply = await super().run(call)
        if call.script.name == "tools/result":
            raise ConnectionError("not confirmed")
        return reply


async def test_a_result_that_was_lost_with_its_primary_is_journaled_again(
    redis: RedisClient, own: Settings, settings: Settings
) -> None:
    """Its runner finds it there before it is confirmed, and must not take the call for another runner's."""
    response = await Response.begin(redis, own)
    await response.submit(ToolCall("pipe", "no such tool", "not JSON"))
    client = Unheard.connect(settings.redis_url, timeout_s=PATIENCE_S)
    calls = CallsInFlight(
        client,
        own.model_copy(update={"redis_url": settings.redis_url}),
        "runner",
        Tools(own, {}, StdioServers(1.0)),
    )
    running = asyncio.create_task(calls.run())

    async def has_result() -> bool:
        return (await response.look(0)).standing == "answered"

    try:
        await calls.start(str(response.lease.key), 0)
        await until(has_result)
        await outlast_two_claims()
        await redis.command("HDEL", keys.tools(response.lease.key), "0:result")
        await until(has_result)
    finally:
        running.cancel()
        await asyncio.wait([running])
        await calls.close()
        await client.close()


async def take_one(
    redis: RedisClient, settings: Settings, arguments: Mapping[str, int] | None = None
) -> tuple[Response, Claim]:
    response = await Response.begin(redis, settings)
    await response.submit(ToolCall("pipe", "add", json.dumps(arguments or {})))
    intent = await tool_journal.claim(redis, settings, response.lease.key, 0, "runner")
    assert intent is not None
    return response, Claim(response.lease.key, 0, "runner", intent)


async def test_a_claim_is_kept_in_a_full_redis(redis: RedisClient, settings: Settings) -> None:
    response, claim = await take_one(redis, settings)
    await redis.command("HSET", keys.tools(claim.key), "0:claim", "runner 1")
    await redis.command("CONFIG", "SET", "maxmemory", 1)
    try:
        assert await tool_journal.renew(redis, settings, [claim]) == []
    finally:
        await redis.command("CONFIG", "SET", "maxmemory", 0)
    assert (await response.look(0)).standing == "running"


async def test_what_a_failover_has_lost_of_a_call_its_runner_knows(
    redis: RedisClient, settings: Settings
) -> None:
    response, claim = await take_one(redis, settings)
    before = await redis.command("HGET", keys.tools(claim.key), "0:intent")
    await redis.command("DEL", keys.tools(claim.key))
    assert (await response.look(0)).standing == "unknown"
    assert await tool_journal.renew(redis, settings, [claim]) == []
    assert (await response.look(0)).standing == "running"
    assert await redis.command("HGET", keys.tools(claim.key), "0:intent") == before
    await redis.command("DEL", keys.tools(claim.key))
    assert await tool_journal.finish(redis, claim, ToolOutput("2"), None)
    assert (await response.look(0)).result == ToolOutput("2")
