"""One run: a cluster of its own, with clients and a nemesis, then the checker's judgement.

Owns the order of steps. `courses.py` defines runs, `stage.py` sets up the cluster.
"""

import asyncio
import itertools
import json
import random
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from tests.chaos import clients, dump, figures, lives
from tests.chaos.checker import check
from tests.chaos.courses import Course
from tests.chaos.deliveries import StatusReader, receiving_deliveries
from tests.chaos.figures import Figures
from tests.chaos.history import Asked, Ended, Observation, Recorder, Store
from tests.chaos.judging import Violation
from tests.chaos.mcp_server import read_counted, read_turns, serving
from tests.chaos.nemesis import Nemesis
from tests.chaos.operators import looking
from tests.chaos.plans import HELD, KEPT, LABEL, PLANS, make_key
from tests.chaos.stage import OWNERS_LOST_MAX, Stage, set_up
from tests.chaos.upgrade import replace_all
from tests.chaos.world import World, open_http
from tests.collector import Collector, collecting

_QUIET_S = 60.0
_ATTEMPTS = ("queue", "takeover")
"""The spans that begin an attempt."""
_REPLAYS_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Judgement:
    violations: list[Violation]
    figures: Figures
    observations: list[Observation]


async def run(course: Course, folder: Path) -> Judgement:
    """Drives a cluster in an empty `folder` and judges it."""
    counted = folder / "counted"
    async with AsyncExitStack() as stack:
        url = stack.enter_context(serving(counted, course.long_tool_s))
        recorder = stack.enter_context(Recorder(folder / "history.jsonl"))
        paths = {LABEL: "/mcp", KEPT: "/kept/mcp", HELD: "/sse"}
        entries = {label: {"url": f"{url}{path}"} for label, path in paths.items()}
        (folder / "servers.json").write_text(json.dumps(entries))
        collector = stack.enter_context(collecting()) if course.is_traced else None
        if collector is not None:
            course = replace(course, settings={**course.settings, **_trace_settings(collector)})
        http = await stack.enter_async_context(open_http())
        asking = StatusReader(http)
        await stack.enter_async_context(receiving_deliveries(recorder, folder, course.seed, asking.read))
        stage = await stack.enter_async_context(set_up(course, folder))
        urls, seed = stage.cluster.urls, str(course.seed)
        asking.urls = urls
        world = World(urls, recorder, http, seed, course.plans, course.ways, course.fleet)
        journals = dump.Journals(stage.redis_url)
        await _run_undisturbed(world)
        await _run_disturbed(stage, world, course, journals)
        for process, how in stage.read_ends():
            recorder.note(Ended(recorder.now_s(), process, how))
        await dump.until_quiet(stage.redis_url(), _QUIET_S)
        await _replay_all(world, course.seed)
        store = await dump.read_store(stage.redis_url(), journals.seen)
        store = replace(store, counted=read_counted(counted), turns=read_turns(counted))
        traces = read_traces(collector) if collector is not None else {}
        store = replace(store, has_webhooks=course.webhooks > 0, traces=traces)
        return judge(recorder.read(), store)


def _trace_settings(collector: Collector) -> dict[str, str]:
    return {"ANTIPHON_TRACES": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}


def read_traces(collector: Collector) -> dict[str, frozenset[str]]:
    """Returns the traces of the attempts at each response, of which there should be one."""
    traces: defaultdict[str, set[str]] = defaultdict(set)
    for span in collector.spans:
        if span.name in _ATTEMPTS:
            traces[span.attributes["antiphon.response.id"]].add(span.trace_id)
    return {response_id: frozenset(found) for response_id, found in traces.items()}


def judge(observations: list[Observation], store: Store) -> Judgement:
    violations = check(observations, store, OWNERS_LOST_MAX)
    return Judgement(violations, figures.measure(observations, store), observations)


async def _run_undisturbed(world: World) -> None:
    """Runs every plan once, streamed and undisturbed, for comparison."""
    rng = random.Random(0)
    asked = [
        Asked(world.now_s(), call, 0, plan, "stream", make_key(call), is_undisturbed=True)
        for call, plan in enumerate(PLANS)
        if world.plans.get(plan)
    ]
    await asyncio.gather(*(clients.make_call(world, one, rng) for one in asked))
    for one in asked:
        if answered_by := PLANS[one.plan].answered_by:
            call = list(PLANS).index(answered_by)
            key = one.key
            answer = Asked(world.now_s(), call, 0, answered_by, "stream", key, one.call, is_undisturbed=True)
            await clients.make_call(world, answer, rng)


async def _run_disturbed(stage: Stage, world: World, course: Course, journals: dump.Journals) -> None:
    rng = random.Random(f"{course.seed} operator")
    # The earliest version that is upgraded shows nothing to operators.
    looking_on = looking(world, stage.cluster, rng) if course.older is None else nullcontext()
    async with (
        _striking(stage, world, course) as is_struck,
        journals.watching(world.open_ids),
        looking_on,
    ):
        deadline_s = world.now_s() + course.seconds_max

        def is_over(call: int) -> bool:
            is_enough = call >= len(PLANS) + course.responses and is_struck()
            return is_enough or world.now_s() > deadline_s

        world.calls = itertools.takewhile(lambda call: not is_over(call), itertools.count(len(PLANS)))
        rngs = [random.Random(f"{course.seed} client {number}") for number in range(1, course.clients + 1)]
        living = [lives.serve_calls(world, number, rng) for number, rng in enumerate(rngs, start=1)]
        await asyncio.gather(*living)
    await stage.cluster.until_ready()


@asynccontextmanager
async def _striking(stage: Stage, world: World, course: Course) -> AsyncGenerator[Callable[[], bool], None]:
    """Strikes meanwhile; yields what returns whether there were enough, or whether an upgrade is complete."""
    nemesis = Nemesis(stage, world.recorder, stage.network, stage.watch)
    if course.older is not None:
        task = asyncio.create_task(replace_all(stage.cluster, world.recorder, course.root))
    else:
        task = asyncio.create_task(nemesis.run(course.strikes()))

    def is_struck() -> bool:
        return task.done() if course.older is not None else nemesis.hits >= course.strikes_min

    try:
        yield is_struck
    finally:
        if not task.done():
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
