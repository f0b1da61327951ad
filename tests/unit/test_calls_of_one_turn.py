"""Several calls in one turn of the model: which are made, together or in turn, and what is read and shown."""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec
import pytest

from api.bodies.input_items import adopt_items, read_items
from api.context import Sources, compose
from api.included import add_included
from api.paging import list_stored
from shared import events as ev
from shared.compaction import as_shown
from shared.frames import encode as encode_json
from shared.in_turn import MEMBER, turn_of
from shared.lifecycle import abandon, fold
from shared.record_format import RECORD_FORMAT
from shared.responses import (
    FunctionCall,
    McpApprovalRequest,
    McpCall,
    McpProtocolError,
    McpTool,
    Response,
    ResponseRequest,
)
from shared.settings import Settings
from shared.store.owning.lease import Lease, LeaseLost
from shared.store.records.response_store import State, Stored
from shared.tool_calls import (
    ToolCall,
    ToolFailure,
    ToolListing,
    ToolOutput,
    ToolResult,
    ToolsListed,
    ToolTask,
)
from tests.engines import ListeningEngine
from tests.items import asked_of, items_of
from tests.memory import MemoryLog, MemoryTools, attempt
from tests.requests import make_request
from worker.asking.conversation import build_conversation
from worker.asking.offer import make_offer
from worker.asking.routing import McpTarget
from worker.engines.scripted.script import Script
from worker.harmony.tokens import CHANNEL, END, MESSAGE, START, decode, encode, render
from worker.response.hopeless import Hopeless
from worker.response.translator import Translation
from worker.response.turn_reader import TurnReader
from worker.response.usage import Turn

_SCHEMA = {"type": "object"}
LISTED = ToolsListed(
    (
        McpTool("ask", _SCHEMA),
        McpTool("edit", _SCHEMA),
        McpTool("look", _SCHEMA, annotations={"readOnlyHint": True}),
        McpTool("set", _SCHEMA, annotations={"idempotentHint": True}),
    )
)


def server(label: str, approval: Any = "never") -> Any:
    url = f"https://{label}.example/mcp"
    return {"type": "mcp", "server_label": label, "server_url": url, "require_approval": approval}


WIKI, BOOK, PYTHON = server("wiki"), server("book"), {"type": "mcp", "server_label": "code_interpreter"}
CODE: Any = {"type": "code_interpreter", "container": {"type": "auto"}}
SEARCH: Any = {"type": "web_search"}
WEATHER: Any = {"type": "function", "name": "get_weather", "parameters": {"type": "object"}}


def call(recipient: str, arguments: str = "{}") -> str:
    header = (
        "analysis to=python code" if recipient == "python" else f"commentary to={recipient} <|constrain|>json"
    )
    return f"<|channel|>{header}<|message|>{arguments}"


def turn(*messages: str, end: str = "<|call|>") -> str:
    return "<|end|><|start|>assistant".join(messages) + end


def said(text: str, channel: str = "final") -> str:
    return f"<|channel|>{channel}<|message|>{text}"


DONE = turn(said("Done."), end="<|return|>")


def script(*turns: str) -> str:
    return "[[scene]]\nname = 'all'\n" + "".join(f"[[scene.turn]]\nraw = '''{turn}'''\n" for turn in turns)


@dataclass
class Tools(MemoryTools):
    """Answers calls when they are let go, or at once; notes which are under way together."""

    failing: tuple[str, ...] = ()
    under_way: list[str] = field(default_factory=list)
    seen_together: list[list[str]] = field(default_factory=list)
    indices: list[int] = field(default_factory=list)

    async def call(self, _lease: Lease, index: int, task: ToolTask, *, is_repeatable: bool) -> ToolResult:
        if isinstance(task, ToolListing):
            return LISTED
        self.asked.append(task)
        self.indices.append(index)
        name = f"{task.server_label}.{task.name} {task.arguments}"
        self.under_way.append(name)
        self.seen_together.append(list(self.under_way))
        for _ in range(20 - len(self.under_way)):  # of those under way together, the last one answers first
            await asyncio.sleep(0)
        self.under_way.remove(name)
        if task.server_label in self.failing:
            return ToolFailure(McpProtocolError(-32002, "it is down"))
        return ToolOutput(f"answer to {task.name} {task.arguments}")


def with_messages(request: ResponseRequest) -> ResponseRequest:
    return msgspec.structs.replace(request, enable_response_messages=True)


