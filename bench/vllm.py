"""Measures what everything around the engine costs: the whole path and a worker, against vLLM alone and its
server.

Owns the comparison, on the tiny checkpoint and without a GPU: all use the same engine, alternately, in one
run.
"""

import asyncio
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from bench import plots, tables
from bench.contenders import (
    Contender,
    RawEngine,
    Site,
    VllmServer,
    WholePath,
    WorkerAlone,
    cluster_of,
    raw_engine,
    vllm_server_of,
    warm_up,
)
from bench.load import Answer, Load, Outcome
from bench.page import Result
from bench.plots import Axis, Line
from bench.vllm_server import write_tokenizer
from tests.engines import CPU_ENGINE_ARGS, CPU_ENVIRONMENT
from tests.model.checkpoint import expand
from worker.harmony.tokens import ChatMessage, HarmonyMessage, SystemPart, render

_TOKENS_MAX = 1_000
_LONG, _SHORT = "Count from 1 to 100", "Hello!"
_MANY = 32
_STREAMS = (1, _MANY, 128)
_FIRST_TOKENS_EACH_ROUND = 8
_AT_ONCE, _AS_IT_COMES = "whole path, every event at once", "whole path, as it comes"
_OURS = (_AT_ONCE, _AS_IT_COMES)
_PARTS = ("api", "worker", "redis")


@dataclass(frozen=True, slots=True)
class Subject:
    """A contender, what it uses when idle (CPU seconds per second), and its expected answer."""

    contender: Contender
    idle: Mapping[str, float]
    answer: Answer


@dataclass(slots=True)
class Results:
    rates: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Tokens per second of each contender, a number per round."""
    costs: dict[tuple[str, int], list[dict[str, float]]] = field(default_factory=lambda: defaultdict(list))
    """CPU microseconds of each part per token, by contender and number of streams."""
    first_ms: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    events: dict[str, float] = field(default_factory=dict)
    """Events per token, by contender."""

    def ours_us(self, who: str, streams: int) -> list[float]:
        """Returns what our processes use per token, a number per round."""
        return [sum(cost[part] for part in _PARTS) for cost in self.costs[who, streams]]

    def theirs_us(self, streams: int) -> list[float]:
        return [cost["api"] for cost in self.costs[VllmServer.name, streams]]

    def ratios(self, who: str, streams: int) -> list[float]:
        pairs = zip(self.ours_us(who, streams), self.theirs_us(streams), strict=True)
        return [ours / theirs for ours, theirs in pairs]


async def measure(rounds: int) -> Result:
    results = Results()
    async with comparing() as subjects:
        for _ in range(rounds):
            await run_round(subjects, results)
    return Result(render_all(results, rounds), {"vllm.svg": draw(results)})


@asynccontextmanager
async def comparing() -> AsyncIterator[dict[str, Subject]]:
    """Yields all contenders by name, ready and warm."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="antiphon-bench-")))
        checkpoint = folder / "tiny-gpt-oss"
        await asyncio.to_thread(expand, checkpoint)
        await asyncio.to_thread(write_tokenizer, checkpoint)
        site = Site(folder, f"--model {checkpoint} {CPU_ENGINE_ARGS}", CPU_ENVIRONMENT)
        raw = await stack.enter_async_context(raw_engine(site))
        server = await stack.enter_async_context(vllm_server_of(site))
        at_once = await stack.enter_async_context(cluster_of(site, ANTIPHON_FLUSH_BUDGET_MS="0"))
        as_it_comes = await stack.enter_async_context(cluster_of(site))
        ours = WholePath(at_once, _AT_ONCE), WholePath(as_it_comes, _AS_IT_COMES)
        contenders: list[Contender] = [raw, *ours, server]
        subjects = {contender.name: await prepare(contender) for contender in contenders}
        whole, alone = subjects[_AS_IT_COMES], WorkerAlone(as_it_comes)
        subjects[alone.name] = Subject(alone, whole.idle, whole.answer)
        yield subjects


async def prepare(contender: Contender) -> Subject:
    answer = await warm_up(contender, load_of(1))
    await contender.run(load_of(_MANY), answer)
    return Subject(contender, await contender.use_nothing(), answer)


def load_of(streams: int, text: str = _LONG) -> Load:
    asked: list[HarmonyMessage] = [
        SystemPart("medium", f"{datetime.now(UTC):%Y-%m-%d}"),
        ChatMessage("user", text),
    ]
    return Load(streams, text, tuple(render(asked)), _TOKENS_MAX)


