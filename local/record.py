"""The data folder's two records: which launcher holds it (`lock`), and what runs in it (`cluster.json`).

Owns both files; starts and ends nothing.
"""

import fcntl
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from local.processes import Identity

FOLDER_DEFAULT = Path(".antiphon")


class FolderInUse(Exception):
    """Another running launcher holds the data folder."""


@dataclass(frozen=True, slots=True)
class RoleRecord:
    """One process. `pid` and `started` are null while it waits for its next start."""

    kind: str
    number: int
    pid: int | None
    started: str | None
    port: int | None
    log: str
    restarts: int
    metrics_port: int | None = None

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.number}"

    @property
    def identity(self) -> Identity | None:
        return None if self.pid is None or self.started is None else Identity(self.pid, self.started)


@dataclass(frozen=True, slots=True)
class ClusterRecord:
    """The content of `DIR/cluster.json`, which a launcher removes when it ends in order."""

    launcher: Identity
    redis_url: str
    roles: tuple[RoleRecord, ...]


def path_in(data: Path) -> Path:
    """Returns where a launcher keeps its list of processes."""
    return data / "cluster.json"


def hold(data: Path) -> IO[str]:
    """Locks the folder until the returned file is closed or the process ends. Raises FolderInUse."""
    file = (data / "lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip()
        file.close()
        raise FolderInUse(f"--data {data} is in use by a running launcher (pid {holder})") from None
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file


def write(data: Path, record: ClusterRecord) -> None:
    """Replaces cluster.json atomically; readable by its owner only, as a Redis URL can have a password."""
    shown = {
        "launcher": record.launcher._asdict(),
        "redis_url": record.redis_url,
        "roles": [{"name": role.name, **asdict(role)} for role in record.roles],
    }
    path = path_in(data)
    beside = data / f".cluster.json.{os.getpid()}"
    with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(shown, file, indent=2)
        file.write("\n")
    os.replace(beside, path)


def read(data: Path) -> ClusterRecord | None:
    """Reads cluster.json; returns None if there is none. Raises ValueError if it is malformed."""
    try:
        found = json.loads(path_in(data).read_text())
    except FileNotFoundError:
        return None
    try:
        roles = tuple(
            RoleRecord(**{name: value for name, value in role.items() if name != "name"})
            for role in found["roles"]
        )
        return ClusterRecord(Identity(**found["launcher"]), found["redis_url"], roles)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{data / 'cluster.json'} is not a cluster's record: {error}") from None


def folder_of_cell(data: Path, name: str) -> Path:
    """Returns the data folder of a cell, within that of its router."""
    return data / f"cell-{name}"


def cells_in(data: Path) -> dict[str, Path]:
    """Returns the data folders of the cells that have been run behind the router of this folder."""
    folders = sorted(data.glob("cell-*"))
    return {folder.name.removeprefix("cell-"): folder for folder in folders}


def erase(data: Path) -> None:
    path_in(data).unlink(missing_ok=True)


def running_stages(record: ClusterRecord, order: Sequence[Sequence[str]]) -> list[list[Identity]]:
    """Returns the recorded processes by stage; `order` gives the roles of each stage."""
    return [
        [role.identity for role in record.roles if role.kind in kinds and role.identity is not None]
        for kinds in order
    ]
