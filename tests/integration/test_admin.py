"""`python -m admin` shows what Redis has, steers through the scripts of the roles, and reads in bounds."""

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from admin.__main__ import main
from admin.commands import Admin
from local.ports import find_free
from local.valkey import Valkey, make_command, write_configuration
from shared.frames import data_of
from shared.ids import new_response_id
from shared.settings import Settings
from shared.store import keys
from shared.store.keys import ResponseKey
from shared.store.log import event_log
from shared.store.owning import fleet, lease, presence
from shared.store.owning.lease import Acquired, Lease
from shared.store.records import response_store
from shared.store.records.admission import NewResponse
from shared.store.redis.client import RedisClient
from shared.store.tools import tool_journal
from shared.tool_calls import ToolCall
from tests.patience import PATIENCE_S, until, wait_until
from tests.proxy import proxying
from tests.requests import accept, make_request
from tests.running import RunningCluster
from worker import app
from worker.engines.scripted.engine import ScriptedEngine
from worker.engines.scripted.script import Script

UNKNOWN = f"resp_0_{'0' * 32}"
ELSEWHERE = new_response_id("b")


class Ran:
    """What a command wrote, and its exit code."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def value(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


Run = Callable[..., Any]


@pytest.fixture
def run(settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in a thread, against the test's Redis."""
    monkeypatch.setenv("ANTIPHON_REDIS_URL", settings.redis_url)
    monkeypatch.setenv("ANTIPHON_REDIS_TIMEOUT_S", str(PATIENCE_S))

    async def run(*arguments: str) -> Ran:
        capsys.readouterr()
        code = await asyncio.to_thread(main, arguments)
        return Ran(code, *capsys.readouterr())

    return run


async def own(redis: RedisClient, settings: Settings, owner: str, text: str = "Hello") -> Lease:
    key = await accept(redis, settings, make_request(text))
    acquired = await lease.acquire(redis, settings, key, owner)
    assert isinstance(acquired, Acquired)
    return acquired.lease


async def test_open_responses_are_listed_with_who_has_them(
    redis: RedisClient, settings: Settings, run: Run
) -> None:
    long = settings.model_copy(update={"lease_ttl_s": 600.0})
    held = await own(redis, long, "worker-a")
    waiting = await accept(redis, settings, tenant="acme")
    lapsed = await own(redis, settings, "worker-b")
    await redis.command("HSET", keys.state(lapsed.key), "lease_until_ms", 1)
    listed = (await run("ps", "--json")).value
    standings = {each["response_id"]: (each["standing"], each["owner"]) for each in listed["responses"]}
    assert standings == {
        held.key.response_id: ("owned", "worker-a"),
        waiting.response_id: ("waiting", ""),
        lapsed.key.response_id: ("lapsed", "worker-b"),
    }
    of_one = (await run("ps", "--tenant", "acme", "--json")).value
    assert [each["response_id"] for each in of_one["responses"]] == [waiting.response_id]
    assert "1 of 3 open responses" in (await run("ps", "--limit", "1")).out
    await presence.announce(redis, "worker", "worker-a")
    processes = (await run("workers", "--json")).value
    about = {"role": "worker", "name": "worker-a", "is_present": True}
    assert processes == [{**about, "responses": 1, "about": None}]


async def test_a_response_is_shown_with_its_journal_and_none_of_its_content(
    redis: RedisClient, settings: Settings, run: Run
) -> None:
    held = await own(redis, settings, "worker-a", "a secret question")
    task = ToolCall("calculator", "add", '{"left": "a secret argument"}')
    await tool_journal.submit(redis, settings, held, 0, task)
    ran = await run("show", held.key.response_id, "--json")
    assert ran.value["response"]["attempt"] == 1
    (call,) = ran.value["calls"]
    assert (call["server_label"], call["tool"], call["standing"]) == ("calculator", "add", "queued")
    as_text = await run("show", str(held.key))
    assert "calculator" in as_text.out
    assert "secret" not in ran.out + as_text.out
    queues = (await run("queue", "--json")).value
    assert {queue["name"]: queue["waiting"] for queue in queues} == {"responses": 1, "tools": 1}
    assert queues[1]["flows"][0]["tier"] == "default"


async def test_a_response_is_shown_with_how_each_owners_time_ended(
    redis: RedisClient, settings: Settings, run: Run
) -> None:
    held = await own(redis, settings, "worker-a")
    await redis.command("HSET", keys.state(held.key), "lease_until_ms", 1)
    assert await lease.acquire(redis, settings, held.key, "worker-b")
    shown = (await run("show", held.key.response_id)).out.splitlines()
    first, second = (line for line in shown if line.startswith("owner ") and ", after " in line)
    assert re.fullmatch(r"owner 1   worker-a, after [0-9.]+ s; lost after -?[0-9.]+ s", first)
    assert re.fullmatch(r"owner 2   worker-b, after [0-9.]+ s", second)


