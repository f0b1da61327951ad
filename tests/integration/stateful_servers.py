"""MCP servers with a state for each session, in the test's own process, which records every HTTP request.

`PagesServer` is written by hand, so that it can speak any version of MCP and misbehave; `make_sdk_app` is the
SDK's own server.
"""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from mcp.types import CallToolResult, TextContent
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from local.ports import HOST


@dataclass(frozen=True, slots=True)
class Received:
    """One HTTP request: `what` is its JSON-RPC method, or its HTTP method."""

    what: str
    session: str
    version: str
    authorization: str
    peer: tuple[str, int]


@asynccontextmanager
async def serving(app: ASGIApp) -> AsyncIterator[str]:
    """Serves an app on loopback; yields the address of its origin."""
    listener = socket.create_server((HOST, 0))
    config = uvicorn.Config(app, log_level="error", lifespan="on", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    task = asyncio.create_task(server.serve([listener]))
    try:
        yield f"http://{HOST}:{listener.getsockname()[1]}"
    finally:
        server.should_exit = server.force_exit = True
        await task
        listener.close()


class PagesServer:
    """A server over Streamable HTTP with a page for each session: `visit` changes it, `look` returns it.

    `version`: the only one that it speaks; `streams`: it answers with event streams, as most servers do.
    """

    def __init__(self, version: str = "2025-11-25", *, streams: bool = True, lost_status: int = 404) -> None:
        self.version = version
        self.streams = streams
        self.lost_status = lost_status
        self.received: list[Received] = []
        self.sessions: dict[str, str] = {}
        self.ids: dict[str, list[Any]] = {}
        self.intercept: Callable[[Received], Response | None] = lambda _received: None
        """Answers in place of the server."""
        self.visits = 0

    def sent(self, since: int = 0) -> list[str]:
        return [received.what for received in self.received[since:]]

    def forget(self) -> None:
        """Loses every session, as a server does that starts again."""
        self.sessions.clear()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            response = await self._serve(Request(scope, receive))
            await response(scope, receive, send)

    async def _serve(self, request: Request) -> Response:
        message = json.loads(await request.body() or b"{}")
        headers = request.headers
        session = headers.get("mcp-session-id", "")
        received = Received(
            message.get("method", request.method),
            session,
            headers.get("mcp-protocol-version", ""),
            headers.get("authorization", ""),
            (request.client.host, request.client.port) if request.client else ("", 0),
        )
        self.received.append(received)
        if (answer := self.intercept(received)) is not None:
            return answer
        if received.what == "DELETE":
            return Response(status_code=204 if self.sessions.pop(session, None) is not None else 404)
        if request.method != "POST":
            return Response(status_code=405)
        return self._answer(message, session)

    def _answer(self, message: dict[str, Any], session: str) -> Response:
        method = message["method"]
        if method == "initialize":
            session = uuid4().hex
            self.sessions[session] = "about:blank"
            told = {"protocolVersion": self.version, "capabilities": {"tools": {}}}
            result = told | {"serverInfo": {"name": "pages", "version": "1"}}
            return self._say(message, result, {"mcp-session-id": session})
        if session not in self.sessions:
            said = "Bad Request: No valid session ID provided"
            error = {"jsonrpc": "2.0", "id": None, "error": {"code": -32000, "message": said}}
            return JSONResponse(error, self.lost_status if session else 400)
        if "id" not in message:
            return Response(status_code=202)
        self.ids.setdefault(session, []).append(message["id"])
        if method == "tools/list":
            named = [{"name": name, "inputSchema": {"type": "object"}} for name in ("visit", "look")]
            return self._say(message, {"tools": named})
        params = message["params"]
        if params["name"] == "visit":
            self.visits += 1
            self.sessions[session] = params["arguments"]["page"]
        return self._say(message, {"content": [{"type": "text", "text": self.sessions[session]}]})

    def _say(self, message: dict[str, Any], result: Any, headers: dict[str, str] | None = None) -> Response:
        answer = {"jsonrpc": "2.0", "id": message["id"], "result": result}
        if not self.streams:
            return JSONResponse(answer, headers=headers)

        async def stream() -> AsyncIterator[bytes]:
            yield f"event: message\ndata: {json.dumps(answer)}\n\n".encode()

        return StreamingResponse(stream(), media_type="text/event-stream", headers=headers)


@dataclass(eq=False)
class Balancer:
    """Leads each request to the server that its cookie names, and one without a cookie to each in turn.

    The cookie is another one after each answer, and the one before it no longer counts.
    """

    servers: Sequence[ASGIApp]
    cookies: list[str] = field(default_factory=list)
    """What came with each request."""
    more: Sequence[str] = ()
    """Further cookies that it sets."""
    _given: dict[str, int] = field(default_factory=dict)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope)
        self.cookies.append(request.headers.get("cookie", ""))
        place = self._given.pop(request.cookies.get("lb", ""), len(self.cookies) % len(self.servers))
        cookie = uuid4().hex
        self._given[cookie] = place

        async def send_with_cookie(message: Message) -> None:
            if message["type"] == "http.response.start":
                told = [f"lb={cookie}; Path=/; HttpOnly; Max-Age=3600", *self.more]
                message["headers"] = [*message["headers"], *((b"set-cookie", each.encode()) for each in told)]
            await send(message)

        await self.servers[place](scope, receive, send_with_cookie)


@dataclass(eq=False)
class Recorded:
    """An app that records the HTTP requests to it, and can refuse them."""

    app: ASGIApp
    received: list[tuple[str, str]] = field(default_factory=list)
    refuse: Callable[[str, str, dict[bytes, bytes]], int] = lambda _method, _path, _headers: 0
    """Returns the status of a refusal, or 0."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self.received.append((scope["method"], scope["path"]))
            if status := self.refuse(scope["method"], scope["path"], dict(scope["headers"])):
                await Response(status_code=status)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def make_sdk_server() -> MCPServer[None]:
    """Returns the SDK's server with a counter for each session."""
    server = MCPServer("counters", log_level="ERROR")
    counters: dict[str, int] = {}

    def step(ctx: Context[None, Any]) -> CallToolResult:
        """Counts the calls of this session."""
        request = ctx.request_context.request
        session = ""
        if request is not None:
            session = request.headers.get("mcp-session-id") or request.query_params.get("session_id", "")
        counters[session] = counters.get(session, 0) + 1
        return CallToolResult(content=[TextContent(text=str(counters[session]))])

    server.add_tool(step)
    return server


def refuse_newer(_method: str, _path: str, headers: dict[bytes, bytes]) -> int:
    """Refuses versions without a handshake, as servers do that were written before them."""
    return 400 if headers.get(b"mcp-protocol-version", b"") > b"2026" else 0
