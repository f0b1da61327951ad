"""What an attempt promises, without Redis: what it logs, which calls it makes, how a response ends."""

import asyncio
from typing import Any

import msgspec
import pytest

from shared import events as ev
from shared.context_length import TOO_LONG
from shared.events import ResponseCreated, StreamEvent
from shared.lifecycle import abandon, fold
from shared.record_format import RECORD_FORMAT
from shared.responses import (
    FunctionCall,
    HttpError,
    LeftOutTool,
    McpApprovalRequest,
    McpCall,
    McpListTools,
    McpTool,
    Message,
    Response,
    ResponseRequest,
)
from shared.settings import Settings
from shared.store.owning.lease import Lease, LeaseLost
from shared.tool_calls import (
    ToolCall,
    ToolFailure,
    ToolListing,
    ToolOutput,
    ToolResult,
    ToolsListed,
    ToolTask,
)
from tests.engines import CachingEngine
from tests.items import items_of
from tests.memory import NOW_S, MemoryLog, MemoryTools, attempt, calculate
from tests.requests import make_request
from worker.engines.protocol import EngineDead
from worker.engines.scripted.engine import ScriptedEngine
from worker.engines.scripted.script import Script
from worker.response.history import Diverged
from worker.response.hopeless import Hopeless

PYTHON: Any = {"type": "mcp", "server_label": "code_interpreter", "require_approval": "never"}
WIKI: Any = {
    "type": "mcp",
    "server_label": "wiki",
    "server_url": "https://wiki.example/mcp",
    "require_approval": "never",
}
WEATHER: Any = {"type": "function", "name": "get_weather", "parameters": {"type": "object"}}
LISTED = ToolsListed(
    (McpTool("ask", {"type": "object"}, annotations={"readOnlyHint": True}),),
    (LeftOutTool("edit", "its schema is not an object"),),
)


def script(*turns: str) -> str:
    """One scene; each turn as the model would write it."""
    return "[[scene]]\nname = 'all'\n" + "".join(f"[[scene.turn]]\nraw = '''{turn}'''\n" for turn in turns)


ASK = '<|channel|>commentary to=wiki.ask <|constrain|>json<|message|>{"q": 1}<|call|>'
UNKNOWN = "<|channel|>commentary to=wiki.edit <|constrain|>json<|message|>{}<|call|>"
NOBODY = "<|channel|>commentary<|message|>Now I call something.<|call|>"
DONE = "<|channel|>final<|message|>Done.<|return|>"


def with_messages(request: ResponseRequest) -> ResponseRequest:
    return msgspec.structs.replace(request, enable_response_messages=True)


def final_of(log: MemoryLog) -> Response:
    last = log.events[-1]
    assert isinstance(last, ev.ResponseCompleted | ev.ResponseIncomplete)
    assert log.closing is not None
    assert log.closing.status == last.response.status
    return last.response


def whole(request: ResponseRequest, log: MemoryLog) -> list[StreamEvent]:
    return [ResponseCreated(request.response), *log.events]


def list_and_answer(task: ToolTask) -> ToolResult:
    return LISTED if isinstance(task, ToolListing) else calculate(task)


def answers_to_tools(response: Response) -> list[str]:
    """The texts that tools have answered to the model, or that it read in their place."""
    messages: Any = response.output_messages
    return [m["content"][0]["text"] for m in messages if m["role"] == "tool"]


REQUESTS = {
    "an answer": make_request("Hello"),
    "a tool call": make_request("Multiply 123*456", tools=[PYTHON]),
    "several tool calls": make_request("Call python 3 times", tools=[PYTHON]),
    "a call beyond the limit": make_request("Call python 3 times", tools=[PYTHON], max_tool_calls=1),
    "a listing": make_request('Use wiki.ask with {"q": 1}', tools=[WIKI]),
    "listings of three servers": make_request(
        'Use wiki.ask with {"q": 1}',
        tools=[WIKI, WIKI | {"server_label": "other"}, WIKI | {"server_label": "third"}],
    ),
    "a function call": make_request("What is the weather in Oslo?", tools=[WEATHER]),
    "the token limit": make_request("Count from 1 to 1000", max_output_tokens=23),
    "logprobs": msgspec.structs.replace(
        make_request("Hello", top_logprobs=1), include=["message.output_text.logprobs"]
    ),
}


