"""A process that kills the engine's processes once the worker that started them has ended.

vLLM's processes outlive a killed worker and keep the GPU's memory (vLLM 0.32). The guard takes the worker's
pid, tracks its descendants from before the engine starts, and kills those left when the worker has ended,
however it ended. Linux only, like vLLM.
"""

import contextlib
import os
import select
import signal
import sys
from pathlib import Path

_POLL_INTERVAL_MS = 250


def main() -> None:
    parent = int(sys.argv[1])
    try:
        handle = os.pidfd_open(parent)
    except ProcessLookupError:
        return
    if os.getppid() != parent:  # it ended before this started, and another process may have the pid by now
        return
    gone = select.poll()
    gone.register(handle, select.POLLIN)
    held: dict[int, int] = {}
    while not gone.poll(_POLL_INTERVAL_MS):
        _hold(_descendants(parent), held)
    for handle in held.values():
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGKILL)


def _hold(pids: set[int], held: dict[int, int]) -> None:
    """Opens a handle for each pid, which unlike the pid never comes to mean another process."""
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
    """Returns the children of all threads of a process, or none if it has ended."""
    children: set[int] = set()
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            children |= {int(child) for child in listing.read_text().split()}
    return children


if __name__ == "__main__":
    main()
