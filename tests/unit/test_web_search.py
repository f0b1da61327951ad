"""The calls of a `web_search` tool and the citations of what they show, field by field, event by event."""

import json
from typing import Any

import msgspec
import pytest
from openai.types.responses import ResponseFunctionWebSearch, ResponseOutputMessage, ResponseStreamEvent
from pydantic import TypeAdapter

from api.bodies.input_items import read_input
from shared import events as ev
from shared.frames import data_of
from shared.hosted_tools import BROWSER, WebSearchCall
from shared.input_items import InputItem
from shared.responses import HttpError, ResponseRequest
from shared.tool_calls import ToolCall, ToolFailure, ToolOutput, ToolResult, ToolTask
from shared.web_search import Display, SearchOptions, action_of
from tests.browsing import PATTERN, QUERY, browse
from tests.items import items_of
from tests.memory import MemoryLog, MemoryTools, attempt
from tests.requests import make_request
from worker.asking.conversation import build_conversation
from worker.asking.offer import make_offer
from worker.response.history import history_of

TOOL: Any = {"type": "web_search"}
TEXT = f"Search for {QUERY} and find {PATTERN}"
INCLUDE = ["web_search_call.action.sources"]
ORDER = [
    "response.output_item.added",
    "response.web_search_call.in_progress",
    "response.web_search_call.searching",
    "response.web_search_call.completed",
    "response.output_item.done",
]
LEASES = "https://antiphon.example/leases"


def ask(
    text: str = TEXT, *, tool: Any = TOOL, include: list[str] | None = None, **more: Any
) -> ResponseRequest:
    request = make_request(text, tools=[tool], **more)
    return msgspec.structs.replace(request, include=include or [])


def events_of(log: MemoryLog) -> list[dict[str, Any]]:
    return [json.loads(data_of(frame)) for frame in log.frames]


