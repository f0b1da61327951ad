"""Measures what an event costs that is not sent by itself: when a stream is as fast as it can be made, and
when a log is read again.

Owns these situations, and the archiving of a log on demand; the idle CPU time is subtracted.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from bench import streams, tables
from bench.page import Result
from bench.scale import Scale
from bench.site import NOT_ARCHIVED, port_of, running
from bench.streams import Count
from bench.usage import Usage, parts_of
from local.cluster import Cluster
from shared.store.keys import ResponseKey
from shared.store.log import archiving
from shared.store.redis.client import RedisClient

_IDLE_S = 2.0
_REPLAYS = 5


@dataclass(frozen=True, slots=True)
class Site:
    """A cluster, and what it uses when idle."""

    cluster: Cluster
    idle: Usage

    async def cost_of(self, work: Awaitable[int]) -> tuple[int, dict[str, float]]:
        """Returns the events that the work has read, and the CPU microseconds of each part per event."""
        begun = Usage.read(parts_of(self.cluster))
        events = await work
        used = Usage.read(parts_of(self.cluster)).since(begun).without(self.idle)
        return events, used.per_event_us(events)


async def measure(scale: Scale) -> Result:
    found: dict[str, list[tuple[int, dict[str, float]]]] = defaultdict(list)
    async with running(NOT_ARCHIVED) as cluster:
        text = f"Count to {scale.log_numbers}"
        stored, archived = await store(cluster, text), await store(cluster, text)
        await archive_log(cluster, archived)
        site = Site(cluster, await use_nothing(cluster))
        situations: dict[str, Callable[[], Awaitable[int]]] = {
            "1 stream as fast as it is made": lambda: follow_new(cluster, text),
            "replay of a stored log": lambda: replay(cluster, stored),
            "replay of an archived log": lambda: replay(cluster, archived),
        }
        for _ in range(scale.rounds):
            for name, work in situations.items():
                found[name].append(await site.cost_of(work()))
    rows = []
    for name, costs in found.items():
        live = "replay" not in name
        shown = {part: tables.show_spread([cost[part] for _, cost in costs]) for part in costs[0][1]}
        worker = shown["worker"] if live else ""
        rows.append([name, f"{costs[0][0]:,}", shown["api"], worker, shown["redis"]])
    table = tables.render(("CPU µs per event", "events", "API", "worker", "Redis"), rows)
    return Result(f"{table}\n\n{scale.rounds} rounds, in turn.")


async def use_nothing(cluster: Cluster) -> Usage:
    begun = Usage.read(parts_of(cluster))
    await asyncio.sleep(_IDLE_S)
    return Usage.read(parts_of(cluster)).since(begun)


async def follow_new(cluster: Cluster, text: str) -> int:
    """Returns the number of events of a new response, once it has ended."""
    count = Count()
    await streams.follow(port_of(cluster), await streams.create(port_of(cluster), text), count)
    return count.events


async def store(cluster: Cluster, text: str) -> str:
    """Returns the id of a response that has ended."""
    response_id = await streams.create(port_of(cluster), text)
    await streams.follow(port_of(cluster), response_id, Count())
    return response_id


async def archive_log(cluster: Cluster, response_id: str) -> None:
    redis = RedisClient.connect(cluster.redis_url, timeout_s=5.0)
    outcome = await archiving.archive_log(redis, ResponseKey("default", response_id))
    await redis.close()
    if outcome != "archived":
        raise RuntimeError(f"the log was not archived: {outcome}")


async def replay(cluster: Cluster, response_id: str) -> int:
    count = Count()
    for _ in range(_REPLAYS):
        await streams.follow(port_of(cluster), response_id, count)
    return count.events
