"""Ends MCP servers' sessions that nobody will use again, from the tool runner that used them last.

Owns when a session is over; `mcp_sessions.py` has the sessions and ends them on their servers. A tool runner
that dies leaves its sessions to their servers. docs/adr/0042-sessions-of-tool-servers.md.
"""

import asyncio
import hashlib
import logging
from collections.abc import Sequence
from typing import Literal

from shared.settings import Settings
from shared.store.redis.client import RedisClient
from shared.store.redis.connections import REDIS_AWAY
from shared.store.tools import tool_sessions
from shared.store.tools.tool_sessions import SessionStanding
from tool_runner.mcp_sessions import HeldSession, Sessions

_log = logging.getLogger(__name__)

_SWEEP_S = 1.0
_AT_ONCE_MAX = 256
_LAST_SWEEP_S = 2.0


class SessionKeeper:
    def __init__(self, redis: RedisClient, settings: Settings, runner: str, sessions: Sessions) -> None:
        self._redis = redis
        self._settings = settings
        self._runner = runner
        self._sessions = sessions

    async def run(self) -> None:
        """Ends sessions as they are over, until cancelled."""
        while True:
            await asyncio.sleep(_SWEEP_S)
            await self._sweep()

    async def close(self) -> None:
        """Ends what nobody can continue; other tool runners may continue the rest."""
        try:
            async with asyncio.timeout(_LAST_SWEEP_S):
                await self._sweep()
        except TimeoutError:
            pass

    async def _sweep(self) -> None:
        now_s, idle_s = self._sessions.now_s(), self._settings.tool_session_idle_s
        due = [held for held in self._sessions.held.values() if is_due(held, now_s, idle_s)]
        try:
            for start in range(0, len(due), _AT_ONCE_MAX):
                await self._check(due[start : start + _AT_ONCE_MAX], now_s, idle_s)
        except REDIS_AWAY:
            _log.warning("sessions of tool servers not checked, Redis is unavailable")

    async def _check(self, due: Sequence[HeldSession], now_s: float, idle_s: float) -> None:
        asked = [(held.response, name_of(held)) for held in due]
        standings = await tool_sessions.read_standings(self._redis, asked)
        in_use: list[str] = []
        for held, standing in zip(due, standings, strict=True):
            verdict = judge(held, standing, self._runner, now_s, idle_s)
            if verdict == "end":
                self._sessions.end_soon(held)
            elif verdict == "leave":
                self._sessions.release(held)
            elif held.closed_s is None:
                in_use.append(name_of(held))
        await tool_sessions.note_use(self._redis, self._runner, in_use, idle_s + 2 * _SWEEP_S)


def is_due(held: HeldSession, now_s: float, idle_s: float) -> bool:
    """Returns False for a session that waits for a response to continue it, until it has waited enough."""
    return held.closed_s is None or now_s - max(held.closed_s, held.used_s) >= idle_s


def judge(
    held: HeldSession, standing: SessionStanding, runner: str, now_s: float, idle_s: float
) -> Literal["keep", "leave", "end"]:
    """Returns what is to be done about a session; notes when its response was first seen closed.

    `leave`: another tool runner has used it since, and will end it.
    """
    if not standing.is_closed:
        return "keep"
    if standing.user not in ("", runner) and held.session.transport == "http":
        return "leave"
    if held.closed_s is None:
        held.closed_s = now_s
    is_its_last = not standing.can_be_continued and held.session.opened_by == str(held.response)
    return "end" if is_its_last or is_due(held, now_s, idle_s) else "keep"


def name_of(held: HeldSession) -> str:
    """Returns a name for the session that reveals nothing of it."""
    return hashlib.sha256(f"{held.session.server} {held.session.name}".encode()).hexdigest()
