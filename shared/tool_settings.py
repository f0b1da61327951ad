"""The settings of tool runners: calls, sandboxes, sessions, egress. Part of `Settings`."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, IPvAnyNetwork

from shared.setting_types import PortRange


class ToolSettings(BaseModel):
    tool_calls_in_flight_max: int = Field(256, gt=0)
    tool_calls_waiting_max: int = Field(4_096, gt=0)
    """Calls that one tool runner has taken in addition and that wait for a share or a sandbox."""
    tenant_share_max: float = Field(0.5, gt=0, le=1)
    """The part of a tool runner's calls in flight, sandboxes and lookups that one tenant may use."""
    python_tool: Literal["monty", "cpython"] = "monty"
    """The sandbox of the built-in Python, as workers describe it and tool runners run it: Monty, or CPython
    behind bubblewrap. Set the same for all."""
    python_path: Path | None = None
    """The Python that runs the code of `cpython`, with its packages; None: the one that runs the tool runner,
    without the tool runner's packages."""
    sandboxes_max: int = Field(0, ge=0)
    """Processes of the built-in Python on one tool runner; 0: two per CPU, at least four."""
    tool_timeout_s: float = Field(120.0, gt=0)
    """How long a call may take without a report of progress from its server."""
    tool_progress_max_s: float = Field(600.0, ge=0)
    """How long a call may take in all if its server reports progress; at least `tool_timeout_s`."""
    tool_claim_ttl_s: float = Field(1.5, gt=0)
    """A runner that has not renewed its claim on a call for this long, although Redis was available, counts
    as lost. Claims are renewed three times as often."""
    tool_output_bytes_max: int = Field(256 * 1024, gt=0)
    tool_listing_ttl_s: float = Field(60.0, ge=0)
    """How long a tool runner uses the listing of an MCP server over HTTP for further responses; 0: never."""
    tool_listings_bytes_max: int = Field(32 * 2**20, ge=0)
    """The listings that one tool runner keeps for that time."""
    tool_schema_bytes_max: int = Field(64 * 1024, gt=0)
    """The schema of one tool of an MCP server; a tool with a larger one is left out of the listing."""
    tool_session_bytes_max: int = Field(2**20, gt=0)
    web_search: Literal["refused", "local", "server"] = "refused"
    """Whether requests may ask for web search (`web_search`, `web_search_preview`), and who answers: the
    built-in server, which searches the folder `search_pages`, or the server of that label in
    `mcp_servers`."""
    search_pages: Path | None = None
    """The folder that the built-in search server searches; None: the pages about this project that ship."""
    tool_session_idle_s: float = Field(600.0, gt=0)
    """How long after the end of the last response that used it an MCP server's session is kept for a response
    that continues it. Nothing can continue one with `store: false`, whose session ends with it."""
    tool_session_age_max_s: float = Field(86_400.0, gt=0)
    """An MCP server's session that is older is not used by a further call."""
    tool_sessions_max: int = Field(4_096, gt=0)
    """MCP servers' sessions that one tool runner looks after; the least recently used one beyond it ends."""
    tool_processes_max: int = Field(32, gt=0)
    """Processes of stdio servers with `per_response` on one tool runner; the least recently used one beyond
    it ends."""
    tool_retry_after_max_s: float = Field(30.0, ge=0)
    """How long one request to an MCP server waits in all because the server is busy (429 with
    `retry-after`)."""
    tool_connection_idle_s: float = Field(4.0, gt=0)
    """How long an idle HTTP connection to an MCP server is kept: shorter than the 5 s after which most
    servers close one, because a call that crosses such a close fails."""
    tool_connections_idle_max: int = Field(256, ge=0)
    """Pools of idle HTTP connections, one for each MCP server and its credentials, that a tool runner
    keeps."""
    mcp_servers: Path | None = None
    """A JSON file {label: {"url": …, "headers": …} | {"command": …, "args": […], "env": …}}; a command may
    have "per_response"."""

    # Egress: where the `server_url` of a request may lead; servers in `mcp_servers` are exempt
    egress_hosts: list[str] = []
    """Host names that may be called wherever they lead: whoever controls their DNS is trusted."""
    egress_networks: list[IPvAnyNetwork] = []
    """Networks and addresses that may be called although they are not public (loopback, private …)."""
    egress_ports: list[PortRange] = ["80", "443", "1024-65535"]
    egress_schemes: list[Literal["https", "http"]] = ["https", "http"]

    @property
    def tool_run_max_s(self) -> float:
        """How long a tool runner may take for one call."""
        return max(self.tool_timeout_s, self.tool_progress_max_s)
