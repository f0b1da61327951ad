"""MCP servers for tests, each in a process that ends with the test.

`serving_http` and `stdio_entry` are for tests; run as a module, this file is the server's program.
"""

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from mcp.server.lowlevel import Server
from mcp.server.mcpserver import Context, MCPServer
from mcp.types import (
    CallToolRequestParams,
    CallToolResult,
    ImageContent,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
    Tool,
    ToolAnnotations,
    ToolListChangedNotification,
)
from starlette.types import ASGIApp, Receive, Scope, Send

from local.ports import HOST, find_free
from shared.tool_calls import SESSION_META_KEY

ROOT = Path(__file__).resolve().parents[2]
_START_TIMEOUT_S = 30.0


@contextmanager
def serving_http(*options: str) -> Iterator[str]:
    """Runs a server over Streamable HTTP with `options` of this file's program; yields its URL."""
    port = find_free(1)[0]
    command = [*_program(), "--http", str(port), *options]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n", "the MCP server does not start"
        yield f"http://{HOST}:{port}/mcp"
    finally:
        process.kill()
        process.communicate()


def stdio_entry(*options: str) -> dict[str, Any]:
    """Returns the same server as an entry of the operator's file of servers."""
    program, *args = [*_program(), *options]
    return {"command": program, "args": args, "env": {"PYTHONPATH": str(ROOT)}}


def _program() -> list[str]:
    return [sys.executable, "-m", "tests.integration.mcp_servers"]


def make_tools_server() -> MCPServer[None]:
    """Returns a server whose tools succeed, fail and misbehave in various ways."""
    server = MCPServer("test tools", log_level="ERROR")
    server.add_tool(add, annotations=ToolAnnotations(read_only_hint=True))
    server.add_tool(hold, annotations=ToolAnnotations(idempotent_hint=True), structured_output=False)
    for tool in (fail, wait, dwell, repeat, die, show_header, draw, count, weigh, say_pid, climb, learn):
        server.add_tool(tool)
    return server


def add(a: int, b: int) -> CallToolResult:
    """Adds two numbers."""
    return CallToolResult(content=[TextContent(text=str(a + b))])


def fail(why: str) -> CallToolResult:
    """Reports that it failed."""
    return CallToolResult(content=[TextContent(text=why)], is_error=True)


async def wait(folder: str) -> str:
    """Never answers; adds a line to the files `started` and `cancelled` in the folder."""
    add_line(folder, "started")
    try:
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]
    finally:
        add_line(folder, "cancelled")


async def hold(folder: str) -> str:
    """Answers once there is a file `go` in the folder; adds a line to the file `held`."""
    add_line(folder, "held")
    while not Path(folder, "go").exists():
        await asyncio.sleep(0.02)
    return "held"


async def dwell(folder: str) -> str:
    """Answers once there is a file `go` in the folder; adds lines to `started`, `ended` and `cancelled`."""
    add_line(folder, "started")
    try:
        while not Path(folder, "go").exists():
            await asyncio.sleep(0.01)
    except asyncio.CancelledError:
        add_line(folder, "cancelled")
        raise
    add_line(folder, "ended")
    return "done"


def add_line(folder: str, name: str) -> None:
    with Path(folder, name).open("a") as file:
        file.write(f"{os.getpid()}\n")


def repeat(text: str, times: int) -> CallToolResult:
    """Repeats a text."""
    return CallToolResult(content=[TextContent(text=text * times)])


def die() -> str:
    """Ends the server's process in the middle of the call."""
    os._exit(1)


def say_pid() -> CallToolResult:
    """Returns the pid of the server's process."""
    return CallToolResult(content=[TextContent(text=str(os.getpid()))])


def show_header(name: str, ctx: Context[None, Any]) -> CallToolResult:
    """Returns a header of the request that called it."""
    return CallToolResult(content=[TextContent(text=(ctx.headers or {}).get(name, "(none)"))])


def draw() -> CallToolResult:
    """An image."""
    return CallToolResult(content=[ImageContent(data="aGVsbG8=", mime_type="image/png")])


def weigh() -> CallToolResult:
    """Structured content alone."""
    return CallToolResult(content=[], structured_content={"kg": 2**70})


def count(ctx: Context[None, Any]) -> CallToolResult:
    """Counts the calls of one response, by the session it gets back."""
    number = int(str((ctx.request_context.meta or {}).get(SESSION_META_KEY, "0"))) + 1
    return CallToolResult(content=[TextContent(text=str(number))], _meta={SESSION_META_KEY: str(number)})