async def test_the_queue_of_each_model_is_shown(redis: RedisClient, settings: Settings, run: Run) -> None:
    served = fleet.Served("small", keys.queue_of("small"), 1_000)
    await fleet.announce(redis, "worker-a", fleet.AboutWorker([served], "scripted", 8))
    key = await accept(redis, settings, tenant="acme")
    draft = NewResponse.of(ResponseKey("acme", (other := make_request()).response.id), other, {})
    await response_store.create(redis, settings, replace(draft, queue=served.queue))
    queues = (await run("queue", "--json")).value
    assert {queue["name"]: queue["waiting"] for queue in queues} == {
        "responses": 1,
        "responses@small": 1,
        "tools": 0,
    }
    assert (await run("tenants", "--json")).value[0]["waiting"] == 2
    assert served.queue in (await run("show", f"acme/{other.response.id}")).out
    shown = await run("show", str(key), "--json")
    assert shown.value["queue"] == keys.RESPONSES_QUEUE


async def test_tenants_are_those_that_wait_those_that_run_and_those_of_the_file(
    redis: RedisClient, settings: Settings, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await accept(redis, settings, tenant="acme")
    listed = {each["tenant"]: each for each in (await run("tenants", "--json")).value}
    assert listed.keys() == {"acme", "default"}
    assert (listed["acme"]["open"], listed["acme"]["waiting"]) == (1, 1)
    assert listed["acme"]["held_bytes"] > 0
    tenants = tmp_path / "tenants.json"
    tenants.write_text('{"tenants": {"north": {"keys": []}}}')
    monkeypatch.setenv("ANTIPHON_API_KEYS", str(tenants))
    assert {each["tenant"] for each in (await run("tenants", "--json")).value} == {"acme", "north"}


async def test_a_cancel_ends_a_response_once_and_what_is_unknown_is_one_line(
    redis: RedisClient, settings: Settings, run: Run
) -> None:
    key = await accept(redis, settings)
    assert (await run("cancel", key.response_id, "--json")).value["status"] == "cancelled"
    (state,) = await response_store.read_states(redis, [key])
    assert state is not None
    assert state.closed == "cancelled"
    for arguments, said in (
        (("cancel", key.response_id), f"admin: {key} has ended already\n"),
        (("show", UNKNOWN), f"admin: there is no response {UNKNOWN} of tenant default; "),
        (
            ("show", ELSEWHERE),
            f"admin: there is no response {ELSEWHERE} of tenant default; --tenant names another; "
            "it is of the cell b, whose Redis may know it\n",
        ),
        (("cancel", "nonsense"), "admin: nonsense is no id of a response\n"),
        (("drain", "worker-x"), "admin: no worker worker-x is present; "),
    ):
        ran = await run(*arguments)
        assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1)
        assert ran.err.startswith(said)


async def test_a_check_finds_keys_that_would_stay_in_bounded_steps(
    redis: RedisClient, settings: Settings, run: Run
) -> None:
    await accept(redis, settings)
    await redis.command("SET", "stray", "1")
    ran = await run("check", "--json")
    findings = {(each["subject"], each["verdict"]): each["said"] for each in json.loads(ran.out)}
    assert ran.code == 1
    assert findings["keys", "bad"].endswith("looked at): stray")
    assert ("clock", "ok") in findings
    await redis.command("DEL", "stray")
    ran = await run("check")
    assert ran.code == 0, ran.out
    assert "no replica" in ran.out
    await redis.transaction(*(("SET", f"many:{i}", 1, "EX", 60) for i in range(2_000)))
    looked = json.loads((await run("check", "--keys-max", "500", "--json")).out)
    (said,) = [each["said"] for each in looked if each["subject"] == "keys"]
    assert 500 <= int(said.partition("(")[2].partition(" ")[0]) < 1_000


async def test_no_command_reads_whole_collections(redis: RedisClient, settings: Settings, run: Run) -> None:
    key = await accept(redis, settings)
    await redis.command("CONFIG", "RESETSTAT")
    for arguments in (("ps",), ("show", key.response_id), ("workers",), ("queue",), ("tenants",), ("check",)):
        assert (await run(*arguments)).code == 0
    sent = {name.removeprefix("cmdstat_") for name in await redis.command("INFO", "commandstats")}
    assert {"scan", "zrange", "hmget"} <= sent
    assert not sent & {"keys", "smembers", "hgetall", "hvals", "set", "hset", "del", "zadd"}


