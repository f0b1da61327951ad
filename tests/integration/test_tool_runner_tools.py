"""Tasks on real MCP servers, and on servers that are none, without queue or journal."""

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import anyio
import pytest
import pytest_asyncio
from mcp.shared.message import SessionMessage
from mcp.types import JSONRPCNotification

from local.ports import HOST
from shared import traces
from shared.egress import Resolve
from shared.responses import HttpError, LeftOutTool, McpProtocolError, McpToolExecutionError, ServerSecrets
from shared.settings import Settings
from shared.tool_calls import ToolCall, ToolFailure, ToolListing, ToolOutput, ToolsListed
from shared.tracer import TraceContext
from tests.integration.mcp_servers import ODD_NAMES, serving_http, stdio_entry
from tests.patience import PATIENCE_S, outlast, until
from tests.spans import exporting
from tool_runner import servers, stdio_transport
from tool_runner.mcp_client import NO_ANSWER
from tool_runner.progress import Patience
from tool_runner.run_tool import Outcome, Tools
from tool_runner.stdio_servers import StdioServers

Writer = asyncio.StreamWriter
LOOPBACK = [ip_network("127.0.0.0/8")]


class Caller:
    """Calls tools the way the tool runner does."""

    def __init__(self, tools: Tools, stdio: StdioServers) -> None:
        self._tools = tools
        self.stdio = stdio

    async def call(
        self,
        name: str,
        arguments: dict[str, Any] | str,
        url: str | None = None,
        *,
        label: str = "here",
        secrets: ServerSecrets | None = None,
        session: str | None = None,
        tenant: str = "",
    ) -> Outcome:
        text = arguments if isinstance(arguments, str) else json.dumps(arguments)
        return await self._tools.run(ToolCall(label, name, text, url), secrets, session, tenant=tenant)

    async def list(
        self,
        url: str | None,
        *,
        label: str = "here",
        secrets: ServerSecrets | None = None,
        tenant: str = "",
    ) -> Outcome:
        return await self._tools.run(ToolListing(label, url), secrets, None, tenant=tenant)


@asynccontextmanager
async def calling(
    folder: Path,
    *,
    timeout_s: float = PATIENCE_S,
    configured: str | None = None,
    resolve: Resolve | None = None,
    stdio: StdioServers | None = None,
    **limits: Any,
) -> AsyncIterator[Caller]:
    """`configured`: the URL of the operator's server `ours`. Requests may name servers on loopback."""
    path = folder / "servers.json"
    entries: dict[str, Any] = {"pipe": stdio_entry(), "missing": {"command": "/nowhere/to/be/found"}}
    entries["halves"] = {"command": sys.executable, "args": ["-c", _HALVES]}
    path.write_text(json.dumps(entries | ({"ours": {"url": configured}} if configured else {})))
    limits = {"egress_networks": LOOPBACK} | limits
    settings = Settings(mcp_servers=path, tool_timeout_s=timeout_s, **limits)
    running = stdio or StdioServers(settings.tool_timeout_s)
    tools = Tools(settings, servers.load(settings), running, resolve)
    try:
        yield Caller(tools, running)
    finally:
        await tools.close()
        if stdio is None:
            await running.close()


@pytest_asyncio.fixture
async def caller(tmp_path: Path) -> AsyncIterator[Caller]:
    async with calling(tmp_path) as caller:
        yield caller


@pytest.fixture(scope="module")
def modern_url() -> Iterator[str]:
    with serving_http() as url:
        yield url


@pytest.fixture(scope="module")
def old_url() -> Iterator[str]:
    with serving_http("--old") as url:
        yield url


