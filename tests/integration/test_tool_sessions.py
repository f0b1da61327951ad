"""One session for a response and an MCP server, whichever tool runner serves a call; and the transports."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from shared.responses import HttpError, McpProtocolError, ServerSecrets
from shared.settings import Settings
from shared.store.keys import ResponseKey
from shared.tool_calls import ToolCall, ToolFailure, ToolListing, ToolOutput, ToolsListed
from tests.integration.stateful_servers import (
    Balancer,
    PagesServer,
    Received,
    Recorded,
    make_sdk_server,
    refuse_newer,
    serving,
)
from tests.patience import PATIENCE_S, until
from tool_runner import servers
from tool_runner.mcp_client import NO_ANSWER
from tool_runner.run_tool import Outcome, Tools
from tool_runner.stdio_servers import StdioServers

HANDSHAKES = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"]
Answer = Callable[[Received], Response | None]
ANEW = "[The server had ended its session. This call was made in a new one, which has nothing of what earlier"
SECRETS = ServerSecrets({"X-Key": "k"}, "token")


@dataclass
class Journal:
    """What the tool journal keeps of one response's session with one server."""

    kept: bytes = b""
    response: ResponseKey = field(default_factory=lambda: ResponseKey("tenant", "resp_1"))
    written: list[bytes] = field(default_factory=list)

    def begin_call(self) -> "Kept":
        return Kept(self, self.kept)


@dataclass
class Kept:
    journal: Journal
    session: bytes

    @property
    def response(self) -> ResponseKey:
        return self.journal.response

    async def keep(self, expected: bytes, session: bytes) -> bytes:
        if self.journal.kept in (expected, b""):
            self.journal.kept = session
            self.journal.written.append(session)
        return self.journal.kept


class Runner:
    """A tool runner without queue."""

    def __init__(self, tools: Tools) -> None:
        self.tools = tools

    async def ask(
        self, url: str, name: str, journal: Journal | None, secrets: ServerSecrets | None = None, **told: Any
    ) -> Outcome:
        call = ToolCall("here", name, json.dumps(told), url)
        return await self.tools.run(call, secrets, None, journal.begin_call() if journal else None)

    async def list(self, url: str, journal: Journal) -> Outcome:
        return await self.tools.run(ToolListing("here", url), None, None, journal.begin_call())


@asynccontextmanager
async def running(folder: Path, timeout_s: float = PATIENCE_S, **changes: Any) -> AsyncIterator[Runner]:
    path = folder / "servers.json"
    path.write_text("{}")
    changes = {"egress_networks": [ip_network("127.0.0.0/8")]} | changes
    settings = Settings(mcp_servers=path, tool_timeout_s=timeout_s, **changes)
    tools = Tools(settings, servers.load(settings), StdioServers(timeout_s))
    try:
        yield Runner(tools)
    finally:
        await tools.close()


def text_of(outcome: Outcome) -> str:
    assert isinstance(outcome.result, ToolOutput), outcome.result
    return outcome.result.output


def error_of(outcome: Outcome) -> object:
    assert isinstance(outcome.result, ToolFailure), outcome.result
    return outcome.result.error


@pytest.mark.parametrize("version", HANDSHAKES)
@pytest.mark.parametrize("streams", [False, True])
async def test_a_session_is_continued_with_one_request_for_each_call_by_any_runner(
    tmp_path: Path, version: str, streams: bool
) -> None:
    server, journal = PagesServer(version, streams=streams), Journal()
    async with serving(server) as url, running(tmp_path) as one, running(tmp_path) as other:
        assert isinstance((await one.list(url, journal)).result, ToolsListed)
        begun = len(server.received)
        assert text_of(await other.ask(url, "visit", journal, page="a")) == "a"
        assert text_of(await one.ask(url, "look", journal)) == "a"
        assert text_of(await other.ask(url, "look", journal)) == "a"
    assert server.sent(begun) == ["tools/call"] * 3
    assert len(server.sessions) == 1
    assert {received.version for received in server.received[begun:]} == {version}


async def test_requests_of_one_session_have_different_ids(tmp_path: Path) -> None:
    server, journal = PagesServer(), Journal()
    async with serving(server) as url, running(tmp_path) as one, running(tmp_path) as other:
        await one.ask(url, "visit", journal, page="a")
        await asyncio.gather(*(runner.ask(url, "look", journal) for runner in (one, other) * 3))
    (ids,) = server.ids.values()
    assert len(set(ids)) == len(ids) == 7


