"""Reads what processes use: CPU time and memory, as Linux reports them.

Owns the reckoning per event; starts nothing.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from local.cluster import Cluster

Parts = Mapping[str, Sequence[int]]
"""Part (`api`) -> the pids of its processes."""


@dataclass(frozen=True, slots=True)
class Usage:
    """The CPU seconds of each part since its start, and the time of the reading; or the difference of two."""

    at_s: float
    cpu_s: Mapping[str, float]

    @classmethod
    def read(cls, parts: Parts) -> "Usage":
        return cls(time.monotonic(), read_parts_cpu_s(parts))

    def since(self, earlier: "Usage") -> "Usage":
        used = {part: s - earlier.cpu_s[part] for part, s in self.cpu_s.items()}
        return Usage(self.at_s - earlier.at_s, used)

    def without(self, idle: "Usage") -> "Usage":
        """Returns the difference, less what the parts would have used in the same time when idle."""
        share = self.at_s / idle.at_s
        return Usage(self.at_s, {part: s - share * idle.cpu_s[part] for part, s in self.cpu_s.items()})

    def per_event_us(self, events: int) -> dict[str, float]:
        """Returns the CPU microseconds of each part per event."""
        return {part: 1e6 * s / events for part, s in self.cpu_s.items()}

    def per_second(self) -> dict[str, float]:
        """Returns the CPU seconds of each part per second."""
        return {part: s / self.at_s for part, s in self.cpu_s.items()}


def parts_of(cluster: Cluster) -> dict[str, list[int]]:
    """Returns the processes of a cluster that relays: all API nodes together, the workers, Redis."""
    kinds = {"api": "api-", "worker": "worker-", "redis": "valkey-"}
    pids = cluster.pids
    return {
        part: [pid for name, pid in pids.items() if name.startswith(kind)] for part, kind in kinds.items()
    }


def read_parts_cpu_s(parts: Parts) -> dict[str, float]:
    return {part: sum(map(read_cpu_s, pids)) for part, pids in parts.items()}


def read_cpu_s(pid: int) -> float:
    """Returns the user and system time of a process with all its threads, to the nanosecond.

    The clock's id is computed as clock_getcpuclockid(3) does on Linux.
    """
    return time.clock_gettime(~pid << 3 | 2)


def read_rss_bytes(pid: int) -> int:
    return _read_memory_bytes(pid, "VmRSS:")


def reset_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def read_peak_bytes(pid: int) -> int:
    """Returns the most memory that the process has had since its peak was reset."""
    return _read_memory_bytes(pid, "VmHWM:")


def _read_memory_bytes(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(pid)
