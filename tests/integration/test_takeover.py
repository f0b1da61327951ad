"""A dead worker's response is continued exactly: the whole log equals that of an undisturbed run.

A worker leaves a prefix of its appends behind, whenever it dies; so every prefix of a log is tried as
what the next owner finds. That covers each point at which an owner can die: before the first token, in a
header, inside a character, in arguments, between call and result, after the last token.
"""

import asyncio
import base64
from typing import Any

import msgspec
import pytest
from pydantic import SecretStr

from shared.compaction import DEFAULT_RULES
from shared.events import ResponseCompleted, ResponseFailed
from shared.frames import decode
from shared.responses import (
    SEALED_REASONING,
    HttpError,
    McpError,
    McpProtocolError,
    McpTool,
    McpToolExecutionError,
    Reasoning,
    ResponseRequest,
)
from shared.sealing import REASONING, Seal
from shared.settings import Settings
from shared.store import job_queue, keys
from shared.store.keys import ResponseKey
from shared.store.log.event_log import Entry
from shared.store.log.response_log import NewEntry
from shared.store.owning import lease
from shared.store.owning.lease import Acquired
from shared.store.records import response_store
from shared.store.redis.client import RedisClient
from shared.store.tools import tool_journal
from shared.store.tools.approvals import use_approval
from shared.store.tools.tool_journal import Claim
from shared.tool_calls import (
    ToolCall,
    ToolFailure,
    ToolListing,
    ToolOutput,
    ToolsListed,
    describe,
    parse_failure,
)
from tests.appending import append_through
from tests.items import items_of
from tests.patience import until
from tests.requests import accept, make_request, read_record
from tests.working import Answer, calculate, finish, keep_journal, leave_behind, restore_journal, working
from worker.engines.scripted.script import Script
from worker.response.remote_tools import RemoteTools

PYTHON: Any = {"type": "mcp", "server_label": "code_interpreter"}
CODE: Any = {"type": "code_interpreter", "container": {"type": "auto"}}
WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}

CUSTOM: Any = {"type": "custom", "name": "apply_patch", "description": "Edits files."}
DOCS: Any = {"type": "namespace", "name": "docs", "description": "d", "tools": [WEATHER, CUSTOM]}
PATCH = r"*** Begin Patch\n+\"é😀\"\n*** End Patch"
FILE = r'{"diff": "+é\n+b", "type": "create_file", "path": "a"}'