def final_of(log: MemoryLog) -> Response:
    last = log.events[-1]
    assert isinstance(last, ev.ResponseCompleted | ev.ResponseIncomplete)
    return last.response


def read_by_model(response: Response) -> list[tuple[str, str]]:
    messages: Any = response.output_messages
    return [(m["name"], m["content"][0]["text"]) for m in messages if m["role"] == "tool"]


def kinds_of(response: Response) -> list[str]:
    return [str(item.__struct_config__.tag) for item in response.output if item.id[:4] != "mcpl"]


async def run(
    *turns: str, tools: list[Any], made: Tools | None = None, **more: Any
) -> tuple[Response, MemoryLog]:
    request = with_messages(make_request(tools=tools, **more))
    log = await attempt(request, script=script(*turns), tools=made or Tools())
    events = [ev.ResponseCreated(request.response), *log.events]
    assert abandon(events) == []
    assert fold(events) == final_of(log)
    return final_of(log), log


# --- together and in turn -------------------------------------------------------------------------


async def test_calls_of_different_servers_are_made_together_and_end_in_the_order_of_the_model() -> None:
    made = Tools()
    calls = turn(call("wiki.ask"), call("python", "1+1"), call("book.ask"))
    response, log = await run(calls, DONE, tools=[WIKI, BOOK, PYTHON], made=made)
    assert len(made.seen_together[-1]) == 3
    assert kinds_of(response) == ["mcp_call"] * 3 + ["message"]
    assert [name for name, _ in read_by_model(response)] == ["wiki.ask", "python", "book.ask"]
    marks = [
        (event.output_index, isinstance(event, ev.OutputItemDone))
        for event in log.events
        if isinstance(event, ev.OutputItemAdded | ev.OutputItemDone) and event.output_index in (2, 3, 4)
    ]
    assert marks == [(2, False), (3, False), (4, False), (2, True), (3, True), (4, True)]


@pytest.mark.parametrize(
    ("names", "together"),
    [
        (("ask", "edit"), 1),
        (("set", "set"), 1),
        (("look", "look"), 2),
        (("look", "look", "ask", "look"), 2),
    ],
)
async def test_calls_of_one_server_are_made_in_turn_unless_they_only_read(
    names: tuple[str, ...], together: int
) -> None:
    made = Tools()
    calls = turn(*(call(f"wiki.{name}", f'{{"n":{n}}}') for n, name in enumerate(names)))
    response, _ = await run(calls, DONE, tools=[WIKI], made=made)
    assert max(map(len, made.seen_together)) == together
    assert [json_of(task) for task in made.asked] == [f'{{"n":{n}}}' for n in range(len(names))]
    assert [text for _, text in read_by_model(response)] == [
        f'answer to {name} {{"n":{n}}}' for n, name in enumerate(names)
    ]


def json_of(task: ToolCall | ToolListing) -> str:
    assert isinstance(task, ToolCall)
    return task.arguments


async def test_equal_calls_are_calls_of_their_own() -> None:
    made = Tools()
    response, _ = await run(turn(call("wiki.ask"), call("wiki.ask")), DONE, tools=[WIKI], made=made)
    assert len(set(made.indices)) == len(made.asked) == 2
    assert len({item.id for item in response.output}) == len(response.output)


async def test_a_server_that_is_down_fails_its_own_call_alone() -> None:
    calls = turn(call("wiki.ask"), call("book.ask"))
    response, _ = await run(calls, DONE, tools=[WIKI, BOOK], made=Tools(failing=("wiki",)))
    assert [item.status for item in response.output if isinstance(item, McpCall)] == ["failed", "completed"]
    assert ["down" in text for _, text in read_by_model(response)] == [True, False]


async def test_a_lease_lost_in_one_call_leaves_no_other_under_way() -> None:
    class Losing(Tools):
        async def call(self, _lease: Lease, index: int, task: ToolTask, *, is_repeatable: bool) -> ToolResult:
            if isinstance(task, ToolCall) and task.server_label == "wiki":
                await asyncio.sleep(0)
                raise LeaseLost("gone")
            try:
                return await super().call(_lease, index, task, is_repeatable=is_repeatable)
            except asyncio.CancelledError:
                cancelled.append(task.server_label)
                raise

    cancelled: list[str] = []
    calls = turn(call("wiki.ask"), call("book.ask"), call("wiki.ask"))
    made = Losing()
    with pytest.raises(LeaseLost):
        await run(calls, DONE, tools=[WIKI, BOOK], made=made)
    assert cancelled == ["book"]
    assert len(made.asked) == 1


