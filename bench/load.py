"""Puts a load on an engine, however it is reached: a number of generations at once, and what they cost.

Owns the measured window: from when all generations run until the first is about to end.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

from bench import streams

_BEGUN, _ENDING = 0.1, 0.9
_POLL_INTERVAL_S = 0.01
_TIMEOUT_S = 300.0
_EVENT, _DELTA = b"\ndata: ", b"_text.delta\n"
_OUTPUT_TOKENS = re.compile(rb'"output_tokens":(\d+)')


class Load(msgspec.Struct, frozen=True):
    """One prompt in two forms: `text` for contenders that take requests, `prompt` for those that take
    tokens."""

    streams: int
    text: str
    prompt: tuple[int, ...]
    tokens_max: int
    temperature: float = 0.0


class Answer(msgspec.Struct, frozen=True):
    """The expected result of one generation of a load."""

    tokens: int
    events: int


class Window(msgspec.Struct, frozen=True):
    """The counts of a window of `s` seconds, and the CPU seconds of each part in it."""

    s: float
    counted: int
    cpu_s: dict[str, float]


NO_WINDOW = Window(0.0, 0, {})


class Outcome(msgspec.Struct, frozen=True):
    """The results of a load. `tokens`, `events`: of all generations together, from start to end."""

    tokens: int
    events: int
    first_token_ms: tuple[float, ...]
    window: Window

    @property
    def tokens_in_window(self) -> float:
        """The number of tokens in the window, computed from events if those were counted."""
        return self.window.counted * self.tokens / self.events

    @property
    def tokens_per_s(self) -> float:
        return self.tokens_in_window / self.window.s

    def cost_us(self, idle: Mapping[str, float]) -> dict[str, float]:
        """Returns the CPU microseconds of each part per token, less what it uses when idle."""
        return {
            part: 1e6 * (used_s - idle.get(part, 0.0) * self.window.s) / self.tokens_in_window
            for part, used_s in self.window.cpu_s.items()
        }


async def watch(
    expected: int,
    count: Callable[[], Awaitable[Sequence[int]]],
    read_cpu_s: Callable[[], dict[str, float]],
    poll_interval_s: float = _POLL_INTERVAL_S,
) -> Window:
    """Measures the window of a running load, each of whose generations has the result `expected`."""
    async with asyncio.timeout(_TIMEOUT_S):
        counts = await count()
        while min(counts) < _BEGUN * expected:
            await asyncio.sleep(poll_interval_s)
            counts = await count()
        begun_s, before, cpu_before_s = time.perf_counter(), sum(counts), read_cpu_s()
        if max(counts) >= _ENDING * expected:
            raise RuntimeError(
                "a generation ended before all of them ran: this machine is too busy to measure on"
            )
        while max(counts) < _ENDING * expected:
            await asyncio.sleep(poll_interval_s)
            counts = await count()
    s, used = time.perf_counter() - begun_s, read_cpu_s()
    return Window(s, sum(counts) - before, {part: used[part] - cpu_before_s[part] for part in used})


class Reading:
    """Reads one response from any server of the Responses API."""

    def __init__(self) -> None:
        self.first_token_ms = 0.0
        self.events = 0
        self.is_over = False
        self._received = bytearray()

    async def follow(self, port: int, body: Mapping[str, Any]) -> None:
        sent_s = time.perf_counter()
        async with streams.connect(port) as connection:
            async for chunk in connection.ask("POST", "/v1/responses", dict(body)):
                self._add(chunk)
                if not self.first_token_ms and _DELTA in self._received:
                    self.first_token_ms = 1000 * (time.perf_counter() - sent_s)
        self.is_over = True

    def _add(self, chunk: bytes) -> None:
        begin = max(0, len(self._received) - len(_EVENT) + 1)
        self._received += chunk
        self.events += self._received.count(_EVENT, begin)

    @property
    def tokens(self) -> int:
        """The usage in the last event. Raises RuntimeError if there is none."""
        found = _OUTPUT_TOKENS.findall(self._received)
        if not found or not int(found[-1]):
            raise RuntimeError(f"the stream ended without usage: {bytes(self._received[-2000:])!r}")
        return int(found[-1])


def make_body(load: Load) -> dict[str, Any]:
    return {
        "model": "default",
        "input": load.text,
        "temperature": load.temperature,
        "max_output_tokens": load.tokens_max,
        "stream": True,
    }


async def read_streams(
    port: int, load: Load, answer: Answer | None, read_cpu_s: Callable[[], dict[str, float]]
) -> Outcome:
    """Sends all requests at once and reads every stream to its end."""
    readings = [Reading() for _ in range(load.streams)]

    async def count() -> list[int]:
        # A stream that ends early, with fewer events than expected, ends the window too.
        return [max(r.events, answer.events) if answer and r.is_over else r.events for r in readings]

    async with asyncio.TaskGroup() as group:
        for reading in readings:
            group.create_task(reading.follow(port, make_body(load)))
        watching = group.create_task(watch(answer.events, count, read_cpu_s)) if answer else None
    return Outcome(
        tokens=sum(reading.tokens for reading in readings),
        events=sum(reading.events for reading in readings),
        first_token_ms=tuple(reading.first_token_ms for reading in readings),
        window=watching.result() if watching else NO_WINDOW,
    )
