"""What is kept of the sessions of tool servers between two calls of a response, and who used one last.

Owns the fields `session:…` of the tool journal, which a response that continues another one inherits, and the
notes of use. Does not know what a session is: a tool runner writes and reads it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from shared.store import keys
from shared.store.keys import ResponseKey
from shared.store.redis.client import RedisClient
from shared.store.redis.scripts import LuaScript

_KEEP = LuaScript("tools/keep_session", is_confirmed=True)


def state_field(server_label: str) -> str:
    """Returns the field of the state that a server has given us (see `tool_calls.SESSION_META_KEY`)."""
    return f"session:{server_label}"


def _mcp_field(server_label: str) -> str:
    return f"session:{server_label}/mcp"  # no label contains a slash


async def read_sessions(redis: RedisClient, key: ResponseKey, server_label: str) -> tuple[str | None, bytes]:
    """Returns the state of the server's last result, or None, and the MCP session with it, or b""."""
    state, session = await redis.command(
        "HMGET", keys.tools(key), state_field(server_label), _mcp_field(server_label)
    )
    return (state.decode() if state is not None else None), session or b""


async def keep_session(
    redis: RedisClient, key: ResponseKey, server_label: str, expected: bytes, session: bytes
) -> bytes:
    """Keeps an MCP session in place of `expected` (b"": none), unless another call has replaced that; returns
    what is kept now, or b"" if the response is closed."""
    reply = await redis.run(
        _KEEP(
            state=keys.state(key),
            tools=keys.tools(key),
            field=_mcp_field(server_label),
            expected=expected,
            session=session,
        )
    )
    match reply:
        case [b"kept"]:
            return session
        case [b"other", current]:
            return bytes(current)
        case [b"gone"]:
            return b""
        case _:
            raise RuntimeError(f"keep_session answered {reply!r}")


@dataclass(frozen=True, slots=True)
class SessionStanding:
    """What is known about a session: of the last response that used it here, and who used it last."""

    is_closed: bool
    """The response has ended, or is gone."""
    can_be_continued: bool
    """Another response may continue it."""
    user: str
    """The tool runner that used it last; empty if that is long ago."""


async def read_standings(
    redis: RedisClient, asked: Sequence[tuple[ResponseKey, str]]
) -> list[SessionStanding]:
    """Returns the standings of sessions (response, digest of the session), in one round trip."""
    if not asked:
        return []
    commands: list[tuple[str, ...]] = []
    for key, digest in asked:
        commands += [("HMGET", keys.state(key), "closed", "store"), ("GET", keys.session_user(digest))]
    replies = await redis.transaction(*commands)
    found = zip(replies[::2], replies[1::2], strict=True)
    return [
        SessionStanding(closed != b"", store == b"1", (user or b"").decode())
        for (closed, store), user in found
    ]


async def note_use(redis: RedisClient, runner: str, digests: Sequence[str], ttl_s: float) -> None:
    """Notes that a tool runner has used sessions, so that no other one ends them."""
    if digests:
        ttl_ms = str(int(ttl_s * 1000))
        await redis.transaction(*(("SET", keys.session_user(each), runner, "PX", ttl_ms) for each in digests))
