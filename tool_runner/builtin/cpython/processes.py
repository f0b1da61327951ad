"""Reads the tree of processes from /proc: who is whose child, and how much memory each holds.

Owns the reading only; `session.py` decides who may live.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_PARENT, _RESIDENT_PAGES = 1, 21
"""Places in /proc/PID/stat after the name, which may itself contain spaces and brackets."""


@dataclass(frozen=True, slots=True)
class Process:
    pid: int
    parent: int
    resident_bytes: int


Survey = Mapping[int, list[Process]]
"""Parent -> its children."""


def survey() -> Survey:
    """Reads every process once. One that begins or ends meanwhile may be missing."""
    children: dict[int, list[Process]] = {}
    for name in os.listdir(_PROC):
        if name.isdigit() and (process := _read(name)) is not None:
            children.setdefault(process.parent, []).append(process)
    return children


def _read(name: str) -> Process | None:
    try:
        text = (_PROC / name / "stat").read_text("utf-8", "replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return Process(int(name), int(fields[_PARENT]), int(fields[_RESIDENT_PAGES]) * _PAGE_BYTES)


def descend(children: Survey, root: int) -> Iterator[Process]:
    """Yields the processes below `root`, parents first."""
    waiting = [root]
    while waiting:
        for process in children.get(waiting.pop(), ()):
            yield process
            waiting.append(process.pid)