REQUESTS = {
    "a custom tool": make_request(f'Use apply_patch with {{"input": "{PATCH}"}}', tools=[CUSTOM]),
    "a custom tool in a namespace": make_request('Use docs.apply_patch with {"input": "é"}', tools=[DOCS]),
    "a function in a namespace": make_request('Use docs.get_weather with {"city": "Oslo"}', tools=[DOCS]),
    "shell commands": make_request(
        'Use shell with {"commands": ["ls -l", "echo 😀"], "timeout_ms": 5}', tools=[{"type": "shell"}]
    ),
    "a program": make_request('Use local_shell with {"command": ["ls"]}', tools=[{"type": "local_shell"}]),
    "a patch": make_request(f"Use apply_patch with {FILE}", tools=[{"type": "apply_patch"}]),
    "arguments that make no call": make_request("Use apply_patch with {}", tools=[{"type": "apply_patch"}]),
    "the limit within a patch": make_request(
        f"Use apply_patch with {FILE}", tools=[{"type": "apply_patch"}], max_output_tokens=40
    ),
    "a tool call": make_request("Multiply 123*456", tools=[PYTHON]),
    "several tool calls": make_request("Call python 3 times", tools=[PYTHON]),
    "two calls in one turn": make_request("Multiply 3*4 and 5*6 at once", tools=[CODE]),
    "calls beyond the limit": make_request("Call python 3 times", tools=[PYTHON], max_tool_calls=1),
    "characters of several tokens": make_request("Repeat 𓀀😀é 4 times"),
    "a function call": make_request("What is the weather in Oslo?", tools=[WEATHER]),
    "an unknown tool": make_request("Emit malformed Harmony: unknown tool"),
    "a bad header": make_request("Emit malformed Harmony: bad header"),
    "a header that never ends": make_request("Emit malformed Harmony: endless header"),
    "the token limit": make_request("Count from 1 to 1000", max_output_tokens=23),
    "the limit within a call": make_request("Multiply 123*456", tools=[PYTHON], max_output_tokens=20),
    "the code interpreter": make_request("Call python 2 times", tools=[CODE]),
    "the code interpreter with its outputs": msgspec.structs.replace(
        make_request("Call python 2 times", tools=[CODE]), include=["code_interpreter_call.outputs"]
    ),
    "a search, a page, a pattern and citations": make_request(
        "Search for fencing tokens and find append", tools=[{"type": "web_search"}]
    ),
    "searches with their sources": msgspec.structs.replace(
        make_request("Search for fencing tokens", tools=[{"type": "web_search"}]),
        include=["web_search_call.action.sources"],
    ),
    "the limit within code": make_request("Multiply 123*456", tools=[CODE], max_output_tokens=20),
    "in the background": make_request("Hello", background=True, status="queued"),
    "Harmony messages": msgspec.structs.replace(
        make_request("Multiply 3*4", tools=[PYTHON]), enable_response_messages=True
    ),
    "a summary": make_request("Think for 3 steps", reasoning={"summary": "concise"}),
    "sealed reasoning with a summary": msgspec.structs.replace(
        make_request("Multiply 123*456", tools=[PYTHON], reasoning={"summary": "detailed"}),
        include=[SEALED_REASONING],
    ),
    "the dialect of vLLM": msgspec.structs.replace(
        make_request("Hello", reasoning={"summary": "auto"}), dialect="vllm"
    ),
    "the dialect of Open Responses": msgspec.structs.replace(
        make_request("Hello", reasoning={"summary": "auto"}), dialect="open-responses"
    ),
    "a compaction": msgspec.structs.replace(
        make_request("Hello " * 300), compaction=msgspec.structs.replace(DEFAULT_RULES, tokens_min=256)
    ),
    "compactions between turns and at the end": msgspec.structs.replace(
        make_request("Multiply 123*456", tools=[CODE]),
        compaction=msgspec.structs.replace(DEFAULT_RULES, tokens_min=256, threshold=100),
    ),
    "a summary, cut": make_request("Think for 3 steps", reasoning={"summary": "auto"}, max_output_tokens=30),
}


def seal_key(byte: int) -> SecretStr:
    return SecretStr(base64.urlsafe_b64encode(bytes([byte] * 32)).decode())


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"seal_keys": [seal_key(1)]})


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("journal", ["kept", "lost"])
async def test_whatever_prefix_a_dead_owner_left_the_whole_log_is_that_of_an_undisturbed_run(
    redis: RedisClient, settings: Settings, name: str, journal: str
) -> None:
    request = REQUESTS[name]
    async with working(redis, settings) as worker:
        key = await accept(redis, settings, request)
        whole = await finish(redis, worker, key)
        kept = await keep_journal(redis, key)
        assert len(whole) > 6
        for length in range(1, len(whole)):
            for_tools = kept if journal == "kept" or is_past_a_result(whole[:length]) else []
            await redis.command("FLUSHALL")
            key = await leave_behind(redis, settings, worker, request, whole[:length])
            await restore_journal(redis, key, for_tools)
            again = await finish(redis, worker, key)
            assert [entry.frame for entry in again] == [entry.frame for entry in whole], length
            assert [t for e in again for t in e.tokens] == [t for e in whole for t in e.tokens], length
            assert (await redis.command("HGET", keys.state(key), "deaths")) == b"1"


