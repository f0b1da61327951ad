"""Measures what relaying costs: the CPU time of the API, the worker and Redis per event, in several
situations.

Owns the situations; the idle CPU time is measured first and subtracted.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from statistics import median

from bench import streams, tables
from bench.site import Usage, port_of, running
from bench.streams import Count
from local.cluster import Cluster
from shared.store.keys import ResponseKey
from shared.store.log import archiving
from shared.store.redis.client import RedisClient

_ROUNDS = 3
_IDLE_S = 3.0
_POLL_INTERVAL_S = 0.01
_STORED_NUMBERS = 10_000
_REPLAYS = 5
_BASE = "50 streams of 50 events/s"


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU microseconds per event."""

    events: int
    api_us: float
    worker_us: float
    redis_us: float

    @classmethod
    def of(cls, used: Usage, events: int) -> "Cost":
        per_event = (1e6 * s / events for s in (used.api_s, used.worker_s, used.redis_s))
        return cls(events, *per_event)


async def measure() -> str:
    costs: dict[str, list[Cost]] = {}
    # Nothing is archived by itself, since archiving is one of the situations.
    async with running(ANTIPHON_ARCHIVE_AFTER_S="3600") as cluster:
        idle = await use_nothing(cluster)
        stored, archived = await store(cluster), await store(cluster)
        await archive_log(cluster, archived)
        situations: dict[str, Callable[[], Awaitable[Cost]]] = {
            "1 stream of 400 events/s": lambda: relay_live(cluster, idle, 1, "Count to 1000 at 400/s"),
            "1 stream as fast as it is made": lambda: relay_live(cluster, idle, 1, "Count to 30000"),
            _BASE: lambda: relay_live(cluster, idle, 50, "Count to 150 at 50/s"),
            "replay of a stored log": lambda: replay(cluster, idle, stored),
            "replay of an archived log": lambda: replay(cluster, idle, archived),
        }
        for _ in range(_ROUNDS):
            for name, relay in situations.items():
                costs.setdefault(name, []).append(await relay())
    return render(costs, idle)


async def use_nothing(cluster: Cluster) -> Usage:
    begun = Usage.read(cluster)
    await asyncio.sleep(_IDLE_S)
    return Usage.read(cluster).since(begun)


async def relay_live(cluster: Cluster, idle: Usage, readers: int, text: str) -> Cost:
    """Measures from the moment when every stream runs until the first one ends."""
    port = port_of(cluster)
    counts = [Count() for _ in range(readers)]

    async def read(count: Count) -> None:
        await streams.follow(port, await streams.create(port, text), count)

    tasks = [asyncio.create_task(read(count)) for count in counts]
    await until(lambda: all(count.events > 5 for count in counts))
    if any(task.done() for task in tasks):
        raise RuntimeError("streams ended before all of them ran: this machine is too busy to measure on")
    begun, before = Usage.read(cluster), sum(count.events for count in counts)
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    used, after = Usage.read(cluster).since(begun), sum(count.events for count in counts)
    await asyncio.gather(*tasks)
    return Cost.of(used.without(idle), after - before)


async def store(cluster: Cluster) -> str:
    """Returns the id of a long response that has ended."""
    port = port_of(cluster)
    response_id = await streams.create(port, f"Count to {_STORED_NUMBERS}")
    await streams.follow(port, response_id, Count())
    return response_id


async def archive_log(cluster: Cluster, response_id: str) -> None:
    redis = RedisClient.connect(cluster.redis_url, timeout_s=5.0)
    outcome = await archiving.archive_log(redis, ResponseKey("default", response_id))
    await redis.close()
    if outcome != "archived":
        raise RuntimeError(f"the log was not archived: {outcome}")


async def replay(cluster: Cluster, idle: Usage, response_id: str) -> Cost:
    count = Count()
    begun = Usage.read(cluster)
    for _ in range(_REPLAYS):
        await streams.follow(port_of(cluster), response_id, count)
    return Cost.of(Usage.read(cluster).since(begun).without(idle), count.events)


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not is_so():  # noqa: ASYNC110  the counts are plain numbers, raised for every chunk
            await asyncio.sleep(_POLL_INTERVAL_S)


def render(costs: dict[str, list[Cost]], idle: Usage) -> str:
    head = ("CPU µs per event", "events", "API", "worker", "Redis", "API, ratio")
    base = median(cost.api_us for cost in costs[_BASE])
    rows = []
    for name, found in costs.items():
        api_us = [cost.api_us for cost in found]
        is_live = "replay" not in name
        rows.append(
            [
                name,
                f"{round(median(cost.events for cost in found)):,}",
                tables.show_spread(api_us),
                tables.show_spread([cost.worker_us for cost in found]) if is_live else "",
                tables.show_spread([cost.redis_us for cost in found]),
                f"{median(api_us) / base:.2f}×",
            ]
        )
    used = ", ".join(
        f"{name} {1000 * s / idle.at_s:.1f}"
        for name, s in (("API", idle.api_s), ("worker", idle.worker_s), ("Redis", idle.redis_s))
    )
    return (
        f"{tables.render(head, rows)}\n\n"
        f"{_ROUNDS} rounds, interleaved. Subtracted: CPU ms per idle second: {used}. "
        f"Ratios are to {_BASE}."
    )