def test_errors_of_the_process_are_one_line_and_an_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ANTIPHON_REDIS_URL", "redis://user:hidden@127.0.0.1:1/0")
    ran = subprocess.run(
        [sys.executable, "-m", "admin", "ps"], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (1, "", 1)
    assert ran.stderr.startswith("admin: Redis at redis://127.0.0.1:1/0 is unavailable: ")
    assert "hidden" not in ran.stderr
    monkeypatch.setenv("ANTIPHON_LEASE_TTL_S", "soon")
    assert main(["ps"]) == 2
    assert capsys.readouterr().err.startswith("admin: ANTIPHON_LEASE_TTL_S: ")
    monkeypatch.delenv("ANTIPHON_LEASE_TTL_S")
    monkeypatch.setenv("ANTIPHON_MODELS", "gpt-oss-20b")
    assert main(["ps"]) == 2
    assert capsys.readouterr().err.startswith("admin: ANTIPHON_MODELS is not JSON: ")
    monkeypatch.delenv("ANTIPHON_MODELS")
    monkeypatch.setenv("ANTIPHON_API_KEYS", "/nowhere")
    assert main(["ps"]) == 2
    assert capsys.readouterr().err.startswith("admin: the tenants file /nowhere cannot be used")
    monkeypatch.delenv("ANTIPHON_API_KEYS")
    for name, value, said in (
        ("ANTIPHON_SEAL_KEYS", "no JSON", "admin: ANTIPHON_SEAL_KEYS is not JSON"),
        ("ANTIPHON_DRAIN_GRACE_S", "100000", "admin: drain_grace_s must be less than"),
        ("ANTIPHON_DURABLE_REPLICAS", "some", "admin: ANTIPHON_DURABLE_REPLICAS: "),
    ):
        with monkeypatch.context() as wrong:
            wrong.setenv(name, value)
            assert main(["ps"]) == 2
        said_now = capsys.readouterr().err
        assert said_now.startswith(said)
        assert said_now.count("\n") == 1


async def test_what_redis_refuses_is_one_line(
    redis: RedisClient, settings: Settings, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTIPHON_REDIS_URL", settings.redis_url.removesuffix("/0") + "/99")
    ran = await run("ps")
    assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1)
    assert "refuses: DB index is out of range" in ran.err
    await redis.command("ACL", "SETUSER", "reader", "on", ">word", "~*", "+@read")
    monkeypatch.setenv("ANTIPHON_REDIS_URL", settings.redis_url.replace("://", "://reader:word@"))
    ran = await run("show", UNKNOWN)
    assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1)
    assert "NOPERM" in ran.err or "no permissions" in ran.err
    await redis.command("ACL", "DELUSER", "reader")


def test_a_server_that_wants_a_password_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    configuration = write_configuration(tmp_path, port := find_free(1)[0])
    configuration.write_text(configuration.read_text() + "requirepass hidden\n")
    with subprocess.Popen(make_command(configuration), stdout=subprocess.DEVNULL) as server:
        try:
            wait_until(lambda: _listens(port), "Valkey listens")
            monkeypatch.setenv("ANTIPHON_REDIS_URL", f"redis://127.0.0.1:{port}/0")
            assert main(["ps"]) == 1
        finally:
            server.kill()
    said = capsys.readouterr().err
    assert "Authentication required" in said
    assert said.count("\n") == 1


def _listens(port: int) -> bool:
    with socket.socket() as asked:
        return asked.connect_ex(("127.0.0.1", port)) == 0


async def test_names_that_others_chose_do_nothing_to_a_terminal(
    redis: RedisClient, settings: Settings, run: Run
) -> None:
    held = await own(redis, settings, "worker-a")
    hostile = "\x1b[2J\u202eadd\n\x9b31m\u2028"
    await tool_journal.submit(redis, settings, held, 0, ToolCall(f"{hostile}.server", hostile, "{}"))
    for arguments in (("show", held.key.response_id), ("show", held.key.response_id, "--json")):
        ran = await run(*arguments)
        assert ran.code == 0
        assert "\\u202e" in ran.out
        assert all(line.isprintable() for line in ran.out.split("\n"))
    assert json.loads(ran.out)["calls"][0]["tool"] == hostile
    ran = await run("show", hostile)
    assert (ran.code, ran.err.removesuffix("\n").isprintable()) == (1, True)