async def test_what_was_sealed_stays_as_it_was_if_the_next_owner_seals_with_another_key(
    redis: RedisClient, settings: Settings
) -> None:
    request = REQUESTS["sealed reasoning with a summary"]
    rotated = settings.model_copy(update={"seal_keys": [seal_key(2), seal_key(1)]})
    async with working(redis, settings) as before, working(redis, rotated) as after:
        whole = await finish(redis, before, await accept(redis, settings, request))
        sealed = [i for i, entry in enumerate(whole) if b'"encrypted_content"' in entry.frame]
        assert b"event: response.output_item.done\n" in whole[sealed[0]].frame
        for length in (sealed[0], sealed[0] + 1, len(whole) - 1):
            await redis.command("FLUSHALL")
            key = await leave_behind(redis, settings, before, request, whole[:length])
            again = await finish(redis, after, key)
            assert (again[-1].frame == whole[-1].frame) == (length > sealed[0])
            last = decode(again[-1].frame)
            assert isinstance(last, ResponseCompleted)
            (reasoning, *_) = last.response.output
            assert isinstance(reasoning, Reasoning)
            opened = Seal(rotated.seal_keys, "default", REASONING).open(str(reasoning.encrypted_content))
            assert opened == reasoning.content[0].text


async def test_a_worker_without_a_key_fails_what_asks_for_sealed_reasoning_and_says_why(
    redis: RedisClient, settings: Settings
) -> None:
    """The API refuses such requests, if it has no key either."""
    request = REQUESTS["sealed reasoning with a summary"]
    async with working(redis, settings.model_copy(update={"seal_keys": []})) as worker:
        entries = await finish(redis, worker, await accept(redis, settings, request))
    last = decode(entries[-1].frame)
    assert isinstance(last, ResponseFailed)
    assert last.response.error is not None
    assert "seal_keys" in last.response.error.message


ASKED: Any = {"type": "mcp", "server_label": "deepwiki", "require_approval": "always"}
APPROVED: list[dict[str, Any]] = [
    {"type": "message", "role": "user", "content": 'Use deepwiki.ask with {"q": "Who?"}'},
    {
        "type": "mcp_list_tools",
        "id": "mcpl_1",
        "server_label": "deepwiki",
        "tools": [{"name": "ask", "input_schema": {"type": "object"}}],
    },
    {
        "type": "mcp_approval_request",
        "id": "mcpr_1",
        "server_label": "deepwiki",
        "name": "ask",
        "arguments": '{"q": "Who? é"}',
    },
    {"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": True},
]


@pytest.mark.parametrize("used_by", ["nobody", "the dead owner", "another response"])
async def test_an_approved_call_is_made_or_refused_alike_wherever_its_owner_died(
    redis: RedisClient, settings: Settings, used_by: str
) -> None:
    """The mark that the approval is used is made just before the call, and outlives its owner."""
    request = msgspec.structs.replace(make_request(tools=[ASKED]), input=items_of(APPROVED))
    own = ResponseKey("default", request.response.id)
    users = {"the dead owner": own, "another response": ResponseKey("default", "resp_other")}

    async def use() -> None:
        if used_by in users:
            await use_approval(redis, settings, users[used_by], "mcpr_1")

    async with working(redis, settings) as worker:
        key = await accept(redis, settings, request)
        if used_by == "another response":
            await use()
        whole = await finish(redis, worker, key)
        kept = await keep_journal(redis, key)
        log = b"".join(entry.frame for entry in whole)
        assert (b"mcp_call.failed" if used_by == "another response" else b"mcp_call.completed") in log
        for length in range(1, len(whole)):
            await redis.command("FLUSHALL")
            key = await leave_behind(redis, settings, worker, request, whole[:length])
            await use()
            await restore_journal(redis, key, kept if is_past_a_result(whole[:length]) else [])
            again = await finish(redis, worker, key)
            assert [entry.frame for entry in again] == [entry.frame for entry in whole], length
            assert [t for e in again for t in e.tokens] == [t for e in whole for t in e.tokens], length


