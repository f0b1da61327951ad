"""The chaos cluster's MCP server: repeatable and non-repeatable tools, quick, slow and very slow ones.

Owns the tools and the file of counted calls. It represents the outside world, and is never killed.
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
from tests.chaos.plans import REPEATABLE
from tests.integration.mcp_servers import ReadyServer

ROOT = Path(__file__).resolve().parents[2]
_COUNT_S = 0.3


@contextmanager
def serving(counted: Path, long_s: float) -> Iterator[str]:
    """Runs the server in a process of its own; yields its URL. Every execution adds a line to `counted`."""
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
        yield f"http://{HOST}:{port}/mcp"
    finally:
        process.kill()
        process.communicate()


def read_counted(counted: Path) -> Counter[str]:
    """Returns the number of a tool's executions by the key that it was called with."""
    return Counter(counted.read_text().split()) if counted.exists() else Counter()


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

    for tool in (lookup, count, slow, build, study):
        name = tool.__name__
        hints = ToolAnnotations(read_only_hint=name == "lookup", idempotent_hint=name in REPEATABLE)
        server.add_tool(tool, annotations=hints, structured_output=False)
    return server


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--counted", type=Path, required=True)
    parser.add_argument("--long-s", type=float, required=True)
    options = parser.parse_args()
    app = make_server(options.counted, options.long_s).streamable_http_app()
    ReadyServer(uvicorn.Config(app, host=HOST, port=options.port, log_level="error")).run()


if __name__ == "__main__":
    main()
