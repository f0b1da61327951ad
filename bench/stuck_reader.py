"""Measures the effect of readers that stop reading in the middle of a long stream, on memory and on other
streams.

Owns the comparison: the same streams with and without stuck readers, alternately, each time in a new cluster.
"""

import asyncio
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench import streams, tables
from bench.page import Result
from bench.site import SCRIPT, port_of, running
from bench.streams import Count
from bench.usage import read_rss_bytes
from local.cluster import Cluster

_ROUNDS = 2
_NUMBERS, _TOKENS = 33_700, 100_000
"""A count to this many numbers has about this many tokens, each of which is an event."""
_STREAM_SHARE = 0.9
"""The length of the pause, after which the stuck readers continue, when everything else has been measured."""
_PACE = "tokens_per_s = 10000"
_OTHERS, _OTHERS_TEXT = 3, "Count to 2000"
_STUCK = 10
_RECEIVE_BUFFER_BYTES = 16_384
_POLL_INTERVAL_S = 0.05
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Run:
    events: int
    same_s: float
    """The time that a reading reader of the same stream took."""
    others_s: float
    """The median time of the other streams."""
    rss_before_mib: float
    rss_peak_mib: float
    catching_up_s: float
    """The time that the stuck readers took to the end once they continued."""


async def measure(pause_s: float) -> Result:
    without: list[Run] = []
    stuck: list[Run] = []
    with tempfile.TemporaryDirectory(prefix="antiphon-bench-") as folder:
        script = Path(folder) / "script.toml"
        pace = f"tokens_per_s = {_TOKENS / (_STREAM_SHARE * pause_s):.0f}"
        script.write_text(SCRIPT.read_text().replace(_PACE, pace))
        for _ in range(_ROUNDS):
            for runs, count in ((without, 0), (stuck, _STUCK)):
                async with running({"ANTIPHON_SCRIPT": str(script)}) as cluster:
                    runs.append(await run(cluster, count, pause_s))
    return Result(render(without, stuck, pause_s))


async def run(cluster: Cluster, stuck: int, pause_s: float) -> Run:
    port, pid = port_of(cluster), cluster.pids["api-0"]
    await asyncio.gather(*(time_stream(port) for _ in range(_OTHERS)))  # warms up
    sizes = [read_rss_bytes(pid) / _MIB]
    watching = asyncio.create_task(watch(pid, sizes))
    response_id = await streams.create(port, f"Count to {_NUMBERS} in a while")
    pausing = [asyncio.create_task(read_and_pause(port, response_id, pause_s)) for _ in range(stuck)]
    same = Count()
    begun_s = time.perf_counter()
    reading = asyncio.create_task(streams.follow(port, response_id, same))
    others = await asyncio.gather(*(time_streams(port, reading) for _ in range(_OTHERS)))
    same_s = await reading - begun_s
    paused = await asyncio.gather(*pausing)
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching
    for events, _ in paused:
        if events != same.events:
            raise RuntimeError(f"a stuck reader has {events} events, the other one {same.events}")
    others_s = median([s for times in others for s in times])
    catching_up_s = max([s for _, s in paused], default=0.0)
    return Run(same.events, same_s, others_s, sizes[0], max(sizes), catching_up_s)


async def watch(pid: int, sizes: list[float]) -> None:
    while True:
        await asyncio.sleep(_POLL_INTERVAL_S)
        sizes.append(read_rss_bytes(pid) / _MIB)


async def read_and_pause(port: int, response_id: str, pause_s: float) -> tuple[int, float]:
    """Returns the number of events, and how long the rest took after the pause."""
    count, resumed_s = Count(), 0.0
    async with streams.connect(port, receive_buffer_bytes=_RECEIVE_BUFFER_BYTES) as connection:
        async for chunk in connection.ask("GET", f"/v1/responses/{response_id}?stream=true"):
            count.add(chunk)
            if resumed_s == 0.0:
                await asyncio.sleep(pause_s)
                resumed_s = time.perf_counter()
    return count.events, time.perf_counter() - resumed_s


async def time_streams(port: int, reading: "asyncio.Task[float]") -> list[float]:
    """Runs streams one after the other, for as long as the long stream runs."""
    times = [await time_stream(port)]
    while not reading.done():
        times.append(await time_stream(port))
    return times


async def time_stream(port: int) -> float:
    begun_s = time.perf_counter()
    await streams.follow(port, await streams.create(port, _OTHERS_TEXT), Count())
    return time.perf_counter() - begun_s


def render(without: list[Run], stuck: list[Run], pause_s: float) -> str:
    head = (
        f"{median(run.events for run in stuck):,.0f} events, and",
        "another reader of them, s",
        "other streams, s each",
        "API's memory before, MiB",
        "at most, MiB",
        "catching up, s",
    )
    rows = []
    for name, runs in (("no stuck reader", without), (f"{_STUCK} readers stuck for {pause_s:g} s", stuck)):
        figures = zip(
            *((r.same_s, r.others_s, r.rss_before_mib, r.rss_peak_mib, r.catching_up_s) for r in runs),
            strict=True,
        )
        rows.append([name, *(tables.show_spread(figure) for figure in figures)])
    return f"{tables.render(head, rows)}\n\n{_ROUNDS} rounds, interleaved, each in a new cluster."