async def test_calls_that_begin_at_once_share_one_session(tmp_path: Path) -> None:
    server, journal = PagesServer(), Journal()
    async with serving(server) as url, running(tmp_path) as one, running(tmp_path) as other:
        await asyncio.gather(*(runner.ask(url, "look", journal) for runner in (one, other) * 2))
        await until(lambda: len(server.sessions) == 1)
        await one.ask(url, "visit", journal, page="a")
        assert text_of(await other.ask(url, "look", journal)) == "a"
    called = {received.session for received in server.received if received.what == "tools/call"}
    assert len(called) == 1


@pytest.mark.parametrize("status", [404, 400])
async def test_a_session_that_vanishes_begins_anew_and_the_model_reads_that_it_did(
    tmp_path: Path, status: int
) -> None:
    server, journal = PagesServer(lost_status=status), Journal()
    async with serving(server) as url, running(tmp_path) as one:
        await one.ask(url, "visit", journal, page="a")
        server.forget()
        told = text_of(await one.ask(url, "look", journal))
        assert told.startswith(ANEW)
        assert told.endswith("\nabout:blank")
        assert text_of(await one.ask(url, "look", journal)) == "about:blank"
    assert server.visits == 1


@pytest.mark.parametrize("is_listed", [False, True])
async def test_that_a_session_begins_anew_is_read_of_the_first_call_that_has_an_answer(
    tmp_path: Path, is_listed: bool
) -> None:
    server, journal = PagesServer(), Journal()
    async with serving(server) as url, running(tmp_path, tool_listing_ttl_s=0.001) as one:
        await one.ask(url, "visit", journal, page="a")
        server.forget()
        if is_listed:
            await one.list(url, journal)
        server.intercept = lambda received: (
            JSONResponse({}, 503) if received.what == "tools/call" and server.sessions else None
        )
        for _ in range(2):
            assert isinstance(error_of(await one.ask(url, "look", journal)), HttpError)
        server.intercept = lambda _received: None
        assert text_of(await one.ask(url, "look", journal)).startswith(ANEW)
        assert text_of(await one.ask(url, "look", journal)) == "about:blank"


async def test_a_session_that_vanishes_before_its_first_call_is_not_worth_a_word(tmp_path: Path) -> None:
    server, journal = PagesServer(), Journal()
    async with serving(server) as url, running(tmp_path) as one:
        await one.list(url, journal)
        server.forget()
        assert text_of(await one.ask(url, "look", journal)) == "about:blank"


async def test_a_server_that_loses_each_session_at_once_fails_its_call(tmp_path: Path) -> None:
    server, journal = PagesServer(), Journal()

    def forget(received: Received) -> Response | None:
        if received.what == "tools/call":
            server.forget()
        return None

    server.intercept = forget
    async with serving(server) as url, running(tmp_path) as one:
        for _ in range(2):
            failed = error_of(await one.ask(url, "visit", journal, page="a"))
            assert isinstance(failed, HttpError | McpProtocolError)
    assert server.visits == 0


async def test_a_call_whose_answer_is_lost_is_not_made_again(tmp_path: Path) -> None:
    server, journal = PagesServer(), Journal()

    async def break_off() -> AsyncIterator[bytes]:
        yield b": nothing\n"
        raise ConnectionResetError

    def lose(received: Received) -> Response | None:
        if received.what == "tools/call":
            server.visits += 1
            return StreamingResponse(break_off(), media_type="text/event-stream")
        return None

    async with serving(server) as url, running(tmp_path) as one:
        await one.ask(url, "look", journal)
        server.intercept = lose
        assert isinstance(
            error_of(await one.ask(url, "visit", journal, page="a")), HttpError | McpProtocolError
        )
    assert server.visits == 1


async def test_a_session_is_used_with_its_own_credentials_only(tmp_path: Path) -> None:
    server, journal = PagesServer(), Journal()
    async with serving(server) as url, running(tmp_path) as one:
        await one.ask(url, "visit", journal, page="a")
        assert text_of(await one.ask(url, "look", journal, SECRETS)) == "about:blank"
    assert len(server.sessions) == 2


