"""Measures whether an event costs more when there is more of everything: nodes, quiet responses, events in a
log, stored responses.

Owns what grows; the live streams are the same each time, and alternatives are measured in turn.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from statistics import median

from bench import plots, streams, tables
from bench.clock_engine import Order
from bench.live import Live, Load, Node, run
from bench.page import Result
from bench.plots import Axis, Line
from bench.quiet import ROOMY, allow_files, crowd
from bench.relay import AT_ONCE, CLOCK
from bench.replay import use_nothing
from bench.scale import Scale
from bench.site import NOT_ARCHIVED, port_of, running
from bench.streams import Count
from bench.usage import Usage, parts_of
from local.cluster import Cluster
from shared.store import keys
from shared.store.redis.client import RedisClient

_STREAMS, _PHASES = 48, 4
_NODES = (1, 2, 4)
_STORES_AT_ONCE = 16
_CANCELLED_S, _POLL_INTERVAL_S = 60.0, 0.2
_PARTS = ("api", "worker", "redis")


@dataclass(frozen=True, slots=True)
class Grown:
    """What has grown, its sizes, and the CPU microseconds of each part per event at each size, by round."""

    name: str
    sizes: Sequence[int]
    costs: Sequence[Sequence[dict[str, float]]]

    def middle(self, place: int, part: str) -> float:
        return median(cost[part] for cost in self.costs[place])


async def measure(scale: Scale) -> Result:
    allow_files()
    found = [
        await over_nodes(scale),
        await over_quiet(scale),
        await over_length(scale),
        await over_stored(scale),
    ]
    text = (
        f"{render(found)}\n\n{scale.rounds} rounds, in turn. {_STREAMS} live streams of 50 events/s, except "
    )
    return Result(f"{text}for the log, which is one of 10,000 events/s.", {"growth.svg": draw(found)})


def _load(scale: Scale) -> Load:
    return Load(_STREAMS, phases=_PHASES, window_s=scale.window_s)


async def over_nodes(scale: Scale) -> Grown:
    """The same streams, read at more and more API nodes; their sum."""
    costs: list[list[dict[str, float]]] = [[] for _ in _NODES]
    async with running(AT_ONCE, worker_module=CLOCK, apis=max(_NODES)) as cluster:
        for _ in range(scale.rounds):
            for place, nodes in enumerate(_NODES):
                live = await run(cluster, Node.of(cluster, nodes), _load(scale))
                costs[place].append(live.cost_us)
    return Grown("API nodes", _NODES, costs)


async def over_quiet(scale: Scale) -> Grown:
    """Quiet responses beside the live ones."""
    alone: list[Live] = []
    beside: list[Live] = []
    async with running({**AT_ONCE, **ROOMY}, worker_module=CLOCK) as cluster:
        node = Node.of(cluster)
        for _ in range(scale.rounds):
            alone.append(await run(cluster, node, _load(scale)))
            async with crowd(port_of(cluster), scale.held):
                beside.append(await run(cluster, node, _load(scale)))
            await _until_none_is_open(cluster)
    costs = [[live.cost_us for live in lives] for lives in (alone, beside)]
    return Grown("responses held open", (0, scale.held), costs)


async def over_length(scale: Scale) -> Grown:
    """The first and the last part of one long log."""
    first: list[dict[str, float]] = []
    last: list[dict[str, float]] = []
    async with running(NOT_ARCHIVED) as cluster:
        idle, expected = await use_nothing(cluster), await _read_marked(cluster, scale, ())
        tenth = expected.events // 10
        for _ in range(scale.rounds):
            marked = await _read_marked(cluster, scale, (tenth // 10, tenth, 9 * tenth, 10 * tenth - 10))
            for costs, (begun, ended) in ((first, marked.marks[:2]), (last, marked.marks[2:])):
                used = ended[1].since(begun[1]).without(idle)
                costs.append(used.per_event_us(ended[0] - begun[0]))
    return Grown("events in a log", (tenth, expected.events), [first, last])


async def over_stored(scale: Scale) -> Grown:
    """Two clusters, one with few stored responses and one with many."""
    costs: list[list[dict[str, float]]] = [[], []]
    async with AsyncExitStack() as stack:
        clusters = [
            await stack.enter_async_context(running({**AT_ONCE, **ROOMY}, worker_module=CLOCK)) for _ in costs
        ]
        for cluster, count in zip(clusters, scale.stored, strict=True):
            await _store_many(cluster, count)
        for _ in range(scale.rounds):
            for cost, cluster in zip(costs, clusters, strict=True):
                cost.append((await run(cluster, Node.of(cluster), _load(scale))).cost_us)
    return Grown("stored responses", scale.stored, costs)


# --- what grows ---------------------------------------------------------------------------------


async def _until_none_is_open(cluster: Cluster) -> None:
    """The quiet responses are cancelled when their readers have left."""
    redis = RedisClient.connect(cluster.redis_url, timeout_s=5.0)
    async with asyncio.timeout(_CANCELLED_S):
        while await redis.command("ZCARD", keys.ACTIVE):  # noqa: ASYNC110  there is no notification
            await asyncio.sleep(_POLL_INTERVAL_S)
    await redis.close()


@dataclass(frozen=True, slots=True)
class Marked:
    """A stream that was read to its end: its events, and what was used when so many had come."""

    events: int
    marks: Sequence[tuple[int, Usage]]


async def _read_marked(cluster: Cluster, scale: Scale, places: Sequence[int]) -> Marked:
    port, count, marks = port_of(cluster), Count(), list[tuple[int, Usage]]()
    response_id = await streams.create(port, f"Count to {scale.log_numbers} in a while")
    async with streams.connect(port) as connection:
        async for chunk in connection.ask("GET", f"/v1/responses/{response_id}?stream=true"):
            count.add(chunk)
            if len(marks) < len(places) and count.events >= places[len(marks)]:
                marks.append((count.events, Usage.read(parts_of(cluster))))
    return Marked(count.events, marks)


async def _store_many(cluster: Cluster, count: int) -> None:
    port, room = port_of(cluster), asyncio.Semaphore(_STORES_AT_ONCE)
    now_ms = int(1000 * time.monotonic())
    text = Order(now_ms, now_ms).text

    async def store() -> None:
        async with room:
            await streams.follow(port, await streams.create(port, text), Count())

    await asyncio.gather(*(store() for _ in range(count)))


# --- the table and the plot ---------------------------------------------------------------------


def render(found: Sequence[Grown]) -> str:
    head = ("CPU µs per event", "API", "worker", "Redis", "API, ratio", "worker, ratio")
    rows = []
    for grown in found:
        for place, size in enumerate(grown.sizes):
            shown = [tables.show_spread([cost[part] for cost in grown.costs[place]]) for part in _PARTS]
            ratios = [
                f"{grown.middle(place, part) / grown.middle(0, part):.2f}×" for part in ("api", "worker")
            ]
            rows.append([f"{size:,} {grown.name}", *shown, *ratios])
    return tables.render(head, rows)


def draw(found: Sequence[Grown]) -> str:
    """Returns what an event costs all processes together, relative to the least size, over the size relative
    to the least."""
    lines = []
    for grown in found:
        sums = [sum(grown.middle(place, part) for part in _PARTS) for place in range(len(grown.sizes))]
        least = max(1, grown.sizes[0])
        places = [
            (max(1.0, size / least), each / sums[0]) for size, each in zip(grown.sizes, sums, strict=True)
        ]
        lines.append(Line(grown.name, places))
    x = Axis("times as many", 1, max(line.points[-1][0] for line in lines), is_log=True)
    most = max(2.0, *(value for line in lines for _, value in line.points))
    y = Axis("times the CPU per event, all processes", 0, most)
    return plots.draw("What an event costs when there is more of everything", x, y, lines)
