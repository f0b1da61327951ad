"""The table of hosted tools: the words that the model was trained on, and every reader agrees with it."""

import ast
import itertools
import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from openai_harmony import ToolNamespaceConfig

from api.bodies.input_items import read_input
from api.bodies.tool_choice import read_choice
from api.bodies.tools import TOOLS, ApprovalDefaults, RequestTools
from shared import hosted_tools
from shared.hosted_tools import (
    BROWSER,
    HOSTED_TOOLS,
    MCP_CALL,
    PYTHON,
    RESERVED_LABELS,
    AnyHostedToolCall,
    CodeInterpreterCall,
    HostedTool,
    HostedToolCall,
    WebSearchCall,
)
from shared.input_items import InputItem
from shared.responses import HttpError, McpProtocolError, McpToolExecutionError
from shared.settings import Settings
from shared.tool_calls import ToolFailure, ToolOutput, describe
from shared.web_search import Displays
from tests.requests import make_request
from tool_runner.servers import StdioServer, load
from worker.asking.arguments import read_arguments
from worker.asking.constraint import constraint_of
from worker.asking.conversation import build_conversation, call_message
from worker.asking.offer import make_offer
from worker.asking.routing import McpTarget
from worker.engines.scripted.scene import Cue
from worker.engines.scripted.script import Script
from worker.engines.scripted.turn import turn_pieces
from worker.harmony.tokens import ChatMessage, render_message
from worker.response.call_items import FORMS, PRESENT_STYLE, CallForm, CallStyle, form_of, result_in

_ROOT = Path(__file__).parents[2]
_ROLES = ("api", "worker", "tool_runner", "webhooks", "shared", "local")

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
        assert offer.hosted == {tool.namespace: tool.description}
        assert {recipient: target.name for recipient, target in offer.routing.items()} == {
            tool.recipient_of(function.name): function.name for function in tool.functions
        }


@each_tool
def test_a_record_older_than_a_type_is_not_offered_its_tool(tool: HostedTool) -> None:
    """Its model has not read of the tool, and a takeover must not add it in mid-sentence."""
    for kind in tool.types:
        request = make_request(tools=[{"type": kind}])
        assert not make_offer(request, {}, (), tool.types_since - 1).routing


@each_tool
def test_a_choice_may_name_a_tool_by_any_type_that_means_it(tool: HostedTool) -> None:
    kinds = sorted(tool.types)
    for offered, chosen in itertools.product(kinds, kinds):
        assert read_choice({"type": chosen}, [{"type": offered}], 1) == {"type": chosen}
    for chosen in tool.types:
        mcp = {"type": "mcp", "server_label": tool.server_label}
        assert read_choice({"type": chosen}, [mcp], 1) == {"type": chosen}


def test_only_the_table_names_a_hosted_tool() -> None:
    """No type, label, namespace or function of one is written as a string anywhere else in product code, the
    launcher's sample request apart."""
    names = {*hosted_tools.KINDS, *(tool.server_label for tool in HOSTED_TOOLS)}
    names |= {tool.namespace for tool in HOSTED_TOOLS}
    functions = {f"{name}.{f.name}" for name in names for tool in HOSTED_TOOLS for f in tool.functions}
    apart = {Path(hosted_tools.__file__), _ROOT / "local" / "seed.py"}
    assert all(names & _texts_of(path) for path in apart)
    files = {path for role in _ROLES for path in (_ROOT / role).rglob("*.py")}
    assert apart < files
    found = {path: (names | functions) & _texts_of(path) for path in files - apart}
    assert {path: texts for path, texts in found.items() if texts} == {}


def _texts_of(path: Path) -> set[str]:
    constants = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant))
    return {node.value for node in constants if isinstance(node.value, str)}


@each_tool
def test_the_items_of_a_row_can_be_streamed_and_rendered(tool: HostedTool) -> None:
    """Else the first call, or the first history that holds one, would fail."""
    assert tool.item_type in FORMS, f"worker/response/call_items.py has no class for {tool.item_type}"
    for kind in tool.items:
        assert kind in EARLIER, f"EARLIER, below, needs an example of a {kind.__name__}"
        item = msgspec.convert(EARLIER[kind], kind)
        assert hosted_tools.by_item(item) is tool
        assert item.render().function in {function.name for function in tool.functions}


@each_tool
def test_a_history_may_contain_what_a_call_leaves_here(tool: HostedTool) -> None:
    """Else the request after the first call would fail."""
    own = {str(kind.__struct_config__.tag) for kind in tool.items}
    assert tool.item_type in own | {MCP_CALL}, f"the row's `items` lack {tool.item_type}"


