"""Fixtures of the model tests: real vLLM on the CPU with the tiny checkpoint; run by `make test-model`.

If vLLM is not installed, nothing in this folder is collected.
"""

import gc
import importlib.util
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engines import CPU_ENGINE_ARGS, CPU_ENVIRONMENT
from tests.running import ROOT, RunningCluster, start_cluster

if importlib.util.find_spec("vllm") is None:
    collect_ignore_glob = ["test_*.py"]


def pytest_sessionfinish() -> None:
    """Collects the ZeroMQ contexts that vLLM leaves open, before pytest takes their warnings for failures."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Yields the checkpoint that speaks Harmony."""
    from tests.model.checkpoint import expand

    folder = tmp_path_factory.mktemp("tiny") / "checkpoint"
    expand(folder)
    return folder


@pytest.fixture(scope="session")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Yields an untrained checkpoint of the same shape."""
    from tests.model.checkpoint import make_random

    folder = tmp_path_factory.mktemp("random") / "checkpoint"
    make_random(folder)
    return folder


@pytest.fixture(scope="session")
def start_on(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., RunningCluster]:
    """Starts a cluster whose workers run a checkpoint; the caller stops it."""

    def start(checkpoint: Path, *options: str, **environment: str) -> RunningCluster:
        data = tmp_path_factory.mktemp("model") / "data"
        servers = data.parent / "mcp_servers.json"
        servers.write_text(
            json.dumps({"deepwiki": _knowledge("wiki"), "web_search_preview": _knowledge("browser")})
        )
        given = {
            "ANTIPHON_ENGINE": "vllm",
            "ANTIPHON_ENGINE_ARGS": f"--model {checkpoint} {CPU_ENGINE_ARGS}",
            "ANTIPHON_MCP_SERVERS": str(servers),
            **CPU_ENVIRONMENT,
            **environment,
        }
        return start_cluster(data, *options, **given)

    return start


def _knowledge(kind: str) -> dict[str, Any]:
    return {
        "command": sys.executable,
        "args": ["-m", "tests.model.knowledge", kind],
        "env": {"PYTHONPATH": str(ROOT)},
    }


@pytest.fixture(scope="module")
def model_cluster(tiny: Path, start_on: Callable[..., RunningCluster]) -> Iterator[RunningCluster]:
    """Yields a cluster of two API nodes, two workers with an engine each, and a tool runner."""
    cluster = start_on(tiny, "--apis", "2", "--workers", "2")
    yield cluster
    cluster.stop()