@pytest.mark.parametrize("name", REQUESTS)
async def test_the_log_is_legal_and_folds_to_its_final_response(name: str) -> None:
    request = REQUESTS[name]
    log = await attempt(request, tools=MemoryTools(list_and_answer))
    events = whole(request, log)
    response = final_of(log)
    assert abandon(events) == []
    assert fold(events) == response
    assert list(response.output) == [e.item for e in log.events if isinstance(e, ev.OutputItemDone)]
    assert response.usage is not None
    tokens = sum(len(entry.tokens) for entry in log.entries)
    assert 0 <= response.usage.output_tokens - tokens <= 1  # the token that ends a turn may make no event
    assert response.completed_at == (NOW_S if response.status == "completed" else None)


@pytest.mark.parametrize("name", ["several tool calls", "a listing", "logprobs"])
async def test_a_later_attempt_makes_the_same_log_and_asks_only_for_what_is_not_in_it(name: str) -> None:
    """Every prefix is tried with a real log (`tests/integration/test_takeover.py`)."""
    first = MemoryTools(list_and_answer)
    undisturbed = await attempt(REQUESTS[name], tools=first)
    entries = undisturbed.read()
    for length in range(0, len(entries), 7):
        tools, left = MemoryTools(list_and_answer), MemoryLog(entries[:length])
        done = [e.item for e in left.events if isinstance(e, ev.OutputItemDone)]
        answered = sum(isinstance(item, McpCall | McpListTools) for item in done)
        log = await attempt(REQUESTS[name], log=left, tools=tools)
        assert log.frames == undisturbed.frames, length
        assert tools.asked == first.asked[answered:]