def test_every_item_type_of_a_hosted_tool_stands_in_one_row() -> None:
    in_rows = [kind for tool in HOSTED_TOOLS for kind in tool.items]
    assert sorted(in_rows, key=repr) == sorted(get_args(AnyHostedToolCall), key=repr)


@pytest.mark.parametrize("make", FORMS.values(), ids=FORMS)
def test_the_item_of_an_approved_call_names_the_approval(
    make: Callable[[CallStyle, McpTarget, Displays], CallForm],
) -> None:
    """Else every later response would run the call again."""
    target = McpTarget("python", PYTHON.server_label, "python")
    made = make(PRESENT_STYLE, target, {}).make("id", target, "1", "in_progress", "mcpr_1")
    assert made.approval_request_id == "mcpr_1"


RESULTS = [
    ToolOutput(""),
    ToolOutput("12"),
    ToolFailure(McpProtocolError(-32602, "no such key")),
    ToolFailure(McpToolExecutionError([{"type": "text", "text": "It does not count."}])),
    ToolFailure(HttpError(0, "no answer")),
    ToolFailure(HttpError(503, "busy")),
]


each_style = pytest.mark.parametrize(
    "style", [PRESENT_STYLE, CallStyle(2), CallStyle(has_messages=True, shows_outputs=True)], ids=repr
)


@each_tool
@each_style
@pytest.mark.parametrize("result", RESULTS, ids=repr)
def test_a_finished_call_gives_its_result_back_and_is_accepted_as_input(
    tool: HostedTool, style: CallStyle, result: ToolOutput | ToolFailure
) -> None:
    """Else a replay would differ from the log, or the request after the call would be refused."""
    function = tool.functions[0].name
    target = McpTarget(tool.recipient_of(function), tool.server_label, function, item_type=tool.item_type)
    form = form_of(style, target, {})
    made = form.make(f"{form.prefix}_1", target, "{}", "in_progress")
    item, announced = form.finish(0, made, result)
    found = result_in(item)
    assert found is not None
    assert form.finish(0, made, found) == (item, announced)
    said = describe(result.error) if isinstance(result, ToolFailure) else result.output
    request = make_request(tools=[{"type": "mcp", "server_label": tool.server_label}])
    kept = msgspec.json.decode(msgspec.json.encode(item), type=InputItem)
    request = msgspec.structs.replace(request, context=[kept])
    call, answer = build_conversation(request, make_offer(request, {}))[-3:-1]
    assert isinstance(call, ChatMessage)
    assert isinstance(answer, ChatMessage)
    assert (call.recipient, call.text, answer.text) == (target.recipient, "{}", said)
    shown = json.loads(msgspec.json.encode(form.show(item)))
    assert len(read_input([shown], 1, is_continuing=False)) == 1


@each_tool
def test_a_label_is_none_that_is_reserved(tool: HostedTool) -> None:
    """Else no `mcp` tool could ask for it and no operator could replace its server."""
    assert tool.server_label.lower() not in RESERVED_LABELS, "a label must differ from every namespace"
    assert RequestTools.read(
        [{"type": "mcp", "server_label": tool.server_label}], 1, ApprovalDefaults()
    ).tools


@each_tool
def test_a_tool_that_can_be_requested_by_a_type_has_a_server(tool: HostedTool) -> None:
    configured = load(Settings(web_search="local"))
    assert (tool.server_label in configured) == (tool.builtin is not None)
    if tool.types:
        assert tool.builtin is not None, f"nothing serves {sorted(tool.types)} unless the operator does"
    if tool.builtin is not None:
        server = configured[tool.server_label]
        assert isinstance(server, StdioServer)
        assert find_spec(server.args[1]) is not None, f"there is no module {server.args[1]}"


EARLIER: dict[type[HostedToolCall], dict[str, Any]] = {
    CodeInterpreterCall: {"container_id": "c", "code": "1", "outputs": None},
    WebSearchCall: {"action": {"type": "search", "query": "q"}},
}


SCENE = """
[[scene]]
name = "a call"
[[scene.turn]]
call = {{ tool = "{recipient}", arguments = "{{}}" }}
[[scene.turn]]
final = "."
"""


@each_tool
def test_a_call_is_written_where_the_row_says(tool: HostedTool) -> None:
    for function in tool.functions:
        recipient = tool.recipient_of(function.name)
        call = call_message(recipient, "")
        assert (call.channel, call.content_type) == (tool.channel, tool.content_type)
        scene = Script.parse(SCENE.format(recipient=recipient)).scenes[0]
        scripted = itertools.chain.from_iterable(turn_pieces(Cue(scene, scene.turns[0], {}, None)))
        assert list(scripted) == render_message(call_message(recipient, "{}"))
