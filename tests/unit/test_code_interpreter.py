"""The calls of a `code_interpreter` tool, field by field and event by event."""

import json
from typing import Any

import msgspec
import pytest
from openai.types.responses import ResponseCodeInterpreterToolCall, ResponseStreamEvent
from pydantic import TypeAdapter

from shared import events as ev
from shared.frames import data_of
from shared.hosted_tools import CodeInterpreterCall
from shared.responses import HttpError, ResponseRequest
from shared.settings import Settings
from shared.tool_calls import ToolCall, ToolFailure, ToolOutput, ToolResult, ToolTask
from tests.items import items_of
from tests.memory import MemoryLog, MemoryTools, attempt
from tests.requests import make_request
from worker.asking.outcomes import tell_outcomes
from worker.response.history import history_of

TOOL: Any = {"type": "code_interpreter", "container": {"type": "auto"}}
INCLUDE = ["code_interpreter_call.outputs"]
SCRIPT = """
[[scene]]
name = "twice"
[[scene.turn]]
analysis = "I calculate."
call = { tool = "python", code = "x = 6*7\\r\\nprint('é')" }
[[scene.turn]]
call = { tool = "python", code = "x" }
[[scene.turn]]
final = "{result_1|strip} {result_2|strip}."
"""
ORDER = [
    "response.output_item.added",
    "response.code_interpreter_call.in_progress",
    "response.code_interpreter_call_code.delta",
    "response.code_interpreter_call_code.done",
    "response.code_interpreter_call.interpreting",
    "response.code_interpreter_call.completed",
    "response.output_item.done",
]
KEYS = {"id", "type", "status", "code", "container_id", "outputs"}


def ask(text: str = "Calculate", *, include: list[str] | None = None, **more: Any) -> ResponseRequest:
    request = make_request(text, tools=[TOOL], **more)
    return msgspec.structs.replace(request, include=include or [])


def answer(task: ToolTask) -> ToolResult:
    assert isinstance(task, ToolCall)
    return ToolOutput("" if "=" in task.arguments else "42\n")


def events_of(log: MemoryLog) -> list[dict[str, Any]]:
    return [json.loads(data_of(frame)) for frame in log.frames]


def names(events: list[dict[str, Any]]) -> list[str]:
    """The types of the events about calls, deltas once."""
    types = [event["type"] for event in events if event.get("output_index") in (1, 2)]
    return [name for i, name in enumerate(types) if i == 0 or types[i - 1] != name]


