"""Sets up what a run needs: the cluster, the network between its processes and Redis, and Redis itself.

Owns their setup and end; the nemesis owns what goes wrong.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import redis
import redis.asyncio

from local.cluster import Cluster
from local.ports import find_free
from local.valkey import make_url
from tests.chaos import deliveries, network
from tests.chaos.courses import Course
from tests.chaos.network import Network
from tests.chaos.plans import SCRIPT
from tests.chaos.reasons import ABANDONED_AFTER_S
from tests.chaos.upgrade import check_out
from tests.failover import MASTER_NAME, WatchedValkeys, connect

OWNERS_LOST_MAX = 3
_END = re.compile(r"^\[launcher\] (\S+) ended with ([^;]+);", re.MULTILINE)
_REPAIRED_AFTER_S = 2.0
"""The time after which a killed server of several is started again."""


@dataclass(frozen=True)
class Stage:
    cluster: Cluster
    redis_url: Callable[[], str]
    """The URL of the current primary."""
    network: Network | None = None
    watch: "Watched | None" = None

    @property
    def pids(self) -> dict[str, int]:
        pids = self.cluster.pids
        if self.watch is not None:
            pids["valkey-0"] = self.watch.primary_pid
        return pids

    def read_ends(self) -> Iterator[tuple[str, str]]:
        """Yields the name of every process that the launcher has seen end, and how it ended."""
        for log in sorted(self.cluster.logs.iterdir()):
            yield from _END.findall(log.read_text(errors="replace"))


@asynccontextmanager
async def set_up(course: Course, folder: Path) -> AsyncGenerator[Stage, None]:
    """Yields a ready cluster in `folder`, which must contain `servers.json` and, for webhooks, the tenants
    file."""
    async with AsyncExitStack() as stack:
        if course.replicas:
            watched = await asyncio.to_thread(WatchedValkeys(folder / "valkeys").__enter__)
            stack.callback(watched.__exit__)
            watch = await stack.enter_async_context(_repaired(watched))
            cluster = await stack.enter_async_context(_make_cluster(course, folder, redis_url=watched.url))
            yield Stage(cluster, lambda: make_url(watched.primary()), watch=watch)
            return
        ways = stack.enter_context(network.running(course.process_names, folder / "network.log"))
        cluster = _make_cluster(course, folder, ways=ways)
        leading = asyncio.create_task(_lead(ways, cluster))
        await stack.enter_async_context(cluster)
        await leading
        await _set_fsync(cluster, course)
        yield Stage(cluster, lambda: cluster.redis_url, ways)


def _make_cluster(
    course: Course, folder: Path, *, redis_url: str = "", ways: Network | None = None
) -> Cluster:
    return Cluster(
        folder / "data",
        apis=course.apis,
        workers=course.workers,
        tool_runners=course.tool_runners,
        webhooks=course.webhooks,
        redis_url=redis_url,
        settings={**_settings(folder), **_settings_of(course, folder), **course.settings},
        root=course.root if course.older is None else check_out(course.older, folder / "older"),
        own_settings=_own_settings(course, ways),
    )


async def _lead(ways: Network, cluster: Cluster) -> None:
    """Connects the proxy to the cluster's Valkey as soon as its port is known."""
    while not cluster.redis_url:
        await asyncio.sleep(0.05)
    ways.lead_to(int(cluster.redis_url.rpartition(":")[2].partition("/")[0]))


def _settings(folder: Path) -> dict[str, str]:
    return {
        "ANTIPHON_SCRIPT": str(SCRIPT),
        "ANTIPHON_MCP_SERVERS": str(folder / "servers.json"),
        "ANTIPHON_WEB_SEARCH": "local",
        "ANTIPHON_OWNERS_LOST_MAX": str(OWNERS_LOST_MAX),
        "ANTIPHON_COMPACTION_TOKENS_MIN": "256",
        "ANTIPHON_KEEP_ALIVE_S": "1",
        "ANTIPHON_DISCONNECT_GRACE_S": str(ABANDONED_AFTER_S),
        "ANTIPHON_READER_RETURN_S": str(ABANDONED_AFTER_S),
    }


def _settings_of(course: Course, folder: Path) -> dict[str, str]:
    """Returns what a course with tenants needs: their file, the models, and how webhooks are delivered."""
    if not course.webhooks:
        return {}
    tenants = {"ANTIPHON_API_KEYS": str(folder / deliveries.TENANTS_FILE)}
    return tenants | deliveries.SETTINGS | dict(course.fleet.settings)


def _own_settings(course: Course, ways: Network | None) -> dict[str, dict[str, str]]:
    """Returns what each process does not share with others: its way to Redis, the port of its metrics, and
    what a worker serves."""
    own = {name: dict(settings) for name, settings in course.fleet.own_settings.items()}
    names = course.process_names
    for name, port in zip(names, find_free(len(names)), strict=True):
        own[name] = own.get(name, {}) | {"ANTIPHON_METRICS_PORT": str(port)}
    for name, url in (ways.urls if ways else {}).items():
        own[name] = own.get(name, {}) | {"ANTIPHON_REDIS_URL": url}
    return own


async def _set_fsync(cluster: Cluster, course: Course) -> None:
    """Now and after each restart. The file is kept short, for a quick return.

    With `no` Valkey hands every write to the system before it answers, so its own death loses nothing; with
    `everysec` it holds writes back while an fsync is under way, which `durable_writes` waits for.
    """
    configuration = cluster.data / "valkey" / "valkey.conf"
    settings = {"appendfsync": course.fsync, "auto-aof-rewrite-min-size": "8mb"}
    with configuration.open("a") as file:  # the last line for a setting counts
        file.writelines(f"{name} {value}\n" for name, value in settings.items())
    async with redis.asyncio.Redis.from_url(cluster.redis_url) as client:
        for name, value in settings.items():
            await client.config_set(name, value)


class Watched:
    """A primary with replicas, and its Sentinels."""

    def __init__(self, valkeys: WatchedValkeys) -> None:
        self._valkeys = valkeys

    @property
    def primary_pid(self) -> int:
        """The pid of the primary; 0 while it is unknown."""
        try:
            return self._valkeys.pid(self._valkeys.primary())
        except AssertionError:
            return 0

    def fail_over(self) -> None:
        for port in self._valkeys.sentinels:
            with contextlib.suppress(redis.RedisError), connect(port) as sentinel:
                sentinel.execute_command("SENTINEL", "FAILOVER", MASTER_NAME)
                return

    def is_whole(self) -> bool:
        try:
            return self._valkeys.is_watched()
        except AssertionError:  # no Sentinel answers
            return False

    def repair(self) -> None:
        for port in self._valkeys.ended():
            self._valkeys.start(port)


@asynccontextmanager
async def _repaired(valkeys: WatchedValkeys) -> AsyncGenerator[Watched, None]:
    """Starts killed servers again after a while, as an operator would."""
    watch = Watched(valkeys)

    async def repair() -> None:
        while True:
            await asyncio.sleep(_REPAIRED_AFTER_S)
            await asyncio.to_thread(watch.repair)

    task = asyncio.create_task(repair())
    try:
        yield watch
    finally:
        task.cancel()