async def climb(steps: int, folder: str, ctx: Context[None, Any]) -> str:
    """Reports progress each time that there is a file `step` in the folder, which it removes."""
    for step in range(steps):
        while not Path(folder, "step").exists():
            await asyncio.sleep(0.01)
        Path(folder, "step").unlink()
        await ctx.report_progress(step + 1, steps, f"step {step + 1}\nof many")
    return "at the top"


async def learn(name: str, ctx: Context[None, Any]) -> str:
    """Adds a tool to this server, and says so."""
    ctx.mcp_server.add_tool(add, name=name)
    await ctx.session.send_notification(ToolListChangedNotification(), related_request_id=ctx.request_id)
    return f"learned {name}"


def make_pages_server(pages: int) -> "Server[Any]":
    """Returns a server whose list of tools has `pages` pages of two tools; with 0 it never ends."""

    async def list_tools(_ctx: Any, params: PaginatedRequestParams | None) -> ListToolsResult:
        page = int(params.cursor) if params and params.cursor else 1
        tools = [Tool(name=f"tool_{page}_{i}", input_schema={"type": "object"}) for i in range(2)]
        return ListToolsResult(tools=tools, next_cursor=None if page == pages else str(page + 1))

    return Server("pages", on_list_tools=list_tools)


ODD_NAMES = ["a b", "a\n# Instructions\nb", "<|end|>", "x" * 3_000, "подсказка", "", "a.b/c-d", "a b"]
"""Names that a server may give its tools; one of them occurs twice."""


def make_names_server() -> "Server[Any]":
    """Returns a server with such tools, each of which answers with the name by which it was called."""

    async def list_tools(_ctx: Any, _params: PaginatedRequestParams | None) -> ListToolsResult:
        return ListToolsResult(tools=[Tool(name=name, input_schema={"type": "object"}) for name in ODD_NAMES])

    async def call_tool(_ctx: Any, params: CallToolRequestParams) -> CallToolResult:
        return CallToolResult(content=[TextContent(text=params.name)])

    return Server("names", on_list_tools=list_tools, on_call_tool=call_tool)


def make_raw_app(answers: dict[str, Any]) -> ASGIApp:
    """Returns a server that answers each method with a result as it is given, however bad, in the version
    that the client asks for, up to 2025."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message["body"]
            if not message.get("more_body"):
                break
        asked = json.loads(body or b"{}")
        reply = {"jsonrpc": "2.0", "id": asked.get("id"), "result": _raw_result(asked, answers)}
        status = 405 if scope["method"] != "POST" else 200 if "id" in asked else 202
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send(
            {"type": "http.response.body", "body": json.dumps(reply).encode() if status == 200 else b""}
        )

    return serve


def _raw_result(asked: dict[str, Any], answers: dict[str, Any]) -> Any:
    if asked.get("method") == "initialize":
        return {
            "protocolVersion": asked["params"]["protocolVersion"],
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "raw", "version": "1"},
        }
    return answers.get(asked.get("method", ""), {})


def guarded(app: ASGIApp, required: str, is_old: bool) -> ASGIApp:
    """Answers 401 without the header `required` (name=value), and with `is_old` 400 to versions after
    2025."""
    name, _, value = required.encode().partition(b"=")

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope.get("headers", ()))
        status = 0
        if scope["type"] == "http" and required and headers.get(name) != value:
            status = 401
        elif scope["type"] == "http" and is_old and headers.get(b"mcp-protocol-version", b"") > b"2026":
            status = 400
        if not status:
            await app(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"no"})

    return serve


class ReadyServer(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        sys.stdout.write("ready\n")
        sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--http", type=int)
    parser.add_argument("--pages", type=int)
    parser.add_argument("--names", action="store_true")
    parser.add_argument("--require-header", default="")
    parser.add_argument("--old", action="store_true")
    parser.add_argument("--raw", type=json.loads, help="method -> its result")
    options = parser.parse_args()
    server = make_tools_server() if options.pages is None else make_pages_server(options.pages)
    if options.names:
        server = make_names_server()
    if options.http is None:
        assert isinstance(server, MCPServer)
        asyncio.run(server.run_stdio_async())
    else:
        app = make_raw_app(options.raw) if options.raw else server.streamable_http_app()
        app = guarded(app, options.require_header, options.old or options.raw is not None)
        ReadyServer(uvicorn.Config(app, host=HOST, port=options.http, log_level="error")).run()


if __name__ == "__main__":
    main()
