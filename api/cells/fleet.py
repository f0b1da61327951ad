"""Knows the API nodes of each cell, and which of them can be used now.

Owns probing, and what a failed connection says about a node; which cell a request goes to, others decide.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum
from functools import partial

import msgspec

from api.cells.upstream import Broken, Sent, Unreached, Upstream
from shared import metrics
from shared.settings import Settings

_READY = Sent(b"GET", b"/ready", ((b"host", b"127.0.0.1"),))
_READY_BYTES_MAX = 64 * 1024
_MISSES_MAX = 2
"""A node that has missed so many probes in a row is hung, or its machine is gone."""

_log = logging.getLogger(__name__)


class Health(IntEnum):
    """The better ones are the lower ones."""

    READY = 0
    """It can be given anything. Before it was probed, a node counts as ready."""
    ANSWERING = 1
    """It answers, but cannot take new responses: its Redis is away, it has no worker, or it ends."""
    AWAY = 2


@dataclass
class Node:
    url: str
    upstream: Upstream
    cell: str
    health: Health = Health.READY
    misses: int = 0
    """Probes in a row to which there was no answer at all."""
    missed_s: float = 0.0
    """When the last of them was sent."""


@dataclass(frozen=True, slots=True)
class CellState:
    """What is known of a cell."""

    name: str
    weight: float
    nodes: tuple[Node, ...]

    @property
    def health(self) -> Health:
        return min(node.health for node in self.nodes)

    def count(self, health: Health) -> int:
        """Returns the number of nodes of this health."""
        return sum(node.health is health for node in self.nodes)

    def usable(self, chance: Callable[[], float] = random.random) -> list[Node]:
        """Returns the nodes that answer, the ready ones first, and else in a random order."""
        nodes = [node for node in self.nodes if node.health is not Health.AWAY]
        return sorted(nodes, key=lambda node: (node.health, chance()))


class _Readiness(msgspec.Struct):
    cell: str = ""


_read_readiness = msgspec.json.Decoder(_Readiness).decode


def _cell_told(raw: bytes) -> str:
    """Returns the cell that a node says it is of; '' if it does not say so, as an older one."""
    try:
        return _read_readiness(raw).cell
    except msgspec.DecodeError:
        return ""


class Fleet:
    """All cells. `run` keeps what is known of them up to date."""

    def __init__(self, settings: Settings) -> None:
        self._interval_s = settings.cell_probe_s
        self.timeout_s = settings.cell_probe_timeout_s
        self.cells = {
            name: CellState(
                name,
                cell.weight,
                tuple(
                    Node(
                        url,
                        Upstream(url, settings.cell_connect_timeout_s, settings.http_send_timeout_s),
                        name,
                    )
                    for url in cell.nodes
                ),
            )
            for name, cell in settings.cells.items()
        }
        metrics.begin_cells(self.cells)
        for cell in self.cells.values():
            for health in Health:
                read = partial(cell.count, health)
                metrics.follow(metrics.CELL_NODES, read, cell.name, health.name.lower())

    def weights(self, worst: Health) -> dict[str, float]:
        """Returns the weights of the cells whose health is `worst` or better."""
        return {name: cell.weight for name, cell in self.cells.items() if cell.health <= worst}

    def note_unreached(self, node: Node, why: Unreached) -> None:
        """Takes a node out until it is probed with success, if it is its fault that it was not reached."""
        if why.is_nodes_fault:
            self._set(node, Health.AWAY, str(why))

    async def run(self) -> None:
        """Probes every node again and again, beginning after a while, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for node in self._nodes():
                group.create_task(self._watch(node), name=f"probe of {node.url}")

    async def probe_all(self) -> None:
        """Probes every node once."""
        await asyncio.gather(*map(self.probe, self._nodes()))

    def close(self) -> None:
        for node in self._nodes():
            node.upstream.close()

    def _nodes(self) -> Iterable[Node]:
        return [node for cell in self.cells.values() for node in cell.nodes]

    async def _watch(self, node: Node) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            await self.probe(node)

    async def probe(self, node: Node) -> None:
        """Asks a node once whether it is ready, and notes what that says."""
        begun_s = time.monotonic()
        try:
            async with asyncio.timeout(self.timeout_s):
                answer = await node.upstream.send(_READY)
                try:
                    await answer.read_head()
                    told = _cell_told(await answer.read_whole(_READY_BYTES_MAX))
                finally:
                    answer.close()
        except TimeoutError:
            self._set(node, Health.AWAY, "no answer in time")
            self._note_miss(node, begun_s)
        except Unreached as error:
            self.note_unreached(node, error)
            if error.is_silent:
                self._note_miss(node, begun_s)
        except Broken as error:
            self._set(node, Health.AWAY, str(error))
        else:
            node.misses = 0
            if told not in ("", node.cell):  # the ids that it makes would lead to that cell
                why = f"its ANTIPHON_CELL is {told[:16]!r}, and ANTIPHON_CELLS has it in {node.cell!r}"
                self._set(node, Health.AWAY, why)
                return
            is_ready = answer.status == 200
            self._set(node, Health.READY if is_ready else Health.ANSWERING, f"it answers {answer.status}")

    def _note_miss(self, node: Node, begun_s: float) -> None:
        """Has those who have waited for two probes of a hung node wait no longer: nothing else tells them."""
        node.misses += 1
        if node.misses >= _MISSES_MAX and (count := node.upstream.abandon(node.missed_s)):
            _log.warning("node %s is silent: %d of its answers are given up", node.url, count)
        node.missed_s = begun_s

    def _set(self, node: Node, health: Health, why: str) -> None:
        if node.health is not health:
            level = logging.INFO if health is Health.READY else logging.WARNING
            _log.log(level, "node %s is %s now: %s", node.url, health.name.lower(), why)
            node.health = health
