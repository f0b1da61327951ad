"""Runs one tool task and returns one result, even if the server refuses, fails, floods, dies or stays silent.

Owns the limits of a call and the mapping of every failure; knows nothing of the queue or the journal.
"""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import anyio
import msgspec

from shared import hosted_tools
from shared.egress import Egress, Resolve
from shared.responses import McpToolExecutionError, ServerSecrets
from shared.settings import Settings
from shared.tool_calls import (
    CALL_META_KEY,
    SESSION_META_KEY,
    ToolCall,
    ToolFailure,
    ToolListing,
    ToolOutput,
    ToolResult,
    ToolsListed,
    ToolTask,
)
from shared.web_search import SEARCH_META_KEY
from tool_runner import answers, call_metrics, mcp_client, servers
from tool_runner.answers import Answer
from tool_runner.http_pool import HttpPools
from tool_runner.kept_session import SessionStore
from tool_runner.listed_tools import Listing
from tool_runner.listing_cache import ListingCache
from tool_runner.mcp_client import Connection, LastStatus, ServerFailed
from tool_runner.mcp_sessions import Ask, Keeping, Sessions
from tool_runner.progress import Patience
from tool_runner.servers import HttpServer, NoServer, Server, StdioServer
from tool_runner.stdio_servers import StdioServers

_log = logging.getLogger(__name__)

_UNWIND_S = 1.0
"""How long a connection may take to notify its server that the call is cancelled."""


@dataclass(frozen=True, slots=True)
class Outcome:
    result: ToolResult
    session: str | None = None
    """State to be sent back with the response's next call to the same server."""