async def test_a_cancelled_attempt_leaves_none_of_its_calls_under_way() -> None:
    class Waiting(Tools):
        async def call(self, _lease: Lease, index: int, task: ToolTask, *, is_repeatable: bool) -> ToolResult:
            if isinstance(task, ToolListing):
                return LISTED
            self.under_way.append(task.server_label)
            if len(self.under_way) == 2:
                both.set()
            try:
                return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]
            finally:
                self.under_way.remove(task.server_label)

    both, made = asyncio.Event(), Waiting()
    calls = turn(call("wiki.ask"), call("book.ask"), call("wiki.ask"))
    running = asyncio.create_task(run(calls, DONE, tools=[WIKI, BOOK], made=made))
    await both.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert made.under_way == []


async def test_no_more_than_sixteen_are_under_way() -> None:
    labels = [f"s{number}" for number in range(40)]
    made = Tools()
    calls = turn(*(call(f"{label}.ask") for label in labels))
    await run(calls, DONE, tools=[server(label) for label in labels], made=made)
    assert max(map(len, made.seen_together)) == 16
    assert len(made.asked) == 40


# --- with calls for the client --------------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("clients", ["functions.get_weather", "asking.ask"])
async def test_what_waits_for_the_client_ends_the_response_and_the_other_calls_are_made(
    clients: str, place: int
) -> None:
    made = Tools()
    calls = [call("wiki.ask"), call("book.ask")]
    calls.insert(place, call(clients))
    tools = [WIKI, BOOK, server("asking", "always"), WEATHER]
    response, _ = await run(turn(*calls), DONE, tools=tools, made=made)
    assert len(made.asked) == 2
    kinds = ["mcp_call", "mcp_call"]
    kinds.insert(place, "function_call" if clients.startswith("functions") else "mcp_approval_request")
    assert kinds_of(response) == kinds
    assert response.status == "completed"
    assert all(getattr(item, "status", "completed") == "completed" for item in response.output)


async def test_all_that_need_an_approval_are_asked_about() -> None:
    made = Tools()
    calls = turn(call("wiki.ask", '{"q": 1}'), call("wiki.ask", '{"q": 1}'), call("functions.get_weather"))
    response, _ = await run(calls, DONE, tools=[server("wiki", "always"), WEATHER], made=made)
    assert made.asked == []
    asked = [item for item in response.output if isinstance(item, McpApprovalRequest)]
    assert len({item.id for item in asked}) == 2
    assert isinstance(response.output[-1], FunctionCall)


def approved(count: int, **more: Any) -> ResponseRequest:
    listing = {"type": "mcp_list_tools", "id": "mcpl_1", "server_label": "wiki"}
    context: list[Any] = [listing | {"tools": [{"name": "ask", "input_schema": {}}]}]
    answers: list[Any] = []
    for number in range(count):
        id_ = f"mcpr_{number}"
        context.append(
            {"type": "mcp_approval_request", "id": id_, "server_label": "wiki", "name": "ask"}
            | {"arguments": f'{{"n": {number}}}'}
        )
        answers.append({"type": "mcp_approval_response", "approval_request_id": id_, "approve": number != 1})
    request = make_request(tools=[server("wiki", "always")], **more)
    return with_messages(
        msgspec.structs.replace(
            request, context=items_of(context), input=[*request.input, *items_of(answers)]
        )
    )


async def test_approved_calls_of_one_turn_begin_together_and_are_read_in_their_order() -> None:
    made = Tools()
    log = await attempt(approved(3), script=script(DONE, DONE, DONE, DONE), tools=made)
    response = final_of(log)
    assert [json_of(task) for task in made.asked] == ['{"n":0}', '{"n":2}']
    assert kinds_of(response) == ["mcp_call", "mcp_call", "message"]
    messages: Any = response.output_messages
    assert [(m["role"], m.get("recipient")) for m in messages[:4]] == [
        ("assistant", "wiki.ask"),
        ("assistant", "wiki.ask"),
        ("tool", "assistant"),
        ("tool", "assistant"),
    ]


# --- one at a time, limits and refusals -----------------------------------------------------------


