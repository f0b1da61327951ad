"""What readers do to others that stop reading a long stream: the API's memory, and everybody else's time.

Owns the comparison: the same streams with stuck readers and without, by turns, each time in a new cluster.
"""

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass
from statistics import median

from bench import streams, tables
from bench.site import port_of, read_rss_bytes, running
from bench.streams import Count
from local.cluster import Cluster

_ROUNDS = 2
_NUMBERS = 50_000
"""Two tokens and so two events each: a stream of 100,000."""
_OTHERS, _OTHERS_NUMBERS = 5, 5_000
_STUCK = 10
_LOOK_EVERY_S = 0.05
_RECEIVE_BUFFER_BYTES = 16_384
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Run:
    events: int
    same_s: float
    """How long a reader of the same stream took that reads."""
    others_s: float
    """How long the other streams took, at the median."""
    rss_before: int
    rss_peak: int
    rss_after: int
    behind: list[int]
    """How many events each stuck reader had when it stopped reading."""


async def measure(pause_s: float) -> str:
    without, stuck = [], []
    for _ in range(_ROUNDS):
        for runs, count in ((without, 0), (stuck, _STUCK)):
            async with running() as cluster:
                runs.append(await run(cluster, count, pause_s))
    return render(without, stuck, pause_s)


async def run(cluster: Cluster, stuck: int, pause_s: float) -> Run:
    port, pid = port_of(cluster), cluster.pids["api-0"]
    await time_stream(port, f"Count to {_OTHERS_NUMBERS}")  # warms up
    before = read_rss_bytes(pid)
    sizes: list[int] = []
    watching = asyncio.create_task(watch(pid, sizes))
    response_id = await streams.create(port, f"Count to {_NUMBERS}")
    begun_s = time.perf_counter()
    pausing = [asyncio.create_task(read_and_pause(port, response_id, pause_s)) for _ in range(stuck)]
    others = [asyncio.create_task(time_stream(port, f"Count to {_OTHERS_NUMBERS}")) for _ in range(_OTHERS)]
    same = Count()
    await streams.follow(port, response_id, same)
    same_s = time.perf_counter() - begun_s
    others_s = median(await asyncio.gather(*others))
    paused = await asyncio.gather(*pausing)
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching
    for _, whole in paused:
        if whole != same.events:
            raise RuntimeError(f"a stuck reader has {whole} events, the other one {same.events}")
    return Run(same.events, same_s, others_s, before, max(sizes), read_rss_bytes(pid), [n for n, _ in paused])


async def watch(pid: int, sizes: list[int]) -> None:
    while True:
        sizes.append(read_rss_bytes(pid))
        await asyncio.sleep(_LOOK_EVERY_S)


async def read_and_pause(port: int, response_id: str, pause_s: float) -> tuple[int, int]:
    """How many events were read before the pause, and in the end."""
    count, before = Count(), 0
    async with streams.connect(port, receive_buffer_bytes=_RECEIVE_BUFFER_BYTES) as connection:
        async for chunk in connection.ask("GET", f"/v1/responses/{response_id}?stream=true"):
            count.add(chunk)
            if before == 0:
                before = count.events
                await asyncio.sleep(pause_s)
    return before, count.events


async def time_stream(port: int, text: str) -> float:
    begun_s = time.perf_counter()
    await streams.follow(port, await streams.create(port, text), Count())
    return time.perf_counter() - begun_s


def render(without: list[Run], stuck: list[Run], pause_s: float) -> str:
    head = (
        f"a stream of {median(run.events for run in stuck):,.0f} events, with",
        "another reader of it, s",
        f"{_OTHERS} other streams, s",
        "API's memory before, MiB",
        "greatest",
        "afterwards",
    )
    rows = []
    for name, runs in (("no stuck reader", without), (f"{_STUCK} readers stuck for {pause_s:g} s", stuck)):
        figures = [
            [run.same_s for run in runs],
            [run.others_s for run in runs],
            *([size / _MIB for size in sizes] for sizes in zip(*map(sizes_of, runs), strict=True)),
        ]
        rows.append([name, *map(tables.show_spread, figures)])
    return f"{tables.render(head, rows)}\n\n{_ROUNDS} rounds, by turns, each in a new cluster."


def sizes_of(run: Run) -> tuple[int, int, int]:
    return run.rss_before, run.rss_peak, run.rss_after
