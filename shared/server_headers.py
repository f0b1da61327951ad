"""The headers that no request may set for a tool server: the transport owns them."""

TRANSPORT_HEADERS = frozenset(
    {
        *("accept", "accept-encoding", "connection", "content-encoding", "content-length", "content-type"),
        *("expect", "host", "keep-alive", "last-event-id", "te", "trailer", "transfer-encoding", "upgrade"),
        *("mcp-method", "mcp-name", "mcp-protocol-version", "mcp-session-id"),
        *("proxy-authorization", "proxy-connection"),
    }
)
"""In lower case. They frame the request or belong to the protocol: setting them could forge another one."""
