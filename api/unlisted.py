"""Finds the servers of a request whose tools are not in its context, and reads what a runner lists of them.

Pure. Only token counts need it: a response has its servers listed by its worker.
"""

from collections.abc import Sequence

from api.errors import tools_unlisted
from shared import hosted_tools
from shared.input_items import InputMcpListTools
from shared.responses import McpTool, ResponseRequest
from shared.tool_calls import ToolFailure, ToolListing, ToolsListed, describe


def unlisted_servers(request: ResponseRequest) -> list[ToolListing]:
    """Returns the servers whose tools the model would read and that have no listing in the context."""
    if request.response.tool_choice == "none":
        return []
    items = [*request.context, *request.input]
    known = {item.server_label for item in items if isinstance(item, InputMcpListTools) and not item.error}
    labels = {tool["server_label"]: tool for tool in request.tools if tool.get("type") == "mcp"}
    return [
        ToolListing(label, tool.get("server_url"))
        for label, tool in labels.items()
        if label not in known and hosted_tools.by_label(label) is None
    ]


def read_listings(
    servers: Sequence[ToolListing], results: Sequence[ToolsListed | ToolFailure]
) -> dict[str, tuple[McpTool, ...]]:
    """Returns the tools of each server by its label. Raises ClientError naming one that did not list them."""
    listed: dict[str, tuple[McpTool, ...]] = {}
    for server, result in zip(servers, results, strict=True):
        match result:
            case ToolsListed(tools):
                listed[server.server_label] = tools
            case ToolFailure(error):
                raise tools_unlisted(server.server_label, describe(error))
    return listed
