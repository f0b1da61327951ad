"""Relays many live streams for a while, and measures what that costs per event and how late events are.

Owns the course of one such run: every response is told when to speak, so that all streams are open before the
first one begins. The measurements own which runs they compare.
"""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from bench import streams
from bench.clock_engine import Order
from bench.processes import started, until_serving
from bench.readers import Meter, open_streams
from bench.site import ports_of
from bench.usage import Parts, Usage, parts_of
from local.cluster import Cluster
from local.ports import find_free

_CREATES_AT_ONCE = 16
_CREATE_S, _SETTLE_S, _QUIET_S = 0.012, 0.6, 0.8
"""How long it may take to create and open a stream, and to begin; how long all are quiet at least."""
_MARGIN_S = 0.4
"""Not measured, after the first event and before the last one."""
_TRIES = 3
_END_S = 30.0
_START_S = 20.0


@dataclass(frozen=True, slots=True)
class Load:
    """The number of streams, each with an event every `every_ms`, which come in `phases` steps; and how long
    they are measured."""

    streams: int
    every_ms: int = 20
    phases: int = 10
    window_s: float = 4.0

    @property
    def events_per_s(self) -> float:
        return 1000 * self.streams / self.every_ms


@dataclass(frozen=True, slots=True)
class Node:
    """A relay of a cluster's logs: where it is reached, and the processes that share the work."""

    ports: Sequence[int]
    parts: Parts
    is_ours: bool = True

    @classmethod
    def of(cls, cluster: Cluster, nodes: int = 1) -> "Node":
        """Uses the first API nodes of a cluster; the others count as well."""
        return cls(ports_of(cluster)[:nodes], parts_of(cluster))


@dataclass(slots=True)
class Live:
    """What a run was: CPU microseconds per event of each part, the ages of events, the events that came, of
    those that were due."""

    cost_us: dict[str, float] = field(default_factory=dict)
    ages_ms: list[float] = field(default_factory=list)
    events: int = 0
    share: float = 0.0


async def run(cluster: Cluster, node: Node, load: Load) -> Live:
    """Raises RuntimeError if the machine is too busy, or if one of our streams lacks an event."""
    setup_s = _SETTLE_S + load.streams * _CREATE_S + _QUIET_S
    for _ in range(_TRIES):
        live = await _try(cluster, node, load, setup_s)
        if live is not None:
            return live
        setup_s *= 2
    raise RuntimeError("the streams were not open in time: this machine is too busy to measure on")


async def _try(cluster: Cluster, node: Node, load: Load, setup_s: float) -> Live | None:
    begin_s = time.monotonic() + setup_s
    window = begin_s + _MARGIN_S, begin_s + _MARGIN_S + load.window_s
    end_s = window[1] + _MARGIN_S
    orders = [
        Order(int(1000 * begin_s), int(1000 * end_s), load.every_ms, number % load.phases, load.phases)
        for number in range(load.streams)
    ]
    ids = await create_all(ports_of(cluster)[0], orders)
    meter = Meter()
    readers = await open_streams(meter, node.ports, [f"/v1/responses/{each}?stream=true" for each in ids])
    try:
        await meter.until(lambda: meter.opened == load.streams, _END_S)
        if time.monotonic() > begin_s - _QUIET_S:
            return None
        quiet = await _use_until(node.parts, begin_s - 0.05)
        await _sleep_until(window[0])
        meter.is_recording, before = True, meter.events
        used = await _use_until(node.parts, window[1])
        events, meter.is_recording = meter.events - before, False
        if node.is_ours:
            await meter.until(lambda: meter.whole == load.streams, _END_S)
    finally:
        for reader in readers:
            reader.close()
        await _sleep_until(end_s + _MARGIN_S)
    cost_us = used.without(quiet).per_event_us(max(1, events))
    return Live(cost_us, meter.ages_ms, events, events / (load.events_per_s * used.at_s))


async def create_all(port: int, orders: Sequence[Order]) -> list[str]:
    """Starts a response in the background for each order; returns their ids."""
    room = asyncio.Semaphore(_CREATES_AT_ONCE)

    async def create(order: Order) -> str:
        async with room:
            return await streams.create(port, order.text)

    return list(await asyncio.gather(*map(create, orders)))


async def _use_until(parts: Parts, then_s: float) -> Usage:
    begun = Usage.read(parts)
    await _sleep_until(then_s)
    return Usage.read(parts).since(begun)


async def _sleep_until(then_s: float) -> None:
    await asyncio.sleep(max(0.0, then_s - time.monotonic()))


@asynccontextmanager
async def naive_node(cluster: Cluster) -> AsyncIterator[Node]:
    """Yields a naive reader of the cluster's logs, in a process of its own."""
    port = find_free(1)[0]
    command = (sys.executable, "-m", "bench.naive_reader", str(port), cluster.redis_url)
    log = cluster.logs / "naive.log"
    async with started(command, log, os.environ) as process:
        await until_serving(process, port, log, _START_S)
        yield Node([port], {**parts_of(cluster), "api": [process.pid]}, is_ours=False)