async def test_an_old_session_is_not_used_again(tmp_path: Path) -> None:
    server, journal = PagesServer(), Journal()
    async with serving(server) as url, running(tmp_path, tool_session_age_max_s=1e-6) as one:
        await one.ask(url, "visit", journal, page="a")
        assert text_of(await one.ask(url, "look", journal)) == "about:blank"


async def test_neither_credentials_nor_the_sessions_id_can_be_read_in_the_journal(tmp_path: Path) -> None:
    server, journal = PagesServer(), Journal()
    key = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
    async with serving(server) as url, running(tmp_path, secrets_key=key) as one:
        await one.ask(url, "visit", journal, SECRETS, page="a")
        assert text_of(await one.ask(url, "look", journal, SECRETS)) == "a"
    (session,) = server.sessions
    assert journal.written
    for written in journal.written:
        assert not any(secret in written for secret in (b"token", session.encode(), b"127.0.0.1"))


async def test_a_session_without_a_response_ends_with_its_call(tmp_path: Path) -> None:
    server = PagesServer()
    async with serving(server) as url, running(tmp_path) as one:
        assert text_of(await one.ask(url, "look", None)) == "about:blank"
        await until(lambda: not server.sessions)


async def test_calls_share_connections_also_where_answers_are_streams(tmp_path: Path) -> None:
    server, journal = PagesServer(), Journal()
    async with serving(server) as url, running(tmp_path, tool_connection_idle_s=PATIENCE_S) as one:
        for _ in range(5):
            await one.ask(url, "look", journal)
            await asyncio.sleep(0)
    assert len({received.peer for received in server.received}) <= 2


async def test_idle_connections_are_closed(tmp_path: Path) -> None:
    server, journal = PagesServer(), Journal()
    async with serving(server) as url, running(tmp_path, tool_connection_idle_s=0.01) as one:
        await one.ask(url, "look", journal)
        await until(lambda: one.tools.pools.idle == 0)
    async with serving(server) as url, running(tmp_path, tool_connections_idle_max=1) as one:
        for key in "abc":
            await one.ask(url, "look", journal, ServerSecrets({"X-Key": key}))
        assert one.tools.pools.idle == 1


# Cookies


async def test_a_session_stays_on_the_machine_that_a_load_balancers_cookie_names(tmp_path: Path) -> None:
    machines, journal = (PagesServer(), PagesServer()), Journal()
    balancer = Balancer(machines)
    async with serving(balancer) as url, running(tmp_path) as one, running(tmp_path) as other:
        await one.list(url, journal)
        assert text_of(await other.ask(url, "visit", journal, page="a")) == "a"
        for runner in (one, other, other, one):
            assert text_of(await runner.ask(url, "look", journal)) == "a"
        assert text_of(await one.ask(url, "look", None)) == "about:blank"
        await until(lambda: "DELETE" in [*machines[0].sent(), *machines[1].sent()])
    assert sorted(len(machine.sessions) for machine in machines) == [0, 1]


async def test_cookies_stay_with_their_credentials_and_cannot_be_read_in_the_journal(tmp_path: Path) -> None:
    balancer, journal = Balancer([PagesServer()]), Journal()
    key = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
    async with serving(balancer) as url, running(tmp_path, secrets_key=key) as one:
        await one.ask(url, "visit", journal, page="a")
        known = set(balancer.cookies) - {""}
        assert known
        begun = len(balancer.cookies)
        await one.ask(url, "look", journal, SECRETS)
        assert not known & set(balancer.cookies[begun:])
        await one.ask(url, "look", Journal(), ServerSecrets({"Cookie": "own=1"}))
        assert balancer.cookies[-1] == "own=1"
    for written in journal.written:
        assert not any(cookie.encode() in written for cookie in known)


async def test_neither_many_cookies_nor_long_ones_are_kept(tmp_path: Path) -> None:
    many = [f"c{number}=x" for number in range(200)]
    balancer, journal = Balancer([PagesServer()], more=["long=" + "x" * 5_000, *many]), Journal()
    async with serving(balancer) as url, running(tmp_path) as one:
        await one.ask(url, "visit", journal, page="a")
        assert text_of(await one.ask(url, "look", journal)) == "a"
    assert len(journal.kept) < 10_000
    assert len(balancer.cookies[-1].split("; ")) == 16


