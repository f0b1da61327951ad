"""Runs clusters to be measured, as the launcher does, in a folder that is removed afterwards.

Owns their settings; measures nothing by itself.
"""

import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

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
NOT_ARCHIVED = {"ANTIPHON_ARCHIVE_AFTER_S": "3600"}
"""Settings with which nothing is archived during a measurement."""


@dataclass(frozen=True, slots=True)
class _Site(Site):
    worker_module: str = "worker"

    def plan_module(self, kind: str, number: int) -> Role:
        if kind == "worker":
            return self.plan(kind, number, (sys.executable, "-m", self.worker_module))
        return Site.plan_module(self, kind, number)


@dataclass
class _Cluster(Cluster):
    worker_module: str = "worker"

    def _make_site(self, settings: Mapping[str, str]) -> Site:
        site = super()._make_site(settings)
        return _Site(site.root, site.environment, site.logs, self.worker_module)


@asynccontextmanager
async def running(
    settings: Mapping[str, str] = MappingProxyType({}),
    *,
    worker_module: str = "worker",
    apis: int = 1,
    workers: int = 1,
) -> AsyncIterator[Cluster]:
    """Yields a ready cluster. `worker_module`: what its workers run; `settings` override those that all
    measurements share."""
    with tempfile.TemporaryDirectory(prefix="antiphon-bench-") as folder:
        cluster = _Cluster(
            Path(folder) / "data",
            apis=apis,
            workers=workers,
            settings={**_SETTINGS, **settings},
            worker_module=worker_module,
        )
        async with cluster:
            yield cluster


def port_of(cluster: Cluster) -> int:
    return ports_of(cluster)[0]


def ports_of(cluster: Cluster) -> list[int]:
    return [int(url.rpartition(":")[2]) for url in cluster.urls]
