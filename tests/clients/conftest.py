"""What every client's tests need: a cluster, an MCP server, and one call for a scenario."""

import functools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients import scenarios
from tests.integration.mcp_servers import serving_http
from tests.running import RunningCluster, start_cluster

_SCRIPT = Path(__file__).parent / "script.toml"

Ask = Callable[..., Any]
"""(client, scenario, **known) -> report"""


@pytest.fixture(scope="session", autouse=True)
def _environments() -> None:
    """Missing clients are a failure, never a reason to skip."""
    assert shutil.which("node"), "node is not installed; `make test-clients` needs Node 20 or newer"
    for made in (scenarios.NODE / "node_modules", scenarios.PYTHON):
        assert made.exists(), f"{made} is missing; `make test-clients` makes it"


@pytest.fixture(scope="session")
def awkward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    """A cluster that plays what clients must live with, and says every half second that it is there."""
    data = tmp_path_factory.mktemp("awkward") / "data"
    running = start_cluster(data, "--script", str(_SCRIPT), ANTIPHON_KEEP_ALIVE_S="0.5")
    yield running
    running.stop()


@pytest.fixture(scope="session")
def mcp() -> Iterator[str]:
    with serving_http() as url:
        yield url


@pytest.fixture
def node(cluster: RunningCluster, mcp: str, tmp_path: Path) -> Ask:
    url = f"{cluster.urls[0]}/v1"
    return functools.partial(scenarios.run_node, home=tmp_path, url=url, mcp=mcp)


@pytest.fixture
def python(cluster: RunningCluster, mcp: str, tmp_path: Path) -> Ask:
    url = f"{cluster.urls[0]}/v1"
    return functools.partial(scenarios.run_python, home=tmp_path, url=url, mcp=mcp)
