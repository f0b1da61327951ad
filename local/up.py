"""`python -m local up`: runs a cluster in the foreground until a signal ends it.

Owns the signals and the messages to the user; `cluster.py` runs the cluster.
"""

import asyncio
import os
import signal
import sys
from contextlib import suppress

from local.cells import Cells
from local.cluster import Cluster
from local.ports import HOST
from local.seed import make_curl

_REPORT_INTERVAL_S = 10.0


async def run_until_signalled(cluster: Cluster | Cells, *, ends_with_parent: bool) -> None:
    """Starts the cluster, reports when it is ready, and ends it on SIGINT, SIGTERM or SIGHUP.

    Raises what Cluster does.
    """
    task = asyncio.current_task()
    assert task is not None
    cancel_on_signal(task, ends_with_parent=ends_with_parent)
    try:
        with suppress(asyncio.CancelledError):
            await _run(cluster)
    finally:
        await cluster.stop()
    report("ended; nothing is left running")


def cancel_on_signal(task: "asyncio.Task[None]", *, ends_with_parent: bool) -> None:
    """Cancels the task once, at the first signal or when the parent process ends; ignores later signals."""
    loop = asyncio.get_running_loop()
    is_ending = False

    def end() -> None:
        nonlocal is_ending
        if not is_ending:
            is_ending = True
            report("ending …")
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, end)
    if ends_with_parent and sys.platform == "linux":
        parent = os.pidfd_open(os.getppid())

        def end_with_parent() -> None:
            loop.remove_reader(parent)
            end()

        loop.add_reader(parent, end_with_parent)


async def _run(cluster: Cluster | Cells) -> None:
    await cluster.start()
    while True:
        try:
            async with asyncio.timeout(_REPORT_INTERVAL_S):
                await cluster.until_ready()
            break
        except TimeoutError:
            line = cluster.last_log_line
            progress = f"\n  worker-0: {line}" if line else ""
            report(f"not ready yet: {cluster.missing}; logs are in {cluster.logs}{progress}")
    _announce(cluster)
    await cluster.until_broken()


def _announce(cluster: Cluster | Cells) -> None:
    print(f"ready {cluster.urls[0]}", flush=True)
    report("here a request's server_url may lead to this machine; elsewhere ANTIPHON_EGRESS_NETWORKS decides")
    for address in cluster.consoles:
        report(f"the console is {address}")
    if ports := cluster.metrics_ports:
        whose = f"`python -m local status --data {cluster.data}` says whose is where"
        report(f"metrics are on http://{HOST}:{min(ports)}/metrics to {max(ports)}; {whose}")
    report(f"logs are in {cluster.logs}; Ctrl-C ends everything; try:\n\n{make_curl(cluster.urls[0])}\n")


def report(text: str) -> None:
    """Prints a message to stderr."""
    print(text, file=sys.stderr, flush=True)
