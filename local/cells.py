"""Runs several clusters on this machine, each a cell, with a router in front of them (docs/scale.md).

Owns their names, their folders and the order of their ends; `cluster.py` runs each of them, and the router.
"""

import asyncio
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from local import record
from local.cluster import Cluster
from local.seal_key import keep_seal_key


class Cells:
    """Has what a Cluster has, for `local/up.py`. The router's data folder holds those of the cells."""

    def __init__(self, pattern: Cluster, count: int) -> None:
        """`pattern`: a cluster that is not started, which each cell is like. The router gets its port, and
        the first of the ports for metrics."""
        self._pattern = pattern
        self._router: Cluster | None = None
        self._awaited = pattern
        of_a_cell = pattern.apis + pattern.workers + pattern.tool_runners + pattern.webhooks
        self._clusters = {
            str(number): replace(
                pattern,
                data=record.folder_of_cell(pattern.data, str(number)),
                port=0,
                settings={**pattern.settings, "ANTIPHON_CELL": str(number)},
                metrics_port=pattern.metrics_port and pattern.metrics_port + 1 + number * of_a_cell,
            )
            for number in range(count)
        }

    @property
    def data(self) -> Path:
        return self._pattern.data

    @property
    def _running(self) -> list[Cluster]:
        return [*([self._router] if self._router else []), *self._clusters.values()]

    @property
    def missing(self) -> str:
        """A description of what the cells wait for while they are not ready."""
        return self._awaited.missing

    @property
    def last_log_line(self) -> str:
        return self._awaited.last_log_line

    @property
    def urls(self) -> list[str]:
        """The router's base URL."""
        assert self._router is not None
        return self._router.urls

    @property
    def consoles(self) -> list[str]:
        """The addresses of the cells' consoles, with their keys."""
        return [address for cluster in self._clusters.values() for address in cluster.consoles]

    @property
    def metrics_ports(self) -> list[int]:
        """Where the router and the processes of all cells serve their metrics."""
        return [port for cluster in self._running for port in cluster.metrics_ports]

    @property
    def logs(self) -> Path:
        """Where the router's logs are; each cell has its own in its folder."""
        return self._pattern.logs

    async def start(self) -> None:
        """Starts all processes; they may not be ready yet. Raises what Cluster does."""
        self._pattern.data.mkdir(parents=True, exist_ok=True)
        # What one cell has sealed, another may be sent.
        if "ANTIPHON_SEAL_KEYS" not in {**os.environ, **self._pattern.settings}:
            keys = {"ANTIPHON_SEAL_KEYS": json.dumps([keep_seal_key(self._pattern.data)])}
            for cluster in self._clusters.values():
                cluster.settings = {**cluster.settings, **keys}
        for cluster in self._clusters.values():
            await cluster.start()
        cells = {name: cluster.urls for name, cluster in self._clusters.items()}
        self._router = replace(self._pattern, cells=cells)
        await self._router.start()

    async def until_ready(self) -> None:
        for cluster in reversed(self._running):
            self._awaited = cluster
            await cluster.until_ready()

    async def until_broken(self) -> NoReturn:
        """Never returns; raises what keeps a process from being kept running."""
        watching = [asyncio.create_task(cluster.until_broken()) for cluster in self._running]
        try:
            await asyncio.wait(watching, return_when=asyncio.FIRST_COMPLETED)
            for task in watching:
                if task.done():
                    task.result()
        finally:
            for task in watching:
                task.cancel()
            await asyncio.gather(*watching, return_exceptions=True)
        raise AssertionError("a cluster has ended without a reason")

    async def stop(self) -> None:
        """Ends all processes, the router's first. May be called at any time."""
        for cluster in self._running:
            await cluster.stop()
