"""The guard of an engine: ends everything that a killed worker has started."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S, wait_until

GUARD = Path(__file__).parents[2] / "worker/engines/vllm/guard.py"
PARENT = """
import os, subprocess, sys
guard = subprocess.Popen([sys.executable, sys.argv[1], str(os.getpid())], start_new_session=True)
late = "import subprocess as s; child = s.Popen(['sleep', '60']); print(child.pid, flush=True); child.wait()"
child = subprocess.Popen([sys.executable, "-c", late], stdout=subprocess.PIPE, text=True)
print(guard.pid, child.pid, child.stdout.readline(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def parent() -> Iterator["subprocess.Popen[str]"]:
    """A process with a guard, a child and a grandchild, as a worker with its engine."""
    command = [sys.executable, "-c", PARENT, str(GUARD)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def wait_until_held(guard: int, count: int) -> None:
    """Waits until the guard has handles of its parent and of `count` others."""
    handles = Path(f"/proc/{guard}/fd")
    wait_until(lambda: sum("pidfd" in link_of(each) for each in handles.iterdir()) >= 1 + count)


def link_of(path: Path) -> str:
    try:
        return os.readlink(path)
    except FileNotFoundError:  # closed meanwhile
        return ""


def wait_for_end(handle: int) -> None:
    ended = select.poll()
    ended.register(handle, select.POLLIN)
    assert ended.poll(1_000 * PATIENCE_S), "a process is still there"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_what_a_dead_worker_has_started_ends_and_the_guard_after_it(
    parent: "subprocess.Popen[str]", number: int
) -> None:
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    handles = [os.pidfd_open(pid) for pid in pids]
    wait_until_held(pids[0], 2)
    parent.send_signal(number)
    for handle in handles:
        wait_for_end(handle)
        os.close(handle)


def test_a_guard_whose_worker_has_gone_already_follows_nobody_else() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    for pid in (gone.pid, os.getppid()):  # ended, and alive but not the one that started the guard
        subprocess.run([sys.executable, str(GUARD), str(pid)], timeout=PATIENCE_S, check=True)
