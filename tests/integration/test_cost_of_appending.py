"""What a step of the engine costs on its way into the logs, and a beat, in counts: no verdict by speed."""

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from functools import partial
from types import FrameType
from typing import Any

import pytest
import pytest_asyncio

from shared.settings import Settings
from shared.store import keys
from shared.store.log.appender import Appender
from shared.store.log.response_log import NewEntry, ResponseLog
from shared.store.owning import lease
from shared.store.owning.lease import Lease, Renewal
from shared.store.redis.client import RedisClient
from shared.store.redis.joint_scripts import StoreCall
from tests.appending import begin
from tests.patience import PATIENCE_S
from tests.requests import accept, make_request
from tests.working import finish, leave_behind, working

STREAMS, STEPS = 32, 10
FRAME = b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":" token"}\n\n'


class Engine:
    """Responses that all have a token in each step."""

    def __init__(self, appender: Appender, leases: list[Lease]) -> None:
        self._appender = appender
        self._logs: list[tuple[ResponseLog, Lease]] = [(appender.log_of(held.key), held) for held in leases]
        self._next = 1

    async def step(self) -> None:
        """Returns when every token is in its log."""
        heard: list[Exception | None] = []
        written = asyncio.Event()

        def hear(failure: Exception | None) -> None:
            heard.append(failure)
            if len(heard) == len(self._logs):
                written.set()

        for log, held in self._logs:
            entries = [NewEntry(FRAME, (self._next,))]
            self._appender.send(partial(log.append, held.proof, self._next, entries), hear)
        await written.wait()
        assert heard == [None] * len(self._logs)
        self._next += 1


@pytest_asyncio.fixture
async def engine(redis: RedisClient, settings: Settings, appender: Appender) -> AsyncIterator[Engine]:
    leases = [await begin(redis, settings) for _ in range(STREAMS)]
    engine = Engine(appender, leases)
    await engine.step()  # connects, and loads the scripts
    yield engine


async def commands_of(redis: RedisClient) -> Counter[str]:
    stats = await redis.command("INFO", "commandstats")
    return Counter({name.removeprefix("cmdstat_"): about["calls"] for name, about in stats.items()})


async def test_redis_runs_one_script_for_a_step_and_checks_every_response(
    engine: Engine, redis: RedisClient
) -> None:
    before = await commands_of(redis)
    for _ in range(STEPS):
        await engine.step()
    made = await commands_of(redis) - before
    assert made["evalsha"] == STEPS
    each = ("hmget", "xlen", "xadd", "publish")
    assert {name: made[name] / STEPS for name in each} == dict.fromkeys(each, STREAMS)
    assert sum(made.values()) <= STEPS * (1 + len(each) * STREAMS) + 1  # INFO itself


async def test_a_step_leaves_in_one_write_and_needs_one_timer(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: Counter[str] = Counter()

    def count(owner: Any, name: str) -> None:
        whole = getattr(owner, name)

        def counted(*args: Any, **options: Any) -> Any:
            made[name] += 1
            return whole(*args, **options)

        monkeypatch.setattr(owner, name, counted)

    loop = asyncio.get_running_loop()
    for name in ("call_at", "create_task", "create_future"):
        count(loop, name)
    for name in ("write", "writelines"):
        count(asyncio.selector_events._SelectorSocketTransport, name)  # type: ignore[attr-defined]
    for _ in range(STEPS):
        await engine.step()
    assert made["write"] + made["writelines"] == STEPS
    assert made["call_at"] <= STEPS
    assert made["create_task"] == 0
    assert made["create_future"] <= 4 * STEPS  # the step's own, the appender's turn, the reply


async def count_calls(run: Callable[[], Any]) -> int:
    calls = 0

    def note(_frame: FrameType, event: str, _arg: Any) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(note)
    try:
        await run()
    finally:
        sys.setprofile(None)
    return calls


async def test_python_calls_few_functions_for_an_event(engine: Engine) -> None:
    async def run() -> None:
        for _ in range(STEPS):
            await engine.step()

    assert await count_calls(run) / (STEPS * STREAMS) < 13


async def test_a_beat_of_all_leases_is_one_script_and_prolongs_only_what_has_lost_some_of_its_time(
    redis: RedisClient, settings: Settings
) -> None:
    leases = [await begin(redis, settings) for _ in range(STREAMS)]
    renewals = [Renewal.of(settings, held) for held in leases]
    await lease.renew_all(redis, renewals)
    before = await commands_of(redis)
    assert await lease.renew_all(redis, renewals) == []
    made = await commands_of(redis) - before
    assert made["evalsha"] == 1
    assert made["pexpire"] == 0
    names = [keys.state(leases[0].key), keys.log(leases[0].key), keys.ACTIVE]
    for name in names:
        await redis.command("PEXPIRE", name, settings.live_ttl_s * 900)
    await lease.renew_all(redis, renewals)
    for name in names:
        assert await redis.command("PTTL", name) > settings.live_ttl_s * 990


class Noting(RedisClient):
    """Notes the scripts that it runs."""

    names: list[str]

    async def run(self, call: StoreCall) -> Any:
        self.names.append(call.script.name)
        return await super().run(call)


async def test_the_first_owner_of_a_response_reads_no_history_and_a_later_one_does(
    redis: RedisClient, settings: Settings
) -> None:
    noting = Noting.connect(settings.redis_url, timeout_s=PATIENCE_S)
    noting.names = []
    async with working(noting, settings) as worker:
        key = await accept(redis, settings, make_request("Hello", background=True))
        whole = await finish(redis, worker, key)
        assert noting.names.count("log/read") == 0
        begun = await leave_behind(redis, settings, worker, make_request("Hello"), whole[:1])
        assert await finish(redis, worker, begun)
        assert noting.names.count("log/read") == 1
    await noting.close()
