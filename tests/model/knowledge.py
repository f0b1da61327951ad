"""The MCP servers that the tiny checkpoint calls: a wiki, or a browser over one page; over stdio.

`python -m tests.model.knowledge wiki|browser`; `conversations.py` defines their answers.
"""

import asyncio
import sys

from mcp.server.mcpserver import MCPServer
from mcp.types import ToolAnnotations

from tests.model.conversations import BROWSER, MCP

_READS = ToolAnnotations(read_only_hint=True)


def make_wiki() -> MCPServer[None]:
    server = MCPServer("deepwiki", log_level="ERROR")

    @server.tool(name="ask_question", annotations=_READS)
    def ask_question(repoName: str, question: str) -> str:  # noqa: N803  as the public server has it
        """Answers a question about a repository."""
        return _first_result(MCP.steps[0].result) if repoName and question else ""

    return server


def make_browser() -> MCPServer[None]:
    server = MCPServer("browser", log_level="ERROR")

    @server.tool(name="search", annotations=_READS)
    def search(query: str) -> str:
        """Searches the web."""
        return _first_result(BROWSER.steps[0].result) if query else ""

    @server.tool(name="open", annotations=_READS)
    def open_page(id: int) -> str:
        """Opens a result of the search."""
        return _first_result(BROWSER.steps[1].result) if id == 0 else "There is no such result."

    return server


def _first_result(result: str | None) -> str:
    assert result is not None
    return result


if __name__ == "__main__":
    asyncio.run((make_wiki() if sys.argv[1] == "wiki" else make_browser()).run_stdio_async())