@pytest.fixture(params=["modern", "old"])
def url(request: pytest.FixtureRequest) -> str:
    """A server of each of the two protocol families: stateless, and with the handshake."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@asynccontextmanager
async def answering(answer: Callable[[bytes, Writer], Awaitable[None]]) -> AsyncIterator[str]:
    """A TCP server that reads one HTTP request and leaves the rest to `answer`; yields its URL."""

    async def serve(reader: asyncio.StreamReader, writer: Writer) -> None:
        try:
            await answer(await reader.readuntil(b"\r\n\r\n"), writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, HOST, 0)
    try:
        yield f"http://{HOST}:{server.sockets[0].getsockname()[1]}/mcp"
    finally:
        server.close()


def head(kind: str, *more: str, status: str = "200 OK") -> bytes:
    return "\r\n".join((f"HTTP/1.1 {status}", f"content-type: {kind}", *more, "", "")).encode()


def error_of(outcome: Outcome) -> object:
    assert isinstance(outcome.result, ToolFailure), outcome.result
    return outcome.result.error


async def test_a_tool_answers_over_http(caller: Caller, url: str) -> None:
    assert (await caller.call("add", {"a": 2, "b": 3}, url)).result == ToolOutput("5")


async def test_a_tool_answers_over_stdio(caller: Caller) -> None:
    outcome = await caller.call("add", {"a": 2, "b": 3}, label="pipe")
    assert outcome.result == ToolOutput("5")


async def test_an_image_is_described_and_structured_content_shown(caller: Caller, url: str) -> None:
    assert (await caller.call("draw", {}, url)).result == ToolOutput("[image image/png, 5 bytes]")
    assert (await caller.call("weigh", {}, url)).result == ToolOutput('{"kg":1.1805916207174113e21}')


async def test_the_session_of_a_result_is_given_back_with_the_next_call(caller: Caller, url: str) -> None:
    first = await caller.call("count", {}, url)
    assert (first.result, first.session) == (ToolOutput("1"), "1")
    second = await caller.call("count", {}, url, session=first.session)
    assert (second.result, second.session) == (ToolOutput("2"), "2")


async def test_a_session_that_is_too_large_is_not_kept(tmp_path: Path, url: str) -> None:
    async with calling(tmp_path, tool_session_bytes_max=1) as caller:
        assert (await caller.call("count", {}, url, session="8")).session == "9"
        outcome = await caller.call("count", {}, url, session="9")
    assert (outcome.result, outcome.session) == (ToolOutput("10"), None)


async def test_a_tool_that_fails_is_a_tool_execution_error_with_what_it_said(
    caller: Caller, url: str
) -> None:
    failed = error_of(await caller.call("fail", {"why": "no such file"}, url))
    assert failed == McpToolExecutionError([{"type": "text", "text": "no such file"}])


@pytest.mark.parametrize("arguments", ["{", "[1]", "null", ""])
async def test_arguments_that_are_no_json_object_are_invalid_params(caller: Caller, arguments: str) -> None:
    failed = error_of(await caller.call("add", arguments, label="pipe"))
    assert isinstance(failed, McpProtocolError | McpToolExecutionError)
    if arguments:  # none at all are an empty object, which it is for the tool to refuse
        assert isinstance(failed, McpProtocolError)
        assert failed.code == -32602


async def test_a_huge_output_is_cut_to_its_limit(tmp_path: Path, url: str) -> None:
    async with calling(tmp_path, tool_output_bytes_max=1000) as caller:
        outcome = await caller.call("repeat", {"text": "é", "times": 2_000_000}, url)
    assert isinstance(outcome.result, ToolOutput)
    assert outcome.result.output.startswith("éé")
    assert outcome.result.output.endswith("[cut: this is the beginning of 4000000 bytes]")
    assert 990 <= len(outcome.result.output.encode()) <= 1000


async def test_an_answer_too_long_to_be_read_at_all_is_a_failure(caller: Caller, url: str) -> None:
    failed = error_of(await caller.call("repeat", {"text": "x" * 100, "times": 200_000}, url))
    assert isinstance(failed, McpProtocolError)
    assert "longer than 16777216 bytes" in failed.message


async def test_the_tools_of_all_pages_are_listed_with_their_schemas(caller: Caller) -> None:
    with serving_http("--pages", "3") as url:
        listed = (await caller.list(url)).result
    assert isinstance(listed, ToolsListed)
    assert [tool.name for tool in listed.tools] == [f"tool_{page}_{i}" for page in (1, 2, 3) for i in (0, 1)]


@pytest.mark.parametrize("era", [[], ["--old"]])
async def test_a_tool_is_called_by_the_name_that_its_server_gave_it(caller: Caller, era: list[str]) -> None:
    with serving_http("--names", *era) as url:
        listed = (await caller.list(url)).result
        assert isinstance(listed, ToolsListed)
        assert [tool.name for tool in listed.tools] == list(dict.fromkeys(ODD_NAMES))
        assert listed.left_out == (LeftOutTool("a b", "an earlier tool has its name"),)
        for name in ODD_NAMES:
            assert (await caller.call(name, {}, url)).result == ToolOutput(name)


async def test_a_listing_without_an_end_is_a_failure(caller: Caller) -> None:
    with serving_http("--pages", "0") as url:
        failed = error_of(await caller.list(url))
    assert failed == McpProtocolError(-32603, "its tools take over 100 pages")


def names_of(outcome: Outcome) -> set[str]:
    assert isinstance(outcome.result, ToolsListed)
    return {tool.name for tool in outcome.result.tools}


async def test_a_listing_is_used_again_until_the_server_says_that_its_tools_have_changed(
    caller: Caller,
) -> None:
    """In the call in which the server says so; over stdio, where listing costs nothing, none is kept."""
    with serving_http("--old") as url:
        first = await caller.list(url)
        assert (await caller.list(url)).result is first.result
        assert (await caller.call("learn", {"name": "sum"}, url)).result == ToolOutput("learned sum")
        assert names_of(await caller.list(url)) == names_of(first) | {"sum"}


async def test_a_listing_is_anothers_only_if_the_operator_configured_the_server(tmp_path: Path) -> None:
    def listed(caller: Caller, label: str, url: str | None, secret: str, tenant: str) -> Awaitable[Outcome]:
        secrets = ServerSecrets({"x-key": secret}) if secret else None
        return caller.list(url, label=label, secrets=secrets, tenant=tenant)

    with serving_http() as url:
        async with calling(tmp_path, configured=url) as caller:
            one = await listed(caller, "there", url, "a", "one")
            assert (await listed(caller, "there", url, "a", "one")).result is one.result
            for secret, tenant in (("a", "other"), ("b", "one"), ("", "one")):
                assert (await listed(caller, "there", url, secret, tenant)).result is not one.result
            ours = await listed(caller, "ours", None, "", "one")
            assert (await listed(caller, "ours", None, "", "other")).result is ours.result
            assert (await listed(caller, "ours", None, "a", "other")).result is not ours.result


async def test_a_failed_listing_is_not_kept(caller: Caller) -> None:
    with serving_http("--require-header", "x-key=secret") as url:
        assert isinstance((await caller.list(url)).result, ToolFailure)
        assert isinstance((await caller.list(url)).result, ToolFailure)
        secrets = ServerSecrets({"X-Key": "secret"})
        assert "add" in names_of(await caller.list(url, secrets=secrets))


class CallClock:
    """The clock of one call's patience: 0 when the call is made, and then what the test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 0.0
        self._times = self._count()
        begin = Patience.of
        monkeypatch.setattr(Patience, "of", lambda settings: begin(settings, lambda: next(self._times)))

    def _count(self) -> Iterator[float]:
        yield 0.0
        while True:
            yield self.now_s


