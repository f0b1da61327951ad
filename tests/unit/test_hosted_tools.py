"""The table of hosted tools: the model was trained on what it says, and every reader agrees with it."""

import json
from typing import Any

import msgspec
import pytest
from openai_harmony import ToolNamespaceConfig

from api.bodies.tools import TOOLS
from shared import hosted_tools
from shared.hosted_tools import (
    BROWSER,
    HOSTED_TOOLS,
    PYTHON,
    RESERVED_LABELS,
    CodeInterpreterCall,
    HostedCall,
    HostedTool,
    WebSearchCall,
)
from tests.requests import make_request
from worker.asking.arguments import read_arguments
from worker.asking.constraint import constraint_of
from worker.asking.conversation import call_message
from worker.asking.offer import make_offer
from worker.response.call_items import ITEM_TYPES

each_tool = pytest.mark.parametrize("tool", HOSTED_TOOLS, ids=lambda tool: tool.namespace)


def test_the_browser_is_declared_in_the_words_of_the_library() -> None:
    trained = ToolNamespaceConfig.browser()
    assert (trained.name, trained.description) == (BROWSER.namespace, BROWSER.description)
    assert [(t.name, t.description, t.parameters) for t in trained.tools] == [
        (f.name, f.description, f.parameters) for f in BROWSER.declared
    ]


def test_python_is_called_by_its_namespace_and_declares_no_function() -> None:
    assert ToolNamespaceConfig.python().tools == list(PYTHON.declared) == []
    assert hosted_tools.by_recipient("python") is PYTHON
    assert hosted_tools.by_recipient("python.run") is None
    assert read_arguments(PYTHON.server_label, "1 + 1") == '{"code":"1 + 1"}'


def test_a_browser_call_has_whole_numbers_and_nothing_undeclared() -> None:
    request = make_request(
        tools=[{"type": "mcp", "server_label": BROWSER.server_label}], tool_choice="required"
    )
    constraint = constraint_of(request, make_offer(request, {}), has_called=False, budget=100, reserved=10)
    assert constraint is not None
    schemas = {call.recipient: json.loads(call.arguments.schema or "") for call in constraint.calls}
    assert schemas["browser.open"] == {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "id": {"type": ["integer", "string"]},
            "cursor": {"type": "integer"},
            "loc": {"type": "integer"},
            "num_lines": {"type": "integer"},
            "view_source": {"type": "boolean"},
            "source": {"type": "string"},
        },
    }


@each_tool
def test_a_tool_is_found_by_each_of_its_names(tool: HostedTool) -> None:
    assert hosted_tools.by_label(tool.server_label) is tool
    assert hosted_tools.by_namespace(tool.namespace) is tool
    assert all(hosted_tools.by_type(kind) is tool and kind in TOOLS for kind in tool.types)
    assert tool.namespace in RESERVED_LABELS
    for function in tool.functions:
        recipient = tool.recipient_of(function.name)
        assert hosted_tools.by_recipient(recipient) is tool
        assert tool.function_of(recipient) is function


@each_tool
def test_what_is_offered_by_a_row_is_routed_to_its_server(tool: HostedTool) -> None:
    asked = [{"type": "mcp", "server_label": tool.server_label}, *({"type": kind} for kind in tool.types)]
    for one in asked:
        offer = make_offer(make_request(tools=[one]), {})
        assert offer.trained == {tool.namespace: tool.description}
        assert {recipient: target.name for recipient, target in offer.routing.items()} == {
            tool.recipient_of(function.name): function.name for function in tool.functions
        }


@each_tool
def test_the_items_of_a_row_can_be_streamed_and_told(tool: HostedTool) -> None:
    """Else the first call, or the first history that holds one, would fail."""
    assert tool.item_type in ITEM_TYPES
    for kind in tool.items:
        item = msgspec.convert(EARLIER[kind], kind)
        assert hosted_tools.by_item(item) is tool
        assert item.told().function in {function.name for function in tool.functions}


EARLIER: dict[type[HostedCall], dict[str, Any]] = {
    CodeInterpreterCall: {"container_id": "c", "code": "1", "outputs": None},
    WebSearchCall: {"action": {"type": "search", "query": "q"}},
}


@each_tool
def test_a_call_is_written_where_the_row_says(tool: HostedTool) -> None:
    for function in tool.functions:
        call = call_message(tool.recipient_of(function.name), "")
        assert (call.channel, call.content_type) == (tool.channel, tool.content_type)
