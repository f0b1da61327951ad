"""Identifies processes, starts them behind a gate and ends them with their groups. Standard library only.

Does not know what a process is for; `supervisor.py` keeps them running.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

GRACE_S = 8.0
"""How long a process may take to end after SIGTERM, before SIGKILL; longer than any role drains."""

GATE = ("/bin/sh", "-c", 'read -r go && exec "$@" </dev/null', "gate")
"""Prefix of a command, which then starts when a line arrives on stdin, and not at all if stdin is closed
first.

So a process runs only after its pid was recorded, and a launcher killed in between leaves nothing behind.
"""

_POLL_INTERVAL_S = 0.05


class Identity(NamedTuple):
    """A pid and its process's start time, which distinguishes it from a later process with the same pid."""

    pid: int
    started: str


def identify(pid: int) -> Identity:
    """Identifies the process that has the pid now; one that has ended gets an identity that never runs."""
    return Identity(pid, find_start(pid) or "gone")


def find_start(pid: int) -> str | None:
    """Returns the process's start time as the system reports it; None if there is no process, or a zombie."""
    if sys.platform == "linux":
        return _find_start_in_proc(pid)
    return _find_start_with_ps(pid)


def _find_start_in_proc(pid: int) -> str | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # proc(5): the name is in parentheses and may contain any character; the state is the first field after
    # it, and the start time, in ticks since the boot, the twentieth.
    fields = stat.rpartition(")")[2].split()
    if fields[0] in "ZX":
        return None
    return f"{fields[19]} {Path('/proc/sys/kernel/random/boot_id').read_text().strip()}"


def _find_start_with_ps(pid: int) -> str | None:
    shown = subprocess.run(
        ["ps", "-o", "stat=,lstart=", "-p", str(pid)],
        capture_output=True,
        check=False,
        text=True,
        env={**os.environ, "LC_ALL": "C"},
    )
    state, _, started = shown.stdout.strip().partition(" ")
    return None if not state or state.startswith("Z") else started.strip()


def is_running(process: Identity) -> bool:
    return find_start(process.pid) == process.started


def end(stages: Iterable[Sequence[Identity]], grace_s: float = GRACE_S) -> None:
    """Ends processes that are not children of this one, stage by stage, and waits until they are gone.

    Each gets SIGTERM, then its group gets SIGKILL (a role leads its own group, so what it started ends with
    it). Blocks for at most about twice `grace_s` per stage; a pid that now belongs to another process is left
    alone.
    """
    for stage in stages:
        running = [process for process in stage if is_running(process)]
        for process in running:
            _signal(process.pid, signal.SIGTERM)
        _wait_until_gone(running, grace_s)
        for process in running:
            kill_group(process.pid)
        _wait_until_gone(running, grace_s)


def kill_group(leader_pid: int) -> None:
    """Sends SIGKILL to a process group. Call it only while its leader is running, or right after."""
    try:
        os.killpg(leader_pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # PermissionError: macOS, where only zombies are left
        pass


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        pass


def _wait_until_gone(processes: Sequence[Identity], limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while any(map(is_running, processes)) and time.monotonic() < deadline:
        time.sleep(_POLL_INTERVAL_S)