class Tools:
    """Runs any number of tasks at a time, on the servers that are configured and those that requests name."""

    def __init__(
        self,
        settings: Settings,
        configured: Mapping[str, Server],
        stdio: StdioServers,
        resolve: Resolve | None = None,
        runner: str = "",
    ) -> None:
        """`resolve`: resolves names; by default the system does. `runner`: the name of this tool runner."""
        self._settings = settings
        self.pools = HttpPools(settings, Egress.of(settings, resolve))
        self.sessions = Sessions(settings, self.pools, runner)
        self._listings = ListingCache(settings.tool_listing_ttl_s, settings.tool_listings_bytes_max)
        self._configured = configured
        self._stdio = stdio
        self._unwinding: set[asyncio.Task[None]] = set()

    def runs_in_sandbox(self, task: ToolTask) -> bool:
        """Returns True if the task is a cell for the built-in Python."""
        return servers.is_builtin_python(self._configured.get(task.server_label))

    async def run(
        self,
        task: ToolTask,
        secrets: ServerSecrets | None,
        session: str | None,
        store: SessionStore | None = None,
        tenant: str = "",
        call: str = "",
    ) -> Outcome:
        """Runs the task within `tool_timeout_s`; if cancelled, cancels the call on the server.

        Each report of progress by the server gives a call that time again, up to `tool_progress_max_s`.
        `tenant`: whose task it is, and whose listing is used if its own credentials made it. `call`: its
        name (`CALL_META_KEY`).

        `secrets`, `session`: those of the task's server_label. `store`: keeps the MCP session with that
        server between calls; without it, the session ends with the task. Raises only for a bug of ours.
        """
        now_s, is_configured = asyncio.get_running_loop().time, task.server_label in self._configured
        begun_s, outcome = now_s(), None
        try:
            outcome = await self._run_in_time(task, secrets, session, store, tenant, call)
        finally:
            result = None if outcome is None else outcome.result
            call_metrics.count(task, result, now_s() - begun_s, is_configured=is_configured)
        return outcome

    async def _run_in_time(
        self,
        task: ToolTask,
        secrets: ServerSecrets | None,
        session: str | None,
        store: SessionStore | None,
        tenant: str,
        call: str,
    ) -> Outcome:
        run = _Run(store, Patience.of(self._settings), call)
        running = asyncio.create_task(self._run_within(run, task, secrets, session, tenant))
        try:
            while (left_s := run.patience.left_s()) > 0 and not running.done():
                await asyncio.wait({running}, timeout=left_s)
        finally:
            if not running.done():
                unwinding = asyncio.create_task(_unwind(run, running))
                self._unwinding.add(unwinding)
                unwinding.add_done_callback(self._unwinding.discard)
        if running.done():
            return running.result()
        if run.has_no_answer:
            return Outcome(ToolFailure(mcp_client.NO_ANSWER))
        message = f"the server {task.server_label!r} did not answer within {run.patience.waited_s():g} s"
        return Outcome(answers.make_failure(answers.TIMED_OUT, message))

    async def settle(self) -> None:
        """Waits, within a limit, until every call that was given up is cancelled on its server."""
        if self._unwinding:
            await asyncio.wait(self._unwinding, timeout=3 * _UNWIND_S)

    async def close(self) -> None:
        """Settles, and closes every connection over HTTP."""
        await self.settle()
        await self.sessions.close()
        await self.pools.close()

    async def _run_within(
        self,
        run: "_Run",
        task: ToolTask,
        secrets: ServerSecrets | None,
        session: str | None,
        tenant: str,
    ) -> Outcome:
        with run.whole:
            try:
                question = _read_question(task, session, run.call)
                label, url = task.server_label, task.server_url
                server = servers.choose(self._configured, label, url, secrets, tenant)
                if isinstance(task, ToolListing) and isinstance(server, HttpServer):
                    owner = tenant if server.is_of_request or secrets is not None else ""
                    return await self._list(server, owner, task, run)
                return await self._run_on(server, question, run)
            except (NoServer, BadArguments) as refused:
                return Outcome(answers.make_failure(answers.INVALID_PARAMS, str(refused)))
            except ServerFailed as failed:
                # Not the server's own text, which may be long, and contain forged log lines.
                _log.info("%s: error %d (%s)", task.server_label, failed.error.code, failed.cause)
                return Outcome(ToolFailure(answers.cut_message(failed.error)))
        return _GIVEN_UP

    async def _run_on(self, server: Server, question: "_Question", run: "_Run") -> Outcome:
        match server:
            case HttpServer():
                run.status = LastStatus()
                return await self._run_in_session(
                    server,
                    question,
                    run,
                    lambda connection: self._ask_and_hear(server, connection, question, run),
                )
            case StdioServer(per_response=True):
                return await self._run_in_session(
                    server, question, run, lambda connection: self._ask(connection, question, run)
                )
            case StdioServer():
                return await self._ask(await self._stdio.connect(server), question, run)

    async def _run_in_session(
        self, server: Keeping, question: "_Question", run: "_Run", ask: Ask[Outcome]
    ) -> Outcome:
        status, is_call = run.status or LastStatus(), isinstance(question, _CallReady)
        asked = await self.sessions.ask(server, run.store, status, ask, is_call=is_call)
        bytes_max = self._settings.tool_output_bytes_max
        return _tell_of_new_session(asked.answer, bytes_max) if asked.is_anew else asked.answer

    async def _list(self, server: HttpServer, owner: str, task: ToolListing, run: "_Run") -> Outcome:
        """Lists a server's tools, unless a listing that was made for the same owner is still fresh."""
        if (kept := self._listings.get(server.digest, owner)) is not None:
            return Outcome(kept)
        asked_s = self._listings.now_s()
        outcome = await self._run_on(server, task, run)
        if isinstance(outcome.result, ToolsListed):
            self._listings.put(server.digest, owner, outcome.result, asked_s)
        return outcome

    async def _ask_and_hear(
        self, server: HttpServer, connection: Connection, question: "_Question", run: "_Run"
    ) -> Outcome:
        try:
            return await self._ask(connection, question, run)
        finally:
            if connection.status.tools_have_changed:
                connection.status.tools_have_changed = False
                self._listings.drop(server.digest)

    async def _ask(self, connection: Connection, question: "_Question", run: "_Run") -> Outcome:
        bytes_max = self._settings.tool_output_bytes_max
        with run.asking:
            match question:
                case ToolListing(label):
                    listing = Listing(bytes_max, self._settings.tool_schema_bytes_max)
                    await connection.list_tools(listing)
                    for tool in listing.left_out:
                        _log.warning("%s: the tool %r is left out: %s", label, tool.name, tool.reason)
                    return Outcome(answers.make_listing(listing))
                case _CallReady(call, arguments, meta):
                    on_progress = run.patience.listen(f"{call.server_label}: {call.name[:64]!r}")
                    answer = await connection.call(call.name, arguments, meta, on_progress)
                    hosted = hosted_tools.by_label(call.server_label)
                    shows_pages = hosted is not None and hosted.shows_pages
                    result = answers.make_result(answer, bytes_max, shows_pages=shows_pages)
                    return Outcome(result, self._read_session(call, answer))
        return _GIVEN_UP

    def _read_session(self, call: ToolCall, answer: Answer) -> str | None:
        session = answer.meta.get(SESSION_META_KEY)
        if not isinstance(session, str):
            return None
        size, size_max = len(session.encode("utf-8", "replace")), self._settings.tool_session_bytes_max
        if size > size_max:
            _log.warning(
                "%s: a session of %d bytes is not kept (limit %d)", call.server_label, size, size_max
            )
            return None
        return session


