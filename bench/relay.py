"""Measures what relaying a live event costs, and how late it is: ours and a naive reader, with more and more
streams.

Owns the comparison and its plots; `live.py` owns the course of one run.
"""

from collections import defaultdict
from collections.abc import Sequence
from contextlib import AsyncExitStack
from statistics import median

from bench import plots, tables
from bench.live import Live, Load, Node, naive_node, run
from bench.page import Result
from bench.plots import Axis, Line
from bench.scale import Scale
from bench.site import NOT_ARCHIVED, running
from bench.tables import show_spread

CLOCK = "bench.clock_worker"
AT_ONCE = {"ANTIPHON_FLUSH_BUDGET_MS": "0", **NOT_ARCHIVED}
"""Settings with which every event leaves at once."""
_OURS, _DEFAULT, _NAIVE = "ours, every event at once", "ours, as it comes", "a naive reader"
_SLOW_MS = 200
_SLOW_PHASES = 100

Found = dict[tuple[str, int], list[Live]]
"""(who, streams) -> a run for each round."""


async def measure(scale: Scale) -> Result:
    """Streams of 50 events/s each."""
    loads = [Load(streams, window_s=scale.window_s) for streams in scale.streams]
    found = await compare(loads, scale.rounds)
    shown = f"{_render_costs(found, scale.streams)}\n\n{_render_ages(found, scale.streams)}"
    shared = f"{scale.rounds} rounds, in turn. Each stream has 50 events/s; the events of all come in steps, "
    what = f"every {loads[0].every_ms // loads[0].phases} ms one of a tenth of the streams."
    return Result(f"{shown}\n\n{shared}{what}", {"cost.svg": _draw_costs(found, scale.streams)})


async def measure_lag(scale: Scale) -> Result:
    """Many slow streams: whatever runs over all of them at once makes some event late."""
    load = Load(scale.slow_streams, _SLOW_MS, _SLOW_PHASES, scale.window_s)
    found = await compare([load], scale.rounds)
    shown = _render_ages(found, (load.streams,))
    text = f"{scale.rounds} rounds, in turn. Each stream has {1000 / _SLOW_MS:g} events/s."
    ages = {who: [age for live in lives for age in live.ages_ms] for (who, _), lives in found.items()}
    return Result(f"{shown}\n\n{text}", {"lag.svg": _draw_ages(ages, load.streams)})


async def compare(loads: Sequence[Load], rounds: int) -> Found:
    found: Found = defaultdict(list)
    async with AsyncExitStack() as stack:
        at_once = await stack.enter_async_context(running(AT_ONCE, worker_module=CLOCK))
        as_it_comes = await stack.enter_async_context(running(NOT_ARCHIVED, worker_module=CLOCK))
        naive = await stack.enter_async_context(naive_node(at_once))
        ways = (
            (_OURS, at_once, Node.of(at_once)),
            (_NAIVE, at_once, naive),
            (_DEFAULT, as_it_comes, Node.of(as_it_comes)),
        )
        for _ in range(rounds):
            for load in loads:
                for who, cluster, node in ways:
                    found[who, load.streams].append(await run(cluster, node, load))
    return found


# --- tables and plots ---------------------------------------------------------------------------


def _costs(lives: Sequence[Live], part: str) -> list[float]:
    return [live.cost_us[part] for live in lives]


def _render_costs(found: Found, counts: Sequence[int]) -> str:
    head = ("CPU µs per event", "API or reader", "worker", "Redis", "events that came, of those due")
    rows = [
        [
            f"{streams} streams, {who}",
            *(show_spread(_costs(found[who, streams], part)) for part in ("api", "worker", "redis")),
            f"{100 * median(live.share for live in found[who, streams]):.0f} %",
        ]
        for streams in counts
        for who in (_OURS, _NAIVE, _DEFAULT)
    ]
    return tables.render(head, rows)


def _render_ages(found: Found, counts: Sequence[int]) -> str:
    head = ("ms from an event's step to its client", "p50", "p99", "max")
    rows = []
    for streams in counts:
        for who in (_OURS, _NAIVE, _DEFAULT):
            ages = [live.ages_ms for live in found[who, streams]]
            figures = (
                show_spread([figure(each) for each in ages])
                for figure in (median, lambda each: tables.percentile(each, 99), max)
            )
            rows.append([f"{streams} streams, {who}", *figures])
    return tables.render(head, rows)


def _draw_costs(found: Found, counts: Sequence[int]) -> str:
    def line(name: str, who: str, part: str) -> Line:
        return Line(name, [(n, median(_costs(found[who, n], part))) for n in counts])

    lines = [
        line("API", _OURS, "api"),
        line("worker", _OURS, "worker"),
        line("Redis", _OURS, "redis"),
        line("API, as it comes", _DEFAULT, "api"),
        line("a naive reader", _NAIVE, "api"),
    ]
    most = max(value for each in lines for _, value in each.points)
    x = Axis("streams of 50 events/s", counts[0], counts[-1], is_log=True)
    return plots.draw("What a live event costs", x, Axis("CPU µs per event", 0, most), lines)


def _draw_ages(ages: dict[str, list[float]], streams: int) -> str:
    lines = [plots.distribution(who, found) for who, found in ages.items()]
    x = Axis("ms from an event's step to its client", 0.5, 200, is_log=True)
    title = f"How late events are: {streams} streams of {1000 / _SLOW_MS:g} events/s"
    return plots.draw(title, x, Axis("per cent of events", 0, 100), lines)
