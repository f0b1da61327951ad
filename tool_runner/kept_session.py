"""What is kept of a server's session between two calls, so that any tool runner can continue it. Pure.

Owns the shape; `mcp_sessions.py` seals it and decides when it is used, the tool journal holds it
(docs/adr/0042-sessions-of-tool-servers.md).
"""

from typing import Literal, Protocol

import msgspec

from shared.store.keys import ResponseKey
from tool_runner.mcp_client import LastStatus
from tool_runner.session_cookies import KeptCookie


class McpSession(msgspec.Struct, frozen=True):
    """What any tool runner needs to continue a session; it travels with the response, sealed.

    `name`: the server's id of the session; empty if it keeps none. With `sse` and `stdio`, the session is a
    connection of one tool runner, which alone can continue it: `<runner>/<id>`.
    """

    server: str
    """`HttpServer.digest`: a session is used for the same address and credentials only."""
    transport: Literal["http", "sse", "stdio"]
    version: str
    name: str
    opened_by: str
    """The name of the response that opened it."""
    opened_s: float
    has_calls: bool = False
    """A tool was called in it, so that it may have a state."""
    is_anew: bool = False
    """It stands in place of one in which tools had been called, and the model has not read that yet."""
    cookies: tuple[KeptCookie, ...] = ()
    """Over Streamable HTTP; elsewhere the connection has them."""


class SessionStore(Protocol):
    """Where the session of one response with one server is kept."""

    @property
    def response(self) -> ResponseKey: ...

    @property
    def session(self) -> bytes:
        """What was kept when the call began; empty if there was nothing."""

    async def keep(self, expected: bytes, session: bytes) -> bytes:
        """Keeps a session in place of `expected`, unless another call has replaced that meanwhile. Returns
        what is kept now."""


def with_cookies(session: McpSession, status: LastStatus) -> McpSession:
    """Returns the session with its cookies as they are now. A connection that is a session has its own."""
    if session.transport != "http":
        return session
    return msgspec.structs.replace(session, cookies=status.cookies.kept)
