"""Serves the API from the test's own event loop, on a real socket, for tests that count what it does."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn

from api.app import create_app
from api.http_protocol import make_protocol
from api.routes.health import PROBED
from api.tenants import Tenants
from shared.settings import Settings
from tests.patience import until


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[int]:
    """Yields the port of a node in this thread."""
    app = create_app(settings, Tenants())
    config = uvicorn.Config(app, http=make_protocol(settings, PROBED), ws="none", log_config=None)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        running = asyncio.create_task(server.serve([listening]))
        await until(lambda: server.started)
        yield listening.getsockname()[1]
        server.should_exit = True
        await running