async def test_without_parallel_calls_a_turn_is_over_with_its_first_call() -> None:
    made = Tools()
    calls = turn(call("wiki.ask"), call("book.ask"))
    response, _ = await run(calls, DONE, tools=[WIKI, BOOK], made=made, parallel_tool_calls=False)
    assert [task.server_label for task in made.asked] == ["wiki"]
    assert kinds_of(response) == ["mcp_call", "message"]


async def test_each_call_counts_against_the_limit_and_those_beyond_it_leave_no_item() -> None:
    made = Tools()
    bad = call("wiki.ask", "[1]")
    calls = turn(bad, call("wiki.ask"), call("book.ask"), *[call("wiki.edit")] * 6)
    response, _ = await run(calls, DONE, tools=[WIKI, BOOK], made=made, max_tool_calls=2)
    assert len(made.asked) == 2
    assert [item.status for item in response.output if isinstance(item, McpCall)] == [
        "failed",
        "completed",
        "completed",
    ]
    refused = [text for name, text in read_by_model(response) if name == "wiki.edit"]
    assert len(refused) == 6
    assert all("no more than 2 tool calls" in text for text in refused)


async def test_refusals_of_one_turn_count_as_one() -> None:
    bad = turn(*[call("nowhere.ask")] * 5, call("wiki.ask", "["))
    response, _ = await run(bad, bad, bad, DONE, DONE, tools=[WIKI])
    assert response.status == "completed"
    with pytest.raises(Hopeless):
        await run(*[bad] * 30, DONE, tools=[WIKI])


async def test_a_call_that_reaches_no_tool_is_answered_in_its_place() -> None:
    calls = turn(call("wiki.ask"), call("nowhere.ask"), call("book.ask"))
    response, _ = await run(calls, DONE, tools=[WIKI, BOOK])
    names = [name for name, _ in read_by_model(response)]
    assert names == ["wiki.ask", "nowhere.ask", "book.ask"]
    assert "There is no tool" in read_by_model(response)[1][1]


async def test_a_choice_of_tools_that_no_server_lists_fails_and_says_so() -> None:
    class Down(Tools):
        async def call(self, lease: Lease, index: int, task: ToolTask, *, is_repeatable: bool) -> ToolResult:
            if isinstance(task, ToolListing):
                return ToolFailure(McpProtocolError(-32002, "it is down"))
            return await super().call(lease, index, task, is_repeatable=is_repeatable)

    def choice(name: str) -> Any:
        named = {"type": "mcp", "server_label": "wiki", "name": name}
        return {"type": "allowed_tools", "mode": "auto", "tools": [named]}

    with pytest.raises(Hopeless, match=r"allows only tools, such as wiki\.fly, that their servers do not"):
        await run(DONE, tools=[WIKI], tool_choice=choice("fly"))
    response, _ = await run(DONE, tools=[WIKI], tool_choice=choice("ask"))
    assert response.status == "completed"
    response, _ = await run(DONE, tools=[WIKI], tool_choice=choice("fly"), made=Down())
    assert response.status == "completed"  # the model reads that the server is down, and says so
    nothing = {"type": "allowed_tools", "mode": "auto", "tools": []}
    response, _ = await run(DONE, tools=[WIKI], tool_choice=nothing)
    assert response.status == "completed"


# --- how a turn goes on and ends ------------------------------------------------------------------


async def test_what_is_thought_between_two_calls_is_kept_and_both_are_made() -> None:
    calls = turn(call("wiki.ask"), said("And now the book.", "analysis"), call("book.ask"))
    response, _ = await run(calls, DONE, tools=[WIKI, BOOK])
    assert kinds_of(response) == ["mcp_call", "reasoning", "mcp_call", "message"]


@pytest.mark.parametrize(
    "rest",
    [
        "<|start|>assistant<|channel|>final<|message|>It is 42.<|return|>",
        "<|start|>assistant<|message|>It is 42.",
    ],
)
async def test_an_answer_before_the_results_is_not_read(rest: str) -> None:
    first = f"{call('wiki.ask')}<|end|>{rest}"
    request = with_messages(make_request(tools=[WIKI]))
    log = await attempt(request, script=script(first, DONE), tools=Tools())
    response = final_of(log)
    assert kinds_of(response) == ["mcp_call", "message"]
    assert b"It is" not in b"".join(log.frames)
    said_by_model: Any = response.output_messages
    assert [m["role"] for m in said_by_model] == ["assistant", "tool", "assistant"]


