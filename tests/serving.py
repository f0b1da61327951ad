"""Serves the API from the test's own event loop, on a real socket, for tests that count what it does."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn

from api.__main__ import make_config
from api.app import create_app
from api.tenants import Tenants
from shared.settings import Settings
from tests.patience import until


@asynccontextmanager
async def serving(settings: Settings, tenants: Tenants | None = None) -> AsyncIterator[int]:
    """Yields the port of a node in this thread."""
    app = create_app(settings, tenants or Tenants())
    server = uvicorn.Server(make_config(app, settings, "127.0.0.1", 0))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        running = asyncio.create_task(server.serve([listening]))
        await until(lambda: server.started)
        yield listening.getsockname()[1]
        server.should_exit = True
        await running