async def test_a_server_to_which_a_redirect_leads_sets_no_cookie_for_the_one_that_redirects(
    tmp_path: Path,
) -> None:
    balancer, door, journal = Balancer([PagesServer()]), PagesServer(), Journal()
    entrance = Balancer([door], more=["door=1"])
    async with serving(balancer) as url, serving(entrance) as first, running(tmp_path) as one:
        door.intercept = lambda _received: RedirectResponse(f"{url}/mcp", 307)
        await one.ask(first, "visit", journal, page="a")
        assert text_of(await one.ask(first, "look", journal)) == "a"
    assert set(balancer.cookies) == {""}


# Redirects and refusals


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_followed_without_the_credentials(tmp_path: Path, status: int) -> None:
    server, door, journal = PagesServer(), PagesServer(), Journal()
    async with serving(server) as url, serving(door) as first, running(tmp_path) as one:
        door.intercept = lambda _received: RedirectResponse(f"{url}/mcp", status)
        assert text_of(await one.ask(first, "visit", journal, SECRETS, page="a")) == "a"
        assert text_of(await one.ask(first, "look", journal, SECRETS)) == "a"
    assert {received.authorization for received in door.received} == {"Bearer token"}
    assert {received.authorization for received in server.received} == {""}


async def test_a_redirect_within_the_origin_keeps_the_credentials(tmp_path: Path) -> None:
    server, journal = PagesServer(), Journal()
    moved: list[str] = []

    def move(received: Received) -> Response | None:
        moved.append(received.what)
        return RedirectResponse("/mcp/", 307) if len(moved) % 2 else None

    server.intercept = move
    async with serving(server) as url, running(tmp_path) as one:
        await one.ask(url, "visit", journal, SECRETS, page="a")
    assert {received.authorization for received in server.received} == {"Bearer token"}


async def test_a_redirect_leads_nowhere_that_the_operator_does_not_allow(tmp_path: Path) -> None:
    """Also from a server of the operator's own, who allows that one only."""
    inner, door = PagesServer(), PagesServer()
    async with serving(inner) as url, serving(door) as first:
        door.intercept = lambda _received: RedirectResponse(f"{url}/mcp", 307)
        path = tmp_path / "ours.json"
        path.write_text(json.dumps({"here": {"url": first}}))
        settings = Settings(mcp_servers=path, tool_timeout_s=PATIENCE_S, egress_networks=[])
        tools = Tools(settings, servers.load(settings), StdioServers(1.0))
        try:
            outcome = await tools.run(ToolCall("here", "look", "{}"), None, None)
        finally:
            await tools.close()
    assert error_of(outcome) == NO_ANSWER
    assert inner.received == []
    assert door.received != []


async def test_a_server_that_redirects_without_end_is_a_failure(tmp_path: Path) -> None:
    server = PagesServer()
    server.intercept = lambda _received: RedirectResponse("/again", 307)
    async with serving(server) as url, running(tmp_path) as one:
        failed = error_of(await one.ask(url, "look", Journal()))
    assert isinstance(failed, HttpError)
    assert failed.code == 307
    assert len(server.received) < 20


async def test_a_busy_server_is_asked_again_when_it_says(tmp_path: Path) -> None:
    server, journal, busy = PagesServer(), Journal(), [1, 1]

    def refuse(received: Received) -> Response | None:
        if received.what == "tools/call" and busy:
            busy.pop()
            return Response(status_code=429, headers={"retry-after": "0"})
        return None

    server.intercept = refuse
    async with serving(server) as url, running(tmp_path) as one:
        assert text_of(await one.ask(url, "visit", journal, page="a")) == "a"
    assert server.visits == 1
    assert server.sent().count("tools/call") == 3


async def test_a_server_that_is_busy_for_too_long_is_not_waited_for(tmp_path: Path) -> None:
    server = PagesServer()
    server.intercept = lambda _received: Response(status_code=429, headers={"retry-after": "31"})
    async with serving(server) as url, running(tmp_path) as one:
        failed = error_of(await one.ask(url, "look", Journal()))
    assert failed == HttpError(429, "the server answered 429 Too Many Requests (retry-after: 31)")