def items_in(events: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    found = [event["item"] for event in events if event["type"] == f"response.output_item.{kind}"]
    return [item for item in found if item["type"] == "code_interpreter_call"]


async def run(request: ResponseRequest, answer: Any = answer, script: str = SCRIPT) -> list[dict[str, Any]]:
    return events_of(await attempt(request, tools=MemoryTools(answer), script=script))


@pytest.mark.parametrize("include", [[], INCLUDE])
async def test_a_call_has_the_events_and_keys_of_the_hosted_api(include: list[str]) -> None:
    request = ask(include=include)
    events = await run(request)
    assert names(events) == [*ORDER, *ORDER]
    none: Any = [] if include else None
    container = f"cntr_{request.response.id.removeprefix('resp_')}"
    for item in items_in(events, "added"):
        assert item.keys() == KEYS
        assert (item["status"], item["code"], item["outputs"]) == ("in_progress", "", none)
    silent, spoken = items_in(events, "done")
    assert silent.keys() == spoken.keys() == KEYS
    assert {item["container_id"] for kind in ("added", "done") for item in items_in(events, kind)} == {
        container
    }
    assert (silent["status"], silent["code"]) == ("completed", "x = 6*7\r\nprint('é')")
    assert silent["outputs"] == none
    assert spoken["outputs"] == ([{"type": "logs", "logs": "42"}] if include else None)
    assert silent["id"].startswith("ci_")
    assert events[-1]["response"]["output"][1:3] == [silent, spoken]


async def test_deltas_join_to_the_code_and_every_event_parses_with_the_public_types() -> None:
    events = await run(ask(include=INCLUDE))
    codes: dict[str, str] = {}
    for event in events:
        if event["type"].endswith("_code.delta"):
            codes[event["item_id"]] = codes.get(event["item_id"], "") + event["delta"]
        if event["type"].endswith("_code.done"):
            assert event["code"] == codes[event["item_id"]]
    assert len(codes) == 2
    adapter: TypeAdapter[ResponseStreamEvent] = TypeAdapter(ResponseStreamEvent)
    for number, event in enumerate(events):
        adapter.validate_python(event | {"sequence_number": number})
    for item in items_in(events, "done"):
        ResponseCodeInterpreterToolCall.model_validate(item, strict=True)


@pytest.mark.parametrize("include", [[], INCLUDE])
async def test_a_call_that_fails_says_so_in_its_status_and_the_model_reads_why(include: list[str]) -> None:
    def fail(_: ToolTask) -> ToolResult:
        return ToolFailure(HttpError(503, "the sandbox is away"))

    events = await run(ask(include=include), fail)
    said = "The tool's server could not be used: the sandbox is away (HTTP 503)."
    assert names(events) == [*(name for name in ORDER if not name.endswith(".completed"))] * 2
    for item in items_in(events, "done"):
        assert (item["status"], item["outputs"]) == (
            "failed",
            [{"type": "logs", "logs": said}] if include else None,
        )
    assert events[-1]["response"]["output"][-1]["content"][0]["text"] == f"{said} {said}."


async def test_code_that_the_token_limit_cuts_off_is_kept_and_nothing_ran() -> None:
    tools = MemoryTools()
    events = events_of(await attempt(ask(max_output_tokens=18), tools=tools, script=SCRIPT))
    (item,) = items_in(events, "done")
    assert item["status"] == "incomplete"
    assert "x = 6*7\r\nprint('é')".startswith(item["code"])
    assert names(events) == [*ORDER[:4], ORDER[-1]]
    assert tools.asked == []
    assert events[-1]["response"]["status"] == "incomplete"


async def test_a_call_beyond_the_limit_leaves_no_item() -> None:
    events = await run(ask(max_tool_calls=1))
    assert len(items_in(events, "done")) == 1
    assert events[-1]["response"]["status"] == "completed"


@pytest.mark.parametrize("include", [[], INCLUDE])
async def test_whatever_prefix_of_the_log_is_left_the_model_reads_the_same_without_a_journal(
    include: list[str],
) -> None:
    request = ask(include=include)
    whole = await attempt(request, tools=MemoryTools(answer), script=SCRIPT)
    ends = [event.output_index for event in whole.events if isinstance(event, ev.OutputItemDone)]
    assert ends == [0, 1, 2, 3]
    for length in range(len(whole.entries)):
        entries = whole.read()[:length]
        known = {e.output_index for e in whole.events[:length] if isinstance(e, ev.OutputItemDone)}
        known |= set(history_of(entries).unshown)
        tools = MemoryTools(answer)
        again = await attempt(request, tools=tools, script=SCRIPT, log=MemoryLog(entries))
        assert again.frames == whole.frames, length
        assert [e.token_record for e in again.entries] == [e.token_record for e in whole.entries]
        assert len(tools.asked) == len({1, 2} - known), length


def chained(*context: dict[str, Any], **response: Any) -> ResponseRequest:
    request = ask(**response)
    return msgspec.structs.replace(request, context=items_of(list(context)))


def call_item(container_id: str) -> dict[str, Any]:
    return {
        "type": "code_interpreter_call",
        "id": "ci_1",
        "status": "completed",
        "container_id": container_id,
        "code": "1",
        "outputs": None,
    }


EARLIER = f"cntr_0_{'b' * 32}"


@pytest.mark.parametrize(
    ("request_", "is_continued"),
    [
        (chained(call_item(EARLIER), previous_response_id="resp_0_" + "b" * 32), True),
        (chained(call_item("cntr_elsewhere"), previous_response_id="resp_0_" + "b" * 32), False),
        (chained(previous_response_id="resp_0_" + "b" * 32), False),
        (chained(call_item(EARLIER)), False),
    ],
    ids=["its own chain", "a foreign container", "a chain without code", "no chain"],
)
async def test_a_chain_has_one_container(request_: ResponseRequest, is_continued: bool) -> None:
    events = await run(request_)
    own = f"cntr_{request_.response.id.removeprefix('resp_')}"
    assert {item["container_id"] for item in items_in(events, "done")} == {EARLIER if is_continued else own}


async def test_a_record_of_an_earlier_format_keeps_its_mcp_calls() -> None:
    log = await attempt(ask(), tools=MemoryTools(answer), script=SCRIPT, record_format=2, settings=Settings())
    kinds = [event.item.__struct_config__.tag for event in log.events if isinstance(event, ev.OutputItemDone)]
    assert kinds == ["reasoning", "mcp_call", "mcp_call", "message"]


@pytest.mark.parametrize(
    ("outputs", "read"),
    [
        ([], ""),
        ([{"type": "logs", "logs": "a"}, {"type": "logs", "logs": "b"}], "ab"),
        (
            [{"type": "logs", "logs": "a"}, {"type": "image", "url": "data:image/png;base64,aaaa"}],
            "a\n[An image was made here; this model reads text only.]\n",
        ),
        (None, "[What came of this code was not kept with the call.]"),
    ],
)
def test_what_code_elsewhere_left_is_read_and_what_is_missing_is_said(outputs: Any, read: str) -> None:
    items = items_of([call_item("cntr_elsewhere") | {"outputs": outputs}])
    (item,) = tell_outcomes(items, ())
    assert isinstance(item, CodeInterpreterCall)
    assert item.render().answer == read
