"""Measures the worker's own Python: from an engine's step to the packed command that appends its tokens.

Owns what stands for the engine and for the connection to Redis; between them everything is the worker's.
"""

import asyncio
import gc
import time
from collections import defaultdict
from collections.abc import Sequence
from itertools import product
from statistics import median
from typing import Any, cast

import msgspec
import uvloop

from bench import tables, words
from bench.page import Result
from bench.scale import Scale
from bench.unlimited_engine import UnlimitedEngine
from shared import process
from shared.settings import Settings
from shared.store.log.appender import Appender
from shared.store.redis.client import RedisClient
from shared.store.redis.connections import pack_command
from shared.store.redis.joint_scripts import Gathered, StoreCall
from tests.memory import NOW_S, MemoryTools, lease_of
from tests.requests import make_request
from worker.engines.protocol import Sampling, Sink, TokenChunk
from worker.harmony.tokens import CHANNEL, MESSAGE, encode
from worker.response.attempt import run_attempt
from worker.response.gathering import Gathering
from worker.response.history import LoadedRecord, history_of
from worker.response.resources import Resources

_SEQUENCES = (32, 256)
_TURNS = 4
"""Turns of the loop in which a step's appends are packed and answered."""


class HandEngine(UnlimitedEngine):
    """An engine whose steps the measurement makes."""

    def __init__(self) -> None:
        self.sinks: list[Sink] = []

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
        await asyncio.get_running_loop().create_future()

    def step(self, chunk: TokenChunk) -> None:
        for sink in self.sinks:
            sink.take(chunk)


class PackingPipe:
    """Packs what it is given, as for the connection, and answers that it is written."""

    def __init__(self) -> None:
        self.calls = 0
        self.sent_bytes = 0

    async def run_many(self, calls: Sequence[StoreCall]) -> list[Any]:
        b"".join([pack_command(command) for command in Gathered(calls).commands])
        self.calls += len(calls)
        return [0] * len(calls)

    async def close(self) -> None:
        """Nothing is open."""


class PackingClient:
    def __init__(self) -> None:
        self.pipe = PackingPipe()

    def open_pipe(self) -> PackingPipe:
        return self.pipe


async def measure(scale: Scale) -> Result:
    found: dict[tuple[int, int], list[float]] = defaultdict(list)
    for _ in range(scale.rounds):
        for sequences, tokens in product(_SEQUENCES, scale.open_tokens):
            found[sequences, tokens].append(
                await asyncio.to_thread(time_steps, sequences, tokens, scale.steps)
            )
    rows = [
        [
            f"{sequences} sequences, {tokens:,} tokens open in each",
            tables.show_spread([1000 * s for s in times]),
            tables.show_number(1e6 * median(times) / sequences),
        ]
        for (sequences, tokens), times in found.items()
    ]
    table = tables.render(("the worker's Python", "ms per step", "µs per token"), rows)
    return Result(f"{table}\n\n{scale.rounds} rounds, in turn, of {scale.steps} steps.")


def time_steps(sequences: int, tokens: int, steps: int) -> float:
    """Returns this thread's CPU seconds per step. Runs a loop of its own, as a worker does."""
    thresholds = gc.get_threshold()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_time_steps(sequences, tokens, steps))
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)


async def _time_steps(sequences: int, tokens: int, steps: int) -> float:
    client, engine = PackingClient(), HandEngine()
    settings = Settings(flush_budget_ms=0)
    appender = Appender(cast("RedisClient", client), settings)
    gathering = Gathering(0.0)
    resources = Resources(
        settings,
        cast("RedisClient", client),
        appender,
        engine,
        MemoryTools(),
        lambda: NOW_S,
        gathering=gathering,
    )
    process.collect_rarely()
    tasks = [asyncio.create_task(appender.run())]
    tasks += [asyncio.create_task(_attempt(resources, number)) for number in range(sequences)]
    while len(engine.sinks) < sequences:  # noqa: ASYNC110  attempts have many steps before that
        await asyncio.sleep(0.01)
    vocabulary = words.all_tokens()
    engine.step(TokenChunk((CHANNEL, *encode("final"), MESSAGE)))
    for number in range(tokens + 1):  # the first one is not like the others
        await _step(engine, vocabulary[number % 1_000])
    before, begun_s = client.pipe.calls, time.thread_time()
    for number in range(steps):
        await _step(engine, vocabulary[number % 1_000])
    took_s = time.thread_time() - begun_s
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    if client.pipe.calls - before != steps * sequences:
        raise RuntimeError(f"{client.pipe.calls - before} appends in {steps} steps of {sequences} sequences")
    return took_s / steps


async def _attempt(resources: Resources, number: int) -> None:
    request = make_request("Tell the time.")
    named = msgspec.structs.replace(request.response, id=f"resp_0_{number:032x}")
    request = msgspec.structs.replace(request, response=named)
    await run_attempt(resources, lease_of(request), LoadedRecord(request, 100, 2), history_of([]))


async def _step(engine: HandEngine, token: int) -> None:
    engine.step(TokenChunk((token,)))
    for _ in range(_TURNS):
        await asyncio.sleep(0)