def calls_in(events: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    found = [event["item"] for event in events if event["type"] == f"response.output_item.{kind}"]
    return [item for item in found if item["type"] == "web_search_call"]


def names(events: list[dict[str, Any]]) -> list[str]:
    """The types of the events about the calls."""
    places = {e["output_index"] for e in events if e.get("item", {}).get("type") == "web_search_call"}
    return [event["type"] for event in events if event.get("output_index") in places]


async def run(request: ResponseRequest, answer: Any = browse) -> list[dict[str, Any]]:
    return events_of(await attempt(request, tools=MemoryTools(answer)))


@pytest.mark.parametrize("kind", sorted(BROWSER.types))
async def test_a_call_has_the_events_and_keys_of_the_hosted_api(kind: str) -> None:
    events = await run(ask(tool={"type": kind}))
    assert names(events) == ORDER * 3
    for item in calls_in(events, "added"):
        assert item.keys() == {"id", "type", "status"}
        assert item["status"] == "in_progress"
    done = calls_in(events, "done")
    assert all(item.keys() == {"id", "type", "status", "action"} for item in done)
    assert {item["status"] for item in done} == {"completed"}
    assert all(item["id"].startswith("ws_") for item in done)
    assert [item["action"] for item in done] == [
        {"type": "search", "query": QUERY, "queries": [QUERY]},
        {"type": "open_page", "url": LEASES},
        {"type": "find_in_page", "url": LEASES, "pattern": PATTERN},
    ]
    assert [i for i in events[-1]["response"]["output"] if i["type"] == "web_search_call"] == done


async def test_a_search_has_its_sources_if_they_are_included() -> None:
    done = calls_in(await run(ask(include=INCLUDE)), "done")
    sources = done[0]["action"]["sources"]
    assert sources[0] == {"type": "url", "url": LEASES}
    assert len(sources) > 1
    assert not any("sources" in item["action"] for item in done[1:])


@pytest.mark.parametrize("include", [[], INCLUDE])
async def test_every_event_and_item_parses_with_the_public_types(include: list[str]) -> None:
    events = await run(ask(include=include))
    adapter: TypeAdapter[ResponseStreamEvent] = TypeAdapter(ResponseStreamEvent)
    for number, event in enumerate(events):
        if event["type"] == ORDER[0] and event["item"]["type"] == "web_search_call":
            assert "action" not in event["item"]  # as in the hosted API, whose types demand one
            continue
        adapter.validate_python(event | {"sequence_number": number})
    for item in calls_in(events, "done"):
        ResponseFunctionWebSearch.model_validate(item, strict=True)
    ResponseOutputMessage.model_validate(events[-1]["response"]["output"][-1], strict=True)


async def test_the_answer_cites_what_was_shown_with_an_event_after_each_mark() -> None:
    events = await run(ask())
    part = events[-1]["response"]["output"][-1]["content"][0]
    cited = [
        (part["text"][each["start_index"] : each["end_index"]], each["title"], each["url"])
        for each in part["annotations"]
    ]
    leases = ("Leases and fencing tokens", LEASES)
    assert cited == [("【1†L2-L3】", *leases), ("【2†L1】", *leases), ("【0†L4】", *leases)]
    added = [event for event in events if event["type"] == "response.output_text.annotation.added"]
    assert [event["annotation"] for event in added] == part["annotations"]
    assert [event["annotation_index"] for event in added] == [0, 1, 2]
    assert all(event.keys() == ANNOTATION_KEYS for event in added)
    for event in added:
        before = events[events.index(event) - 1]
        assert before["type"] == "response.output_text.delta"
        assert "】" in before["delta"]


ANNOTATION_KEYS = {
    *("type", "annotation", "annotation_index", "content_index", "item_id", "output_index"),
    "sequence_number",
}


async def test_a_call_that_fails_says_so_in_its_status_and_the_model_reads_why() -> None:
    def fail(_: ToolTask) -> ToolResult:
        return ToolFailure(HttpError(503, "away"))

    events = await run(ask(), fail)
    done = calls_in(events, "done")
    assert {item["status"] for item in done} == {"failed"}
    assert names(events)[:4] == [*ORDER[:3], ORDER[-1]]
    assert done[0]["action"] == {"type": "search", "query": QUERY, "queries": [QUERY]}
    answer = events[-1]["response"]["output"][-1]["content"][0]
    assert "away (HTTP 503)" in answer["text"]
    assert answer["annotations"] == []


def find_fails(task: ToolTask) -> ToolResult:
    assert isinstance(task, ToolCall)
    return ToolFailure(HttpError(503, "away")) if task.name == "find" else browse(task)


async def test_a_search_in_a_page_that_fails_names_the_page_as_far_as_one_was_shown() -> None:
    item = calls_in(await run(ask(), find_fails), "done")[2]
    assert item["action"] == {"type": "find_in_page", "url": LEASES, "pattern": PATTERN}
    ResponseFunctionWebSearch.model_validate(item, strict=True)
    shown = {3: Display(3, "T", "https://a.example"), 4: Display(4, "Results")}
    for written, url in (
        ('{"pattern": "p", "cursor": 3}', {"url": "https://a.example"}),
        ('{"pattern": "p"}', {}),
        ('{"pattern": "p", "cursor": 5}', {}),
    ):
        assert action_of("find", written, None, shown) == {"type": "find_in_page", **url, "pattern": "p"}
    assert action_of("find", "{", None, {}) == {"type": "find_in_page", "pattern": ""}
    older = await attempt(ask(), tools=MemoryTools(find_fails), record_format=3)
    assert calls_in(events_of(older), "done")[2]["action"]["url"] == ""


async def test_a_call_that_the_token_limit_cuts_off_ran_nothing() -> None:
    tools = MemoryTools(browse)
    events = events_of(await attempt(ask(max_output_tokens=34), tools=tools))
    (item,) = calls_in(events, "done")
    assert item["status"] == "incomplete"
    assert item["action"]["type"] == "search"
    assert names(events) == [*ORDER[:2], ORDER[-1]]
    assert tools.asked == []


async def test_calls_beyond_the_limit_are_not_made_and_leave_no_item() -> None:
    events = await run(ask(max_tool_calls=1))
    assert [item["action"]["type"] for item in calls_in(events, "done")] == ["search"]
    assert events[-1]["response"]["status"] == "completed"


async def test_an_mcp_tool_with_the_label_keeps_its_mcp_calls_and_cites_nothing() -> None:
    events = await run(ask(tool={"type": "mcp", "server_label": BROWSER.server_label}))
    output = events[-1]["response"]["output"]
    assert [item["type"] for item in output if item["type"] not in ("reasoning", "message")] == [
        "mcp_call"
    ] * 3
    assert output[-1]["content"][0]["annotations"] == []
    assert "【1†L2-L3】" in output[-1]["content"][0]["text"]


async def test_a_record_of_an_earlier_format_is_not_offered_the_browser() -> None:
    log = await attempt(ask(), tools=MemoryTools(browse), record_format=2)
    kinds = [event.item.__struct_config__.tag for event in log.events if isinstance(event, ev.OutputItemDone)]
    assert kinds == ["reasoning", "message"]


# --- what the request wants ----------------------------------------------------------------------


async def test_the_server_is_told_what_the_request_wants() -> None:
    tool = {
        "type": "web_search",
        "search_context_size": "high",
        "filters": {"allowed_domains": ["Antiphon.example"]},
        "user_location": {"type": "approximate", "city": "Oslo", "country": None},
        "external_web_access": False,
    }
    tools = MemoryTools(browse)
    await attempt(ask(tool=tool), tools=tools)
    options = SearchOptions("high", ("antiphon.example",), {"type": "approximate", "city": "Oslo"}, False)
    assert [task.search for task in tools.asked if isinstance(task, ToolCall)] == [options] * 3


def test_the_model_reads_where_the_user_is() -> None:
    place = {"type": "approximate", "city": "Oslo", "country": "NO", "timezone": "Europe/Oslo"}
    request = ask(tool={"type": "web_search", "user_location": place})
    described = make_offer(request, {}).hosted[BROWSER.namespace]
    assert described == f"{BROWSER.description}\nThe user is in or near Oslo, NO, Europe/Oslo."
    assert make_offer(ask(), {}).hosted[BROWSER.namespace] == BROWSER.description


@pytest.mark.parametrize("says_pages", [True, False])
async def test_a_server_that_shows_other_domains_is_not_believed(says_pages: bool) -> None:
    def careless(task: ToolTask) -> ToolResult:
        assert isinstance(task, ToolCall)
        result = browse(msgspec.structs.replace(task, search=None))
        assert isinstance(result, ToolOutput)
        return result if says_pages else ToolOutput(result.output)

    request = ask(tool={"type": "web_search", "filters": {"allowed_domains": ["elsewhere.example"]}})
    events = await run(request, careless)
    assert {item["status"] for item in calls_in(events, "done")} == {"failed"}
    text = events[-1]["response"]["output"][-1]["content"][0]["text"]
    assert ("outside the allowed domains" in text) == says_pages
    assert "antiphon.example" not in text


@pytest.mark.parametrize(
    ("url", "is_admitted"),
    [
        ("https://a.example/x", True),
        ("https://sub.a.example/", True),
        ("https://A.EXAMPLE/", True),
        ("https://nota.example/", False),
        ("https://a.example.evil.example/", False),
        ("https://evil.example/a.example", False),
        ("https://a.example@evil.example/", False),
        ("http://[::1", False),
        ("a.example", False),
        ("", False),
    ],
)
def test_a_domain_admits_itself_and_those_below_it(url: str, is_admitted: bool) -> None:
    assert SearchOptions(allowed_domains=("a.example",)).admits(url) == is_admitted


# --- later ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [browse, find_fails])
async def test_whatever_prefix_of_the_log_is_left_everything_is_the_same_without_a_journal(
    answer: Any,
) -> None:
    request = ask()
    whole = await attempt(request, tools=MemoryTools(answer))
    done = [event for event in whole.events if isinstance(event, ev.OutputItemDone)]
    places = {event.output_index for event in done if isinstance(event.item, WebSearchCall)}
    assert len(places) == 3
    for length in range(len(whole.entries)):
        entries, tools = whole.read()[:length], MemoryTools(answer)
        again = await attempt(request, tools=tools, log=MemoryLog(entries))
        assert again.frames == whole.frames, length
        assert [e.token_record for e in again.entries] == [e.token_record for e in whole.entries]
        assert len(tools.asked) == len(places - set(history_of(entries).unshown)), length


async def test_a_response_that_continues_another_reads_what_was_shown_and_cites_it() -> None:
    first = await attempt(ask(), tools=MemoryTools(browse))
    kept = list(history_of(first.read()).unshown.values())
    context = msgspec.convert(msgspec.to_builtins(kept), list[InputItem])
    request = msgspec.structs.replace(ask("Repeat 【1†L2】 1 times"), context=context)
    messages = build_conversation(request, make_offer(request, {}))
    told = [getattr(message, "text", "") for message in messages]
    assert any(text.startswith("[1] Leases and fencing tokens") for text in told)
    part = (await run(request))[-1]["response"]["output"][-1]["content"][0]
    assert [each["url"] for each in part["annotations"]] == [LEASES]


async def test_a_client_that_sends_the_items_back_is_believed_nothing_that_it_was_not_shown() -> None:
    sent = {
        "type": "web_search_call",
        "id": "ws_1",
        "status": "completed",
        "action": {"type": "search", "query": "q"},
        "output": "forged",
        "display": {"cursor": 1, "url": "https://forged.example/", "title": "t"},
    }
    (item,) = read_input([sent], 1, is_continuing=False)
    assert isinstance(item, WebSearchCall)
    assert b"forged" not in msgspec.json.encode(item)
    request = msgspec.structs.replace(
        ask("Repeat 【1†L2】 1 times"), context=items_of([msgspec.to_builtins(item)])
    )
    assert (await run(request))[-1]["response"]["output"][-1]["content"][0]["annotations"] == []


async def test_a_call_that_a_client_sends_back_is_completed_by_what_is_kept_of_the_same_call() -> None:
    log = await attempt(ask(include=INCLUDE), tools=MemoryTools(browse))
    kept = next(iter(history_of(log.read()).unshown.values()))
    assert isinstance(kept, WebSearchCall)
    assert not kept.lacks_result
    (sent,) = read_input([msgspec.to_builtins(kept.listed())], 1, is_continuing=False)
    assert isinstance(sent, WebSearchCall)
    assert sent.lacks_result
    assert sent.complete(kept) == kept
    other = msgspec.structs.replace(sent, action={"type": "search", "query": "else"})
    assert other.complete(kept) == other
