"""The composition root of the API: creates its parts, joins them, and shuts them down.

Owns the lifespan and the headers of every answer; contains no route and no rule.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.cluster_metrics import refresh
from api.compression import Compression
from api.door import Door
from api.errors import install_handlers, shorten
from api.held_bodies import Bodies
from api.hub import Hub
from api.request_names import begin_request
from api.routes import chat, console, conversations, health, models, responses, sockets
from api.server import end_with
from api.services import Services
from api.sockets import Sockets
from api.sse import EventStreams
from api.tenants import Tenants
from api.traced import Traced
from shared import metrics, metrics_listener, traces
from shared.ids import new_owner, new_request_id
from shared.settings import Settings
from shared.store.owning import presence
from shared.store.owning.sweeper import sweep
from shared.store.redis.client import RedisClient

_log = logging.getLogger(__name__)

_API_VERSION = "2020-10-01"
"""The hosted API's only version, which each of its answers carries."""

_WITH_ANSWER = frozenset({"http", "websocket"})
_STARTS = frozenset({"http.response.start", "websocket.http.response.start", "websocket.accept"})

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


class AnswerHeaders:
    """Adds `x-request-id`, `openai-version` and `openai-processing-ms` to every answer, also to that of an
    upgrade, and `connection: close` while the node is draining. Logs the answer to a request that its client
    has named.

    Pure ASGI: streams and messages pass untouched.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in _WITH_ANSWER:
            await self._app(scope, receive, send)
            return
        request_id = new_request_id()
        is_named = begin_request(request_id, Headers(scope=scope))
        begun_s = time.perf_counter()

        async def send_with_headers(message: Message) -> None:
            if message["type"] in _STARTS:
                route = getattr(scope.get("route"), "path", metrics.OTHER)
                metrics.HTTP_REQUESTS.labels(route, message.get("status", 101)).inc()
                message.setdefault("headers", [])
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                headers["openai-version"] = _API_VERSION
                headers["openai-processing-ms"] = took_ms = str(int((time.perf_counter() - begun_s) * 1000))
                if is_named:
                    path = shorten(scope["raw_path"].decode("ascii", "replace"))
                    method, status = scope.get("method", "GET"), message.get("status", 101)
                    _log.info("%s %s: %d in %s ms", method, path, status, took_ms)
                if scope["app"].state.is_draining and scope["type"] == "http":
                    headers["connection"] = "close"  # so that the client's next call reaches another node
            await send(message)

        await self._app(scope, receive, send_with_headers)


class Edge(FastAPI):
    """FastAPI behind the door, with our headers outermost, so that every refusal has them too."""

    def build_middleware_stack(self) -> ASGIApp:
        settings = self.state.settings
        routes = Compression(super().build_middleware_stack(), settings.gzip_bytes_min)
        answers = AnswerHeaders(Door(routes, settings, is_open=self.state.tenants.is_open))
        return Traced(answers) if traces.is_on() else answers


def build(settings: Settings, tenants: Tenants, lifespan: Lifespan | None = None) -> Edge:
    """Returns the app alone; the caller sets `app.state.services`.

    It has no documentation pages, since FastAPI's load scripts from other sites.
    """
    app = Edge(
        title="Antiphon",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    app.state.settings = settings
    app.state.tenants = tenants
    app.state.bodies = Bodies(settings.bodies_bytes_max)
    app.state.streams = EventStreams(settings)
    app.state.is_draining = app.state.has_ended = False
    install_handlers(app)
    app.state.sockets = Sockets(settings)
    routes = (responses, sockets, chat, conversations, models, health, console)
    for router in (module.router for module in routes):
        app.include_router(router)
    for route in app.routes:
        if isinstance(route, APIRoute) and "GET" in route.methods:
            route.methods.add("HEAD")  # the server omits the body
    return app


def create_app(settings: Settings, tenants: Tenants, clock: Callable[[], float] = time.time) -> Edge:
    """Returns the app as it is served: its lifespan connects to Redis and runs the hub."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        redis = RedisClient.connect(
            settings.redis_url,
            timeout_s=settings.redis_timeout_s,
            durability=settings.durable_writes,
            replicas=settings.durable_replicas,
        )
        listener = RedisClient.connect_listener(settings.redis_url)
        hub, name = Hub(redis, listener, settings), new_owner("api", settings.place)
        services = app.state.services = Services(redis, hub, settings, clock, tenants)

        async def count_sockets() -> None:
            metrics.SOCKETS.set(len(app.state.sockets))

        def end_streams() -> None:
            app.state.has_ended = True
            services.read.watchers.end()
            hub.end_streams()
            app.state.streams.end_slow()
            app.state.sockets.end()

        app.state.end_streams = end_streams
        running = [
            asyncio.create_task(hub.run(), name="hub"),
            asyncio.create_task(app.state.streams.run(), name="keep-alives"),
            asyncio.create_task(services.read.watchers.run(), name="watchers"),
            asyncio.create_task(services.catalogue.run(), name="catalogue"),
            # Workers sweep too; this one keeps waiting responses alive while there is no worker, and keeps
            # Redis's pulse.
            asyncio.create_task(sweep(redis, settings, settings.sweep_interval_s), name="sweeper"),
            asyncio.create_task(presence.maintain(redis, "api", name), name="presence"),
        ]
        running += [
            asyncio.create_task(service, name="metrics")
            for service in metrics_listener.services(
                settings,
                "api",
                name,
                [partial(refresh, redis, settings.pinned_models), hub.refresh_metrics, count_sockets],
            )
        ]
        if tenants.is_in_file:
            running.append(asyncio.create_task(tenants.run(), name="reader of the tenants file"))
        for task in running:
            task.add_done_callback(end_with)
        try:
            yield
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            await listener.close()
            await redis.close()

    return build(settings, tenants, lifespan)
