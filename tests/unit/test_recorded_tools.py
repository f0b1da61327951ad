"""The lists of tools that unchanged clients send: each is accepted, and each tool of it is offered.

`tests/recorded_tools.json` holds what they sent; only the words of descriptions and grammars are ours.
"""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from api.bodies.requests import Birth, RequestLimits, read_create
from shared import hosted_tools
from shared.client_tools import requested_in
from shared.settings import Settings
from worker.asking.constraint import constraint_of
from worker.asking.conversation import build_conversation
from worker.asking.offer import make_offer
from worker.harmony.tokens import decode, render

LISTS: dict[str, dict[str, Any]] = json.loads((Path(__file__).parents[1] / "recorded_tools.json").read_text())


@pytest.mark.parametrize("client", LISTS)
def test_a_clients_own_tools_are_all_accepted_and_offered(client: str) -> None:
    settings = Settings()
    limits = RequestLimits(settings.items_max, settings.tools_max, settings.json_values_max)
    body = msgspec.json.encode({"input": "Hello", **LISTS[client]})
    creation = read_create(body, Birth("resp_1", 0), ["default"], limits)
    request, tools = creation.request, LISTS[client]["tools"]
    assert creation.ignored_tools == ()
    assert [tool["type"] for tool in request.response.tools] == [tool["type"] for tool in tools]
    offer = make_offer(request, {})
    own = {f"{one.namespace or 'functions'}.{one.name}" for one in requested_in(tools)}
    hosted = {tool.namespace for kind in tools if (tool := hosted_tools.by_type(kind["type"]))}
    assert {recipient for recipient in offer.routing if recipient in own} == own
    assert set(offer.hosted) == hosted
    text = decode(render(build_conversation(request, offer)))
    for recipient in own:
        assert f"type {recipient.partition('.')[2]} = (" in text
    constraint_of(request, offer, has_called=False, budget=100, reserved=10)


def test_the_lists_hold_each_kind_that_the_clients_have() -> None:
    kinds = {tool["type"] for one in LISTS.values() for tool in one["tools"]}
    assert kinds >= {
        "function",
        "namespace",
        "custom",
        "shell",
        "local_shell",
        "apply_patch",
        "mcp",
        "web_search",
    }
