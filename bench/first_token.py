"""Measures how long a client waits for its first token: with the doorbell and polling, in fore- and
background.

Owns the comparison: requests of both kinds alternate, so that any other load on the machine affects both.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from bench import streams, tables
from bench.page import Result
from bench.scale import Scale
from bench.site import port_of, running

_WARM_UP = 5
_REQUESTS_PER_S = 16.0
"""Requests per second, of all kinds together and at random moments, so that they never coincide with
polls."""
_OWNED, _TOKEN = b"event: response.in_progress\n", b"event: response.output_text.delta\n"


@dataclass(frozen=True, slots=True)
class Way:
    name: str
    port: int
    is_background: bool = False
    owned_ms: list[float] = field(default_factory=list)
    """From sending the request to the first event made by a worker."""
    token_ms: list[float] = field(default_factory=list)
    """From sending the request to the first event made by a token."""


async def measure_doorbell(scale: Scale) -> Result:
    async with running() as doorbell, running(worker_module="bench.polling_worker") as polling:
        ways = (Way("doorbell", port_of(doorbell)), Way("arq polls every 0.5 s", port_of(polling)))
        await compare(ways, scale.requests)
    return Result(render(ways))


async def measure_background(scale: Scale) -> Result:
    async with running() as cluster:
        port = port_of(cluster)
        ways = Way("foreground", port), Way("background", port, is_background=True)
        await compare(ways, scale.requests)
    return Result(render(ways))


async def compare(ways: Sequence[Way], requests: int) -> None:
    for way in [*ways] * _WARM_UP:
        await ask(way)
    for way in ways:
        way.owned_ms.clear()
        way.token_ms.clear()
    async with asyncio.TaskGroup() as group:
        for way in [*ways] * requests:
            group.create_task(ask(way))
            await asyncio.sleep(random.expovariate(_REQUESTS_PER_S))


async def ask(way: Way) -> None:
    body: dict[str, Any] = {
        "model": "default",
        "input": "Say this again.",
        "stream": True,
        "background": way.is_background,
    }
    seen = b""
    async with streams.connect(way.port) as connection:
        sent_s = time.perf_counter()
        async for chunk in connection.ask("POST", "/v1/responses", body):
            waited_ms = 1000 * (time.perf_counter() - sent_s)
            for name, waits_ms in ((_OWNED, way.owned_ms), (_TOKEN, way.token_ms)):
                if name not in seen and name in seen + chunk:
                    waits_ms.append(waited_ms)
            seen += chunk


def render(ways: Sequence[Way]) -> str:
    head = ("ms from POST to", "first event of a worker, p50", "p99", "first token, p50", "p99", "min-max")
    rows = [[way.name, *map(tables.show_number, figures(way)), spread(way.token_ms)] for way in ways]
    first, second = (figures(way) for way in ways)
    ratios = [f"{b / a:.2f}×" for a, b in zip(first, second, strict=True)]
    rows.append([f"**{ways[1].name} / {ways[0].name}**", *ratios, ""])
    return f"{tables.render(head, rows)}\n\n{len(ways[0].token_ms)} requests each, interleaved."


def figures(way: Way) -> list[float]:
    return [f(waits) for waits in (way.owned_ms, way.token_ms) for f in (median, percentile_99)]


def percentile_99(values: Sequence[float]) -> float:
    return tables.percentile(values, 99)


def spread(values: Sequence[float]) -> str:
    return f"{tables.show_number(min(values))}-{tables.show_number(max(values))}"
