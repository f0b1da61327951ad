"""Every text that an accepted item carries is read by the model, or docs/api.md says that it is not.

A value that is on no list is refused.
"""

import re
from itertools import chain
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.bodies import item_members
from api.bodies.input_items import adopt_items, read_items
from api.bodies.validation import spell
from api.errors import ClientError
from shared.input_items import InputItem
from shared.responses import ResponseRequest
from tests.item_examples import BEFORE, EXAMPLES, example, leaves, replaced
from tests.requests import make_request
from worker.asking.conversation import build_conversation, listings_in
from worker.asking.offer import make_offer
from worker.harmony.tokens import decode, render_steps

PAGE = (Path(__file__).parents[2] / "docs/api.md").read_text("utf-8")
SECTION = PAGE.partition("\n## Items that no model reads whole\n")[2].partition("\n## ")[0]
UNREAD = [
    (kind, re.compile(re.escape(member).replace(r"\[\]", r"\[[0-9]+\]") + r"(?:[.\[].*)?"))
    for kinds, members in re.findall(r"^\| ([^|]*) \| ([^|]*) \|", SECTION, re.MULTILINE)
    for kind in re.findall(r"`([^`]+)`", kinds) or ["any"]
    for member in re.findall(r"`([^`]+)`", members)
]
WIKI = {"type": "mcp", "server_label": "wiki", "server_url": "http://wiki.example/mcp"}


def is_unread(kind: str, member: str) -> bool:
    return any(of in (kind, "any") and pattern.fullmatch(member) for of, pattern in UNREAD)


def request_of(*sent: Any) -> ResponseRequest:
    items: Any = adopt_items(read_items(list(sent), "input", 10), "resp_0_" + "a" * 32)
    return msgspec.structs.replace(make_request(tools=[WIKI]), input=items, approved=[])


def prompt_of(name: str, item: dict[str, Any]) -> str:
    before = [BEFORE[name]] if name in BEFORE else []
    request = request_of(*before, item)
    messages = build_conversation(request, make_offer(request, listings_in(request.input)))
    return decode(list(chain.from_iterable(chain.from_iterable(render_steps(m, messages) for m in messages))))


@settings(max_examples=60)
@given(name=st.sampled_from(sorted(EXAMPLES)), data=st.data())
def test_every_text_of_an_item_is_read_or_said_to_be_unread(name: str, data: st.DataObject) -> None:
    """`data` chooses members that a client leaves out."""
    item = example(name)
    optional = sorted({str(path[0]) for path, _ in leaves(item)} - REQUIRED)
    for member in data.draw(st.sets(st.sampled_from(optional), max_size=2)) if optional else ():
        del item[member]
    told = prompt_of(name, item)
    for path, value in leaves(item):
        texts = re.findall(r"T[0-9]+x", value) if isinstance(value, str) else []
        unread = [text for text in texts if text not in told]
        assert not unread or is_unread(item["type"], spell(path)), f"{spell(path)} is not in:\n{told}"


REQUIRED = {
    *("type", "role", "content", "summary", "call_id", "name", "arguments", "output", "input", "action"),
    *(
        "operation",
        "queries",
        "id",
        "server_label",
        "tools",
        "approval_request_id",
        "approve",
        "container_id",
        "status",
    ),
}


def test_every_kind_of_item_has_an_example_and_its_closed_lists() -> None:
    kinds = {str(kind.__struct_config__.tag) for kind in get_args(InputItem)}
    assert (
        kinds - {"compaction"} == {item["type"] for item in EXAMPLES.values()} == item_members._MEMBERS.keys()
    )


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_what_an_example_holds_is_accepted(name: str) -> None:
    assert request_of(*([BEFORE[name]] if name in BEFORE else []), example(name)).input


CLOSED = re.compile(r"(?!tools|error\.content).*\b(type|status|role|phase|detail|mode|ttl)")
"""Members with a closed list; the schemas and contents of MCP servers are their own words."""


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_a_value_that_is_on_no_list_is_refused_by_its_place(name: str) -> None:
    item = example(name)
    closed = [
        path
        for path, value in leaves(item)
        if CLOSED.fullmatch(spell(path)) and not re.fullmatch("T[0-9]+x", str(value))
    ]
    assert closed
    for path in closed:
        with pytest.raises(ClientError) as refused:
            read_items([replaced(item, path, "banana")], "input", 10)
        assert refused.value.param == spell(("input", 0, *path))


@pytest.mark.parametrize(
    ("kind", "statuses"),
    [
        ("message of the assistant", "in_progress completed incomplete"),
        ("function_call", "in_progress completed incomplete"),
        ("custom_tool_call", "in_progress completed incomplete"),
        ("shell_call", "in_progress completed incomplete"),
        ("apply_patch_call", "in_progress completed incomplete"),
        ("apply_patch_call_output", "completed failed"),
        ("mcp_call", "in_progress completed incomplete calling failed"),
        ("code_interpreter_call", "in_progress completed incomplete interpreting failed"),
        ("web_search_call", "in_progress searching completed incomplete failed"),
    ],
)
def test_every_status_of_the_public_types_is_accepted(kind: str, statuses: str) -> None:
    for status in statuses.split():
        read_items([example(kind) | {"status": status}], "input", 10)


def test_a_search_that_is_sent_back_without_its_action_is_accepted() -> None:
    """The hosted API sends it so while it is in progress, and once always did."""
    bare = {"type": "web_search_call", "id": "ws_1", "status": "completed"}
    assert "[What was found was not kept with this call.]" in prompt_of("", bare)
    searched = {**bare, "action": {"type": "search", "query": "a", "queries": None, "sources": None}}
    assert '{"query": "a"}' in prompt_of("", searched)
