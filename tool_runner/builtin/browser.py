"""The built-in MCP server of the trained browser: `search`, `open` and `find` over a folder of pages.

A reference for servers that search the web, and a small one for pages of the operator's own. Keeps nothing
between calls: what was shown travels as opaque state with the result and comes back with the next call
(`tool_calls.SESSION_META_KEY`), so that any process can serve any call.
"""

import argparse
import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mcp.server.mcpserver import Context, MCPServer
from mcp.types import CallToolResult, TextContent, ToolAnnotations

from shared.hosted_tools import BROWSER
from shared.tool_calls import SESSION_META_KEY
from shared.web_search import SEARCH_META_KEY, SearchOptions
from tool_runner.builtin.browsing import Browser, BrowserView, Refused, Visited
from tool_runner.builtin.page_search import BadPages, PageIndex, load_pages

SHIPPED = Path(__file__).parent / "pages"
"""The pages that ship with the project, about the project itself."""

_READ_ONLY = ToolAnnotations(
    read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
)
"""A call changes nothing anywhere; even the cursors change only through the state in its result."""


def make_server(index: PageIndex, state_bytes_max: int) -> MCPServer[None]:
    server: MCPServer[None] = MCPServer(BROWSER.server_label, log_level="WARNING")
    search, open_, find = (function.name for function in BROWSER.functions)

    def show(ctx: Context[Any, Any], look: Callable[[Browser], BrowserView]) -> CallToolResult:
        meta = ctx.request_context.meta or {}
        visited = Visited.read(meta.get(SESSION_META_KEY))
        browser = Browser(index, visited, SearchOptions.read(meta.get(SEARCH_META_KEY)))
        try:
            view = look(browser)
        except Refused as refused:
            return CallToolResult(content=[TextContent(text=str(refused))], is_error=True)
        return CallToolResult(
            content=[TextContent(text=view.text)],
            structured_content=dict(view.structured),
            _meta={SESSION_META_KEY: visited.after(view.shown, state_bytes_max).write()},
        )

    @server.tool(name=search, description=BROWSER.functions[0].description, annotations=_READ_ONLY)
    async def search_pages(
        query: str, ctx: Context[Any, Any], topn: int = 10, source: str | None = None
    ) -> CallToolResult:
        return show(ctx, lambda browser: browser.search(query, topn, source))

    @server.tool(name=open_, description=BROWSER.functions[1].description, annotations=_READ_ONLY)
    async def open_page(
        ctx: Context[Any, Any],
        id: int | str = -1,
        cursor: int = -1,
        loc: int = -1,
        num_lines: int = -1,
        view_source: bool = False,
        source: str | None = None,
    ) -> CallToolResult:
        return show(
            ctx, lambda browser: browser.open(id, cursor, loc, num_lines, source, as_source=view_source)
        )

    @server.tool(name=find, description=BROWSER.functions[2].description, annotations=_READ_ONLY)
    async def find_in_page(pattern: str, ctx: Context[Any, Any], cursor: int = -1) -> CallToolResult:
        return show(ctx, lambda browser: browser.find(pattern, cursor))

    return server


def main() -> None:
    """Serves stdio, or with `--http PORT` Streamable HTTP, for trusted callers, who send the state."""
    parser = argparse.ArgumentParser(prog="python -m tool_runner.builtin.browser")
    parser.add_argument("--http", type=int, metavar="PORT", help="serve Streamable HTTP at /mcp, not stdio")
    parser.add_argument("--host", default="127.0.0.1", help="address for --http (default: %(default)s)")
    parser.add_argument("--pages", type=Path, default=SHIPPED, help="the folder of pages (default: ours)")
    parser.add_argument("--state-bytes-max", type=int, default=2**20)
    for unused in ("--output-bytes-max", "--processes"):  # every built-in server is given them
        parser.add_argument(unused, type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    try:
        index = PageIndex(load_pages(arguments.pages))
    except (BadPages, OSError) as error:
        parser.error(f"--pages: {error}")
    server = make_server(index, arguments.state_bytes_max)
    if arguments.http is None:
        asyncio.run(server.run_stdio_async())
    else:
        server.run("streamable-http", host=arguments.host, port=arguments.http)


if __name__ == "__main__":
    main()
