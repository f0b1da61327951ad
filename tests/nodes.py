"""Runs an API node, or a router, as a process of its own, for tests that use a real socket.

Owns its process, which ends with the context.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx

from local.ports import find_free
from shared.settings import Settings
from tests.patience import PATIENCE_S


@dataclass
class Node:
    process: asyncio.subprocess.Process
    port: int
    client: httpx.AsyncClient

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def stop(self) -> tuple[int, str]:
        """Ends the node; returns its exit status and its output."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE_S):
            _, said = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, said.decode()


@asynccontextmanager
async def node(settings: Settings, **environment: str) -> AsyncIterator[Node]:
    """Yields a started, healthy node on a free port; `environment` overrides that of the tests."""
    of_settings = {
        "ANTIPHON_REDIS_URL": settings.redis_url,
        "ANTIPHON_REDIS_TIMEOUT_S": str(settings.redis_timeout_s),
    }
    async with _running("api", of_settings | environment) as started:
        yield started


@asynccontextmanager
async def router(cells: Mapping[str, Sequence[str]]) -> AsyncIterator[Node]:
    """Yields a router in front of cells: name -> the URLs of its API nodes."""
    named = {name: {"nodes": list(urls)} for name, urls in cells.items()}
    async with _running("api.cells", {"ANTIPHON_CELLS": json.dumps(named)}) as started:
        yield started


@asynccontextmanager
async def _running(module: str, environment: Mapping[str, str]) -> AsyncIterator[Node]:
    port = find_free(1)[0]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, "--port", str(port)),
        env=os.environ | environment,
        stderr=asyncio.subprocess.PIPE,
    )
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S) as client:
        try:
            await wait_until_healthy(client)
            yield Node(process, port, client)
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()


async def wait_until_healthy(client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                if (await client.get("/health")).status_code == 200:
                    return
            except httpx.ConnectError:
                await asyncio.sleep(0.05)
