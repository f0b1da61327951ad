"""The chaos cluster's MCP server: quick and slow tools, which may be repeated or not, also in sessions.

Owns the tools and the file of counted calls. It represents the outside world, and is never killed.
"""

import argparse
import asyncio
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from mcp.types import ToolAnnotations
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from local.ports import HOST, find_free
from tests.chaos.plans import REPEATABLE
from tests.integration.mcp_servers import ReadyServer

ROOT = Path(__file__).resolve().parents[2]
_COUNT_S, _TURN_S = 0.3, 0.1
_TURNS = "turns"
_KEPT = "/kept"


@contextmanager
def serving(counted: Path, long_s: float) -> Iterator[str]:
    """Runs the server in a process of its own; yields its origin. Every execution adds a line to `counted`,
    and with a session another one to the file beside it."""
    port = find_free(1)[0]
    command = [sys.executable, "-m", "tests.chaos.mcp_server", "--port", str(port), "--counted", str(counted)]
    command += ["--long-s", str(long_s)]
    with counted.with_name("mcp_server.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log
        )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n", "the MCP server does not start"
        yield f"http://{HOST}:{port}"
    finally:
        process.kill()
        process.communicate()


def read_counted(counted: Path) -> Counter[str]:
    """Returns the number of a tool's executions by the key that it was called with."""
    return Counter(counted.read_text().split()) if counted.exists() else Counter()


def read_turns(counted: Path) -> dict[str, str]:
    """Returns the session in which the tool `turn` was executed, by key."""
    turns = counted.with_name(_TURNS)
    return dict(line.split() for line in turns.read_text().splitlines()) if turns.exists() else {}


def make_server(counted: Path, long_s: float) -> MCPServer[None]:
    server = MCPServer("chaos tools", log_level="ERROR")

    def write_down(key: str) -> None:
        with counted.open("a") as file:
            file.write(f"{key}\n")

    async def lookup(key: str) -> str:
        """Returns the value for a key."""
        write_down(key)
        return f"value of {key}"

    async def count(key: str) -> str:
        """Records that it was called, then takes a moment to answer."""
        write_down(key)
        await asyncio.sleep(_COUNT_S)
        return f"counted {key}"

    async def slow(key: str) -> str:
        """Takes 0.5 to 3 s, always the same time for a key."""
        write_down(key)
        await asyncio.sleep(0.5 + zlib.crc32(key.encode()) % 2500 / 1000)
        return f"waited for {key}"

    async def build(key: str) -> str:
        """Takes as long as a real tool may, and must not be repeated."""
        write_down(key)
        await asyncio.sleep(long_s)
        return f"built {key}"

    async def study(key: str) -> str:
        """Takes as long, and may be repeated."""
        write_down(key)
        await asyncio.sleep(long_s)
        return f"studied {key}"

    async def turn(key: str, ctx: Context[None, Any]) -> str:
        """Takes a turn in the caller's session."""
        write_down(key)
        request = ctx.request_context.request
        assert request is not None
        session = request.headers.get("mcp-session-id") or request.query_params.get("session_id", "none")
        with counted.with_name(_TURNS).open("a") as file:
            file.write(f"{key} {session}\n")
        await asyncio.sleep(_TURN_S)
        return f"turn of {key}"

    for tool in (turn, lookup, count, slow, build, study):
        name = tool.__name__
        hints = ToolAnnotations(read_only_hint=name == "lookup", idempotent_hint=name in REPEATABLE)
        server.add_tool(tool, annotations=hints, structured_output=False)
    return server


class Transports:
    """Serves Streamable HTTP at /mcp, the same with sessions at /kept/mcp, and HTTP with SSE at /sse."""

    def __init__(self, server: MCPServer[None]) -> None:
        self._http, self._sse = server.streamable_http_app(), server.sse_app()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = str(scope.get("path", ""))
        if path.startswith(_KEPT):
            if is_newer(dict(scope["headers"])):
                await Response(status_code=400)(scope, receive, send)
                return
            scope = dict(scope) | {"path": path.removeprefix(_KEPT)}
        app = self._sse if path.startswith(("/sse", "/messages")) else self._http
        await app(scope, receive, send)


def is_newer(headers: Mapping[bytes, bytes]) -> bool:
    """Returns True for a version without sessions."""
    return headers.get(b"mcp-protocol-version", b"") > b"2026"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--counted", type=Path, required=True)
    parser.add_argument("--long-s", type=float, required=True)
    options = parser.parse_args()
    app = Transports(make_server(options.counted, options.long_s))
    ReadyServer(uvicorn.Config(app, host=HOST, port=options.port, log_level="error")).run()


if __name__ == "__main__":
    main()
