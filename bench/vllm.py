"""Measures what everything around the engine costs: a worker and the whole path, against vLLM alone and its
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

from bench import tables
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
from bench.vllm_server import write_tokenizer
from tests.engines import CPU_ENGINE_ARGS, CPU_ENVIRONMENT
from tests.model.checkpoint import expand
from worker.harmony.tokens import ChatMessage, HarmonyMessage, SystemPart, render

ROUNDS = 5
_TOKENS_MAX = 1_000
_LONG, _SHORT = "Count from 1 to 100", "Hello!"
_MANY = 32
_STREAMS = (1, 16, _MANY)
_FIRST_TOKENS_EACH_ROUND = 8


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


async def measure(rounds: int) -> str:
    results = Results()
    async with comparing() as subjects:
        for _ in range(rounds):
            await run_round(subjects, results)
    return render_all(results, rounds)


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
        cluster = await stack.enter_async_context(cluster_of(site))
        contenders: list[Contender] = [raw, WholePath(cluster), server]
        subjects = {contender.name: await prepare(contender) for contender in contenders}
        whole = subjects[WholePath.name]
        subjects[WorkerAlone.name] = Subject(WorkerAlone(cluster), whole.idle, whole.answer)
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
        for name in (WholePath.name, VllmServer.name):
            if streams != _MANY:
                await run_once(subjects[name], streams, results)
    for _ in range(_FIRST_TOKENS_EACH_ROUND):
        for name in (RawEngine.name, WholePath.name, VllmServer.name):
            outcome = await subjects[name].contender.run(load_of(1, _SHORT), None)
            results.first_ms[name] += outcome.first_token_ms


async def run_once(subject: Subject, streams: int, results: Results) -> Outcome:
    outcome = await subject.contender.run(load_of(streams), subject.answer)
    name = subject.contender.name
    results.costs[name, streams].append(outcome.cost_us(subject.idle))
    results.events[name] = outcome.events / outcome.tokens
    return outcome


# --- tables -------------------------------------------------------------------------------------


def render_all(results: Results, rounds: int) -> str:
    parts = [render_rates(results), render_costs(results), render_first(results)]
    return "\n\n".join([*parts, f"{rounds} rounds, interleaved."])


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


def render_costs(results: Results) -> str:
    head = (
        "CPU µs per token, streams",
        *("API", "worker", "Redis", "**all of ours**", "vLLM's API process", "**ours / vLLM's**"),
        *("engine, ours", "engine, vLLM's"),
    )
    rows = []
    for streams in _STREAMS:
        ours = results.costs[WholePath.name, streams]
        theirs = results.costs[VllmServer.name, streams]
        sums = [cost["api"] + cost["worker"] + cost["redis"] for cost in ours]
        apis = [cost["api"] for cost in theirs]
        ratios = [own / other for own, other in zip(sums, apis, strict=True)]
        rows.append(
            [
                str(streams),
                *(tables.show_number(middle(ours, part)) for part in ("api", "worker", "redis")),
                tables.show_spread(sums),
                tables.show_spread(apis),
                f"{tables.show_spread(ratios)}×",
                tables.show_number(middle(ours, "engine")),
                tables.show_number(middle(theirs, "engine")),
            ]
        )
    events = ", ".join(f"{results.events[name]:.2f} {whose}" for name, whose in _WHOSE.items())
    return f"{tables.render(head, rows)}\n\nEvents per token: {events}."


_WHOSE = {WholePath.name: "of ours", VllmServer.name: "of vLLM's server"}


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