async def test_a_replay_knows_what_was_cached_for_the_first_owner() -> None:
    request = with_messages(REQUESTS["several tool calls"])
    undisturbed = await attempt(request, engine=CachingEngine())
    usage = final_of(undisturbed).usage
    assert usage is not None
    details: Any = usage.input_tokens_details
    prompts: Any = details.input_tokens_per_turn
    assert details.cached_tokens_per_turn == tuple(tokens // 3 for tokens in prompts)
    left = MemoryLog(undisturbed.read()[:-1])
    assert (await attempt(request, log=left)).frames == undisturbed.frames  # this engine caches nothing


async def test_a_long_replay_lets_others_have_their_turn() -> None:
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    request = make_request("Count from 1 to 1000")
    undisturbed = await attempt(request)
    tokens = sum(len(entry.tokens) for entry in undisturbed.entries)
    beside = asyncio.create_task(take_turns())
    await attempt(request, log=MemoryLog(undisturbed.read()[:-1]))
    beside.cancel()
    assert turns > tokens // 200 > 10


async def test_a_log_that_says_otherwise_is_not_continued() -> None:
    other = (await attempt(make_request("Hello"))).read()
    with pytest.raises(Diverged):
        await attempt(make_request("Count from 1 to 5"), log=MemoryLog(other[:-1]))


async def test_tokens_are_counted_for_a_process_that_closes_the_response() -> None:
    log = MemoryLog()
    response = final_of(await attempt(make_request("Hello"), log=log))
    assert log.usages[-1] == b""  # the end has its usage itself
    counts = [msgspec.json.decode(usage)["output_tokens"] for usage in log.usages if usage]
    assert counts == sorted(counts)
    assert response.usage is not None
    assert 0 < counts[-1] <= response.usage.output_tokens


# --- calls --------------------------------------------------------------------------------------


async def test_a_call_is_made_where_the_request_says_and_its_answer_is_read() -> None:
    tools = MemoryTools(list_and_answer)
    log = await attempt(with_messages(make_request(tools=[WIKI])), script=script(ASK, DONE), tools=tools)
    url = WIKI["server_url"]
    assert tools.asked == [ToolListing("wiki", url), ToolCall("wiki", "ask", '{"q":1}', url)]
    assert tools.repeatable == [True, True]  # the tool says that it only reads
    listing, call, message = final_of(log).output
    assert isinstance(listing, McpListTools)
    assert isinstance(call, McpCall)
    assert isinstance(message, Message)
    assert (listing.tools, listing.left_out) == (LISTED.tools, LISTED.left_out)
    assert (call.status, call.output) == ("completed", "ask ran")
    assert answers_to_tools(final_of(log)) == ["ask ran"]


async def test_the_lists_of_all_servers_together_are_no_longer_than_a_context_may_be() -> None:
    servers = [WIKI | {"server_label": f"wiki_{number}"} for number in range(50)]
    settings = Settings(context_bytes_max=3 * len(msgspec.json.encode(LISTED)))
    log = await attempt(
        make_request(tools=servers),
        script=script(DONE),
        tools=MemoryTools(list_and_answer),
        settings=settings,
    )
    *listings, _ = final_of(log).output
    listed = [isinstance(item, McpListTools) and item.error is None for item in listings]
    assert listed == [True] * 3 + [False] * 47


async def test_servers_are_listed_at_once_and_their_items_come_in_the_requests_order() -> None:
    labels = [f"wiki_{number}" for number in range(40)]
    under_way = most = 0
    listed: list[str] = []

    class Listing(MemoryTools):
        async def call(self, _lease: Lease, index: int, task: ToolTask, *, is_repeatable: bool) -> ToolResult:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            for _ in range(100 - 2 * index):  # the last ones answer first
                await asyncio.sleep(0)
            under_way -= 1
            listed.append(task.server_label)
            return LISTED

    request = make_request(tools=[WIKI | {"server_label": label} for label in labels])
    log = await attempt(request, script=script(DONE), tools=Listing())
    items = [item for item in final_of(log).output if isinstance(item, McpListTools)]
    assert [item.server_label for item in items] == labels
    assert sorted(listed) == sorted(labels) != listed
    assert most == 16
    kinds = [type(event) for event in log.events[1:161]]
    one = [ev.OutputItemAdded, ev.McpListToolsInProgress, ev.McpListToolsCompleted, ev.OutputItemDone]
    assert kinds == one * 40


async def test_a_lease_lost_during_a_listing_leaves_no_other_listing_under_way() -> None:
    ended: list[str] = []

    class Losing(MemoryTools):
        async def call(self, _lease: Lease, index: int, task: ToolTask, *, is_repeatable: bool) -> ToolResult:
            if index == 1:
                raise LeaseLost("gone")
            try:
                if index:
                    await asyncio.get_running_loop().create_future()
            finally:
                ended.append(task.server_label)
            return LISTED

    request = make_request(tools=[WIKI | {"server_label": f"wiki_{number}"} for number in range(3)])
    with pytest.raises(LeaseLost):
        await attempt(request, script=script(DONE), tools=Losing())
    assert ended == ["wiki_0", "wiki_2"]


async def test_servers_that_give_no_listing_are_named_to_the_model_and_the_response_goes_on() -> None:
    def answer(task: ToolTask) -> ToolResult:
        if task.server_label == "wiki":
            return ToolFailure(HttpError(503, "it is away"))
        return ToolOutput("no listing")

    other = WIKI | {"server_label": "other"}
    request = with_messages(make_request(tools=[WIKI, other]))
    response = final_of(await attempt(request, script=script(DONE), tools=MemoryTools(answer)))
    wiki, strange, _ = response.output
    assert isinstance(wiki, McpListTools)
    assert isinstance(strange, McpListTools)
    assert wiki.error is not None
    assert strange.error is not None
    assert "it is away" in wiki.error
    assert "listed no tools" in strange.error
    developer = str([m for m in response.input_messages or () if m["role"] == "developer"])
    assert "it is away" in developer
    assert "- other: " in developer


async def test_a_listing_in_the_context_is_used_and_not_asked_for_again() -> None:
    listing = {
        "type": "mcp_list_tools",
        "id": "mcpl_1",
        "server_label": "wiki",
        "tools": [{"name": "ask", "input_schema": {}}],
    }
    request = make_request(tools=[WIKI])
    request = msgspec.structs.replace(request, context=items_of([listing]))
    tools = MemoryTools()
    await attempt(request, script=script(ASK, DONE), tools=tools)
    assert [task.server_label for task in tools.asked] == ["wiki"]
    assert isinstance(tools.asked[0], ToolCall)


async def test_a_server_that_answers_a_call_with_a_listing_has_failed() -> None:
    log = await attempt(
        make_request(tools=[WIKI]), script=script(ASK, DONE), tools=MemoryTools(lambda _: LISTED)
    )
    call = final_of(log).output[1]
    assert isinstance(call, McpCall)
    assert call.status == "failed"


@pytest.mark.parametrize(
    ("turn", "text"), [(UNKNOWN, "There is no tool 'wiki.edit'"), (NOBODY, "names no tool")]
)
async def test_a_call_that_reaches_no_tool_is_reported_to_the_model_and_runs_nothing(
    turn: str, text: str
) -> None:
    tools = MemoryTools()
    request = with_messages(make_request(tools=[PYTHON]))
    response = final_of(await attempt(request, script=script(turn, DONE), tools=tools))
    assert tools.asked == []
    [answer] = answers_to_tools(response)
    assert text in answer
    assert "Tools: python." in answer
    assert response.status == "completed"


NO_OBJECT = ASK.replace('{"q": 1}', "[1]")


@pytest.mark.parametrize(
    ("turn", "items"),
    [(UNKNOWN, 4), (NOBODY, 4), (NO_OBJECT, 3)],  # the fourth call has no outcome
)
async def test_a_model_that_keeps_calling_in_vain_is_given_up_with_all_its_events_in_the_log(
    turn: str, items: int
) -> None:
    text = script(turn, DONE).replace("[[scene.turn]]\n", "[[scene.turn]]\ntimes = 9\n", 1)
    log = MemoryLog()
    with pytest.raises(Hopeless) as hopeless:
        await attempt(make_request(tools=[WIKI]), script=text, tools=MemoryTools(list_and_answer), log=log)
    assert hopeless.value.error.code == "server_error"
    assert "kept" in hopeless.value.error.message
    assert sum(isinstance(e, ev.OutputItemDone) for e in log.events) == 1 + items
    assert log.closing is None


async def test_calls_beyond_the_limit_have_an_item_only_in_records_of_the_first_format() -> None:
    request = with_messages(make_request("Call python 3 times", tools=[PYTHON], max_tool_calls=1))
    for record_format, failed in ((1, 1), (2, 0)):
        tools = MemoryTools()
        response = final_of(await attempt(request, tools=tools, record_format=record_format))
        assert len(tools.asked) == 1
        statuses = [item.status for item in response.output if isinstance(item, McpCall)]
        assert statuses == ["completed"] + ["failed"] * failed
        assert "no more than 1 tool calls" in answers_to_tools(response)[-1]


async def test_a_record_of_an_earlier_format_goes_on_with_the_prompt_that_it_began_with() -> None:
    later = {"type": "message", "role": "developer", "content": "Later."}
    request = with_messages(make_request())
    request = msgspec.structs.replace(request, input=[*request.input, *items_of([later])])
    for record_format, told in ((2, "Later."), (RECORD_FORMAT, "# Instructions\n\nLater.")):
        response = final_of(await attempt(request, record_format=record_format))
        assert (response.input_messages or [])[-1]["content"] == [{"type": "text", "text": told}]


async def test_a_function_call_ends_the_response_and_the_client_answers() -> None:
    tools = MemoryTools()
    log = await attempt(make_request("What is the weather in Oslo?", tools=[WEATHER]), tools=tools)
    assert isinstance(final_of(log).output[-1], FunctionCall)
    assert tools.asked == []


TWO_FUNCTIONS = (
    "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{}<|end|>"
    "<|start|>assistant"
    "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{}<|call|>"
)


@pytest.mark.parametrize(("are_parallel", "calls"), [(True, 2), (False, 1)])
async def test_as_many_functions_are_called_at_once_as_the_request_allows(
    are_parallel: bool, calls: int
) -> None:
    request = make_request(tools=[WEATHER], parallel_tool_calls=are_parallel)
    text = script(TWO_FUNCTIONS, DONE)
    output = final_of(await attempt(request, script=text)).output
    assert sum(isinstance(item, FunctionCall) for item in output) == calls


# --- approvals ----------------------------------------------------------------------------------

ASKING = WIKI | {"require_approval": "always"}
CONTEXT: list[Any] = [
    {
        "type": "mcp_list_tools",
        "id": "mcpl_1",
        "server_label": "wiki",
        "tools": [{"name": "ask", "input_schema": {}}],
    },
    {
        "type": "mcp_approval_request",
        "id": "mcpr_1",
        "server_label": "wiki",
        "name": "ask",
        "arguments": '{"q": 1}',
    },
]


def approve(**response: Any) -> ResponseRequest:
    request = make_request(tools=[ASKING], **response)
    approval = {"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": True}
    return with_messages(
        msgspec.structs.replace(
            request, context=items_of(CONTEXT), input=[*request.input, *items_of([approval])]
        )
    )


async def test_a_call_that_needs_approval_asks_the_client_and_runs_nothing() -> None:
    tools = MemoryTools(list_and_answer)
    response = final_of(await attempt(make_request(tools=[ASKING]), script=script(ASK, DONE), tools=tools))
    assert [type(task) for task in tools.asked] == [ToolListing]
    assert isinstance(response.output[-1], McpApprovalRequest)
    assert response.output[-1].arguments == '{"q": 1}'


async def test_an_approved_call_runs_before_the_model_goes_on() -> None:
    tools = MemoryTools()
    response = final_of(await attempt(approve(), script=script(DONE, DONE), tools=tools))
    approved = ToolCall("wiki", "ask", '{"q":1}', WIKI["server_url"], approval_request_id="mcpr_1")
    assert tools.asked == [approved]
    call, message = response.output
    assert isinstance(call, McpCall)
    assert isinstance(message, Message)
    assert (call.approval_request_id, call.output) == ("mcpr_1", "ask ran")
    assert answers_to_tools(response) == ["ask ran"]


async def test_an_approved_call_of_a_tool_that_is_gone_fails_and_does_not_run() -> None:
    tools = MemoryTools()
    request = approve(tool_choice="none")
    response = final_of(await attempt(request, script=script(DONE, DONE), tools=tools))
    assert tools.asked == []
    call = response.output[0]
    assert isinstance(call, McpCall)
    assert call.status == "failed"
    assert "not offered" in answers_to_tools(response)[0]


async def test_an_approved_call_of_a_tool_that_is_no_longer_allowed_does_not_run() -> None:
    tools = MemoryTools()
    request = msgspec.structs.replace(approve(), tools=[ASKING | {"allowed_tools": ["edit"]}])
    response = final_of(await attempt(request, script=script(DONE, DONE), tools=tools))
    assert tools.asked == []
    assert "not offered" in answers_to_tools(response)[0]


async def test_approved_calls_count_and_those_beyond_the_limit_are_not_made() -> None:
    second = CONTEXT[1] | {"id": "mcpr_2", "arguments": '{"q": 2}'}
    approval = {"type": "mcp_approval_response", "approval_request_id": "mcpr_2", "approve": True}
    request = approve(max_tool_calls=1)
    request = msgspec.structs.replace(
        request, context=items_of([*CONTEXT, second]), input=[*request.input, *items_of([approval])]
    )
    tools = MemoryTools()
    response = final_of(await attempt(request, script=script(DONE, DONE, DONE), tools=tools))
    assert len(tools.asked) == 1
    assert [type(item) for item in response.output] == [McpCall, Message]
    assert "no more than 1 tool calls" in answers_to_tools(response)[-1]


# --- ends ---------------------------------------------------------------------------------------


async def test_a_prompt_that_is_too_long_is_the_clients_to_read_unless_old_messages_may_go() -> None:
    settings = Settings(context_tokens_max=400)
    old = [make_request("word " * 50).input[0] for _ in range(10)]
    for truncation in ("disabled", "auto"):
        request = make_request("Hello", truncation=truncation)
        request = msgspec.structs.replace(request, input=[*old, *request.input])
        if truncation == "disabled":
            with pytest.raises(Hopeless) as hopeless:
                await attempt(request, settings=settings)
            assert hopeless.value.error == TOO_LONG
        else:
            response = final_of(await attempt(request, settings=settings))
            assert response.usage is not None
            assert response.usage.input_tokens < 400


@pytest.mark.parametrize(("truncation", "status"), [("disabled", "incomplete"), ("auto", "completed")])
async def test_an_input_that_may_lose_its_oldest_messages_leaves_room_for_an_answer(
    truncation: str, status: str
) -> None:
    """It leaves three tokens; with `truncation: "auto"` the oldest message gives way."""
    old = [make_request("word " * 300).input[0]]
    request = make_request("Hello", truncation=truncation)
    request = msgspec.structs.replace(request, input=[*old, *request.input])
    whole = final_of(await attempt(request)).usage
    assert whole is not None
    settings = Settings(context_tokens_max=whole.input_tokens + 3)
    assert final_of(await attempt(request, settings=settings)).status == status


async def test_a_context_that_a_tools_answer_fills_ends_or_drops_what_is_oldest() -> None:
    settings = Settings(context_tokens_max=1_000, answer_tokens_reserved=100)
    old = [make_request("word " * 300).input[0]]

    def answer(_: ToolTask) -> ToolResult:
        return ToolOutput("word " * 500)

    for truncation in ("disabled", "auto"):
        request = make_request("Multiply 3*4", tools=[PYTHON], truncation=truncation)
        request = msgspec.structs.replace(request, input=[*old, *request.input])
        if truncation == "disabled":
            with pytest.raises(Hopeless) as hopeless:
                await attempt(request, settings=settings, tools=MemoryTools(answer))
            assert hopeless.value.error == TOO_LONG
        else:
            log = await attempt(request, settings=settings, tools=MemoryTools(answer))
            assert final_of(log).status in ("completed", "incomplete")


CALL_OF_THE_CLIENTS = "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{}<|end|>"
PYTHON_CALL = "<|start|>assistant<|channel|>analysis to=python code<|message|>1+1<|call|>"


@pytest.mark.parametrize(("record_format", "turns"), [(RECORD_FORMAT, 1), (2, 2)])
async def test_while_the_client_has_a_call_to_run_the_model_is_not_asked_again(
    record_format: int, turns: int
) -> None:
    """What came after it and runs here is answered all the same. An earlier version asked the model."""
    request = with_messages(make_request(tools=[WEATHER, PYTHON]))
    engine = ScriptedEngine(Script.parse(script(CALL_OF_THE_CLIENTS + PYTHON_CALL, DONE)))
    response = final_of(await attempt(request, engine=engine, record_format=record_format))
    kinds = [str(item.__struct_config__.tag) for item in response.output]
    assert kinds == ["function_call", "mcp_call", "message"][: turns + 1]
    assert response.status == "completed"


UNREADABLE = "<|channel|>commentary to=functions.apply_patch <|constrain|>json<|message|>{}<|call|>"


async def test_arguments_that_make_no_call_are_reported_and_kept_as_reasoning() -> None:
    request = with_messages(make_request(tools=[{"type": "apply_patch"}]))
    engine = ScriptedEngine(Script.parse(script(UNREADABLE, DONE)))
    response = final_of(await attempt(request, engine=engine))
    assert [str(item.__struct_config__.tag) for item in response.output] == ["reasoning", "message"]
    [told] = answers_to_tools(response)
    assert told.startswith("The arguments cannot be read; nothing was run.")


async def test_a_model_that_keeps_writing_such_arguments_fails_the_response() -> None:
    engine = ScriptedEngine(Script.parse(script(*[UNREADABLE] * 5, DONE)))
    with pytest.raises(Hopeless) as hopeless:
        await attempt(make_request(tools=[{"type": "apply_patch"}]), engine=engine)
    assert "cannot be read" in hopeless.value.error.message


async def test_a_response_ends_incomplete_where_its_tokens_are_spent() -> None:
    log = await attempt(make_request("Count from 1 to 1000", max_output_tokens=40))
    response = final_of(log)
    assert response.status == "incomplete"
    assert response.usage is not None
    assert response.usage.output_tokens == 40


async def test_a_turn_that_ends_on_the_last_token_leaves_none_for_the_next() -> None:
    plain = final_of(await attempt(make_request("Multiply 3*4", tools=[PYTHON])))
    assert plain.usage is not None
    request = msgspec.structs.replace(
        make_request("Multiply 3*4", tools=[PYTHON]), enable_response_messages=True
    )
    spent = final_of(await attempt(request)).usage
    assert spent is not None
    first: Any = spent.output_tokens_details.output_tokens_per_turn
    log = await attempt(make_request("Multiply 3*4", tools=[PYTHON], max_output_tokens=first[0]))
    assert final_of(log).status == "incomplete"
    assert isinstance(final_of(log).output[-1], McpCall)


async def test_what_no_turn_can_fulfil_is_the_clients_to_read() -> None:
    with pytest.raises(Hopeless) as hopeless:
        await attempt(make_request(tools=[], tool_choice="required"))
    assert hopeless.value.error.code == "invalid_prompt"


async def test_an_engine_that_stops_in_the_middle_is_dead() -> None:
    class Stopping(MemoryLog):
        def append(self, *args: Any) -> Any:
            if len(self.entries) > 5:
                ending.append(asyncio.ensure_future(engine.stop()))
            return super().append(*args)

    ending: list[Any] = []
    engine = ScriptedEngine(Script.load(None))
    with pytest.raises(EngineDead):
        await attempt(make_request("Count slowly to 30"), engine=engine, log=Stopping())
    assert ending


async def test_a_lost_lease_stops_an_attempt_and_nothing_is_written_after_it() -> None:
    log = MemoryLog()
    log.failure = LeaseLost("somebody else has it")
    with pytest.raises(LeaseLost):
        await attempt(make_request("Hello"), log=log)
    assert log.entries == []
