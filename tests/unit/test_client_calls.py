"""The calls that the client runs: what is shown of each kind while the model writes it."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from shared import events as ev
from shared.client_tools import CLIENT_TOOLS, PatchOperation
from shared.events import StreamEvent
from shared.frames import data_of, frame
from shared.lifecycle import abandon, fold
from shared.responses import Item, ItemStatus, Response
from worker.asking.routing import ClientTarget
from worker.response.client_calls import FORMS, ClientCallForm, Place

RESPONSE = Response(id="resp_0_" + "a" * 32, created_at=1, status="in_progress", model="default")
ROOT = RESPONSE.id.removeprefix("resp_")


def write(
    kind: str,
    text: str,
    status: ItemStatus = "completed",
    size: int = 3,
    namespace: str | None = None,
) -> tuple[list[StreamEvent], ClientCallForm]:
    form = FORMS[kind](Place(RESPONSE.id, 0), ClientTarget("t", kind, namespace))
    events = form.begin()
    for begin in range(0, len(text), size):
        events += form.extend(text[begin : begin + size])
    return [*events, *form.end(text, status)], form


def names_of(events: list[StreamEvent]) -> list[str]:
    names: list[str] = []
    for event in events:
        name = str(event.__struct_config__.tag).removeprefix("response.")
        if not (name.endswith(".delta") and names[-1:] == [name]):
            names.append(name)
    return names


def added_in(events: list[StreamEvent]) -> dict[str, Any]:
    [item] = [event.item for event in events if isinstance(event, ev.OutputItemAdded)]
    made: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(item))
    return made


def done_in(events: list[StreamEvent]) -> dict[str, Any]:
    [item] = [event.item for event in events if isinstance(event, ev.OutputItemDone)]
    made: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(item))
    return made


def test_a_custom_tools_input_is_shown_as_text() -> None:
    text = '*** Begin Patch\n+"é😀"\\\n'
    events, _ = write("custom_tool_call", json.dumps({"input": text}))
    assert names_of(events) == [
        "output_item.added",
        "custom_tool_call_input.delta",
        "custom_tool_call_input.done",
        "output_item.done",
    ]
    item = {"type": "custom_tool_call", "id": f"ctc_{ROOT}_0", "call_id": f"call_{ROOT}_0", "name": "t"}
    assert added_in(events) == item | {"status": "in_progress", "input": ""}
    assert done_in(events) == item | {"status": "completed", "input": text}
    assert "".join(e.delta for e in events if isinstance(e, ev.CustomToolCallInputDelta)) == text


@pytest.mark.parametrize(
    "text", ["*** Begin Patch", "{ let a = 1; }", '{"patch": "x"}', "", "  ", "[1]", '"x"']
)
def test_an_input_that_is_written_as_it_is_is_taken_as_it_is(text: str) -> None:
    events, _ = write("custom_tool_call", text)
    assert done_in(events)["input"] == text


def test_an_input_that_is_cut_off_has_what_was_written_of_it() -> None:
    assert done_in(write("custom_tool_call", '{"input": "ab', "incomplete")[0])["input"] == "ab"
    assert done_in(write("custom_tool_call", '{"inp', "incomplete")[0])["input"] == ""


def test_a_call_within_a_namespace_has_the_bare_name_and_the_namespace() -> None:
    for kind in ("function_call", "custom_tool_call"):
        item = done_in(write(kind, "{}", namespace="docs")[0])
        assert (item["name"], item["namespace"]) == ("t", "docs")
        assert "namespace" not in done_in(write(kind, "{}")[0])


def test_commands_are_shown_one_after_the_other() -> None:
    written = json.dumps({"commands": ["ls -l", 'echo "é"'], "timeout_ms": 5, "max_output_length": None})
    events, _ = write("shell_call", written)
    command = ["shell_call_command.added", "shell_call_command.delta", "shell_call_command.done"]
    assert names_of(events) == ["output_item.added", *command, *command, "output_item.done"]
    assert added_in(events)["action"] == {"commands": [], "max_output_length": None, "timeout_ms": None}
    assert done_in(events)["action"] == {
        "commands": ["ls -l", 'echo "é"'],
        "max_output_length": None,
        "timeout_ms": 5,
    }
    assert "item_id" not in msgspec.to_builtins(events[1])


@pytest.mark.parametrize("written", ["ls -l", '{"commands": "ls -l"}', '{"commands": ["ls -l"'])
def test_a_command_is_understood_however_it_is_written(written: str) -> None:
    assert done_in(write("shell_call", written)[0])["action"]["commands"] == ["ls -l"]


@pytest.mark.parametrize(
    ("written", "command"),
    [
        ('{"command": ["ls", "-l"]}', ["ls", "-l"]),
        ('{"command": "ls -l"}', ["bash", "-lc", "ls -l"]),
        ("ls -l", ["bash", "-lc", "ls -l"]),
    ],
)
def test_a_program_is_called_with_its_arguments(written: str, command: list[str]) -> None:
    events, _ = write("local_shell_call", written)
    assert names_of(events) == ["output_item.added", "output_item.done"]
    assert done_in(events)["action"] == {
        "type": "exec",
        "command": command,
        "env": {},
        "timeout_ms": None,
        "user": None,
        "working_directory": None,
    }


@pytest.mark.parametrize("order", ["type path diff", "diff type path", "path diff type"])
def test_a_patch_is_shown_once_its_file_is_known(order: str) -> None:
    operation = {"type": "update_file", "path": "a/é.py", "diff": "@@\n-a\n+😀\n"}
    events, _ = write("apply_patch_call", json.dumps({name: operation[name] for name in order.split()}))
    diff = "apply_patch_call_operation_diff"
    assert names_of(events) == ["output_item.added", f"{diff}.delta", f"{diff}.done", "output_item.done"]
    assert added_in(events)["operation"] == operation | {"diff": ""}
    assert done_in(events)["operation"] == operation


def test_a_deletion_has_no_diff() -> None:
    events, _ = write("apply_patch_call", '{"type": "delete_file", "path": "a", "diff": ""}')
    assert names_of(events) == ["output_item.added", "output_item.done"]
    assert done_in(events)["operation"] == {"type": "delete_file", "path": "a"}


@pytest.mark.parametrize(
    ("kind", "written"),
    [
        ("shell_call", "{}"),
        ("shell_call", ""),
        ("shell_call", '{"commands": []}'),
        ("local_shell_call", "{}"),
        ("local_shell_call", '{"command": [1]}'),
        ("apply_patch_call", "*** Begin Patch"),
        ("apply_patch_call", '{"type": "move_file", "path": "a"}'),
        ("apply_patch_call", '{"type": "create_file", "diff": "+a"}'),
    ],
)
def test_arguments_that_make_no_call_show_none(kind: str, written: str) -> None:
    events, form = write(kind, written)
    assert events == []
    assert form.complaint


PUBLIC: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


@pytest.mark.parametrize("kind", [tool.item_type for tool in CLIENT_TOOLS])
def test_events_parse_with_the_public_types(kind: str) -> None:
    """Those of a diff are not among them, although the hosted API sends them."""
    events, _ = write(kind, examples[kind])
    for number, event in enumerate(events):
        if not isinstance(event, ev.ApplyPatchDiffDelta | ev.ApplyPatchDiffDone):
            PUBLIC.validate_json(data_of(frame(event, number)), strict=True)


examples = {
    "function_call": '{"a": 1}',
    "custom_tool_call": '{"input": "a\\nb\\u00e9"}',
    "shell_call": '{"commands": ["ls", "pwd"], "timeout_ms": 1}',
    "local_shell_call": '{"command": ["ls"]}',
    "apply_patch_call": '{"type": "create_file", "path": "a", "diff": "+a\\n+b"}',
}


def test_every_row_of_the_table_has_a_form_and_an_example() -> None:
    types = {tool.item_type for tool in CLIENT_TOOLS}
    assert set(FORMS) == types == set(examples)


@pytest.mark.parametrize("kind", examples)
@given(data=st.data())
def test_the_fold_of_every_beginning_can_be_ended(kind: str, data: st.DataObject) -> None:
    """As a poll shows it, and as a response that fails leaves it."""
    text = examples[kind][: data.draw(st.integers(0, len(examples[kind])))]
    events, _ = write(kind, text, data.draw(st.sampled_from(["completed", "incomplete"])), size=2)
    log = [ev.ResponseCreated(RESPONSE), ev.ResponseInProgress(RESPONSE), *events]
    for end in range(2, len(log) + 1):
        output: tuple[Item, ...] = fold([*log[:end], *abandon(log[:end])]).output
        assert len(output) <= 1
    done = [e.item for e in events if isinstance(e, ev.OutputItemDone)]
    assert list(fold(log).output) == done


def test_an_operation_without_a_diff_has_no_key() -> None:
    assert msgspec.to_builtins(PatchOperation("delete_file", "a")) == {"type": "delete_file", "path": "a"}
