"""`python -m local up`: a cluster in the foreground, until a signal ends it.

Owns the signals and what the user is shown; the cluster itself is `cluster`'s.
"""

import asyncio
import os
import signal
import sys
from contextlib import suppress

from local.cluster import Cluster
from local.seed import make_curl

_SAY_AGAIN_S = 10.0


async def run_until_signalled(cluster: Cluster, *, ends_with_parent: bool) -> None:
    """Starts the cluster, says when it is ready, ends it on SIGINT, SIGTERM, SIGHUP. Raises as Cluster."""
    task = asyncio.current_task()
    assert task is not None
    listen_for_the_end(task, ends_with_parent=ends_with_parent)
    try:
        with suppress(asyncio.CancelledError):
            await _run(cluster)
    finally:
        await cluster.stop()
    say("ended; nothing is left running")


def listen_for_the_end(task: "asyncio.Task[None]", *, ends_with_parent: bool) -> None:
    """Cancels the task once, at the first signal or when the parent ends; later signals change nothing."""
    loop = asyncio.get_running_loop()
    is_ending = False

    def end() -> None:
        nonlocal is_ending
        if not is_ending:
            is_ending = True
            say("ending …")
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, end)
    if ends_with_parent and sys.platform == "linux":
        parent = os.pidfd_open(os.getppid())

        def end_with_parent() -> None:
            loop.remove_reader(parent)
            end()

        loop.add_reader(parent, end_with_parent)


async def _run(cluster: Cluster) -> None:
    await cluster.start()
    while True:
        try:
            async with asyncio.timeout(_SAY_AGAIN_S):
                await cluster.until_ready()
            break
        except TimeoutError:
            said = f"\n  worker-0: {cluster.last_words}" if cluster.last_words else ""
            say(f"not ready yet: {cluster.missing}; logs are in {cluster.logs}{said}")
    _announce(cluster)
    await cluster.until_broken()


def _announce(cluster: Cluster) -> None:
    print(f"ready {cluster.urls[0]}", flush=True)
    say("a request's server_url may lead to this machine here; elsewhere ANTIPHON_EGRESS_NETWORKS says so")
    say(f"logs are in {cluster.logs}; Ctrl-C ends everything; try:\n\n{make_curl(cluster.urls[0])}\n")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