BOTH_CALLS = """
[[scene]]
name = "all"
[[scene.turn]]
raw = '<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{}<|end|>\
<|start|>assistant<|channel|>analysis to=python code<|message|>1+1<|call|>'
[[scene.turn]]
final = "This is never said, as the client has a call to run."
"""


AND_A_THIRD = "1+1<|end|><|start|>assistant<|channel|>analysis to=python code<|message|>2+2<|call|>"


@pytest.mark.parametrize("last", ["1+1<|call|>", AND_A_THIRD])
async def test_calls_that_run_here_after_one_of_the_clients_end_the_response_whoever_owns_it(
    redis: RedisClient, settings: Settings, last: str
) -> None:
    request = make_request(tools=[WEATHER, PYTHON])
    script = BOTH_CALLS.replace("\\\n", "").replace("1+1<|call|>", last)
    async with working(redis, settings, Script.parse(script)) as worker:
        key = await accept(redis, settings, request)
        whole = await finish(redis, worker, key)
        kept = await keep_journal(redis, key)
        assert b"mcp_call.completed" in b"".join(entry.frame for entry in whole)
        assert b"never said" not in whole[-1].frame
        for length in range(1, len(whole)):
            await redis.command("FLUSHALL")
            key = await leave_behind(redis, settings, worker, request, whole[:length])
            await restore_journal(redis, key, kept)
            again = await finish(redis, worker, key)
            assert [entry.frame for entry in again] == [entry.frame for entry in whole], length


UNLISTED: Any = {"type": "mcp", "server_label": "deepwiki", "require_approval": "never"}
AWAY: Any = {"type": "mcp", "server_label": "away", "require_approval": "never"}


def list_and_fail(task: ToolCall | ToolListing) -> Answer:
    """One server cannot be reached, the tool of the other one fails; python calculates."""
    match task:
        case ToolListing(server_label="away"):
            return ToolFailure(HttpError(503, "it is away"))
        case ToolListing():
            return ToolsListed((McpTool("ask", {"type": "object", "properties": {"q": {"type": "string"}}}),))
        case ToolCall(server_label="deepwiki"):
            return ToolFailure(McpToolExecutionError([{"type": "text", "text": "no"}]))
        case ToolCall():
            return calculate(task)


@pytest.mark.parametrize(
    "request_",
    [
        REQUESTS["several tool calls"],
        REQUESTS["the code interpreter"],
        REQUESTS["the code interpreter with its outputs"],
        REQUESTS["a search, a page, a pattern and citations"],
        make_request('Use deepwiki.ask with {"q": "Who?"}', tools=[UNLISTED, AWAY]),
    ],
    ids=[
        "answers",
        "results that are not shown",
        "results that are shown",
        "searches",
        "listings and failures",
    ],
)
async def test_a_log_alone_is_enough_to_continue_after_its_calls_without_a_journal(
    redis: RedisClient, settings: Settings, request_: ResponseRequest
) -> None:
    """A failover may take the journal back, while the owner that lived writes the log again."""
    async with working(redis, settings, answer=list_and_fail) as worker:
        whole = await finish(redis, worker, await accept(redis, settings, request_))
        assert any(b"_call.completed" in e.frame or b"mcp_call.failed" in e.frame for e in whole)
        await redis.command("FLUSHALL")
        key = await leave_behind(redis, settings, worker, request_, whole[:-1])
        again = await finish(redis, worker, key)
        assert [entry.frame for entry in again] == [entry.frame for entry in whole]
        assert await redis.command("EXISTS", keys.tools(key)) == 0  # nothing was asked for once more


@pytest.mark.parametrize(
    "error",
    [
        McpProtocolError(-32602, "no (code 5)."),
        HttpError(0, "it is away"),
        HttpError(503, "two\nlines"),
        McpToolExecutionError([{"type": "text", "text": "no"}, {"type": "image", "data": ""}]),
    ],
)
def test_a_failed_listing_is_read_out_of_its_sentence(error: McpError) -> None:
    assert describe(parse_failure(describe(error)).error) == describe(error)