async def test_a_refusal_says_what_the_server_demands(tmp_path: Path) -> None:
    server = PagesServer()
    demand = 'Bearer error="invalid_token"'
    server.intercept = lambda _received: Response(status_code=401, headers={"www-authenticate": demand})
    async with serving(server) as url, running(tmp_path) as one:
        failed = error_of(await one.ask(url, "look", Journal()))
    assert failed == HttpError(401, f"the server answered 401 Unauthorized (www-authenticate: {demand})")


# The SDK's own server


async def test_the_sdks_server_keeps_a_session_over_streamable_http(tmp_path: Path) -> None:
    app, journal = Recorded(make_sdk_server().streamable_http_app(), refuse=refuse_newer), Journal()
    async with serving(app) as url, running(tmp_path) as one, running(tmp_path) as other:
        for number, runner in enumerate((one, other, one), start=1):
            sent = len(app.received)
            assert text_of(await runner.ask(f"{url}/mcp", "step", journal)) == str(number)
            assert len(app.received) - sent == 1 or number == 1


async def test_a_server_without_sessions_is_asked_once_for_each_call(tmp_path: Path) -> None:
    app, journal = Recorded(make_sdk_server().streamable_http_app()), Journal()
    async with serving(app) as url, running(tmp_path) as one, running(tmp_path) as other:
        await one.ask(f"{url}/mcp", "step", journal)
        begun = len(app.received)
        await other.ask(f"{url}/mcp", "step", journal)
        await one.ask(f"{url}/mcp", "step", journal)
    assert app.received[begun:] == [("POST", "/mcp")] * 2


async def test_the_sdks_server_keeps_a_session_over_http_with_sse(tmp_path: Path) -> None:
    app, journal = Recorded(make_sdk_server().sse_app()), Journal()
    async with serving(app) as url, running(tmp_path) as one, running(tmp_path) as other:
        for number in ("1", "2", "3"):
            assert text_of(await one.ask(f"{url}/sse", "step", journal)) == number
        assert app.received.count(("GET", "/sse")) == 1
        told = text_of(await other.ask(f"{url}/sse", "step", journal))
        assert told.startswith(ANEW)
        assert told.endswith("\n1")


@pytest.mark.parametrize(
    ("method", "status", "headers", "said"),
    [
        ("initialize", 401, {"www-authenticate": "Bearer"}, "401 Unauthorized (www-authenticate: Bearer)"),
        ("initialize", 429, {"retry-after": "9000"}, "429 Too Many Requests (retry-after: 9000)"),
        ("initialize", 404, {}, "404 Not Found"),
        ("tools/call", 500, {}, "500 Internal Server Error"),
        ("tools/call", 401, {"www-authenticate": "Bearer"}, "401 Unauthorized (www-authenticate: Bearer)"),
        ("tools/call", 404, {}, "404 Not Found"),
        ("notifications/initialized", 500, {}, ""),
    ],
)
async def test_a_message_that_is_refused_over_http_with_sse_is_answered_at_once_by_its_status(
    tmp_path: Path, method: str, status: int, headers: dict[str, str], said: str
) -> None:
    app, journal = make_sdk_server().sse_app(), Journal()
    refuses = method == "initialize"

    async def refusing(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] == "/sse":
            await app(scope, receive, send)
            return
        body = await Request(scope, receive).body()

        async def again() -> Any:
            return {"type": "http.request", "body": body}

        is_refused = refuses and f'"{method}"'.encode() in body
        answer = Response(status_code=status, headers=headers) if is_refused else app
        await answer(scope, again, send)

    async with serving(refusing) as url, running(tmp_path) as one:
        if method == "tools/call":
            assert text_of(await one.ask(f"{url}/sse", "step", journal)) == "1"
        refuses = True
        outcome = await one.ask(f"{url}/sse", "step", journal)
        if not said:
            assert text_of(outcome) == "1"
            return
        assert error_of(outcome) == HttpError(status, f"the server answered {said}")
        refuses = False
        text = text_of(await one.ask(f"{url}/sse", "step", journal))
        assert text.splitlines()[-1] == ("2" if method == "tools/call" and status != 404 else "1")