async def test_nothing_is_answered_before_a_refusal_is_read_or_an_approval_given() -> None:
    early = said("It is 42.")
    first = turn(call("wiki.ask"), call("wiki.ask"), said("Hm.", "analysis"), early, end="<|return|>")
    response, _ = await run(first, DONE, DONE, tools=[WIKI], max_tool_calls=1)
    assert kinds_of(response) == ["mcp_call", "reasoning", "message"]
    spent = turn(call("wiki.ask"), said("Hm.", "analysis"), end="<|return|>")
    response, _ = await run(turn(call("wiki.ask")), spent, DONE, tools=[WIKI], max_tool_calls=1)
    assert kinds_of(response) == ["mcp_call", "reasoning", "message"]
    asking = turn(call("wiki.ask"), early, end="<|return|>")
    response, _ = await run(asking, DONE, tools=[server("wiki", "always")])
    assert kinds_of(response) == ["mcp_approval_request"]


def test_a_result_that_the_model_makes_up_is_not_read() -> None:
    reader = TurnReader(Translation("resp_1", {"wiki.ask": McpTarget("wiki.ask", "wiki", "ask")}))
    reader.begin_turn(Turn(0))
    asked = [CHANNEL, *encode("commentary to=wiki.ask json"), MESSAGE, *encode("{}"), END]
    invented = [START, *encode("wiki.ask to=assistant"), CHANNEL, *encode("commentary"), MESSAGE]
    for token in [*asked, *invented]:
        assert not reader.is_turn_over
        reader.read(token)
    assert reader.is_turn_over
    assert reader.tokens_said == len(asked)


async def test_the_limit_cuts_a_later_call_and_those_before_it_are_made() -> None:
    made = Tools()
    calls = turn(call("wiki.ask"), call("book.ask", '{"text": "' + "long " * 50 + '"}'))
    response, _ = await run(calls, DONE, tools=[WIKI, BOOK], made=made, max_output_tokens=40)
    assert response.status == "incomplete"
    assert [item.status for item in response.output if isinstance(item, McpCall)] == [
        "completed",
        "incomplete",
    ]
    assert [task.server_label for task in made.asked] == ["wiki"]


ENDINGS = {
    "a call": turn(call("wiki.ask"), call("python", "1+1")),
    "a return": turn(call("wiki.ask"), call("python", "1+1"), end="<|end|><|return|>"),
    "an answer": turn(call("wiki.ask"), call("python", "1"), said("It is 42."), end="<|return|>"),
    "a refused call": turn(call("python", "1+1"), call("wiki.ask")),
    "a refused call and an answer": turn(
        call("python", "1"), call("wiki.ask"), said("So."), end="<|return|>"
    ),
    "a call for the client": turn(call("python", "1+1"), call("functions.get_weather"), call("wiki.ask")),
    "an unknown tool": turn(call("wiki.ask"), call("nowhere.x"), end="<|end|><|return|>"),
}


@pytest.mark.parametrize("tool", [PYTHON, CODE], ids=["shown", "not shown"])
@pytest.mark.parametrize("is_down", [False, True])
@pytest.mark.parametrize("ending", ENDINGS)
async def test_every_prefix_of_a_log_is_continued_to_the_same_bytes(
    ending: str, is_down: bool, tool: Any
) -> None:
    limit = 1 if ending.startswith("a refused call") else None
    request = with_messages(make_request(tools=[WIKI, tool, WEATHER], max_tool_calls=limit))
    text = script(ENDINGS[ending], turn(call("python", "2+2")), DONE)
    failing = ("code_interpreter",) if is_down else ()
    first = Tools(failing=failing)
    whole = await attempt(request, script=text, tools=first)
    entries = whole.read()
    for length in range(1, len(entries)):
        again = Tools(failing=failing)
        log = await attempt(request, script=text, tools=again, log=MemoryLog(entries[:length]))
        assert log.frames == whole.frames, length
        assert log.closing == whole.closing
        assert [t for e in log.entries for t in e.tokens] == [t for e in whole.entries for t in e.tokens]
        assert len(again.asked) <= len(first.asked)


async def test_a_record_of_an_earlier_format_makes_the_first_call_alone() -> None:
    calls = turn(call("wiki.ask"), call("book.ask"))
    request = with_messages(make_request(tools=[WIKI, BOOK]))
    made = Tools()
    log = await attempt(request, script=script(calls, DONE), tools=made, record_format=4)
    assert [task.server_label for task in made.asked] == ["wiki"]
    assert kinds_of(final_of(log)) == ["mcp_call", "message"]