async def run_round(subjects: Mapping[str, Subject], results: Results) -> None:
    for name, subject in subjects.items():
        rate = await run_once(subject, _MANY, results)
        results.rates[name].append(rate.tokens_per_s)
    for streams in _STREAMS:
        for name in (*_OURS, VllmServer.name):
            if streams != _MANY:
                await run_once(subjects[name], streams, results)
    for _ in range(_FIRST_TOKENS_EACH_ROUND):
        for name in (RawEngine.name, *_OURS, VllmServer.name):
            outcome = await subjects[name].contender.run(load_of(1, _SHORT), None)
            results.first_ms[name] += outcome.first_token_ms


async def run_once(subject: Subject, streams: int, results: Results) -> Outcome:
    outcome = await subject.contender.run(load_of(streams), subject.answer)
    name = subject.contender.name
    results.costs[name, streams].append(outcome.cost_us(subject.idle))
    results.events[name] = outcome.events / outcome.tokens
    return outcome


# --- tables and the plot ------------------------------------------------------------------------


def render_all(results: Results, rounds: int) -> str:
    parts = [render_costs(results), render_rates(results), render_first(results)]
    return "\n\n".join([*parts, f"{rounds} rounds, in turn."])


def render_costs(results: Results) -> str:
    head = (
        "CPU µs per token",
        *("API", "worker", "Redis", "**all of ours**", "vLLM's API process", "**ours / vLLM's**"),
        *("engine, ours", "engine, vLLM's"),
    )
    rows = []
    for streams in _STREAMS:
        theirs = results.costs[VllmServer.name, streams]
        for who in _OURS:
            ours = results.costs[who, streams]
            rows.append(
                [
                    f"{streams} streams, {who.removeprefix('whole path, ')}",
                    *(tables.show_number(middle(ours, part)) for part in _PARTS),
                    tables.show_spread(results.ours_us(who, streams)),
                    tables.show_spread(results.theirs_us(streams)),
                    f"{tables.show_spread(results.ratios(who, streams))}×",
                    tables.show_number(middle(ours, "engine")),
                    tables.show_number(middle(theirs, "engine")),
                ]
            )
    events = f"{results.events[_AT_ONCE]:.2f} of ours, {results.events[VllmServer.name]:.2f} of vLLM's server"
    return f"{tables.render(head, rows)}\n\nEvents per token: {events}."


def render_rates(results: Results) -> str:
    head = (f"{_MANY} generations at once", "tokens/s", "of `AsyncLLM` alone", "worker's CPU, µs per token")
    alone = results.rates[RawEngine.name]
    rows = []
    for name, rates in results.rates.items():
        shares = [100 * rate / base for rate, base in zip(rates, alone, strict=True)]
        costs = [cost.get("worker", 0.0) for cost in results.costs[name, _MANY]]
        own = "" if name == VllmServer.name else tables.show_spread(costs)
        share = "" if name == RawEngine.name else f"{tables.show_spread(shares)} %"
        rows.append([name, tables.show_spread(rates), share, own])
    return tables.render(head, rows)


def middle(costs: Sequence[Mapping[str, float]], part: str) -> float:
    return median(cost[part] for cost in costs)


def render_first(results: Results) -> str:
    head = ("ms to the first token, 1 stream", "p50", "p90", "min-max")
    rows = []
    for name, waits in results.first_ms.items():
        spread = f"{tables.show_number(min(waits))}-{tables.show_number(max(waits))}"
        figures = (median(waits), tables.percentile(waits, 90))
        rows.append([name, *map(tables.show_number, figures), spread])
    return tables.render(head, rows)


def draw(results: Results) -> str:
    many = _STREAMS[1:]
    lines = [Line("vLLM's API process", [(n, median(results.theirs_us(n))) for n in many])]
    for who in _OURS:
        name = who.replace("whole path", "ours")
        lines.append(Line(name, [(n, median(results.ours_us(who, n))) for n in many]))
    most = max(value for line in lines for _, value in line.points)
    x, y = (
        Axis("streams", many[0], many[-1], is_log=True),
        Axis("CPU µs per token, without the engine", 0, most),
    )
    return plots.draw("A real engine: ours and vLLM's own server", x, y, lines)
