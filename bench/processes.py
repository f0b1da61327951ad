"""Starts, ends and measures processes outside a cluster, with their descendants.

Does not know what runs in them, except that vLLM names its engine's processes.
"""

import asyncio
import contextlib
import http.client
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from local.cluster import ROOT
from local.ports import HOST
from local.processes import identify
from local.supervisor import end_child, read_tail
from local.warden import Warden

_ENGINE_NAME = b"VLLM::"
_POLL_INTERVAL_S = 0.2


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


async def until_serving(process: Process, port: int, log: Path, timeout_s: float) -> None:
    """Returns when a server answers GET /health on a port. Raises RuntimeError if its process ends, and
    TimeoutError."""
    async with asyncio.timeout(timeout_s):
        while not await asyncio.to_thread(_is_serving, port):
            if process.returncode is not None:
                raise RuntimeError(f"the server ended at its start:\n{read_tail(log)}")
            await asyncio.sleep(_POLL_INTERVAL_S)


def _is_serving(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def split_engine(root: int) -> tuple[list[int], list[int]]:
    """Returns the pids of a process and its descendants: those that are not the engine's, and those that
    are."""
    tree = _descend(root)
    engine = [pid for pid in tree if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(_ENGINE_NAME)]
    return [pid for pid in tree if pid not in engine], engine


def _descend(root: int) -> list[int]:
    found = [root]
    for pid in found:
        for listing in Path(f"/proc/{pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += map(int, listing.read_text().split())
    return found
