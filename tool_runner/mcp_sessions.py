"""Chooses the session for each call to an MCP server that keeps one: the response's own, or a new one.

Owns what is kept of a session between two calls, what counts as its end, and which sessions this tool runner
has used. `mcp_transports.py` speaks to the server, `session_keeper.py` decides when a session is over.
docs/adr/0042-sessions-of-tool-servers.md.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from functools import partial
from http import HTTPStatus
from typing import Generic, Literal, TypeVar

import msgspec

from shared.responses import HttpError, McpProtocolError
from shared.sealing import seal, unseal
from shared.settings import Settings
from shared.store.keys import ResponseKey
from tool_runner import mcp_transports
from tool_runner.answers import INTERNAL_ERROR
from tool_runner.endpoint_event import Listening
from tool_runner.held_connections import HeldConnection, Open
from tool_runner.http_pool import HttpPools
from tool_runner.kept_session import McpSession, SessionStore, with_cookies
from tool_runner.mcp_client import Connection, LastStatus, ServerFailed
from tool_runner.mcp_transports import SSE_VERSION, UNSUPPORTED_VERSION
from tool_runner.servers import HttpServer, StdioServer
from tool_runner.session_cookies import SessionCookies

_log = logging.getLogger(__name__)

_ROUNDS_MAX = 3
_END_TIMEOUT_S = 5.0
_LAST_END_S = 2.0
_STREAM_WAIT_S = 10.0
"""How long a server over HTTP with SSE may take to say where messages are posted."""
_SPEAKS_MAX = 1_024
_SPEAKS_S = 3_600.0
_NOT_STREAMABLE = (HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED)
"""The answers to a first message that lead to HTTP with SSE (MCP's rule for compatibility)."""

T = TypeVar("T")
Keeping = HttpServer | StdioServer
"""A server with a session for each response."""
Ask = Callable[[Connection], Awaitable[T]]


@dataclass(frozen=True, slots=True)
class Asked(Generic[T]):
    answer: T
    is_anew: bool = False
    """The session of earlier calls is gone, and with it what they had set up; the model is to read that."""


@dataclass(slots=True)
class HeldSession:
    """A session that this tool runner has used, and may have to end."""

    server: Keeping
    session: McpSession
    response: ResponseKey
    """The last response that used it here."""
    used_s: float
    closed_s: float | None = None
    """When that response was first seen closed."""


class _Gone(Exception):
    """The server has ended the session, and has not made the call."""


@dataclass(frozen=True, slots=True)
class _Asking(Generic[T]):
    server: Keeping
    store: SessionStore | None
    """None: the session is new, and ends with the question."""
    status: LastStatus
    ask: Ask[T]
    is_call: bool
    is_anew: bool = False
    """A session begun for it takes the place of one in which tools had been called."""


class Sessions:
    """The sessions of one tool runner; `close` ends those that it alone could continue."""

    def __init__(
        self, settings: Settings, pools: HttpPools, runner: str = "", clock: Callable[[], float] = time.time
    ) -> None:
        """`runner`: the name of this tool runner; without one, no other can hand calls over to it."""
        self._settings = settings
        self._pools = pools
        self._runner = runner
        self._clock = clock
        self._live: dict[str, HeldConnection] = {}
        """Connections over HTTP with SSE, by the name of their session."""
        self._speaks: dict[str, tuple[Literal["handshake", "sse"], float]] = {}
        """What servers speak (by digest), until when we trust it, so that they are not asked each time."""
        self._tasks: set[asyncio.Task[None]] = set()
        self.held: dict[tuple[str, str], HeldSession] = {}
        """By server and name of the session; the one that was used last stands last."""

    async def ask(
        self,
        server: Keeping,
        store: SessionStore | None,
        status: LastStatus,
        ask: Ask[T],
        *,
        is_call: bool,
    ) -> Asked[T]:
        """Asks a server something, in the session that is kept or in a new one. Raises ServerFailed.

        It is asked again, in a new session, only if it says that the session is gone: then it has not made
        the call. Without a `store`, the session is new and ends with the question.
        """
        question = _Asking(server, store, status, ask, is_call)
        kept, is_anew = store.session if store else b"", False
        for _ in range(_ROUNDS_MAX):
            if (session := self._read(kept, server)) is not None:
                kept = await self._mark(question, kept, session)
                try:
                    answer = await self._continue(question, session)
                    self._note_changes(question, kept, session)
                    return Asked(answer, is_anew or session.is_anew)
                except _Gone:
                    _log.info("a server has ended a session")
                    is_anew = is_anew or session.has_calls or session.is_anew
                    self.held.pop((session.server, session.name), None)
            begun = await self._begin(replace(question, is_anew=is_anew), kept)
            if isinstance(begun, Asked):
                return Asked(begun.answer, is_anew)
            kept = begun
        raise ServerFailed(McpProtocolError(INTERNAL_ERROR, "the server ends each session at once"))

    def owner_of(self, sealed: bytes) -> str:
        """Returns the name of the tool runner that alone can continue a session; empty if any can."""
        session = self._unseal(sealed)
        return session.name.rpartition("/")[0] if session and session.transport != "http" else ""

    def _unseal(self, sealed: bytes) -> McpSession | None:
        raw = unseal(self._settings, sealed) if sealed else None
        try:
            return msgspec.json.decode(raw, type=McpSession) if raw else None
        except msgspec.DecodeError:  # of another version of ours, or sealed and we have no key
            return None

    def _read(self, sealed: bytes, server: Keeping) -> McpSession | None:
        """Returns a session that can be continued, or None."""
        session = self._unseal(sealed)
        if session is None or session.server != server.digest:
            return None
        is_old = self._clock() - session.opened_s > self._settings.tool_session_age_max_s
        return session if not is_old and mcp_transports.is_known(session.version) else None

    async def _mark(self, question: _Asking[T], kept: bytes, session: McpSession) -> bytes:
        """Notes that a tool is called in the session; returns what is kept then."""
        if question.store is None or not question.is_call or not session.name or session.has_calls:
            return kept
        called = self._seal(msgspec.structs.replace(session, has_calls=True))
        return await question.store.keep(kept, called) or kept

    def _note_changes(self, question: _Asking[T], kept: bytes, session: McpSession) -> None:
        """Keeps the cookies that the server has changed with its answer, which does not wait for that; and
        that the answer to a call says that the session is new, if it is."""
        changed = with_cookies(session, question.status)
        if question.is_call and session.is_anew:
            changed = msgspec.structs.replace(changed, is_anew=False)
        if question.store is None or changed == session:
            return
        has_calls = session.has_calls or (question.is_call and bool(session.name))
        changed = msgspec.structs.replace(changed, has_calls=has_calls)
        self._hold(question, changed)
        self._start(_keep(question.store, kept, self._seal(changed)))

    async def _continue(self, question: _Asking[T], session: McpSession) -> T:
        server = question.server
        self._hold(question, session)
        status = question.status
        status.code = HTTPStatus.OK  # it has answered before
        status.cookies = SessionCookies(session.cookies)
        try:
            if not isinstance(server, HttpServer) or session.transport != "http":
                live = self._live.get(session.name)
                if live is None or not live.is_usable:
                    raise _Gone
                connection = await live.connection()
                status = connection.status
                return await question.ask(connection)
            timeout_s = self._settings.tool_timeout_s
            async with mcp_transports.continue_http(
                self._pools, server, timeout_s, status, session.version, session.name
            ) as connection:
                return await question.ask(connection)
        except ServerFailed as failed:
            if _is_gone(session, status, failed):
                raise _Gone from None
            raise

    async def _begin(self, question: _Asking[T], kept: bytes) -> Asked[T] | bytes:
        """Returns the answer, or the session that another call has kept meanwhile in place of `kept`."""
        server, timeout_s = question.server, self._settings.tool_timeout_s
        question.status.cookies = SessionCookies()
        if isinstance(server, StdioServer):
            return await self._begin_live(question, kept, "stdio", partial(mcp_transports.open_stdio, server))
        listening = Listening(server.url, min(timeout_s / 2, _STREAM_WAIT_S))
        open_sse = partial(mcp_transports.open_sse, self._pools, server, timeout_s, listening)
        if (speaks := self._recall(server)) == "sse":
            return await self._begin_live(question, kept, "sse", open_sse)
        has_begun = False
        try:
            async with mcp_transports.begin_http(
                self._pools, server, timeout_s, question.status, has_handshake=speaks == "handshake"
            ) as begun:
                has_begun = True
                if begun.has_handshake:
                    self._remember(server, "handshake")
                session = self._describe(question, "http", begun.version, begun.session_id)
                return await self._ask_in_new(question, kept, session, begun.connection)
        except ServerFailed as failed:
            if has_begun:
                raise
            self._speaks.pop(server.digest, None)
            if question.status.code not in _NOT_STREAMABLE:
                raise
            refused = failed
        try:
            return await self._begin_live(question, kept, "sse", open_sse)
        except NotLive as not_live:
            raise (not_live if listening.is_open else _join(refused, not_live)) from None

    async def _begin_live(
        self, question: _Asking[T], kept: bytes, transport: Literal["sse", "stdio"], open_: Open
    ) -> Asked[T] | bytes:
        """As `_begin`, for a session that is a connection. Raises NotLive if it cannot be opened."""
        server = question.server
        name = f"{self._runner}/{secrets.token_hex(16)}"
        shown, timeout_s = f"a session over {transport}", self._settings.tool_timeout_s
        live = self._live[name] = HeldConnection(shown, open_, timeout_s)
        session = self._describe(question, transport, SSE_VERSION, name)
        try:
            connection = await live.connection()
        except BaseException as error:
            self._start(self.end(server, session))
            self._speaks.pop(server.digest, None)
            if isinstance(error, ServerFailed):
                raise NotLive(error.error, error.cause) from None
            raise
        if transport == "sse":
            self._remember(server, "sse")
        question.status.code = HTTPStatus.OK
        return await self._ask_in_new(question, kept, session, connection)

    def _describe(
        self, question: _Asking[T], transport: Literal["http", "sse", "stdio"], version: str, name: str
    ) -> McpSession:
        opened_by = str(question.store.response) if question.store else ""
        digest, now_s = question.server.digest, self._clock()
        begun = McpSession(
            digest, transport, version, name, opened_by, now_s, question.is_call, question.is_anew
        )
        return with_cookies(begun, question.status)

    async def _ask_in_new(
        self, question: _Asking[T], kept: bytes, session: McpSession, connection: Connection
    ) -> Asked[T] | bytes:
        if question.store is None:
            try:
                return Asked(await question.ask(connection))
            finally:
                self._start(self.end(question.server, with_cookies(session, question.status)))
        sealed = self._seal(session)
        now_kept = await question.store.keep(kept, sealed)
        if now_kept not in (sealed, b""):
            self._start(self.end(question.server, session))
            return now_kept
        self._hold(question, session)
        answer = await question.ask(connection)
        self._note_changes(question, sealed, session)
        return Asked(answer)

    def _hold(self, question: _Asking[T], session: McpSession) -> None:
        if not session.name or question.store is None:
            return
        name = (session.server, session.name)
        self.held.pop(name, None)
        self.held[name] = HeldSession(question.server, session, question.store.response, self._clock())
        processes = [held for held in self.held.values() if held.session.transport == "stdio"]
        if len(processes) > self._settings.tool_processes_max:
            self.end_soon(processes[0])
        if len(self.held) > self._settings.tool_sessions_max:
            self.end_soon(next(iter(self.held.values())))

    def now_s(self) -> float:
        return self._clock()

    def release(self, held: HeldSession) -> bool:
        """Forgets a session; returns False if it has been used again meanwhile."""
        name = (held.session.server, held.session.name)
        is_same = self.held.get(name) is held
        if is_same:
            del self.held[name]
        return is_same

    def end_soon(self, held: HeldSession) -> None:
        """Ends a session without waiting, unless it has been used again meanwhile."""
        if self.release(held):
            self._start(self.end(held.server, held.session))

    async def end(self, server: Keeping, session: McpSession) -> None:
        """Ends a session on its server, as far as that answers in time."""
        try:
            async with asyncio.timeout(_END_TIMEOUT_S):
                if (live := self._live.pop(session.name, None)) is not None:
                    await live.close()
                elif isinstance(server, HttpServer) and session.transport == "http" and session.name:
                    status = LastStatus()
                    status.cookies = SessionCookies(session.cookies)
                    await mcp_transports.end_http(
                        self._pools, server, _END_TIMEOUT_S, status, session.version, session.name
                    )
        except (ServerFailed, TimeoutError) as failed:
            _log.info("a session was not ended on its server (%s)", type(failed).__name__)

    async def close(self) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_LAST_END_S)
        for task in self._tasks:
            task.cancel()
        live, self._live = list(self._live.values()), {}
        await asyncio.gather(*(connection.close() for connection in live))

    def _seal(self, session: McpSession) -> bytes:
        return seal(self._settings, msgspec.json.encode(session))

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _recall(self, server: Keeping) -> Literal["handshake", "sse"] | None:
        speaks, until_s = self._speaks.get(server.digest, (None, 0.0))
        return speaks if self._clock() < until_s else None

    def _remember(self, server: Keeping, speaks: Literal["handshake", "sse"]) -> None:
        if self._recall(server) == speaks:
            return
        self._speaks.pop(server.digest, None)
        self._speaks[server.digest] = (speaks, self._clock() + _SPEAKS_S)
        if len(self._speaks) > _SPEAKS_MAX:
            del self._speaks[next(iter(self._speaks))]