@pytest.mark.parametrize(("record_format", "between"), [(RECORD_FORMAT, "<|end|>"), (4, "<|call|>")])
def test_calls_of_one_turn_are_read_again_as_the_model_wrote_them(record_format: int, between: str) -> None:
    calls = [
        {"type": "function_call", "call_id": id_, "name": "get_weather", "arguments": f'{{"of": "{id_}"}}'}
        for id_ in ("a", "b")
    ]
    outputs = [{"type": "function_call_output", "call_id": id_, "output": f"sun in {id_}"} for id_ in "ab"]
    request = make_request("Hello", tools=[WEATHER])
    request = msgspec.structs.replace(request, input=[*request.input, *items_of([*calls, *outputs])])
    offer = make_offer(request, {})
    prompt = decode(render(build_conversation(request, offer, record_format=record_format)))
    header = "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>"
    answered = "<|start|>functions.get_weather to=assistant<|channel|>commentary<|message|>"
    assert prompt.endswith(
        f'<|start|>assistant{header}{{"of": "a"}}{between}<|start|>assistant{header}{{"of": "b"}}<|call|>'
        f"{answered}sun in a<|end|>{answered}sun in b<|end|><|start|>assistant"
    )


# --- read again by a later response ---------------------------------------------------------------


async def live(request: ResponseRequest, *turns: str) -> tuple[MemoryLog, list[str]]:
    """Returns the log of a response, and the prompts of its turns, with a mark between any two tokens."""
    engine = ListeningEngine(Script.parse(script(*turns, DONE)))
    log = await attempt(request, engine=engine, tools=Tools())
    return log, [in_tokens(asked.prompt) for asked in engine.asked]


def in_tokens(tokens: Sequence[int]) -> str:
    return "\0".join(decode([token]) for token in tokens)


def as_text(prompt: str) -> str:
    return prompt.replace("\0", "")


def stored(request: ResponseRequest, log: MemoryLog) -> Stored:
    assert log.closing is not None
    record = encode_json(request), log.closing.snapshot, b"", log.closing.unshown
    return Stored(cast("State", None), *record)


def going_on(parent: ResponseRequest, log: MemoryLog, *items: Any) -> ResponseRequest:
    """Returns a request that continues a response."""
    request = make_request(tools=parent.tools)
    asked = adopt_items(asked_of(items), request.response.id)
    return compose(request, asked, Sources(stored(parent, log)), Settings(), "default")


async def prompt_after(parent: ResponseRequest, log: MemoryLog, *items: Any) -> str:
    _, heard = await live(going_on(parent, log, *items), DONE)
    return heard[0]


def outputs(log: MemoryLog) -> list[dict[str, Any]]:
    """Returns an answer to each of the client's calls in an output."""
    calls = [item for item in final_of(log).output if isinstance(item, FunctionCall)]
    return [
        {"type": "function_call_output", "call_id": each.call_id, "output": f"sun {place}"}
        for place, each in enumerate(calls)
    ]


USER: Any = {"type": "message", "role": "user", "content": "And now?"}
WEATHER_CALL = call("functions.get_weather")
THOUGHT = said("And now the other.", "analysis")


@pytest.mark.parametrize("tool", [PYTHON, CODE], ids=["shown", "not shown"])
@pytest.mark.parametrize(
    "calls",
    [
        [call("wiki.ask", '{"n":1}'), call("wiki.ask", '{"n":2}')],
        [call("wiki.ask"), call("python", "1+1"), call("wiki.look")],
        [call("python", "1+1"), call("wiki.ask")],
    ],
)
async def test_a_later_response_reads_the_calls_of_a_turn_as_their_own_response_did(
    calls: list[str], tool: Any
) -> None:
    request = make_request(tools=[WIKI, tool])
    log, heard = await live(request, turn(*calls), DONE)
    prompt = await prompt_after(request, log, USER)
    assert prompt.startswith(heard[1])
    assert as_text(prompt).startswith(as_text(heard[1]) + "<|channel|>final<|message|>Done.<|end|>")


async def test_calls_of_two_turns_are_not_read_as_one() -> None:
    request = make_request(tools=[WIKI, BOOK])
    turns = turn(call("wiki.ask")), turn(call("book.ask"), call("wiki.ask")), turn(call("book.ask"))
    log, heard = await live(request, *turns, DONE)
    assert len(heard) > 2
    assert (await prompt_after(request, log, USER)).startswith(heard[-1])


