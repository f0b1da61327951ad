"""Starts, ends and measures processes outside a cluster, with their descendants.

Does not know what runs in them, except that vLLM names its engine's processes.
"""

import asyncio
import contextlib
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from bench.site import read_cpu_s
from local.cluster import ROOT
from local.processes import identify
from local.supervisor import end_child
from local.warden import Warden

_ENGINE_NAME = b"VLLM::"


@asynccontextmanager
async def started(
    command: tuple[str, ...], log: Path, environment: Mapping[str, str]
) -> AsyncIterator[Process]:
    """Runs a process with its stdin and stdout as pipes, and kills its group afterwards."""
    warden = Warden()
    with log.open("ab") as errors:
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=ROOT,
            env=environment,
            stdin=PIPE,
            stdout=PIPE,
            stderr=errors,
            start_new_session=True,
        )
    warden.watch([[identify(process.pid)]])
    try:
        yield process
    finally:
        await end_child(process)
        warden.close()


def split_engine(root: int) -> tuple[list[int], list[int]]:
    """Returns the pids of a process and its descendants: those that are not the engine's, and those that
    are."""
    tree = _descend(root)
    engine = [pid for pid in tree if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(_ENGINE_NAME)]
    return [pid for pid in tree if pid not in engine], engine


def add_cpu_s(pids: list[int]) -> float:
    return sum(map(read_cpu_s, pids))


def _descend(root: int) -> list[int]:
    found = [root]
    for pid in found:
        for listing in Path(f"/proc/{pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += map(int, listing.read_text().split())
    return found
