"""Measures what counting costs: whole responses in the worker's own Python, counted and not, in turn.

Owns what stands for the metrics when nothing is counted; engine and connection are those of `step.py`.
"""

import asyncio
import gc
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any, cast

import msgspec
import uvloop

from api.delivery import delivery
from bench import tables, words
from bench.page import Result
from bench.scale import Scale
from bench.step import HandEngine, PackingClient
from shared import metrics, process
from shared.lifecycle import complete
from shared.metrics import Histogram, LabelledCount
from shared.responses import InputTokensDetails, OutputTokensDetails, Usage
from shared.settings import Settings
from shared.store.log.appender import Appender
from shared.store.redis.client import RedisClient
from tests.memory import NOW_S, MemoryTools, lease_of
from tests.requests import make_request
from worker.engines.protocol import Sampling, Sink, TokenChunk
from worker.harmony.tokens import CHANNEL, MESSAGE, RETURN, encode
from worker.response import attempt
from worker.response.gathering import Gathering
from worker.response.history import LoadedRecord, history_of
from worker.response.meter import Meter, TurnPace, count_end
from worker.response.resources import Resources

_TOGETHER = (1, 64)
_TOKENS = 100
_TURNS = 4
_PAIRS = 8
_TIMED = 20_000


class _EndingEngine(HandEngine):
    """Its generations end with the first chunk that says so."""

    def __init__(self) -> None:
        super().__init__()
        self._over = asyncio.Event()

    async def generate(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        sink: Sink,
        *,
        request_id: str,
        model: str = "default",
    ) -> None:
        self.sinks.append(sink)
        await self._over.wait()

    def end(self) -> None:
        self.step(TokenChunk((RETURN,), "stop"))
        self._over.set()


class _Nothing:
    """Stands for a metric."""

    value = 0.0

    def labels(self, *_: object) -> "_Nothing":
        return self

    def inc(self, _: float = 1) -> None: ...

    def observe(self, _: float) -> None: ...

    def set(self, _: float) -> None: ...


class _NoMeter(Meter):
    @contextmanager
    def turn(self, *_: object) -> Iterator[TurnPace]:
        yield TurnPace(0, ())


@contextmanager
def _counting_nothing() -> Iterator[None]:
    replaced: dict[str, Any] = {
        name: value for name, value in vars(metrics).items() if isinstance(value, LabelledCount | Histogram)
    }
    of_attempts: dict[str, Any] = vars(attempt)
    for name in replaced:
        setattr(metrics, name, _Nothing())
    of_attempts["count_end"] = lambda *_: None
    try:
        yield
    finally:
        for name, value in replaced.items():
            setattr(metrics, name, value)
        of_attempts["count_end"] = count_end


async def measure(scale: Scale) -> Result:
    found: dict[tuple[int, bool], list[float]] = defaultdict(list)
    for _ in range(scale.rounds):
        for together in _TOGETHER:
            for number in range(_PAIRS):
                for counts in (number % 2 == 0, number % 2 == 1):
                    taken_s = await asyncio.to_thread(_time_responses, together, counts)
                    found[together, counts].append(taken_s)
    rows = []
    for together in _TOGETHER:
        counted, uncounted = found[together, True], found[together, False]
        rows.append(
            [
                f"{together} at a time",
                tables.show_spread([1000 * s for s in uncounted]),
                tables.show_spread([1000 * s for s in counted]),
                f"{median(a / b for a, b in zip(counted, uncounted, strict=True)):.3f}",
            ]
        )
    head = (f"the worker's Python, a response of {_TOKENS} tokens", "ms, not counted", "ms, counted", "ratio")
    table = tables.render(head, rows)
    by_worker, by_node = (
        tables.show_number(1e6 * taken_s) for taken_s in (await _time_response(), _time_call())
    )
    text = (
        f"{_PAIRS * scale.rounds} rounds, in turn; the ratio is the median of the rounds'. By itself, what "
        f"is counted of a response takes a worker {by_worker} µs, and what is counted of a call takes an API "
        f"node {by_node} µs."
    )
    return Result(f"{table}\n\n{text}")


async def _time_response() -> float:
    """Returns the CPU seconds of what a worker counts for one response of one turn."""
    now_s, meter, tokens = asyncio.get_running_loop().time, Meter(), [1] * _TOKENS
    usage = Usage(5, InputTokensDetails(2), 7, OutputTokensDetails(3), 12)
    response = complete(make_request().response, usage, 1).response
    begun_s = time.thread_time()
    for _ in range(_TIMED):
        with meter.turn("default", 10, tokens, now_s()) as pace:
            pace.begin(2)
        count_end(response, now_s())
    return (time.thread_time() - begun_s) / _TIMED


def _time_call() -> float:
    """Returns the CPU seconds of what is counted for one call that follows a response."""
    begun_s = time.thread_time()
    for _ in range(_TIMED):
        metrics.HTTP_REQUESTS.labels("/v1/responses", 200).inc()
        with delivery() as told:
            told.latest = b'event: response.completed\nid: 9\ndata: {"response":{}}\n\n'
            told.is_whole = True
    return (time.thread_time() - begun_s) / _TIMED


def _time_responses(together: int, counts: bool) -> float:
    """Returns this thread's CPU seconds per response."""
    thresholds = gc.get_threshold()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            if counts:
                return runner.run(_run_responses(together, Meter()))
            with _counting_nothing():
                return runner.run(_run_responses(together, _NoMeter()))
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)


async def _run_responses(together: int, meter: Meter) -> float:
    client, rounds = cast("RedisClient", PackingClient()), max(1, 64 // together)
    appender = Appender(client, Settings(flush_budget_ms=0))
    process.collect_rarely()
    sending = asyncio.create_task(appender.run())
    begun_s = time.thread_time()
    for _ in range(rounds):
        engine = _EndingEngine()
        resources = Resources(
            Settings(flush_budget_ms=0),
            client,
            appender,
            engine,
            MemoryTools(),
            lambda: NOW_S,
            gathering=Gathering(0.0),
            meter=meter,
        )
        await _run_together(resources, engine, together)
    took_s = time.thread_time() - begun_s
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    return took_s / rounds / together


async def _run_together(resources: Resources, engine: _EndingEngine, together: int) -> None:
    tasks = [asyncio.create_task(_attempt(resources, number)) for number in range(together)]
    while len(engine.sinks) < together:  # noqa: ASYNC110  attempts have many steps before that
        await asyncio.sleep(0)
    engine.step(TokenChunk((CHANNEL, *encode("final"), MESSAGE)))
    vocabulary = words.all_tokens()
    for number in range(_TOKENS):
        engine.step(TokenChunk((vocabulary[number],)))
        for _ in range(_TURNS):
            await asyncio.sleep(0)
    engine.end()
    await asyncio.gather(*tasks)


async def _attempt(resources: Resources, number: int) -> None:
    request = make_request("Tell the time.")
    named = msgspec.structs.replace(request.response, id=f"resp_0_{number:032x}")
    request = msgspec.structs.replace(request, response=named)
    accepted_s = asyncio.get_running_loop().time()
    record = LoadedRecord(request, 100, 2, accepted_s)
    await attempt.run_attempt(resources, lease_of(request), record, history_of([]))
