"""One run: a cluster of its own, clients and a nemesis upon it, then the checker's judgement.

Owns the order of things and the run's folder: history.jsonl, counted, the cluster's logs.
"""

import asyncio
import itertools
import json
import random
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import redis.asyncio

from local.cluster import ROOT, Cluster
from tests.chaos import clients, dump, figures
from tests.chaos.checker import Violation, check
from tests.chaos.clients import World
from tests.chaos.figures import Figures
from tests.chaos.history import Asked, Observation, Recorder, Store
from tests.chaos.mcp_server import read_counted, serving
from tests.chaos.nemesis import Nemesis, Strike, schedule
from tests.chaos.plans import LABEL, PLANS, SCRIPT, make_key

ATTEMPTS_MAX = 3
_QUIET_S = 60.0
_REPLAYS_AT_ONCE = 16
_ABANDONED_AFTER_S = 30.0
"""Longer than any client is kept away from its stream, however the processes fall."""


@dataclass(frozen=True, slots=True)
class Course:
    """What a run is to be like. It ends after `responses` or `seconds_max`, whichever comes first."""

    seed: int
    responses: int
    seconds_max: float = 3600.0
    clients: int = 60
    apis: int = 3
    workers: int = 3
    tool_runners: int = 2
    root: Path = ROOT
    """The folder whose code runs."""

    @property
    def counts(self) -> dict[str, int]:
        return {"api": self.apis, "worker": self.workers, "tool_runner": self.tool_runners, "valkey": 1}

    def strikes(self) -> Iterator[Strike]:
        return schedule(random.Random(f"{self.seed} nemesis"), self.counts)


@dataclass(frozen=True, slots=True)
class Judgement:
    violations: list[Violation]
    figures: Figures
    observations: list[Observation]


async def run(course: Course, folder: Path, strikes: Iterator[Strike] | None = None) -> Judgement:
    """Drives a cluster in an empty `folder` and judges it. `strikes`: instead of the course's own."""
    counted = folder / "counted"
    with serving(counted) as url, Recorder(folder / "history.jsonl") as recorder:
        (folder / "servers.json").write_text(json.dumps({LABEL: {"url": url}}))
        async with Cluster(
            folder / "data",
            apis=course.apis,
            workers=course.workers,
            tool_runners=course.tool_runners,
            settings=_settings(folder),
            root=course.root,
        ) as cluster:
            await make_kills_lossless(cluster)
            async with clients.open_http() as http:
                calls = iter(range(len(PLANS), len(PLANS) + course.responses))
                world = World(cluster.urls, recorder, http, str(course.seed), calls)
                await _run_undisturbed(world)
                await _run_disturbed(cluster, world, course, strikes or course.strikes())
                await dump.until_quiet(cluster.redis_url, _QUIET_S)
                await _replay_all(world, course.seed)
            store = await dump.read_store(cluster.redis_url, read_counted(counted))
        return judge(recorder.read(), store)


def judge(observations: list[Observation], store: Store) -> Judgement:
    violations = check(observations, store, ATTEMPTS_MAX)
    return Judgement(violations, figures.measure(observations, store), observations)


def _settings(folder: Path) -> dict[str, str]:
    return {
        "ANTIPHON_SCRIPT": str(SCRIPT),
        "ANTIPHON_MCP_SERVERS": str(folder / "servers.json"),
        "ANTIPHON_ATTEMPTS_MAX": str(ATTEMPTS_MAX),
        "ANTIPHON_KEEP_ALIVE_S": "1",
        "ANTIPHON_DISCONNECT_GRACE_S": str(_ABANDONED_AFTER_S),
    }


async def make_kills_lossless(cluster: Cluster) -> None:
    """Has Valkey hand every write to the system before it answers, now and after each restart.

    With `everysec` it holds writes back while an fsync is under way, and a SIGKILL loses those. With `no`
    it never does; what only the death of the machine loses is not tried here. `always` would be as good,
    and have every figure tell of the disk. The file is kept short, for a quick return.
    """
    configuration = cluster.data / "valkey" / "valkey.conf"
    settings = {"appendfsync": "no", "auto-aof-rewrite-min-size": "8mb"}
    with configuration.open("a") as file:  # the last word on a setting is the one that holds
        file.writelines(f"{name} {value}\n" for name, value in settings.items())
    async with redis.asyncio.Redis.from_url(cluster.redis_url) as client:
        for name, value in settings.items():
            await client.config_set(name, value)


async def _run_undisturbed(world: World) -> None:
    """Every plan once, streamed, with nothing going wrong: what the others are compared with."""
    rng = random.Random(0)
    asked = [
        Asked(world.now_s(), call, 0, plan, "stream", make_key(call), is_undisturbed=True)
        for call, plan in enumerate(PLANS)
    ]
    await asyncio.gather(*(clients.make_call(world, one, rng) for one in asked))


async def _run_disturbed(cluster: Cluster, world: World, course: Course, strikes: Iterator[Strike]) -> None:
    async with _striking(cluster, world.recorder, strikes):
        deadline_s = world.now_s() + course.seconds_max
        world.calls = itertools.takewhile(lambda _: world.now_s() < deadline_s, world.calls)
        rngs = [random.Random(f"{course.seed} client {number}") for number in range(1, course.clients + 1)]
        lives = [clients.serve_calls(world, number, rng) for number, rng in enumerate(rngs, start=1)]
        await asyncio.gather(*lives)
    await cluster.until_ready()


@asynccontextmanager
async def _striking(
    cluster: Cluster, recorder: Recorder, strikes: Iterator[Strike]
) -> AsyncGenerator[None, None]:
    task = asyncio.create_task(Nemesis(cluster, recorder).run(strikes))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _replay_all(world: World, seed: int) -> None:
    rng = random.Random(f"{seed} replay")
    at_once = asyncio.Semaphore(_REPLAYS_AT_ONCE)

    async def replay(call: int) -> None:
        async with at_once:
            await clients.replay(world, call, rng)

    await asyncio.gather(*(replay(call) for call in world.response_ids))
