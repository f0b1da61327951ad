"""Web searches on the search server that ships: actions, sources, citations, chains and conversations."""

from collections.abc import Iterator
from typing import Any

import pytest
from openai import OpenAI
from openai.types.responses import Response, ResponseFunctionWebSearch, ResponseOutputMessage

from tests.running import RunningCluster

QUESTION = "Search for fencing tokens and find append"
LEASES = "https://antiphon.example/leases"


@pytest.fixture
def client(cluster: RunningCluster) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{cluster.urls[0]}/v1", api_key="any", max_retries=0) as client:
        yield client


def search(client: OpenAI, text: str = QUESTION, **more: Any) -> Response:
    fields: dict[str, Any] = {"model": "default", "tools": [{"type": "web_search"}]} | more
    response: Response = client.responses.create(input=text, **fields)
    return response


def calls_of(response: Response) -> list[ResponseFunctionWebSearch]:
    return [item for item in response.output if isinstance(item, ResponseFunctionWebSearch)]


def cited_in(response: Response) -> list[tuple[str, str]]:
    """Each mark of the answer, and the address that it cites."""
    message = response.output[-1]
    assert isinstance(message, ResponseOutputMessage)
    (part,) = message.content
    assert part.type == "output_text"
    citations = [each for each in part.annotations if each.type == "url_citation"]
    return [(part.text[each.start_index : each.end_index], each.url) for each in citations]


CITED = [("【1†L2-L3】", LEASES), ("【2†L1】", LEASES), ("【0†L4】", LEASES)]


def test_a_search_streams_its_actions_and_cites_its_pages(client: OpenAI) -> None:
    with client.responses.stream(model="default", input=QUESTION, tools=[{"type": "web_search"}]) as stream:
        types: list[str] = [event.type for event in stream]
        response = stream.get_final_response()
    assert types.count("response.output_text.annotation.added") == 3
    for step in ("in_progress", "searching", "completed"):
        assert types.count(f"response.web_search_call.{step}") == 3
    assert [call.action.type for call in calls_of(response)] == ["search", "open_page", "find_in_page"]
    assert cited_in(response) == CITED
    assert cited_in(client.responses.retrieve(response.id)) == CITED
    assert response.tools[0].to_dict() == {
        "type": "web_search",
        "search_context_size": "medium",
        "user_location": None,
        "filters": None,
    }


def test_sources_are_there_if_they_are_included(client: OpenAI) -> None:
    for include in ([], ["web_search_call.action.sources"]):
        action = calls_of(search(client, include=include))[0].action
        assert action.type == "search"
        assert (LEASES in [source.url for source in action.sources or ()]) == bool(include)


def test_a_response_that_continues_a_search_can_cite_it_and_goes_on_with_its_cursors(client: OpenAI) -> None:
    first = search(client)
    again = search(client, "Repeat 【1†L2】 1 times", previous_response_id=first.id)
    assert cited_in(again) == [("【1†L2】", LEASES)]
    more = search(client, previous_response_id=again.id)
    assert cited_in(more) == [("【4†L2-L3】", LEASES), ("【5†L1】", LEASES), ("【3†L4】", LEASES)]
    listed = client.responses.input_items.list(more.id, limit=100).data
    shown = [item.to_dict() for item in listed if item.type == "web_search_call"]
    assert len(shown) == 3
    assert all(item.keys() == {"id", "type", "status", "action"} for item in shown)


def test_a_conversation_lists_no_more_of_a_search_than_was_shown_and_its_model_reads_it_all(
    client: OpenAI,
) -> None:
    conversation = client.conversations.create()
    search(client, conversation=conversation.id)
    items = client.conversations.items.list(conversation.id, limit=100).data
    calls = [item for item in items if item.type == "web_search_call"]
    assert len(calls) == 3
    for call in calls:
        one = client.conversations.items.retrieve(call.id or "", conversation_id=conversation.id)
        assert one.to_dict() == call.to_dict()
        assert call.to_dict().keys() == {"id", "type", "status", "action"}
    again = search(client, "Repeat 【1†L2】 1 times", conversation=conversation.id)
    assert cited_in(again) == [("【1†L2】", LEASES)]


def test_a_history_that_a_client_sends_back_is_told_with_what_was_found(client: OpenAI) -> None:
    first = search(client)
    history: Any = [{"role": "user", "content": QUESTION}, *(item.to_dict() for item in first.output)]
    question: Any = {"role": "user", "content": "Repeat 【1†L2】 1 times"}
    again = client.responses.create(
        model="default", input=[*history, question], tools=[{"type": "web_search"}]
    )
    assert cited_in(again) == [("【1†L2】", LEASES)]


def test_a_choice_and_a_limit_count_for_searches(client: OpenAI) -> None:
    response = search(client, max_tool_calls=1, tool_choice={"type": "web_search"})
    assert [call.action.type for call in calls_of(response)] == ["search"]
    assert response.status == "completed"


def test_only_allowed_domains_are_shown(client: OpenAI) -> None:
    tool: Any = {"type": "web_search", "filters": {"allowed_domains": ["elsewhere.example"]}}
    response = client.responses.create(model="default", input=QUESTION, tools=[tool])
    assert "antiphon.example" not in response.output_text
    assert cited_in(response) == []