def progress_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "progress" in record.getMessage()]


async def test_reports_of_progress_give_a_call_more_time_and_are_logged(
    tmp_path: Path, url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO", "tool_runner.progress")
    clock = CallClock(monkeypatch)
    clock.now_s = PATIENCE_S - 0.1  # so soon is looked whether the time is over
    async with calling(tmp_path) as caller:
        call = asyncio.create_task(caller.call("climb", {"steps": 2, "folder": str(tmp_path)}, url))
        (tmp_path / "step").touch()
        await until(lambda: progress_in(caplog))
        clock.now_s = 1.5 * PATIENCE_S
        await outlast(0.3)
        (tmp_path / "step").touch()
        assert (await call).result == ToolOutput("at the top")
    assert progress_in(caplog)[0] == "here: 'climb': progress 1 of 2: 'step 1\\nof many'"


async def test_no_progress_gives_a_call_more_than_all_its_time(
    tmp_path: Path, url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO", "tool_runner.progress")
    clock, most_s = CallClock(monkeypatch), PATIENCE_S + 0.1
    clock.now_s = PATIENCE_S - 0.1
    async with calling(tmp_path, tool_progress_max_s=most_s) as caller:
        call = asyncio.create_task(caller.call("climb", {"steps": 2, "folder": str(tmp_path)}, url))
        (tmp_path / "step").touch()
        await until(lambda: progress_in(caplog))
        assert not call.done()
        clock.now_s = most_s
        failed = error_of(await call)
    assert isinstance(failed, McpProtocolError)
    assert failed.code == -32001
    assert f"within {most_s:g} s" in failed.message


async def test_no_more_pages_of_a_listing_are_read_than_may_be_kept(tmp_path: Path) -> None:
    async with calling(tmp_path, tool_output_bytes_max=1000) as caller:
        with serving_http("--pages", "0") as url:
            failed = error_of(await caller.list(url))
    assert isinstance(failed, McpProtocolError)
    found = re.fullmatch(r"the server's list of tools takes at least (\d+) bytes, over 1000", failed.message)
    assert found, failed.message
    assert int(found[1]) < 2000, "more pages were read than the one that was too many"


def serving_raw(**answers: Any) -> AbstractContextManager[str]:
    """Runs a server with these results; `list` and `call` stand for `tools/list` and `tools/call`."""
    return serving_http("--raw", json.dumps({f"tools/{name}": result for name, result in answers.items()}))


async def test_the_good_tools_of_a_server_stay_when_it_lists_bad_ones(
    caller: Caller, caplog: pytest.LogCaptureFixture
) -> None:
    tools = [
        {"name": "good", "inputSchema": {"type": "object", "properties": {"a": {"type": "string"}}}},
        {"name": "bare"},
        {"name": "choice", "inputSchema": {"anyOf": [{"required": ["a"]}]}},
        {"name": "hole", "inputSchema": {}},
        {"inputSchema": {"type": "object"}},
        {"name": "text\nforged", "inputSchema": {"type": "string"}},
        "none",
        {"name": "bare"},
    ]
    with serving_raw(list={"tools": tools}) as url:
        listed = (await caller.list(url)).result
    assert isinstance(listed, ToolsListed)
    assert [tool.name for tool in listed.tools] == ["good", "bare", "choice", "hole"]
    assert [tool.input_schema["type"] for tool in listed.tools] == ["object"] * 4
    assert [tool.name for tool in listed.left_out] == ["(number 5)", "text\nforged", "(number 7)", "bare"]
    warned = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert len(warned) == 4
    assert "here: the tool 'text\\nforged' is left out: its schema does not describe an object" in warned


@pytest.mark.parametrize(
    ("result", "output"),
    [
        (
            {"content": [{"type": "hologram", "of": 1}, {"type": "text", "text": "b"}]},
            '[hologram]\n{"of":1}\nb',
        ),
        ({"content": [{"type": "text"}, "loose", None]}, "[text]\nloose\nnull"),
        ({"structuredContent": [1]}, "[1]"),
        ({"content": "bare"}, "bare"),
        ({}, ""),
    ],
)
async def test_no_block_of_a_result_fails_its_call(
    caller: Caller, result: dict[str, Any], output: str
) -> None:
    with serving_raw(call=result) as url:
        assert (await caller.call("any", {}, url)).result == ToolOutput(output)


async def test_what_a_tool_says_of_its_failure_is_kept_in_whatever_form(caller: Caller) -> None:
    with serving_raw(call={"isError": True, "content": [], "structuredContent": {"why": "no file"}}) as url:
        failed = error_of(await caller.call("any", {}, url))
    assert failed == McpToolExecutionError([{"type": "text", "text": '{"why":"no file"}'}])


@pytest.mark.parametrize("result", ["text", [1], None])
async def test_an_answer_that_is_no_object_is_a_failure_that_does_not_quote_it(
    caller: Caller, result: object
) -> None:
    with serving_raw(list=result, call=result) as url:
        for outcome in (await caller.list(url), await caller.call("any", {}, url)):
            assert error_of(outcome) == McpProtocolError(-32700, "the server's answer is not what MCP allows")


async def test_an_answer_without_a_list_of_tools_is_a_failure(caller: Caller) -> None:
    with serving_raw(list={"tools": {}}) as url:
        failed = error_of(await caller.list(url))
    assert failed == McpProtocolError(-32603, "the server's answer is not what MCP allows")


async def test_a_listed_tool_has_schema_description_and_annotations(caller: Caller, url: str) -> None:
    listed = (await caller.list(url)).result
    assert isinstance(listed, ToolsListed)
    add = next(tool for tool in listed.tools if tool.name == "add")
    assert add.description == "Adds two numbers."
    assert add.input_schema["required"] == ["a", "b"]
    assert add.annotations == {"read_only": True}


async def test_headers_and_authorization_of_the_request_are_sent_with_the_call(
    caller: Caller, url: str
) -> None:
    secrets = ServerSecrets({"X-Tenant": "t-1"}, "token")
    for name, value in (("x-tenant", "t-1"), ("authorization", "Bearer token")):
        outcome = await caller.call("show_header", {"name": name}, url, secrets=secrets)
        assert outcome.result == ToolOutput(value)


async def test_a_server_over_http_is_told_which_trace_its_call_belongs_to(caller: Caller, url: str) -> None:
    parent = TraceContext("00-" + "3" * 32 + "-" + "4" * 16 + "-01", "a=1")
    with exporting("tool_runner"), traces.span("run_tool", parent=parent):
        here = traces.current()
        outcome = await caller.call("show_header", {"name": "traceparent"}, url)
        state = await caller.call("show_header", {"name": "tracestate"}, url)
        own = ServerSecrets({"traceparent": "00-" + "1" * 32 + "-" + "2" * 16 + "-01"})
        clients = await caller.call("show_header", {"name": "traceparent"}, url, secrets=own)
    assert outcome.result == ToolOutput(here.parent)
    assert state.result == ToolOutput("a=1")
    assert clients.result == ToolOutput(own.headers["traceparent"])
    untraced = await caller.call("show_header", {"name": "traceparent"}, url)
    assert untraced.result == ToolOutput("(none)")


async def test_a_server_that_wants_a_header_refuses_with_401_and_serves_with_it(caller: Caller) -> None:
    with serving_http("--require-header", "x-key=secret") as url:
        assert error_of(await caller.call("add", {"a": 1, "b": 1}, url)) == HttpError(
            401, "the server answered 401 Unauthorized"
        )
        assert error_of(await caller.list(url)) == HttpError(401, "the server answered 401 Unauthorized")
        secrets = ServerSecrets({"X-Key": "secret"})
        outcome = await caller.call("add", {"a": 1, "b": 1}, url, secrets=secrets)
        assert outcome.result == ToolOutput("2")


async def test_a_server_that_nobody_serves_is_an_http_error_without_a_status(caller: Caller) -> None:
    async with answering(lambda *_: asyncio.sleep(0)) as url:
        pass
    assert error_of(await caller.call("add", {}, url)) == NO_ANSWER


async def test_a_label_and_url_that_lead_nowhere_are_a_protocol_error(caller: Caller) -> None:
    failed = error_of(await caller.call("add", {}, "IGNORED"))
    assert failed == McpProtocolError(-32602, "server_url must be an http or https URL")


async def test_a_call_without_an_answer_fails_in_time_and_is_cancelled_on_the_server(
    tmp_path: Path, url: str
) -> None:
    async with calling(tmp_path, timeout_s=5.0) as caller, asyncio.timeout(PATIENCE_S):
        failed = error_of(await caller.call("wait", {"folder": str(tmp_path)}, url))
    assert failed == McpProtocolError(-32001, "the server 'here' did not answer within 5 s")
    assert (tmp_path / "started").exists()
    await until((tmp_path / "cancelled").exists)


async def test_a_stdio_call_without_an_answer_is_cancelled_and_its_process_goes_on(tmp_path: Path) -> None:
    async with calling(tmp_path) as caller, calling(tmp_path, timeout_s=3.0, stdio=caller.stdio) as hasty:
        before = await caller.call("say_pid", {}, label="pipe")
        failed = error_of(await hasty.call("wait", {"folder": str(tmp_path)}, label="pipe"))
        assert failed == McpProtocolError(-32001, "the server 'pipe' did not answer within 3 s")
        await until((tmp_path / "cancelled").exists)
        assert await caller.call("say_pid", {}, label="pipe") == before


async def test_a_cancelled_task_is_cancelled_on_the_server(tmp_path: Path, caller: Caller, url: str) -> None:
    call = asyncio.create_task(caller.call("wait", {"folder": str(tmp_path)}, url))
    await until((tmp_path / "started").exists)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await until((tmp_path / "cancelled").exists)


async def test_a_stdio_server_that_dies_fails_its_call_and_is_started_again(caller: Caller) -> None:
    before = await caller.call("say_pid", {}, label="pipe")
    assert error_of(await caller.call("die", {}, label="pipe")) == McpProtocolError(
        -32000, "Connection closed"
    )
    after = await caller.call("say_pid", {}, label="pipe")
    assert isinstance(after.result, ToolOutput)
    assert after != before


async def test_a_stdio_server_that_cannot_start_is_a_protocol_error(caller: Caller) -> None:
    failed = error_of(await caller.call("add", {}, label="missing"))
    assert failed == McpProtocolError(-32000, "the server could not be started (No such file or directory)")


async def test_many_calls_share_one_stdio_process(caller: Caller) -> None:
    outcomes = await asyncio.gather(*(caller.call("say_pid", {}, label="pipe") for _ in range(100)))
    assert len({str(outcome.result) for outcome in outcomes}) == 1
    assert isinstance(outcomes[0].result, ToolOutput)


HALF = "cut off \ud83d"
"""A text that was cut in the middle of a character; both languages of most servers write it as an escape."""
_HALVES = f"""
import json, sys
for line in sys.stdin:
    asked = json.loads(line)
    version = asked.get("params", {{}}).get("protocolVersion")
    server = {{"name": "halves", "version": "1"}}
    begun = {{"protocolVersion": version, "capabilities": {{}}, "serverInfo": server}}
    said = {{"content": [{{"type": "text", "text": {HALF!r}}}]}}
    tools = {{"tools": [{{"name": "say", "description": {HALF!r}, "inputSchema": {{"type": "object"}}}}]}}
    results = {{"initialize": begun, "tools/call": said, "tools/list": tools}}
    if "id" in asked:
        result = results.get(asked["method"])
        ended = {{"result": result}} if result else {{"error": {{"code": -32601, "message": "unknown"}}}}
        print(json.dumps({{"jsonrpc": "2.0", "id": asked["id"], **ended}}), flush=True)
"""


async def test_half_a_character_costs_neither_a_listing_nor_an_answer(caller: Caller) -> None:
    tools = [{"name": "say", "description": HALF, "inputSchema": {"type": "object"}}]
    with serving_raw(list={"tools": tools}, call={"content": [{"type": "text", "text": HALF}]}) as url:
        for label in ("here", "halves"):
            listed = (await caller.list(url, label=label)).result
            assert isinstance(listed, ToolsListed), listed
            assert [tool.description for tool in listed.tools] == ["cut off \ufffd"]
            assert (await caller.call("say", {}, url, label=label)).result == ToolOutput("cut off \ufffd")


async def test_an_answer_over_stdio_that_is_too_long_fails_its_call_and_no_other(
    caller: Caller, tmp_path: Path
) -> None:
    other = asyncio.create_task(caller.call("hold", {"folder": str(tmp_path)}, label="pipe"))
    before = await caller.call("say_pid", {}, label="pipe")
    failed = error_of(await caller.call("repeat", {"text": "x" * 1000, "times": 17_000}, label="pipe"))
    assert failed == McpProtocolError(-32700, "the answer is longer than 16777216 bytes")
    (tmp_path / "go").touch()
    assert (await other).result == ToolOutput("held")
    assert await caller.call("say_pid", {}, label="pipe") == before


_STUBBORN = (
    """trap '' TERM; echo $$ > "$0/pid"; sh -c 'trap "" TERM; echo $$ > "$0/child"; sleep 600' "$0" """
)


async def test_a_process_that_does_not_end_is_killed_with_what_it_has_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stdio_transport, "_EXIT_S", 0.2)
    pids = [tmp_path / "pid", tmp_path / "child"]
    async with stdio_transport.run_stdio("sh", ["-c", _STUBBORN, str(tmp_path)], {}):
        await until(lambda: all(file.exists() and file.read_text() for file in pids))
    assert not any(Path(f"/proc/{file.read_text().strip()}/exe").exists() for file in pids)


async def test_a_process_that_reads_nothing_any_more_is_sent_nothing() -> None:
    async with stdio_transport.run_stdio("sh", ["-c", "exec <&-; sleep 600"], {}) as (_, way):

        async def send_for_ever() -> None:
            while True:
                await way.send(SessionMessage(JSONRPCNotification(jsonrpc="2.0", method="x" * 1_000)))

        with pytest.raises(anyio.BrokenResourceError):
            await asyncio.wait_for(send_for_ever(), PATIENCE_S)


async def test_a_server_that_dies_in_the_middle_of_a_call_is_a_failure(caller: Caller) -> None:
    with serving_http() as url:
        failed = error_of(await caller.call("die", {}, url))
    assert isinstance(failed, HttpError)
    assert failed.code == 0


async def _say_garbage(_request: bytes, writer: Writer) -> None:
    writer.write(b"\x00\xff garbage\r\n\r\n")


async def _say_html(_request: bytes, writer: Writer) -> None:
    writer.write(head("text/html", "connection: close") + b"<h1>Welcome</h1>")


async def _say_server_error(_request: bytes, writer: Writer) -> None:
    writer.write(head("text/html", "content-length: 0", status="503 Service Unavailable"))


async def _redirect(_request: bytes, writer: Writer) -> None:
    where = ("location: http://other.invalid/?key=secret", "content-length: 0")
    writer.write(head("text/html", *where, status="307 Temporary Redirect"))


async def _redirect_to_another_scheme(_request: bytes, writer: Writer) -> None:
    where = ("location: file:///etc/passwd?key=secret", "content-length: 0")
    writer.write(head("text/html", *where, status="307 Temporary Redirect"))


async def _break_off(_request: bytes, writer: Writer) -> None:
    writer.write(head("application/json", "content-length: 1000") + b'{"jsonrpc"')


async def _say_bad_json(_request: bytes, writer: Writer) -> None:
    writer.write(head("application/json", "content-length: 8") + b"[1, 2, 3")


async def _compress(_request: bytes, writer: Writer) -> None:
    writer.write(head("application/json", "content-encoding: gzip", "content-length: 3") + b"\x1f\x8b\x08")


async def _flood(_request: bytes, writer: Writer) -> None:
    writer.write(head("text/event-stream", "connection: close"))
    while True:
        writer.write(b": nothing\n" * 10_000)
        await writer.drain()


async def _say_a_million_things(_request: bytes, writer: Writer) -> None:
    body = b"[" + b"{}," * 1_000_000 + b"{}]"
    writer.write(head("application/json", f"content-length: {len(body)}") + body)


@pytest.mark.parametrize(
    ("answer", "kind", "code"),
    [
        (_say_a_million_things, McpProtocolError, -32700),
        (_say_garbage, HttpError, 0),
        (_say_html, McpProtocolError, -32600),
        (_say_server_error, HttpError, 503),
        (_redirect, HttpError, 0),
        (_redirect_to_another_scheme, HttpError, 307),
        (_break_off, HttpError, 0),
        (_say_bad_json, McpProtocolError, -32700),
        (_compress, McpProtocolError, -32700),
        (_flood, McpProtocolError, -32000),
    ],
)
async def test_whatever_a_server_says_the_call_ends_in_a_failure(
    caller: Caller,
    answer: Callable[[bytes, Writer], Awaitable[None]],
    kind: type[HttpError | McpProtocolError],
    code: int,
) -> None:
    async with answering(answer) as url:
        failed = error_of(await caller.call("add", {}, url))
    assert isinstance(failed, kind)
    assert failed.code == code
    assert failed.message
    assert "secret" not in failed.message


async def test_a_server_that_says_nothing_at_all_fails_in_time(tmp_path: Path) -> None:
    async def say_nothing(_request: bytes, _writer: Writer) -> None:
        await asyncio.get_running_loop().create_future()

    async with calling(tmp_path, timeout_s=0.5) as caller, answering(say_nothing) as url:
        failed = error_of(await caller.call("add", {}, url))
    assert failed == NO_ANSWER


@asynccontextmanager
async def counting() -> AsyncIterator[tuple[str, list[object]]]:
    """A server on loopback that closes connections, and records them."""
    connections: list[object] = []

    async def hang_up(_reader: asyncio.StreamReader, writer: Writer) -> None:
        connections.append(writer.get_extra_info("peername"))
        writer.close()

    server = await asyncio.start_server(hang_up, HOST, 0)
    try:
        yield f"http://{HOST}:{server.sockets[0].getsockname()[1]}/mcp", connections
    finally:
        server.close()


async def test_a_request_reaches_loopback_only_where_the_operator_says_so(tmp_path: Path) -> None:
    async with counting() as (url, connections):
        async with calling(tmp_path, egress_networks=[]) as caller:
            assert error_of(await caller.call("add", {}, url)) == NO_ANSWER
            assert error_of(await caller.list(url)) == NO_ANSWER
        assert connections == []
        async with calling(tmp_path) as caller:
            assert error_of(await caller.call("add", {}, url)) == NO_ANSWER
        assert connections != []


async def test_a_name_is_called_where_it_was_checked_and_is_checked_each_time(tmp_path: Path) -> None:
    """A stand-in answers for it: first with an address that is allowed, then with one that is not."""
    heard: list[bytes] = []
    leads_to = [HOST]

    async def resolve(host: str, _port: int, tenant: str) -> list[str]:
        assert (host, tenant) == ("tools.example", "whose")
        return leads_to

    async def refuse(request: bytes, writer: Writer) -> None:
        heard.append(request)
        writer.write(head("text/html", "content-length: 0", status="403 Forbidden"))

    async with answering(refuse) as url, calling(tmp_path, resolve=resolve) as caller:
        named = url.replace(HOST, "tools.example")
        refused = HttpError(403, "the server answered 403 Forbidden")
        assert error_of(await caller.call("add", {}, named, tenant="whose")) == refused
        requests = len(heard)
        leads_to = ["10.0.0.1", "169.254.169.254"]
        assert error_of(await caller.call("add", {}, named, tenant="whose")) == NO_ANSWER
    assert len(heard) == requests > 0
    assert all(f"host: {named.split('/')[2]}\r\n".encode() in request.lower() for request in heard)


async def test_a_server_of_the_operators_may_lie_anywhere(tmp_path: Path, modern_url: str) -> None:
    async with calling(tmp_path, configured=modern_url, egress_networks=[], egress_ports=["443"]) as caller:
        assert (await caller.call("add", {"a": 2, "b": 3}, label="ours")).result == ToolOutput("5")


async def test_a_port_or_scheme_that_is_not_allowed_is_named(tmp_path: Path) -> None:
    async with counting() as (url, connections):
        async with calling(tmp_path, egress_schemes=["https"]) as caller:
            failed = error_of(await caller.call("add", {}, url))
            assert failed == McpProtocolError(-32602, "server_url: http is not allowed here")
        async with calling(tmp_path, egress_ports=["443"]) as caller:
            failed = error_of(await caller.call("add", {}, "https://127.0.0.1:444/mcp"))
            assert failed == McpProtocolError(-32602, "server_url: port 444 is not allowed here")
    assert connections == []


async def test_a_proxy_of_the_environment_is_no_way_around_the_rule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with counting() as (proxy, asked), counting() as (url, connections):
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.removesuffix("/mcp"))
        for networks in (LOOPBACK, []):
            async with calling(tmp_path, egress_networks=networks) as caller:
                assert error_of(await caller.call("add", {}, url)) == NO_ANSWER
        assert asked == []
        assert connections != []


async def test_a_port_that_refuses_looks_like_one_that_is_silent_or_speaks_no_http(
    tmp_path: Path,
) -> None:
    over = asyncio.Event()

    async def be_silent(_request: bytes, _writer: Writer) -> None:
        await over.wait()

    async with counting() as (closed, _):
        pass
    async with (
        calling(tmp_path, timeout_s=1.0) as caller,
        answering(be_silent) as silent,
        answering(_say_garbage) as garbled,
        counting() as (hung_up, _),
    ):
        for url in (closed, silent, garbled, hung_up, "http://[::1]:9999/mcp"):
            assert error_of(await caller.call("add", {}, url)) == NO_ANSWER
        over.set()