async def test_a_thought_after_a_call_belongs_to_its_turn_until_there_is_an_answer() -> None:
    request = make_request(tools=[WIKI, WEATHER])
    first = turn(call("wiki.ask"), THOUGHT, said("So.", "analysis"), end="<|end|>")
    log, heard = await live(request, first, turn(WEATHER_CALL))
    assert (await prompt_after(request, log, *outputs(log))).startswith(heard[1])


@pytest.mark.parametrize("place", [0, 1, 2])
async def test_what_is_made_beside_a_call_of_the_client_is_read_as_the_model_wrote_it(place: int) -> None:
    calls = [call("wiki.ask"), call("book.ask")]
    calls.insert(place, WEATHER_CALL)
    request = make_request(tools=[WIKI, BOOK, WEATHER])
    log, heard = await live(request, turn(*calls))
    prompt = await prompt_after(request, log, *outputs(log))
    assert prompt.startswith(heard[0])
    assert as_text(prompt).startswith(as_text(heard[0]) + turn(*calls))
    assert re.findall(r"<\|start\|>([^ ]*) to=assistant", as_text(prompt)) == [
        "wiki.ask",
        "book.ask",
        "functions.get_weather",
    ]


async def test_approved_calls_are_read_again_as_they_were_made() -> None:
    request = approved(4)
    log, heard = await live(request, DONE)
    prompt = await prompt_after(request, log, USER)
    assert prompt.startswith(heard[0])


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    ("bad", "limit", "answer"),
    [
        (call("nowhere.ask", '{"of": "bad"}'), None, "There is no tool"),
        (call("wiki.ask", '{"of": "bad"}'), 1, "no more than 1 tool calls"),
        (call("functions.shell", '{"of": "bad"}'), None, "cannot be read"),
        (call("functions.shell", ""), None, "cannot be read"),
    ],
)
async def test_a_call_that_is_not_made_beside_one_of_the_client_is_read_later(
    bad: str, limit: int | None, answer: str, first: bool
) -> None:
    """Else the model would take it for made, or make it again."""
    request = make_request(tools=[WIKI, WEATHER, {"type": "shell"}], max_tool_calls=limit)
    calls = [call("wiki.ask"), bad, WEATHER_CALL]
    if first:
        calls = calls[1:] if limit is None else [WEATHER_CALL, call("wiki.ask"), bad]
    log, heard = await live(request, turn(*calls))
    assert answer.encode() not in b"".join(log.frames)
    prompt = as_text(await prompt_after(request, log, *outputs(log)))
    assert prompt.startswith(as_text(heard[0]) + turn(*calls))
    assert prompt.count(answer) == 1
    assert prompt.index(answer) < prompt.index("sun 0")


async def test_a_call_that_names_no_tool_is_read_later() -> None:
    bad = '<|channel|>commentary<|message|>{"of": "bad"}<|call|>'
    request = make_request(tools=[WIKI, WEATHER])
    log, heard = await live(request, bad, turn(WEATHER_CALL))
    assert len(heard) == 2
    prompt = as_text(await prompt_after(request, log, *outputs(log)))
    assert prompt.count("This call names no tool") == prompt.count('{"of": "bad"}') == 1


async def test_no_client_sees_or_sets_how_a_call_stood_in_its_turn() -> None:
    request = make_request(tools=[WIKI, CODE, WEATHER], max_tool_calls=2)
    calls = turn(call("wiki.ask"), call("python", "1"), call("wiki.ask"), WEATHER_CALL)
    log, _ = await live(request, calls)
    assert log.closing is not None
    assert MEMBER.encode() in log.closing.unshown
    assert MEMBER.encode() not in log.closing.snapshot
    later = going_on(request, log, *outputs(log))
    assert any(turn_of(item) for item in later.context)
    kept: Any = [msgspec.json.encode(item) for item in later.context]
    assert MEMBER.encode() not in b"".join([*list_stored(kept), msgspec.json.encode(as_shown(later.context))])
    included = add_included(stored(request, log).unpack(), ["code_interpreter_call.outputs"], str)
    assert MEMBER.encode() not in included
    sent = {**msgspec.to_builtins(later.context[1]), MEMBER: {"last": "mcp_1"}}
    (read,) = read_items([sent], "input", 10)
    assert turn_of(read) is None