def is_past_a_result(entries: list[Entry]) -> bool:
    """A result is journaled before it is logged."""
    return any(b"_call.completed" in entry.frame for entry in entries)


async def test_a_tool_that_still_runs_when_its_worker_dies_is_waited_for_and_not_called_again(
    redis: RedisClient, settings: Settings
) -> None:
    request = REQUESTS["a tool call"]
    async with working(redis, settings) as worker:
        whole = await finish(redis, worker, await accept(redis, settings, request))
        told = [i for i, entry in enumerate(whole) if b"mcp_call_arguments.done" in entry.frame]
        await redis.command("FLUSHALL")
        key = await accept(redis, settings, request)
        dead = await lease.acquire(redis, settings, key, "dead")
        assert isinstance(dead, Acquired)
        drafts = [NewEntry(entry.frame, entry.tokens) for entry in whole[1 : told[0] + 1]]
        await append_through(worker.appender, dead.lease, 1, drafts)
        task = ToolCall("code_interpreter", "python", '{"code": "123*456\\n"}')
        await redis.command("DEL", keys.TOOLS_QUEUE)
        await tool_journal.submit(redis, settings, dead.lease, 1, task)
        intent = await tool_journal.claim(redis, settings, key, 1, "runner")
        assert intent is not None
        await redis.command("HSET", keys.state(key), "lease_until_ms", 1)
        finishing = asyncio.create_task(finish(redis, worker, key))

        async def has_next_owner() -> bool:
            return bool(await redis.command("HGET", keys.state(key), "owner") != b"dead")

        await until(has_next_owner)  # which waits for the tool
        claim = Claim(key, 1, "runner", intent)
        await tool_journal.finish(redis, claim, ToolOutput("56088\n"), None)
        assert [entry.frame for entry in await finishing] == [entry.frame for entry in whole]


async def test_a_logged_result_is_used_and_never_asked_for_again(
    redis: RedisClient, settings: Settings
) -> None:
    request = REQUESTS["a tool call"]
    async with working(redis, settings) as worker:
        key = await accept(redis, settings, request)
        whole = await finish(redis, worker, key)
        kept = await keep_journal(redis, key)
        told = [i for i, entry in enumerate(whole) if b"mcp_call_arguments.done" in entry.frame]
        await redis.command("FLUSHALL")
        key = await leave_behind(redis, settings, worker, request, whole[: told[0] + 1])
        changed = [part.replace(b"56088", b"11111") for part in kept]
        await redis.command("HSET", keys.tools(key), *changed)
        await redis.command("EXPIRE", keys.tools(key), 60)
        again = await finish(redis, worker, key)
        assert b"11,111" in again[-1].frame
        assert await redis.command("EXISTS", keys.TOOLS_QUEUE) == 0


async def test_a_replay_that_differs_fails_with_a_reason_and_appends_nothing_contradictory(
    redis: RedisClient, settings: Settings
) -> None:
    request = REQUESTS["a tool call"]
    async with working(redis, settings) as worker:
        key = await accept(redis, settings, request)
        whole = await finish(redis, worker, key)
        await redis.command("FLUSHALL")
        other = [
            *whole[:8],
            Entry(8, whole[8].frame.replace(b'"delta":"', b'"delta":"other '), whole[8].tokens),
        ]
        key = await leave_behind(redis, settings, worker, request, other)
        await worker.ownership.start_response(str(key))

        async def is_closed() -> bool:
            (state,) = await response_store.read_states(redis, [key])
            return state is not None and bool(state.closed)

        await until(is_closed)
        record = await read_record(redis, key)
        assert record is not None
        assert record.state.closed == "failed"
        assert b"could not be continued exactly" in record.snapshot


