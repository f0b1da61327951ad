"""Measures what a stream costs that has nothing to say, and what memory live and quiet ones take.

Owns the comparison of few and many; `quiet.py` opens them.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from bench import tables
from bench.live import Load, Node, run
from bench.page import Result
from bench.quiet import ROOMY, Crowd, allow_files
from bench.relay import AT_ONCE, CLOCK
from bench.scale import Scale
from bench.site import port_of, running
from bench.usage import Usage, parts_of, read_peak_bytes, read_rss_bytes, reset_peak
from local.cluster import Cluster

_KIB = 1024
_SETTLE_S = 2.0
_WARM = Load(20, window_s=0.5)
_FILES_FOR_OTHERS = 500
_LONG_LEASES = {"ANTIPHON_LEASE_TTL_S": "30"}
"""So that a worker which has just taken thousands of responses is not taken for dead."""


@dataclass(slots=True)
class Quiet:
    """So many quiet streams: CPU seconds per second of each part in each round, less those without any; the
    bytes of the API and the worker for each."""

    streams: int
    used: list[dict[str, float]] = field(default_factory=list)
    api_bytes: float = 0.0
    worker_bytes: float = 0.0


async def measure(scale: Scale) -> Result:
    most = allow_files() - _FILES_FOR_OTHERS
    counts = [min(count, most) for count in scale.idle_streams]
    async with running({**ROOMY, **_LONG_LEASES}, worker_module=CLOCK) as cluster:
        found = await _compare(cluster, counts, scale)
    load = Load(scale.streams[-1], window_s=scale.window_s)
    async with running(AT_ONCE, worker_module=CLOCK) as cluster:
        live = await _live_bytes(cluster, load)
    text = f"{_render(found)}\n\n{_render_memory(found, load, live)}"
    shared = f"{scale.rounds} rounds, one after the other, of {_window_s(scale):g} s."
    return Result(f"{text}\n\n{shared} Subtracted: what the processes use without any stream.")


def _window_s(scale: Scale) -> float:
    return 2 * scale.window_s


async def _compare(cluster: Cluster, counts: Sequence[int], scale: Scale) -> list[Quiet]:
    await run(cluster, Node.of(cluster), _WARM)
    before = _read_bytes(cluster)
    base = await _use(cluster, _window_s(scale))
    crowd, found = Crowd(port_of(cluster)), []
    for count in counts:
        await crowd.grow(count)
        await asyncio.sleep(_SETTLE_S)
        quiet = Quiet(count)
        for _ in range(scale.rounds):
            used = await _use(cluster, _window_s(scale))
            quiet.used.append({part: s - base[part] for part, s in used.items()})
        if crowd.meter.broken:
            raise RuntimeError(f"streams broke: {crowd.meter.broken[0]}")
        after = _read_bytes(cluster)
        quiet.api_bytes, quiet.worker_bytes = (
            (now - was) / count for now, was in zip(after, before, strict=True)
        )
        found.append(quiet)
    crowd.leave()
    return found


async def _use(cluster: Cluster, for_s: float) -> dict[str, float]:
    """Returns the CPU seconds of each part per second."""
    begun = Usage.read(parts_of(cluster))
    await asyncio.sleep(for_s)
    return Usage.read(parts_of(cluster)).since(begun).per_second()


def _read_bytes(cluster: Cluster) -> tuple[int, int]:
    return read_rss_bytes(cluster.pids["api-0"]), read_rss_bytes(cluster.pids["worker-0"])


async def _live_bytes(cluster: Cluster, load: Load) -> tuple[float, float]:
    """Returns the most bytes that the API and the worker have for each of these streams."""
    await run(cluster, Node.of(cluster), _WARM)
    before = _read_bytes(cluster)
    pids = cluster.pids["api-0"], cluster.pids["worker-0"]
    for pid in pids:
        reset_peak(pid)
    await run(cluster, Node.of(cluster), load)
    peaks = map(read_peak_bytes, pids)
    api, worker = ((peak - was) / load.streams for peak, was in zip(peaks, before, strict=True))
    return api, worker


def _render(found: Sequence[Quiet]) -> str:
    head = ("quiet streams", "API, µs per stream and second", "API, % of a core", "worker, %", "Redis, %")
    rows = []
    for quiet in found:
        each_us = [1e6 * used["api"] / quiet.streams for used in quiet.used]
        shares = (median(100 * used[part] for used in quiet.used) for part in ("api", "worker", "redis"))
        rows.append([f"{quiet.streams:,}", tables.show_spread(each_us), *map(tables.show_number, shares)])
    return tables.render(head, rows)


def _render_memory(found: Sequence[Quiet], load: Load, live: tuple[float, float]) -> str:
    head = ("memory, KiB", "API, per stream", "worker, per open response")
    rows = [
        [f"{quiet.streams:,} quiet ones", *_in_kib(quiet.api_bytes, quiet.worker_bytes)] for quiet in found
    ]
    rows.append([f"{load.streams} of 50 events/s, at most", *_in_kib(*live)])
    return tables.render(head, rows)


def _in_kib(*sizes: float) -> list[str]:
    return [tables.show_number(size / _KIB) for size in sizes]
