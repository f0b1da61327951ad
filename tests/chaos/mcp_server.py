"""The chaos cluster's MCP server: one tool to repeat at will, one that counts its calls, one that is slow.

Owns the tools and the file of counted calls. It is the outside world here: nobody kills it.
"""

import argparse
import asyncio
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from mcp.server.mcpserver import MCPServer
from mcp.types import ToolAnnotations

from local.ports import HOST, find_free
from tests.integration.mcp_servers import ReadyServer

ROOT = Path(__file__).resolve().parents[2]
_COUNT_S = 0.3


@contextmanager
def serving(counted: Path) -> Iterator[str]:
    """The server in a process of its own; yields its URL. Executions of `count` add lines to `counted`."""
    port = find_free(1)[0]
    command = [sys.executable, "-m", "tests.chaos.mcp_server", "--port", str(port), "--counted", str(counted)]
    with counted.with_name("mcp_server.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log
        )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n", "the MCP server does not start"
        yield f"http://{HOST}:{port}/mcp"
    finally:
        process.kill()
        process.communicate()


def read_counted(counted: Path) -> Counter[str]:
    """How often `count` was executed, by the key that it was called with."""
    return Counter(counted.read_text().split()) if counted.exists() else Counter()


def make_server(counted: Path) -> MCPServer[None]:
    server = MCPServer("chaos tools", log_level="ERROR")

    async def lookup(key: str) -> str:
        """Tells what belongs to a key."""
        return f"value of {key}"

    async def count(key: str) -> str:
        """Writes down that it was called, then takes a moment to say so."""
        with counted.open("a") as file:
            file.write(f"{key}\n")
        await asyncio.sleep(_COUNT_S)
        return f"counted {key}"

    async def slow(key: str) -> str:
        """Takes 0.5 to 3 s, always the same time for a key."""
        await asyncio.sleep(0.5 + zlib.crc32(key.encode()) % 2500 / 1000)
        return f"waited for {key}"

    server.add_tool(lookup, annotations=ToolAnnotations(read_only_hint=True), structured_output=False)
    server.add_tool(count, annotations=ToolAnnotations(idempotent_hint=False), structured_output=False)
    server.add_tool(slow, annotations=ToolAnnotations(idempotent_hint=True), structured_output=False)
    return server


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--counted", type=Path, required=True)
    options = parser.parse_args()
    app = make_server(options.counted).streamable_http_app()
    ReadyServer(uvicorn.Config(app, host=HOST, port=options.port, log_level="error")).run()


if __name__ == "__main__":
    main()
