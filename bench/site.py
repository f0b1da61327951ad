"""Runs clusters to be measured, as the launcher does, in a folder that is removed afterwards.

Owns their settings, and reads what their processes use; measures nothing by itself.
"""

import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from local.cluster import Cluster
from local.roles import Site
from local.supervisor import Role

SCRIPT = Path(__file__).parent / "script.toml"

_SETTINGS = {
    "ANTIPHON_ENGINE": "scripted",
    "ANTIPHON_SCRIPT": str(SCRIPT),
    "ANTIPHON_CONTEXT_TOKENS_MAX": "1000000",
    "ANTIPHON_LOG_LEVEL": "WARNING",
}


class _PollingSite(Site):
    def plan_module(self, kind: str, number: int) -> Role:
        if kind == "worker":
            return self.plan(kind, number, (sys.executable, "-m", "bench.polling_worker"))
        return super().plan_module(kind, number)


class _PollingCluster(Cluster):
    def _make_site(self, settings: Mapping[str, str]) -> Site:
        site = super()._make_site(settings)
        return _PollingSite(site.root, site.environment, site.logs)


@asynccontextmanager
async def running(*, is_polling: bool = False, workers: int = 1, **settings: str) -> AsyncIterator[Cluster]:
    """Yields a ready cluster of one API node. `settings` override those that all measurements share."""
    kind = _PollingCluster if is_polling else Cluster
    with tempfile.TemporaryDirectory(prefix="antiphon-bench-") as folder:
        async with kind(Path(folder) / "data", workers=workers, settings=_SETTINGS | settings) as cluster:
            yield cluster


def port_of(cluster: Cluster) -> int:
    return int(cluster.urls[0].rpartition(":")[2])


@dataclass(frozen=True, slots=True)
class Usage:
    """The CPU seconds of a cluster's processes since their start, and the time of the reading."""

    at_s: float
    api_s: float
    worker_s: float
    redis_s: float

    @classmethod
    def read(cls, cluster: Cluster) -> "Usage":
        pids = cluster.pids
        used = (read_cpu_s(pids[name]) for name in ("api-0", "worker-0", "valkey-0"))
        return cls(time.monotonic(), *used)

    def since(self, earlier: "Usage") -> "Usage":
        return Usage(
            self.at_s - earlier.at_s,
            self.api_s - earlier.api_s,
            self.worker_s - earlier.worker_s,
            self.redis_s - earlier.redis_s,
        )

    def without(self, idle: "Usage") -> "Usage":
        """Returns the difference, less what the cluster would have used in the same time when idle."""
        share = self.at_s / idle.at_s
        return Usage(
            self.at_s,
            self.api_s - share * idle.api_s,
            self.worker_s - share * idle.worker_s,
            self.redis_s - share * idle.redis_s,
        )


def read_cpu_s(pid: int) -> float:
    """Returns the user and system time of a process with all its threads, to the nanosecond.

    The clock's id is computed as clock_getcpuclockid(3) does on Linux.
    """
    return time.clock_gettime(~pid << 3 | 2)


def read_rss_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(pid)