class NotLive(ServerFailed):
    """A connection that is a session cannot be opened."""


def _join(refused: ServerFailed, not_live: NotLive) -> ServerFailed:
    """Returns what to say of a server that speaks neither transport: how it answered a message and, if that
    is more than a status, how it answered GET."""
    if isinstance(refused.error, HttpError) and isinstance(not_live.error, McpProtocolError):
        both = f"{refused.error.message}; {not_live.error.message}"
        return ServerFailed(HttpError(refused.error.code, both), refused.cause)
    return refused


async def _keep(store: SessionStore, expected: bytes, session: bytes) -> None:
    await store.keep(expected, session)


def _is_gone(session: McpSession, status: LastStatus, failed: ServerFailed) -> bool:
    """Returns True if the server knows the session, or its version, no more; then it has made no call.

    MCP demands 404. Many servers that were written after its first examples answer 400 and speak of the
    session.
    """
    if isinstance(failed.error, McpProtocolError) and failed.error.code == UNSUPPORTED_VERSION:
        return True
    code = failed.error.code if isinstance(failed.error, HttpError) else status.code
    is_named = code == HTTPStatus.BAD_REQUEST and "session" in failed.error.message.lower()
    return bool(session.name) and (code == HTTPStatus.NOT_FOUND or is_named)