NEW_SESSION = (
    "[The server had ended its session. This call was made in a new one, which has nothing of what earlier"
    " calls had set up.]"
)
"""Stands before the result, since the model would otherwise take the new state for the one that it left."""
_GIVEN_UP = Outcome(answers.make_failure(answers.TIMED_OUT, "the call was given up"))
"""The outcome of a cancelled run, which is not used."""


def _tell_of_new_session(outcome: Outcome, bytes_max: int) -> Outcome:
    match outcome.result:
        case ToolOutput(output, display=None) as result:
            told = answers.cut(f"{NEW_SESSION}\n{output}", bytes_max)
            return replace(outcome, result=msgspec.structs.replace(result, output=told))
        case ToolFailure(McpToolExecutionError(content)):
            blocks = [{"type": "text", "text": NEW_SESSION}, *content]
            return replace(outcome, result=ToolFailure(McpToolExecutionError(blocks)))
        case _:
            return outcome


@dataclass(slots=True)
class _Run:
    """The scopes for cancelling a run: first `asking`, so that the connection can notify the server."""

    store: SessionStore | None
    patience: Patience
    call: str
    asking: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    whole: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    status: LastStatus | None = None
    """Set for a server over HTTP."""

    @property
    def has_no_answer(self) -> bool:
        """True if the server has not answered over HTTP at all: perhaps nothing listens there."""
        return self.status is not None and self.status.code == 0


async def _unwind(run: _Run, running: asyncio.Task[Outcome]) -> None:
    run.asking.cancel()
    await asyncio.wait({running}, timeout=_UNWIND_S)
    run.whole.cancel()
    await asyncio.wait({running})
    if error := running.exception():
        _log.error("cancelling a call failed", exc_info=error)


class BadArguments(Exception):
    """The arguments are not a JSON object; the message is for the model, which wrote them."""


@dataclass(frozen=True, slots=True)
class _CallReady:
    """A call with its arguments decoded, as it is sent."""

    call: ToolCall
    arguments: dict[str, Any]
    meta: dict[str, Any]


_Question = ToolListing | _CallReady


def _read_question(task: ToolTask, session: str | None, name: str) -> _Question:
    match task:
        case ToolListing():
            return task
        case ToolCall():
            meta: dict[str, Any] = {} if session is None else {SESSION_META_KEY: session}
            if name and hosted_tools.by_label(task.server_label) is not None:
                meta[CALL_META_KEY] = name
            if task.search is not None:
                meta[SEARCH_META_KEY] = msgspec.to_builtins(task.search)
            return _CallReady(task, _read_arguments(task), meta)


def _read_arguments(call: ToolCall) -> dict[str, Any]:
    try:
        return msgspec.json.decode(call.arguments or "{}", type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise BadArguments(f"the arguments of {call.name!r} are not a JSON object: {error}") from None