@pytest.mark.parametrize(
    ("status", "said", "is_gone"),
    [
        (404, b"Could not find it", True),
        (400, b"Invalid Session ID", True),
        (400, b"Could not parse it", False),
    ],
)
async def test_a_session_over_http_with_sse_begins_anew_if_the_server_says_that_it_is_gone(
    tmp_path: Path, status: int, said: bytes, is_gone: bool
) -> None:
    app, journal = make_sdk_server().sse_app(), Journal()
    to_refuse: list[Response] = []

    async def refusing(scope: Scope, receive: Receive, send: Send) -> None:
        is_asked = scope["type"] == "http" and scope["method"] == "POST" and scope["path"] != "/sse"
        await (to_refuse.pop() if is_asked and to_refuse else app)(scope, receive, send)

    async with serving(refusing) as url, running(tmp_path) as one:
        assert text_of(await one.ask(f"{url}/sse", "step", journal)) == "1"
        to_refuse.append(Response(said, status))
        outcome = await one.ask(f"{url}/sse", "step", journal)
        if is_gone:
            assert text_of(outcome).startswith(ANEW)
            return
        told = f"the server answered 400 Bad Request: {said.decode()}"
        assert error_of(outcome) == HttpError(400, told)
        assert text_of(await one.ask(f"{url}/sse", "step", journal)) == "2"


async def test_a_session_over_http_with_sse_that_is_gone_begins_anew(tmp_path: Path) -> None:
    app, journal = Recorded(make_sdk_server().sse_app()), Journal()
    async with serving(app) as url, running(tmp_path) as one:
        assert text_of(await one.ask(f"{url}/sse", "step", journal)) == "1"
        lost = [path for method, path in app.received if method == "POST"][-1:]
        told = list[int]()

        def refuse(method: str, path: str, _headers: dict[bytes, bytes]) -> int:
            if method != "POST" or path not in lost or told:
                return 0
            told.append(404)
            return 404

        app.refuse = refuse
        told_of = text_of(await one.ask(f"{url}/sse", "step", journal))
    assert told_of.startswith(ANEW)
    assert told_of.endswith("\n1")


async def test_a_message_stream_that_leads_to_another_origin_is_refused(tmp_path: Path) -> None:
    elsewhere = PagesServer()

    async def stream(where: str) -> AsyncIterator[bytes]:
        yield f"event: endpoint\ndata: {where}/messages\n\n".encode()
        await asyncio.Event().wait()

    async with serving(elsewhere) as other, running(tmp_path) as one:
        server = PagesServer()
        server.intercept = lambda received: (
            StreamingResponse(stream(other), media_type="text/event-stream")
            if received.what == "GET"
            else JSONResponse({}, 405)
        )
        async with serving(server) as url:
            failed = error_of(await one.ask(url, "look", Journal()))
    said = "over HTTP with SSE, the server leads to another origin in its `endpoint` event (another port)"
    assert failed == McpProtocolError(-32603, said)
    assert elsewhere.received == []


def answer_get(*chunks: bytes, lasts: bool = True, kind: str = "text/event-stream") -> Answer:
    """A server that refuses messages as one over HTTP with SSE does, and answers GET with these chunks."""

    async def stream() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk
        if lasts:
            await asyncio.Event().wait()

    return lambda received: (
        StreamingResponse(stream(), media_type=kind) if received.what == "GET" else JSONResponse({}, 405)
    )


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (answer_get(b"event: endpoint\ndata: https://b.example:1/m\n\n"), "(another scheme, host, port)"),
        (answer_get(b"event: endpoint\r\ndata: ftp:/m\r\n\r\n"), "to another origin in its `endpoint` event"),
        (
            answer_get(b"event: endpoint\rda", b"ta: http://[\r\r", b":"),
            "names no URL in its `endpoint` event",
        ),
        (answer_get(b"event: endpoint\ndata\n\n"), "names no URL in its `endpoint` event"),
        (answer_get(b": hello\n\n", lasts=False), "ended its stream before an `endpoint` event"),
        (answer_get(b"data: {}\n\n"), "sent a message before an `endpoint` event"),
        (answer_get(*(b": still here\n\n" * 1_000,) * 6), "sent 65536 bytes without an `endpoint` event"),
        (
            answer_get(b"<h1>Welcome</h1>", lasts=False, kind="text/html"),
            "the server answered 405 Method Not Allowed; over HTTP with SSE, the server answered GET with "
            "content of text/html, not text/event-stream",
        ),
    ],
)
async def test_a_message_stream_that_does_not_say_where_messages_go_is_refused_at_once(
    tmp_path: Path, answer: Answer, said: str
) -> None:
    server = PagesServer()
    server.intercept = answer
    async with serving(server) as url, running(tmp_path) as one:
        failed = error_of(await one.ask(url, "look", Journal()))
    assert isinstance(failed, HttpError | McpProtocolError)
    assert said in failed.message
    assert {received.what for received in server.received} <= {"GET", "server/discover", "initialize"}


