"""Reads the tree of processes from /proc: who is whose child, and how much memory each holds.

Owns the reading only; `session.py` decides who may live.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_STATE, _PARENT, _THREADS, _RESIDENT_PAGES = 0, 1, 17, 21
"""Places in /proc/PID/stat after the name, which may itself contain spaces and brackets."""
_ENDED = frozenset("ZX")


@dataclass(frozen=True, slots=True)
class Process:
    pid: int
    parent: int
    resident_bytes: int


Survey = Mapping[int, list[Process]]
"""Parent -> its children."""


def survey() -> Survey:
    """Reads every process once, without those that have ended and wait for their parent to collect them.

    One that begins or ends meanwhile may be missing.
    """
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
    pages = int(fields[_RESIDENT_PAGES])
    if fields[_STATE] in _ENDED:
        if int(fields[_THREADS]) <= 1:
            return None
        # Only its first thread has ended, with which the kernel shows no memory.
        pages = _read_pages_of_threads(name)
    return Process(int(name), int(fields[_PARENT]), pages * _PAGE_BYTES)


def _read_pages_of_threads(name: str) -> int:
    """Returns 0 if it has ended meanwhile."""
    pages = 0
    tasks = _PROC / name / "task"
    with suppress(OSError):
        for thread in os.listdir(tasks):
            with suppress(OSError):
                pages = max(pages, int((tasks / thread / "statm").read_text().split()[1]))
    return pages


def descend(children: Survey, root: int) -> Iterator[Process]:
    """Yields the processes below `root`, parents first."""
    waiting = [root]
    while waiting:
        for process in children.get(waiting.pop(), ()):
            yield process
            waiting.append(process.pid)
