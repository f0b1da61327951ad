"""Ends the sandboxes that a killed server leaves behind, from a process beside it that waits for its end.

Owns that process, and the mark by which it knows the sandboxes of its server. bubblewrap ends with its server
by itself, unless it is just starting: its first process waits for the one outside before it binds itself to
it, and if that one ends then, it waits for ever. A server that ends in order has ended its sandboxes before.
"""

import os
import secrets
import signal
import time
from pathlib import Path

_PROC = Path("/proc")
_ROUND_S = 0.1
_QUIET_ROUNDS, _ROUNDS_MAX = 10, 600
"""After so many rounds without a find none is left: what was starting when the server ended has started."""


def start_guard() -> str:
    """Starts the guard of this process, which must have no thread yet; returns the mark of its sandboxes.

    A process is one of them if the mark is a word of its command.
    """
    mark = secrets.token_hex(16)
    waiting, held = os.pipe()  # `held` is closed by this process's end, and by nothing before
    if os.fork() == 0:
        try:
            os.close(held)
            _detach()
            os.read(waiting, 1)
            _end_all(mark.encode())
        finally:
            os._exit(0)
    os.close(waiting)
    return mark


def _detach() -> None:
    """Stays when the server is told to stop, and keeps nothing open that its caller waits for."""
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)


def _end_all(mark: bytes) -> None:
    quiet = 0
    for _ in range(_ROUNDS_MAX):
        found = [pid for name in os.listdir(_PROC) if name.isdigit() and _has(pid := int(name), mark)]
        for pid in found:
            _kill(pid)
        quiet = 0 if found else quiet + 1
        if quiet == _QUIET_ROUNDS:
            return
        time.sleep(_ROUND_S)


def _has(pid: int, mark: bytes) -> bool:
    try:
        return mark in (_PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except OSError:
        pass  # it has ended