async def test_an_outage_of_redis_is_a_pause_for_who_follows(
    redis: RedisClient, settings: Settings, valkey: Valkey
) -> None:
    key = await accept(redis, settings)
    async with proxying(valkey.port) as proxy:
        hurried = settings.model_copy(update={"redis_url": proxy.url})
        through = RedisClient.connect(proxy.url, timeout_s=0.5)
        followed = Admin(through, hurried, ["default"]).follow(key.response_id, "", -1)
        assert b'"response.created"' in await anext(followed)
        proxy.cut()
        rest = asyncio.create_task(_read_all(followed))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(rest), 1.5)  # a command is waited for a third of that
        proxy.heal()
        await Admin(redis, settings, ["default"]).cancel(key.response_id, "")
        assert (await rest)[-1].startswith(b"event: response.failed")  # a cancelled one
        await through.close()


async def _read_all(frames: AsyncIterator[bytes]) -> list[bytes]:
    return [frame async for frame in frames]


@pytest.mark.parametrize(
    ("output", "said"), [("/dev/full", "admin: the answer cannot be written: "), ("", "")]
)
def test_an_answer_that_nobody_takes_is_no_outage_of_redis(
    settings: Settings, output: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTIPHON_REDIS_URL", settings.redis_url)
    if not output:  # a pipe whose reader has gone
        reading, writing = os.pipe()
        os.close(reading)
    with open(output, "wb") if output else open(writing, "wb") as out:
        ran = subprocess.run(
            [sys.executable, "-m", "admin", "ps"],
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
    assert (ran.returncode, ran.stderr.count("\n")) == (1, 1 if said else 0)
    assert ran.stderr.startswith(said)


@asynccontextmanager
async def working(settings: Settings) -> AsyncIterator[None]:
    stopped = asyncio.Event()
    running = asyncio.create_task(app.run(settings, ScriptedEngine(Script.load(None)), stopped))
    try:
        yield
    finally:
        stopped.set()
        await running


async def test_a_drained_worker_hands_over_and_takes_nothing_more(
    redis: RedisClient, settings: Settings, run: Run
) -> None:
    async def owner_of(name: str) -> str:
        listed = (await run("ps", "--json")).value["responses"]
        return next((str(each["owner"]) for each in listed if each["response_id"] == name), "")

    async with working(settings):
        key = await accept(redis, settings, make_request("Count slowly to 100"))
        await until(lambda: owner_of(key.response_id))
        first = await owner_of(key.response_id)
        async with working(settings):
            assert (await run("drain", first, "--json")).value == {"worker": first, "state": "drained"}
            assert (await run("drain", first)).code == 0, "it may be asked again"

            async def has_ended() -> bool:
                return (await event_log.read(redis, key, -1)).is_closed

            later = await accept(redis, settings, make_request("Hello"))
            await until(has_ended)
            shown = (await run("show", key.response_id, "--json")).value["response"]
            assert shown["status"] == "completed"
            assert shown["owner"] != first
            assert shown["owners_lost"] == 0
            await until(lambda: _is_closed(redis, later))
            processes = (await run("workers", "--json")).value
            roles = {each["name"]: each["role"] for each in processes if each["is_present"]}
            assert roles.pop(first) == "drained"
            assert list(roles.values()) == ["worker"]
            (second,) = [each for each in processes if each["role"] == "worker" and each["is_present"]]
            assert second["about"]["capacity"] > 0
            assert second["about"]["engine"] == "scripted"


async def _is_closed(redis: RedisClient, key: keys.ResponseKey) -> bool:
    return (await event_log.read(redis, key, -1)).is_closed


async def test_the_events_of_a_response_are_followed_to_its_end(
    cluster: RunningCluster, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTIPHON_REDIS_URL", cluster.redis_url)
    async with httpx.AsyncClient(base_url=f"{cluster.urls[0]}/v1", timeout=PATIENCE_S) as client:
        body = {"model": "default", "input": "Count from 1 to 20", "background": True}
        response_id = (await client.post("/responses", json=body)).json()["id"]
        followed = await run("follow", response_id, "--json")
        stream = await client.get(f"/responses/{response_id}?stream=true")
    sent = [data_of(frame + b"\n\n") for frame in stream.content.split(b"\n\n") if b"\ndata: {" in frame]
    assert followed.code == 0
    assert followed.out.encode().splitlines() == sent
    last = msgspec.json.decode(sent[-1])
    assert last["type"] == "response.completed"
    after = await run("follow", response_id, "--after", str(last["sequence_number"] - 1))
    assert after.out.split() == [str(last["sequence_number"]), "response.completed"]
