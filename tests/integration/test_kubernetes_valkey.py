"""The scripts of deploy/kubernetes that run Valkey behind Sentinels: real servers, on this machine."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from local.ports import HOST, find_free
from local.valkey import find_server
from tests.failover import MASTER_NAME
from tests.patience import PATIENCE_S, wait_until

pytestmark = pytest.mark.slow

SCRIPTS = Path(__file__).parents[2] / "deploy/kubernetes/components/sentinel"
PASSWORD = "of-the-test"
CLIENT = f"""#!{sys.executable}
import os, sys, redis
words = sys.argv[1:]
options = {{}}
while words[0].startswith("-"):
    options[words[0]] = words[1]
    words = words[2:]
password, within_s = os.environ.get("VALKEYCLI_AUTH"), float(options.get("-t", {PATIENCE_S}))
try:
    with redis.Redis(options["-h"], int(options["-p"]), password=password, socket_timeout=within_s) as server:
        reply = server.execute_command(*words)
except redis.RedisError as error:
    sys.exit(str(error))
for line in reply if isinstance(reply, list | tuple) else [reply]:
    print(line.decode() if isinstance(line, bytes) else line)
"""
"""Stands for valkey-cli, which the tests' Valkey does not bring."""


class Pods:
    """Three servers and three Sentinels, each started by its script as its container would be."""

    def __init__(self, folder: Path) -> None:
        ports = find_free(6)
        self.servers, self.sentinels = ports[:3], ports[3:]
        self._folder = folder
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._scripts, tools = folder / "scripts", folder / "tools"
        shutil.copytree(SCRIPTS, self._scripts)
        (folder / "password").write_text(f"requirepass {PASSWORD}\n")
        tools.mkdir()
        (tools / "valkey-cli").write_text(CLIENT)
        (tools / "valkey-cli").chmod(0o755)
        (tools / "valkey-server").symlink_to(find_server())
        self._environment = {
            "PATH": f"{tools}:{os.environ['PATH']}",
            "PASSWORD_FILE": str(folder / "password"),
            "SENTINELS": " ".join(f"{HOST}:{port}" for port in self.sentinels),
            "FIRST_PRIMARY": f"{HOST}:{self.servers[0]}",
            "HOST": HOST,
            "BIND": HOST,
            "DOWN_AFTER_MS": "500",
        }

    def start(self, port: int) -> None:
        own = self._folder / str(port)
        own.mkdir(exist_ok=True)
        configuration = (SCRIPTS / "valkey.conf").read_text()
        configuration = configuration.replace("/run/secrets/redis_password", str(self._folder / "password"))
        configuration = configuration.replace("dir /data", f"dir {own}\nbind {HOST}")
        shutil.copytree(self._scripts, own / "etc", dirs_exist_ok=True)
        (own / "etc/valkey.conf").write_text(configuration)
        script = "sentinel.sh" if port in self.sentinels else "server.sh"
        with (own / "log").open("ab") as log:
            self._processes[port] = subprocess.Popen(
                ["sh", own / "etc" / script],
                env=self._environment | {"PORT": str(port), "FOLDER": str(own)},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def end(self, port: int) -> None:
        os.killpg(self._processes[port].pid, signal.SIGKILL)
        self._processes.pop(port).wait()

    def leave(self, port: int) -> None:
        """Runs what runs before a server's container is ended."""
        subprocess.run(
            ["sh", self._scripts / "leave.sh"],
            env=self._environment | {"PORT": str(port)},
            check=True,
            timeout=PATIENCE_S,
        )

    def role(self, port: int) -> str:
        try:
            with redis.Redis(HOST, port, password=PASSWORD, socket_timeout=1) as server:
                return str(server.execute_command("ROLE")[0].decode())
        except redis.RedisError:
            return "away"

    def primaries(self) -> set[int]:
        """The primary that each Sentinel names."""
        named = set[int]()
        for port in self.sentinels:
            try:
                with redis.Redis(HOST, port, socket_timeout=1) as sentinel:
                    named.add(int(sentinel.sentinel_master(MASTER_NAME)["port"]))
            except redis.RedisError:
                named.add(0)
        return named

    def await_primary(self, *candidates: int) -> int:
        """Waits until all Sentinels name the same server, one of these; returns it."""
        agreed: list[set[int]] = []

        def is_agreed() -> bool:
            agreed.append(self.primaries())
            return len(agreed[-1]) == 1 and agreed[-1] <= set(candidates)

        wait_until(is_agreed, f"one of {candidates} is the primary")
        return agreed[-1].pop()

    def is_watched(self) -> bool:
        """Every Sentinel knows two replicas, all of which follow, and two others."""
        for port in self.sentinels:
            try:
                with redis.Redis(HOST, port, socket_timeout=1) as sentinel:
                    state = sentinel.sentinel_master(MASTER_NAME)
                    replicas = sentinel.sentinel_slaves(MASTER_NAME)
            except redis.RedisError:
                return False
            following = [
                each for each in replicas if each["master-link-status"] == "ok" and not each["is_sdown"]
            ]
            if (len(following), state["num-other-sentinels"], state["is_sdown"]) != (2, 2, False):
                return False
        return True

    def close(self) -> None:
        for port in list(self._processes):
            self.end(port)


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[Pods]:
    started = Pods(tmp_path)
    try:
        for port in [*started.servers, *started.sentinels]:
            started.start(port)
        wait_until(started.is_watched, "two replicas follow, and all Sentinels know of it")
        yield started
    finally:
        started.close()


def test_a_primary_that_leaves_or_dies_is_replaced_and_comes_back_as_a_replica(pods: Pods) -> None:
    first, *others = pods.servers
    assert pods.await_primary(*pods.servers) == first
    with redis.Redis(HOST, first, password=PASSWORD) as server:
        server.set("written", "before")

    pods.leave(first)
    wait_until(lambda: pods.role(first) == "slave", "the former primary has become a replica")
    second = pods.await_primary(*others)
    pods.end(first)
    pods.start(first)
    wait_until(pods.is_watched, "the former primary follows")
    wait_until(lambda: pods.role(first) == "slave", "it follows as a replica")

    pods.end(second)
    third = pods.await_primary(*(port for port in pods.servers if port != second))
    pods.start(second)
    wait_until(lambda: pods.role(second) == "slave", "the one that was killed follows")
    with redis.Redis(HOST, third, password=PASSWORD) as server:
        assert server.get("written") == b"before"

    # All pods are ended at once and come back: the Sentinels remember who the primary was.
    for port in [*pods.servers, *pods.sentinels]:
        pods.end(port)
    for port in [*pods.servers, *pods.sentinels]:
        pods.start(port)
    wait_until(pods.is_watched, "two replicas follow")
    with redis.Redis(HOST, pods.await_primary(*pods.servers), password=PASSWORD) as server:
        assert server.get("written") == b"before"