# A server that means harm


HASTY_S = 2.0
"""Of a runner that makes only the call that fails: the others may take as long as the machine needs."""


async def test_a_stream_that_never_ends_or_answers_another_question_fails_in_time(tmp_path: Path) -> None:
    server, journal = PagesServer(), Journal()

    async def answer_another() -> AsyncIterator[bytes]:
        while True:
            yield b'event: message\ndata: {"jsonrpc": "2.0", "method": "notifications/message"}\n\n'
            await asyncio.sleep(0.01)

    async with serving(server) as url, running(tmp_path) as one, running(tmp_path, HASTY_S) as hasty:
        await one.ask(url, "look", journal)
        server.intercept = lambda received: (
            StreamingResponse(answer_another(), media_type="text/event-stream")
            if received.what == "tools/call"
            else None
        )
        failed = error_of(await hasty.ask(url, "look", journal))
        assert failed == McpProtocolError(-32001, "the server 'here' did not answer within 2 s")
        server.intercept = lambda _received: None
        assert text_of(await one.ask(url, "look", journal)) == "about:blank"


@pytest.mark.parametrize("streams", [False, True])
async def test_an_answer_to_another_question_or_none_fails_in_time(tmp_path: Path, streams: bool) -> None:
    server, journal = PagesServer(streams=streams), Journal()

    async def say_nothing() -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    def answer(received: Received) -> Response | None:
        if received.what != "tools/call":
            return None
        if streams:
            return StreamingResponse(say_nothing(), media_type="text/event-stream")
        return JSONResponse({"jsonrpc": "2.0", "id": "another", "result": {"content": []}})

    async with serving(server) as url, running(tmp_path) as one, running(tmp_path, HASTY_S) as hasty:
        await one.ask(url, "look", journal)
        server.intercept = answer
        failed = error_of(await hasty.ask(url, "look", journal))
    assert failed == McpProtocolError(-32001, "the server 'here' did not answer within 2 s")


async def test_a_server_that_thinks_for_too_long_is_not_taken_for_one_that_never_answered(
    tmp_path: Path,
) -> None:
    async def say_nothing(scope: Scope, receive: Receive, _send: Send) -> None:
        while scope["type"] == "http" and (await receive())["type"] != "http.disconnect":
            pass

    server, journal = PagesServer(streams=False), Journal()
    async with (
        serving(say_nothing) as silent,
        serving(server) as url,
        running(tmp_path) as one,
        running(tmp_path, HASTY_S) as hasty,
    ):
        await one.ask(url, "look", journal)
        server.intercept = lambda _received: RedirectResponse(silent, 307)
        failed = error_of(await hasty.ask(url, "look", journal))
    assert failed == McpProtocolError(-32001, "the server 'here' did not answer within 2 s")


@pytest.mark.parametrize("session", ["x" * 100_000, "a b", "é", ""])
async def test_a_session_id_that_is_none_harms_nobody(tmp_path: Path, session: str) -> None:
    server, journal = PagesServer(), Journal()

    def open_odd(received: Received) -> Response | None:
        if received.what != "initialize":
            return None
        server.sessions[session] = "odd"
        told = {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "serverInfo": {"name": "", "version": ""},
        }
        answer = {"jsonrpc": "2.0", "id": 2, "result": told}
        return JSONResponse(answer, headers={"mcp-session-id": session})

    server.intercept = open_odd
    async with serving(server) as url, running(tmp_path) as one:
        for _ in range(2):
            outcome = await one.ask(url, "look", journal)
            assert isinstance(outcome.result, ToolOutput | ToolFailure)
    assert len(journal.kept) < 10_000
