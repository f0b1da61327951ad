"""The stream that the project started from, with its faults fixed, as the public client sees it.

The request and the order of events are those of a public vLLM pull request (2025); each test
names the fault of that stream which must not be here.
"""

from collections.abc import Iterator
from itertools import groupby
from typing import Any

import httpx
import pytest
from openai import OpenAI
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from tests.patience import PATIENCE_S
from tests.running import RunningCluster
from tests.streams import Frame, read_frames

SEED: dict[str, Any] = {
    "model": "default",
    "input": "Multiply 123*456 using the mcp.code_interpreter tool.",
    "tools": [
        {
            "type": "mcp",
            "server_label": "code_interpreter",
            "headers": {"test": "test"},
            "server_url": "IGNORED",
        }
    ],
    "stream": True,
    "enable_response_messages": True,
}

ORDER = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
    "response.reasoning_text.delta",
    "response.reasoning_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.output_item.added",
    "response.mcp_call.in_progress",
    "response.mcp_call_arguments.delta",
    "response.mcp_call_arguments.done",
    "response.mcp_call.completed",
    "response.output_item.done",
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.completed",
]


@pytest.fixture(scope="module")
def frames(cluster: RunningCluster) -> list[Frame]:
    headers = {"authorization": "Bearer dummy-api-key"}
    with httpx.Client(base_url=cluster.urls[0], headers=headers, timeout=PATIENCE_S) as client:
        return read_frames(client.post("/v1/responses", json=SEED).content)


@pytest.fixture
def events(frames: list[Frame]) -> list[dict[str, Any]]:
    return [frame.data for frame in frames]


@pytest.fixture
def client(cluster: RunningCluster) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{cluster.urls[0]}/v1", api_key="dummy-api-key", max_retries=0) as client:
        yield client


def items(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event["item"] for event in events if event["type"] == "response.output_item.done"]


def test_the_events_come_in_the_seeds_order_numbered_without_a_gap(events: list[dict[str, Any]]) -> None:
    assert [name for name, _ in groupby(event["type"] for event in events)] == ORDER
    assert [event["sequence_number"] for event in events] == list(range(len(events)))


def test_every_event_parses_strictly_with_the_public_types(frames: list[Frame]) -> None:
    adapter: TypeAdapter[ResponseStreamEvent] = TypeAdapter(ResponseStreamEvent)
    for frame in frames:
        event = adapter.validate_json(frame.raw_data, strict=True)
        assert event.type == frame.event
        assert frame.id == event.sequence_number


def test_completed_means_that_the_tool_has_run_and_its_output_is_there(events: list[dict[str, Any]]) -> None:
    call = items(events)[1]
    assert (call["type"], call["status"], call["error"]) == ("mcp_call", "completed", None)
    assert call["output"] == "56088\n"
    assert call["arguments"] == "123*456\n"


def test_content_index_is_the_same_in_deltas_and_done(events: list[dict[str, Any]]) -> None:
    assert {event["content_index"] for event in events if "content_index" in event} == {0}


def test_the_final_output_is_exactly_the_streamed_items(events: list[dict[str, Any]]) -> None:
    assert events[-1]["response"]["output"] == items(events)
    assert [item["status"] for item in items(events)] == ["completed"] * 3


def test_ids_show_the_kind_and_stay(events: list[dict[str, Any]]) -> None:
    added = [event["item"] for event in events if event["type"] == "response.output_item.added"]
    assert [item["id"] for item in added] == [item["id"] for item in items(events)]
    assert [item["id"].split("_")[0] for item in added] == ["rs", "mcp", "msg"]
    by_index = dict(enumerate(item["id"] for item in added))
    assert all(by_index[e["output_index"]] == e["item_id"] for e in events if "item_id" in e)


def test_each_message_is_listed_once(events: list[dict[str, Any]]) -> None:
    messages = events[-1]["response"]["output_messages"]
    told = [(m["role"], m.get("channel"), m.get("recipient"), m["content"][0]["text"]) for m in messages]
    assert told == [
        ("assistant", "analysis", None, "We need to compute 123*456. Use python."),
        ("assistant", "analysis", "python", "123*456\n"),
        ("tool", "analysis", "assistant", "56088\n"),
        ("assistant", "final", None, r"The product of \(123 \times 456\) is **56,088**."),
    ]
    assert messages[1]["content_type"] == "code"
    system, user = events[-1]["response"]["input_messages"]
    assert system["content"][0]["reasoning_effort"] == "Medium"
    assert "python" in system["content"][0]["tools"]
    assert user["content"][0]["text"] == SEED["input"]


def test_an_mcp_call_has_no_call_id(events: list[dict[str, Any]]) -> None:
    assert all("call_id" not in event["item"] for event in events if "item" in event)


def test_usage_lists_each_turn(events: list[dict[str, Any]]) -> None:
    usage = events[-1]["response"]["usage"]
    turns = usage["input_tokens_details"]["input_tokens_per_turn"]
    outputs = usage["output_tokens_details"]["output_tokens_per_turn"]
    tools = usage["output_tokens_details"]["tool_output_tokens_per_turn"]
    assert sum(turns) == usage["input_tokens"]
    assert sum(outputs) == usage["output_tokens"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert turns[1] == turns[0] + outputs[0] + tools[1]
    assert tools[0] == 0
    assert 0 < usage["output_tokens_details"]["reasoning_tokens"] < outputs[0]
    assert len(usage["input_tokens_details"]["cached_tokens_per_turn"]) == 2


def test_who_does_not_ask_for_more_gets_numbers_only(client: OpenAI) -> None:
    """`@openai/agents` refuses a usage with anything else in its details."""
    request = {k: v for k, v in SEED.items() if k not in ("stream", "enable_response_messages")}
    usage = client.responses.create(**request).to_dict()["usage"]
    assert isinstance(usage, dict)
    for details in ("input_tokens_details", "output_tokens_details"):
        assert {type(count) for count in usage[details].values()} == {int}


def test_header_values_are_not_echoed(frames: list[Frame]) -> None:
    for frame in frames:
        for tool in frame.data.get("response", {}).get("tools", []):
            assert set((tool["headers"] or {}).values()) <= {"<redacted>"}


def test_deltas_join_to_what_is_done(events: list[dict[str, Any]]) -> None:
    joined: dict[str, str] = {}
    for event in events:
        if event["type"].endswith(".delta"):
            joined[event["item_id"]] = joined.get(event["item_id"], "") + event["delta"]
    texts = {
        e["item_id"]: e.get("text", e.get("arguments")) for e in events if "text" in e or "arguments" in e
    }
    assert joined == texts


def test_the_clients_accumulator_reaches_the_same_response(client: OpenAI) -> None:
    request = {k: v for k, v in SEED.items() if k not in ("stream", "enable_response_messages")}
    with client.responses.stream(**request) as stream:
        seen = list(stream)
        final = stream.get_final_response()
    assert seen[-1].type == "response.completed"
    assert final.output_text == r"The product of \(123 \times 456\) is **56,088**."
    streamed = [event.item.to_dict()["id"] for event in seen if event.type == "response.output_item.done"]
    assert [item.to_dict()["id"] for item in final.output] == streamed


def test_without_a_stream_the_answer_is_the_folded_response(client: OpenAI) -> None:
    request = {k: v for k, v in SEED.items() if k not in ("stream", "enable_response_messages")}
    created = client.responses.create(**request)
    assert created.status == "completed"
    assert "56,088" in created.output_text
    assert client.responses.retrieve(created.id).to_json() == created.to_json()
