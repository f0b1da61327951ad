"""Runs all of Antiphon on this machine, for a laptop and for tests: starts it, watches it, ends it.

Owns the order of startup and shutdown, and the data folder; `supervisor.py` runs the processes.
"""

import asyncio
import json
import os
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, NoReturn, Self

from local import ports, readiness, record, valkey
from local.processes import end, identify
from local.record import ClusterRecord, RoleRecord
from local.roles import STOP_ORDER, Site, has_webhooks, make_environment, ready_within_s
from local.seal_key import keep_seal_key
from local.supervisor import Keeper, Role, read_last_line
from local.warden import Warden

ROOT = Path(__file__).parent.parent
_POLL_INTERVAL_S = 0.1


class PortTaken(Exception):
    """Another process listens on a port that an API node should use."""


@dataclass
class Cluster:
    """Runs a cluster, ready within `async with Cluster(data)`; afterwards, none of its processes is left.

    `port`: the first API node's, followed by the others'; 0 takes any free ports. Without `redis_url`, it
    runs a Valkey of its own, whose data stays in `data`, and sets `redis_url`. `settings` (ANTIPHON_…)
    override this process's environment. It must be started on the main thread's loop. Raises PortTaken,
    record.FolderInUse, valkey.ValkeyError, supervisor.DeadOnArrival, OSError, and TimeoutError if it is not
    ready in time.
    """

    data: Path
    apis: int = 1
    workers: int = 1
    tool_runners: int = 1
    webhooks: int = 1
    """Runs none if the tenants file registers no webhook when it starts."""
    port: int = 0
    metrics_port: int = 0
    """Where the first process serves its metrics, the next one by one further; 0: none does."""
    redis_url: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    root: Path = ROOT
    cells: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Cell -> the base URLs of its API nodes. If there are any, only a router in front of them runs."""
    own_settings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Process (`worker-0`) -> the settings that it does not share with others."""
    ready_timeout_s: float | None = None
    """How long `async with` waits for the cluster to be ready; None: as long as its engine may need."""

    def __post_init__(self) -> None:
        self.data = self.data.resolve()
        self.missing = "nothing was started"
        """A description of what the cluster waits for while it is not ready."""
        self._console_key = ""
        self._keepers: list[Keeper] = []
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._lock: IO[str] | None = None
        self._warden: Warden | None = None
        self._owns_valkey = not self.redis_url and not self.cells
        self._measured = 0
        """The number of processes that have a port for their metrics."""

    async def __aenter__(self) -> Self:
        limit_s = self.ready_timeout_s
        if limit_s is None:
            limit_s = ready_within_s(make_environment(os.environ, self.settings))
        try:
            await self.start()
            async with asyncio.timeout(limit_s):
                await self.until_ready()
        except TimeoutError:
            await self.stop()
            raise TimeoutError(f"not ready after {limit_s:g} s: {self.missing}") from None
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    # What runs

    @property
    def urls(self) -> list[str]:
        """The base URLs of the API nodes or of the router, without a path."""
        return [f"http://{ports.HOST}:{keeper.role.port}" for keeper in self._of("router", "api")]

    @property
    def consoles(self) -> list[str]:
        """The address of the console, with its key."""
        return [f"{self.urls[0]}/console#{self._console_key}"]

    @property
    def metrics_ports(self) -> list[int]:
        """Where processes serve their metrics; empty if none does."""
        return [port for keeper in self._keepers if (port := _metrics_port_of(keeper.role)) is not None]

    @property
    def logs(self) -> Path:
        return self.data / "logs"

    @property
    def pids(self) -> dict[str, int]:
        """The pid of every running process, by name (`api-0`)."""
        return {keeper.role.name: keeper.identity.pid for keeper in self._keepers if keeper.identity}

    @property
    def restarts(self) -> dict[str, int]:
        return {keeper.role.name: keeper.restarts for keeper in self._keepers}

    @property
    def last_log_line(self) -> str:
        """The last line of the first worker's log, which shows how far loading a model is; may be empty."""
        workers = self._of("worker")
        return read_last_line(workers[0].role.log) if workers else ""

    def kill(self, kind: str, number: int = 0, signal_number: int = signal.SIGKILL) -> int:
        """Sends a signal to one process; returns its pid. Raises KeyError if it is not running."""
        pid = self.pids[f"{kind}-{number}"]
        os.kill(pid, signal_number)
        return pid

    # Starting, waiting, ending

    async def start(self) -> None:
        """Starts all processes, and returns when Redis can be used; they may not be ready yet."""
        self.logs.mkdir(parents=True, exist_ok=True)
        self._lock = record.hold(self.data)
        await asyncio.to_thread(end_leftovers, self.data)
        api_ports = self._choose_ports()
        self._warden = Warden()
        if self._owns_valkey:
            await self._start_valkey()
        if self.cells:
            named = json.dumps({name: {"nodes": list(urls)} for name, urls in self.cells.items()})
            site = self._make_site({"ANTIPHON_CELLS": named})
            self._keep(self._with_own(site.plan_router(api_ports[0])))
            return
        site = self._make_site({"ANTIPHON_REDIS_URL": self.redis_url})
        for number, port in enumerate(api_ports):
            self._keep(self._with_own(site.plan_api(number, port)))
        webhooks = self.webhooks if has_webhooks(site.environment) else 0
        modules = {"worker": self.workers, "tool_runner": self.tool_runners, "webhooks": webhooks}
        for kind, count in modules.items():
            for number in range(count):
                self._keep(self._with_own(site.plan_module(kind, number)))

    async def until_ready(self) -> None:
        """Returns when every API node sees enough workers and tool runners. Raises DeadOnArrival."""
        await self._until(self._is_ready)
        for keeper in self._keepers:
            keeper.has_arrived = True

    async def until_restarted(self, kind: str, number: int = 0, *, beyond: int = 0) -> int:
        """Waits until a process is running after more than `beyond` restarts; returns its new pid."""
        name = f"{kind}-{number}"

        async def is_restarted() -> bool:
            return self.restarts[name] > beyond and name in self.pids

        await self._until(is_restarted)
        return self.pids[name]

    async def move(self, kind: str, number: int, root: Path) -> None:
        """Ends one process in order, and starts it again from the code in another folder."""
        name = f"{kind}-{number}"
        place = next(i for i, keeper in enumerate(self._keepers) if keeper.role.name == name)
        ending = self._tasks.pop(name)
        ending.cancel()
        await asyncio.gather(ending, return_exceptions=True)
        self._keep(replace(self._keepers[place].role, folder=root), place)

    async def until_broken(self) -> NoReturn:
        """Never returns; raises what keeps a process from being kept running (OSError, DeadOnArrival)."""
        while True:
            await asyncio.wait(self._tasks.values(), return_when=asyncio.FIRST_COMPLETED)
            self._raise_if_broken()

    async def stop(self) -> None:
        """Ends all processes, in order, and releases the data folder. May be called at any time."""
        for kinds in STOP_ORDER:
            tasks = [self._tasks.pop(keeper.role.name) for keeper in self._of(*kinds)]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._keepers = [keeper for keeper in self._keepers if keeper.role.kind not in kinds]
        if self._warden is not None:
            self._warden.close()
            self._warden = None
        if self._lock is not None:
            record.erase(self.data)
            self._lock.close()
            self._lock = None

    # Within

    def _of(self, *kinds: str) -> list[Keeper]:
        return [keeper for keeper in self._keepers if keeper.role.kind in kinds]

    def _choose_ports(self) -> list[int]:
        if self.port == 0:
            return ports.find_free(self.apis)
        wanted = list(range(self.port, self.port + self.apis))
        for port in wanted:
            if not ports.is_free(port):
                raise PortTaken(f"port {port} on {ports.HOST} is in use; choose another with --port")
        return wanted

    def _make_site(self, settings: Mapping[str, str]) -> Site:
        own = {"ANTIPHON_CONSOLE_CLUSTER": str(record.path_in(self.data))}
        environment = make_environment(
            os.environ, {**self.settings, **settings, **own}, keep_seal_key(self.data)
        )
        self._console_key = environment["ANTIPHON_CONSOLE_KEY"]
        return Site(self.root, environment, self.logs)

    def _with_own(self, role: Role) -> Role:
        """Returns the role with the settings that it does not share with others."""
        own = dict(self.own_settings.get(role.name, {}))
        if self.metrics_port:
            own["ANTIPHON_METRICS_PORT"] = str(self.metrics_port + self._measured)
            self._measured += 1
        return replace(role, environment={**role.environment, **own}) if own else role

    async def _start_valkey(self) -> None:
        port = ports.find_free(1)[0]
        configuration = valkey.write_configuration(self.data / "valkey", port)
        self.redis_url = valkey.make_url(port)
        keeper = self._keep(self._make_site({}).plan("valkey", 0, valkey.make_command(configuration), port))

        async def is_serving() -> bool:
            self.missing = "Valkey is not serving yet"
            pid = keeper.identity.pid if keeper.identity else 0
            return await asyncio.to_thread(valkey.is_serving, port, pid)

        await self._until(is_serving)

    def _keep(self, role: Role, place: int | None = None) -> Keeper:
        """Starts keeping a process running. `place`: the index of the keeper that it replaces."""
        keeper = Keeper(role, self._note_processes)
        if place is None:
            self._keepers.append(keeper)
        else:
            self._keepers[place] = keeper
        self._tasks[role.name] = asyncio.create_task(keeper.keep(), name=role.name)
        return keeper

    def _note_processes(self) -> None:
        """Reports what runs to the warden and cluster.json, before a new process passes its gate."""
        noted = self._make_record()
        assert self._warden is not None
        self._warden.watch(record.running_stages(noted, STOP_ORDER))
        record.write(self.data, noted)

    def _make_record(self) -> ClusterRecord:
        roles = []
        for keeper in self._keepers:
            role = keeper.role
            pid, started = keeper.identity or (None, None)
            log = str(role.log)
            roles.append(
                RoleRecord(
                    *(role.kind, role.number, pid, started, role.port, log, keeper.restarts),
                    metrics_port=_metrics_port_of(role),
                )
            )
        return ClusterRecord(identify(os.getpid()), self.redis_url, tuple(roles))

    async def _is_ready(self) -> bool:
        for keeper in self._of("router"):
            self.missing = await readiness.find_missing_cells(keeper.role.port or 0) or ""
            if self.missing:
                return False
        for keeper in self._of("api"):
            assert keeper.role.port is not None
            missing = await readiness.find_missing(
                keeper.role.port, workers=self.workers, tool_runners=self.tool_runners
            )
            if missing is not None:
                self.missing = f"{keeper.role.name} {missing}"
                return False
        return True

    async def _until(self, is_so: Callable[[], Awaitable[bool]]) -> None:
        self._raise_if_broken()
        while not await is_so():
            await asyncio.sleep(_POLL_INTERVAL_S)
            self._raise_if_broken()

    def _raise_if_broken(self) -> None:
        for task in self._tasks.values():
            if task.done():
                task.result()


def _metrics_port_of(role: Role) -> int | None:
    return int(role.environment.get("ANTIPHON_METRICS_PORT", 0)) or None


def end_leftovers(data: Path) -> None:
    """Ends what an earlier launcher, now gone, left running in this folder.

    The caller must hold the folder.
    """
    try:
        found = record.read(data)
    except ValueError:  # unreadable: a leftover Valkey is found by asking it, below
        found = None
    if found is not None:
        end(record.running_stages(found, STOP_ORDER))
    valkey.end_leftover(data / "valkey")
    record.erase(data)
