"""Runs a primary, one or two replicas and three Sentinels, for tests that lose the primary.

Owns these processes, which end with the test session, however that ends.
"""

import os
import signal
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import redis

from local.ports import HOST, find_free
from local.processes import identify
from local.valkey import find_server
from local.warden import Warden
from tests.patience import wait_until

MASTER_NAME = "main"
DOWN_AFTER_MS = 500
_ASKED_TIMES = 3


class WatchedValkeys:
    def __init__(self, folder: Path, replicas: int = 2) -> None:
        ports = find_free(4 + replicas)
        self._folder = folder
        self._replicas = replicas
        self.sentinels, self.servers = ports[:3], ports[3:]
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._warden = Warden()

    @property
    def url(self) -> str:
        hosts = ",".join(f"{HOST}:{port}" for port in self.sentinels)
        return f"redis+sentinel://{hosts}/{MASTER_NAME}/0"

    def primary(self) -> int:
        """Returns the primary's port, as a Sentinel reports it; on a loaded machine not at once."""
        for port in self.sentinels * _ASKED_TIMES:
            try:
                with connect(port) as sentinel:
                    address: Any = sentinel.execute_command(
                        "SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER_NAME
                    )
                    return int(address[1])
            except (redis.ConnectionError, redis.TimeoutError):
                continue
        raise AssertionError("no Sentinel answers")

    def pid(self, port: int) -> int:
        return self._processes[port].pid

    def ended(self) -> list[int]:
        """Returns the ports of servers that were started and have ended."""
        return [port for port, process in self._processes.items() if process.poll() is not None]

    def signal(self, port: int, number: int) -> None:
        os.kill(self._processes[port].pid, number)

    def start(self, port: int) -> None:
        """Starts a server, for the first time or after it was killed."""
        if port in self._processes:
            self._processes.pop(port).wait()
        folder = self._folder / str(port)
        folder.mkdir(parents=True, exist_ok=True)
        configuration = folder / "valkey.conf"
        if not configuration.exists():
            lines = self._describe(port)
            configuration.write_text(
                "".join(f"{line}\n" for line in [f"bind {HOST}", f"port {port}", *lines])
            )
        command = [str(find_server()), str(configuration)]
        if port in self.sentinels:
            command.append("--sentinel")
        with (folder / "log").open("ab") as log:
            process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
        self._processes[port] = process
        self._warden.watch([[identify(process.pid) for process in self._processes.values()]])

    def _describe(self, port: int) -> list[str]:
        primary = self.servers[0]
        if port in self.sentinels:
            return [
                f"sentinel monitor {MASTER_NAME} {HOST} {primary} 2",
                f"sentinel down-after-milliseconds {MASTER_NAME} {DOWN_AFTER_MS}",
                f"sentinel failover-timeout {MASTER_NAME} 1500",
            ]
        lines = ["appendonly yes", 'save ""', "repl-diskless-sync-delay 0"]
        # As in docs/deploy.md: with one replica, all writing would end after the loss of either server.
        lines += [f"min-replicas-to-write {0 if self._replicas == 1 else 1}", "min-replicas-max-lag 2"]
        return lines if port == primary else [*lines, f"replicaof {HOST} {primary}"]

    def is_watched(self) -> bool:
        """Returns True if all replicas follow, and every Sentinel knows all servers, has heard from each
        replica that it is one, and is not in TILT."""
        for port in self.sentinels:
            try:
                with connect(port) as sentinel:
                    state = sentinel.sentinel_master(MASTER_NAME)
                    about: Any = sentinel.info("sentinel")
                    replicas = sentinel.sentinel_slaves(MASTER_NAME)
            except redis.RedisError:
                return False
            if about["sentinel_tilt"] or not have_said_so(replicas):
                return False
            if (state["num-slaves"], state["num-other-sentinels"]) != (self._replicas, 2) or state[
                "is_sdown"
            ]:
                return False
        try:
            with connect(self.primary()) as primary:
                followers: Any = primary.info("replication")
        except redis.RedisError:
            return False
        states = [followers.get(f"slave{n}", {}).get("state") for n in range(self._replicas)]
        return states == ["online"] * self._replicas

    def wait_until_watched(self) -> None:
        wait_until(self.is_watched, "all replicas follow, and all Sentinels know of it")

    def begin_failover(self) -> None:
        """Has the Sentinels replace the primary. Raises RedisError while they cannot."""
        with connect(self.sentinels[1]) as sentinel:
            sentinel.execute_command("SENTINEL", "FAILOVER", MASTER_NAME)

    def __enter__(self) -> Self:
        try:
            for port in self.servers + self.sentinels:
                self.start(port)
            self.wait_until_watched()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        for process in self._processes.values():
            process.send_signal(signal.SIGKILL)
            process.wait()
        self._warden.close()


def have_said_so(replicas: Iterable[Mapping[str, Any]]) -> bool:
    """Returns True if each of a Sentinel's replicas has told it that it follows.

    A Sentinel asks replicas every ten seconds. Until then, it takes a former primary that follows again for
    one that does not, and turns it into a replica once more, even if it is promoted at that moment.
    """
    return all(replica["role-reported"] == "slave" for replica in replicas)


def connect(port: int) -> "redis.Redis":
    return redis.Redis(HOST, port, socket_timeout=1.0, socket_connect_timeout=1.0)
