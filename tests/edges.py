"""The HTTP edge in this process: alone, with a Redis that refuses every connection, or with a real one.

Owns the app and its client; tests own the requests.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from api.app import Edge, build, create_app
from api.hub import Hub
from api.services import Services
from api.tenants import Tenants
from shared.settings import Settings
from shared.store.redis.client import RedisClient

NOWHERE = "redis://127.0.0.1:1/0"
"""Nothing listens there, so every request that uses Redis gets 503, and any other answer has not used it."""
HELLO = {"input": "Hello"}
UNKNOWN_ID = "resp_0_" + "a" * 32


def edge_alone(tenants: Tenants | None = None, **settings: Any) -> Edge:
    """Returns the app without its lifespan; it connects only when something uses Redis."""
    chosen = Settings(redis_url=NOWHERE, **settings)
    callers = tenants or Tenants()
    app = build(chosen, callers)
    redis = RedisClient.connect(NOWHERE, timeout_s=chosen.redis_timeout_s)
    hub = Hub(redis, RedisClient.connect_listener(NOWHERE), chosen)
    app.state.services = Services(redis, hub, chosen, lambda: 1_763_769_600.5, callers)
    return app


def client_of(app: Edge) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    headers = {"content-type": "application/json"}
    return httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers)


@asynccontextmanager
async def serving(settings: Settings, tenants: Tenants | None = None) -> AsyncIterator[httpx.AsyncClient]:
    """Yields a client of the app as it is served, including its lifespan."""
    app = create_app(settings, tenants or Tenants())
    async with app.router.lifespan_context(app), client_of(app) as client:
        yield client


def error_of(answer: httpx.Response) -> dict[str, Any]:
    """Checks an error answer's status, envelope and headers; returns the error."""
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"].startswith("req_")
    assert int(answer.headers["openai-processing-ms"]) >= 0
    body = answer.json()
    assert body.keys() == {"error"}
    error: dict[str, Any] = body["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["message"]
    assert error["code"]
    return error
