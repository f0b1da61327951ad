"""Runs a whole cluster for tests of the system from outside, started by the launcher as a user would.

Owns its processes, which end with the test session, however that ends.
"""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from local import ports
from tests.patience import PATIENCE_S, wait_until

ROOT = Path(__file__).parent.parent
PATIENT = {"ANTIPHON_REDIS_TIMEOUT_S": str(PATIENCE_S), "ANTIPHON_TOOL_CLAIM_TTL_S": "20"}
"""For a cluster whose Redis stays available and whose tool runners live: however slow they are, no call is
refused or given up for it."""


@dataclass(frozen=True, slots=True)
class RunningCluster:
    data: Path
    launcher: "subprocess.Popen[str]"

    @property
    def record(self) -> dict[str, Any]:
        """Returns the current cluster.json."""
        record: dict[str, Any] = json.loads((self.data / "cluster.json").read_text())
        return record

    @property
    def redis_url(self) -> str:
        return str(self.record["redis_url"])

    @property
    def urls(self) -> list[str]:
        """Returns the base URLs of the API nodes, without `/v1`."""
        ports = [role["port"] for role in self.record["roles"] if role["kind"] == "api"]
        return [f"http://127.0.0.1:{port}" for port in ports]

    def kill(self, kind: str, signal_number: int = signal.SIGKILL, number: int = 0) -> int:
        """Sends a signal to one process; returns its pid."""
        (pid,) = [r["pid"] for r in self.record["roles"] if (r["kind"], r["number"]) == (kind, number)]
        os.kill(pid, signal_number)
        return int(pid)

    def stop(self) -> None:
        self.launcher.terminate()
        self.launcher.communicate(timeout=PATIENCE_S)


def find_free_row(count: int) -> int:
    """Returns the first of `count` free ports in a row, below those that clusters and outgoing connections
    take, and others than any other process of the tests finds."""
    rows = range(10_000 + os.getpid() % 90 * 100, 19_000, count)
    return next(first for first in rows if all(ports.is_free(port) for port in range(first, first + count)))


def start_cluster(data: Path, *options: str, **environment: str) -> RunningCluster:
    """Starts a cluster on free ports; returns it once it is ready."""
    log = data.parent / f"{data.name}.launcher.log"
    command = [sys.executable, "-m", "local", "up", "--port", "0", "--data", str(data), "--end-with-parent"]
    with log.open("w") as errors:
        launcher = subprocess.Popen(
            [*command, *options],
            cwd=ROOT,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    assert launcher.stdout is not None
    ready = launcher.stdout.readline()
    assert ready.startswith("ready "), log.read_text()
    return RunningCluster(data, launcher)


def ask(client: httpx.Client, method: str, path: str, **options: Any) -> httpx.Response:
    """Returns the first answer that does not ask to come again: after a failover, the new primary's replicas
    still load what it has, and on a loaded machine Redis may answer too late."""
    answers: list[httpx.Response] = []

    def has_answered() -> bool:
        answers.append(client.request(method, path, **options))
        return answers[-1].status_code != 503 or "retry-after" not in answers[-1].headers

    wait_until(has_answered, path)
    return answers[-1]
