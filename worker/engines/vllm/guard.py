"""A process of its own, started with a worker's pid: ends what the engine has started when that is gone.

vLLM's processes outlive a worker that is killed, and hold the GPU's memory until somebody ends them
(vLLM 0.32). The guard follows its parent's children, from before the engine starts, and kills those
that are left when the parent has ended, however it ended. Linux only, as vLLM is.
"""

import contextlib
import os
import select
import signal
import sys
from pathlib import Path

_LOOK_EVERY_MS = 250


def main() -> None:
    parent = int(sys.argv[1])
    try:
        handle = os.pidfd_open(parent)
    except ProcessLookupError:
        return
    if os.getppid() != parent:  # it ended before this began, and the number may be somebody else's by now
        return
    gone = select.poll()
    gone.register(handle, select.POLLIN)
    held: dict[int, int] = {}
    while not gone.poll(_LOOK_EVERY_MS):
        _hold(_descendants(parent), held)
    for handle in held.values():
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGKILL)


def _hold(pids: set[int], held: dict[int, int]) -> None:
    """A handle for each pid: unlike the number, it never means another process later."""
    for pid in held.keys() - pids:
        os.close(held.pop(pid))
    for pid in pids - held.keys() - {os.getpid()}:
        with contextlib.suppress(ProcessLookupError):
            held[pid] = os.pidfd_open(pid)


def _descendants(pid: int) -> set[int]:
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        children = _children(waiting.pop()) - found
        found |= children
        waiting += children
    return found


def _children(pid: int) -> set[int]:
    """Children of all threads of a process; none when it has gone meanwhile."""
    children: set[int] = set()
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            children |= {int(child) for child in listing.read_text().split()}
    return children


if __name__ == "__main__":
    main()
