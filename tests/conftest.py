"""Fixtures of all tests: one real Valkey for the session, emptied for each test.

Owns the check that no test leaves a key without a TTL behind.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import hypothesis
import pytest
import pytest_asyncio
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from local.valkey import Valkey
from shared.settings import Settings
from shared.store.log.appender import Appender
from shared.store.redis.client import RedisClient
from tests.patience import PATIENCE_S
from tests.running import PATIENT, RunningCluster, find_free_row, start_cluster
from tests.spans import exporting
from tests.stalls import STALLS, TABLE_HEAD

hypothesis.settings.register_profile(
    "antiphon", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("antiphon")


_MODEL_RING = Path(__file__).parent / "model"
_CLIENTS_RING = Path(__file__).parent / "clients"
_BROWSER_RING = Path(__file__).parent / "browser"


@pytest.hookimpl(tryfirst=True)  # before those that are not asked for are left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks tests that run a real engine, gives them more time, and ignores that engine's warnings."""
    for item in items:
        if item.path.is_relative_to(_MODEL_RING):
            item.add_marker(pytest.mark.model)
        if item.path.is_relative_to(_CLIENTS_RING):
            item.add_marker(pytest.mark.clients)
        if item.path.is_relative_to(_BROWSER_RING):
            item.add_marker(pytest.mark.browser)
        if item.get_closest_marker("model"):
            item.add_marker(pytest.mark.timeout(900))
            item.add_marker(pytest.mark.filterwarnings("ignore"))


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with Valkey(Path(tmp_path_factory.mktemp("valkey"))) as server:
        yield server


@pytest.fixture
def settings(valkey: Valkey) -> Settings:
    """A loaded machine's Redis counts as available, however slow it is."""
    return Settings(redis_url=valkey.url, redis_timeout_s=PATIENCE_S)


@pytest_asyncio.fixture
async def redis(settings: Settings) -> AsyncIterator[RedisClient]:
    """Yields an empty Redis; afterwards checks that every key left by the test has a TTL."""
    client = RedisClient.connect(settings.redis_url, timeout_s=PATIENCE_S)
    await client.command("FLUSHALL")
    try:
        yield client
        assert await keys_without_ttl(client) == []
    finally:
        await client.close()


@pytest_asyncio.fixture
async def appender(redis: RedisClient, settings: Settings) -> AsyncIterator[Appender]:
    appender = Appender(redis, settings)
    task = asyncio.create_task(appender.run())
    yield appender
    task.cancel()


async def keys_without_ttl(client: RedisClient) -> list[str]:
    names = [name.decode() for name in await client.command("KEYS", "*")]
    return [name for name in names if await client.command("PTTL", name) == -1]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints the table of the stalls tests: what they measure besides what they assert."""
    reports = [*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")]
    lines = [value for report in reports for name, value in report.user_properties if name == STALLS]
    if lines:
        terminalreporter.section("beside a streaming neighbour")
        terminalreporter.write("\n".join([TABLE_HEAD, *map(str, lines), ""]))


@pytest.fixture
def exported() -> Iterator[InMemorySpanExporter]:
    """Yields the spans of this process."""
    with exporting() as exporter:
        yield exporter


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    """Yields a cluster of two API nodes, a worker and a tool runner, shared by all tests that only call
    it."""
    metrics = ("--metrics-port", str(find_free_row(4)))
    running = start_cluster(tmp_path_factory.mktemp("cluster") / "data", "--apis", "2", *metrics, **PATIENT)
    yield running
    running.stop()
