"""Fixtures of every client's tests: clusters, an MCP server, and a function that makes a client play a
scenario."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.clients import scenarios
from tests.clients.scenarios import Known
from tests.integration.mcp_servers import serving_http
from tests.running import RunningCluster, start_cluster

_SCRIPT = Path(__file__).parent / "script.toml"


@dataclass(frozen=True, slots=True)
class Ask:
    """Makes a client play a scenario; returns its report. `known`: what every scenario gets."""

    run: Callable[[str, str, Sequence[Known], Path], list[Any]]
    home: Path
    known: Known

    def at(self, url: str) -> "Ask":
        return replace(self, known={**self.known, "url": url})

    def one(self, client: str, scenario: str, **known: Any) -> Any:
        (report,) = self.each(client, scenario, [known])
        return report

    def both(self, client: str, scenario: str, **known: Any) -> list[Any]:
        """Runs a scenario without and with streaming."""
        return self.each(client, scenario, [{**known, "stream": stream} for stream in (False, True)])

    def each(self, client: str, scenario: str, cases: Sequence[Known]) -> list[Any]:
        return self.run(client, scenario, [{**self.known, **case} for case in cases], self.home)


@pytest.fixture(scope="session", autouse=True)
def _environments() -> None:
    """Fails if the clients are missing; never skips."""
    assert shutil.which("node"), "node is not installed; `make test-clients` needs Node 20 or newer"
    for made in (scenarios.NODE / "node_modules", scenarios.PYTHON, scenarios.CHAT_PYTHON):
        assert made.exists(), f"{made} is missing; `make test-clients` makes it"


@pytest.fixture
def url(cluster: RunningCluster) -> str:
    return f"{cluster.urls[0]}/v1"


@pytest.fixture(scope="session")
def awkward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yields the URL of a cluster that does awkward things clients must cope with; its keep-alives are
    events."""
    data = tmp_path_factory.mktemp("awkward") / "data"
    running = start_cluster(
        data,
        "--script",
        str(_SCRIPT),
        ANTIPHON_KEEP_ALIVE_S="0.5",
        ANTIPHON_KEEP_ALIVE_FORM="event",
        ANTIPHON_CONTEXT_TOKENS_MAX="20000",
    )
    yield f"{running.urls[0]}/v1"
    running.stop()


@pytest.fixture(scope="session")
def mcp() -> Iterator[str]:
    with serving_http() as address:
        yield address


@pytest.fixture(scope="session")
def sparse() -> Iterator[str]:
    """Runs an MCP server whose tools have a name and a schema, and nothing else."""
    with serving_http("--pages", "1") as address:
        yield address


@pytest.fixture
def node(url: str, mcp: str, tmp_path: Path) -> Ask:
    return Ask(scenarios.run_node, tmp_path, {"url": url, "mcp": mcp})


@pytest.fixture
def python(url: str, mcp: str, tmp_path: Path) -> Ask:
    return Ask(scenarios.run_python, tmp_path, {"url": url, "mcp": mcp})