async def test_a_log_that_cannot_be_read_ends_as_failed_and_is_not_tried_for_ever(
    redis: RedisClient, settings: Settings
) -> None:
    request = REQUESTS["a tool call"]
    async with working(redis, settings) as worker:
        key = await accept(redis, settings, request)
        whole = await finish(redis, worker, key)
        await redis.command("FLUSHALL")
        unknown = Entry(8, whole[8].frame.replace(b"text.delta", b"text.DELTA"), whole[8].tokens)
        key = await leave_behind(redis, settings, worker, request, [*whole[:8], unknown])
        entries = await finish(redis, worker, key)
        last = decode(entries[-1].frame)
        assert isinstance(last, ResponseFailed)
        assert last.response.status == "failed"


@pytest.mark.parametrize("is_repeatable", [True, False])
async def test_a_call_that_lost_its_runner_is_made_again_only_if_it_may_be(
    redis: RedisClient, settings: Settings, is_repeatable: bool
) -> None:
    async with working(redis, settings) as worker:
        key = await accept(redis, settings, REQUESTS["a tool call"])
        acquired = await lease.acquire(redis, settings, key, worker.ownership.owner)
        assert isinstance(acquired, Acquired)
        task = ToolCall("code_interpreter", "python", '{"code": "6*7"}')
        await tool_journal.submit(redis, settings, acquired.lease, 0, task)
        await redis.command("HSET", keys.tools(key), "0:claim", "dead 1")
        tools = RemoteTools(redis, settings)
        result = await tools.call(acquired.lease, 0, task, is_repeatable=is_repeatable)
        if is_repeatable:
            assert result == ToolOutput("42\n")
        else:
            assert isinstance(result, ToolFailure)
            assert "unknown" in describe(result.error)
        again = await tools.call(acquired.lease, 0, task, is_repeatable=is_repeatable)
        assert again == result  # the verdict was journaled like a result


async def test_a_lease_from_a_clock_far_ahead_is_found_and_taken(
    redis: RedisClient, settings: Settings
) -> None:
    key = await accept(redis, settings)
    assert isinstance(await lease.acquire(redis, settings, key, "dead"), Acquired)
    ahead_ms = await lease.now_ms(redis) + 3_600_000
    await redis.command("HSET", keys.state(key), "lease_until_ms", ahead_ms)
    await redis.command("ZADD", keys.ACTIVE, ahead_ms, str(key))
    # Redis has been there for long: without a pulse nothing is known to have lapsed while it was.
    await redis.command("HSET", keys.PULSE, "since_ms", 0, "heard_ms", await lease.now_ms(redis))
    assert await lease.lapsed(redis, settings, 10) == [key]
    assert await job_queue.ring_again(redis, settings, key) in ("rung", "waiting")
    assert isinstance(await lease.acquire(redis, settings, key, "next"), Acquired)


async def test_a_response_that_cost_too_many_workers_ends_as_failed_with_a_reason(
    redis: RedisClient, settings: Settings
) -> None:
    async with working(redis, settings) as worker:
        key = await accept(redis, settings, REQUESTS["a tool call"])
        for i in range(settings.owners_lost_max):
            assert isinstance(await lease.acquire(redis, settings, key, f"dead-{i}"), Acquired)
            await redis.command("HSET", keys.state(key), "lease_until_ms", 1)
        entries = await finish(redis, worker, key)
        last = decode(entries[-1].frame)
        assert last.response.status == "failed"  # type: ignore[union-attr]
        assert f"{settings.owners_lost_max} workers were lost" in last.response.error.message  # type: ignore[union-attr]


async def test_a_hand_over_counts_as_no_death(redis: RedisClient, settings: Settings) -> None:
    async with working(redis, settings) as worker:
        key = await accept(redis, settings, REQUESTS["a tool call"])
        for _ in range(10):
            acquired = await lease.acquire(redis, settings, key, "draining")
            assert isinstance(acquired, Acquired)
            await lease.release(redis, settings, acquired.lease)
        entries = await finish(redis, worker, key)
        assert decode(entries[-1].frame).response.status == "completed"  # type: ignore[union-attr]
