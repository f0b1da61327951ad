"""The tools that the client runs, each through the public client: called, answered, and replayed."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI
from openai.types.responses import Response

from tests.running import RunningCluster

CITY: Any = {"type": "object", "properties": {"city": {"type": "string"}}}
SEARCH: Any = {"type": "function", "name": "search", "parameters": CITY, "description": "Searches."}
DOCS: Any = {"type": "namespace", "name": "docs", "description": "The documentation.", "tools": [SEARCH]}
EDIT: Any = {"type": "custom", "name": "edit", "description": "Edits."}
SHOWN: Any = {"outcome": {"type": "exit", "exit_code": 0}, "stdout": "42", "stderr": ""}

CASES: dict[str, tuple[Any, str, dict[str, Any], dict[str, Any]]] = {
    "namespace": (
        DOCS,
        'Use docs.search with {"city": "Oslo"}',
        {"type": "function_call", "namespace": "docs", "name": "search", "arguments": '{"city": "Oslo"}'},
        {"type": "function_call_output", "output": "42"},
    ),
    "custom": (
        EDIT,
        r'Use edit with {"input": "*** Begin Patch\n+é"}',
        {"type": "custom_tool_call", "name": "edit", "input": "*** Begin Patch\n+é"},
        {"type": "custom_tool_call_output", "output": "42"},
    ),
    "shell": (
        {"type": "shell", "environment": {"type": "local"}},
        'Use shell with {"commands": ["ls", "pwd"]}',
        {"type": "shell_call", "action": {"commands": ["ls", "pwd"]}},
        {"type": "shell_call_output", "output": [SHOWN]},
    ),
    "local_shell": (
        {"type": "local_shell"},
        'Use local_shell with {"command": ["ls", "-l"]}',
        {"type": "local_shell_call", "action": {"type": "exec", "command": ["ls", "-l"], "env": {}}},
        {"type": "local_shell_call_output", "output": "42"},
    ),
    "apply_patch": (
        {"type": "apply_patch"},
        r'Use apply_patch with {"type": "create_file", "path": "a", "diff": "+b\n"}',
        {"type": "apply_patch_call", "operation": {"type": "create_file", "path": "a", "diff": "+b\n"}},
        {"type": "apply_patch_call_output", "status": "completed", "output": "42"},
    ),
}

LISTS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "recorded_tools.json").read_text())
"""What `tests/unit/test_recorded_tools.py` describes."""

each_kind = pytest.mark.parametrize("kind", CASES)


@pytest.fixture
def client(cluster: RunningCluster) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{cluster.urls[0]}/v1", api_key="any", max_retries=0) as client:
        yield client


def ask(client: OpenAI, kind: str) -> tuple[Response, Any]:
    """The streamed response, and the call that it ends with."""
    tool, question, expected, _ = CASES[kind]
    with client.responses.create(model="default", input=question, tools=[tool], stream=True) as stream:
        [*_, last] = stream
    assert last.type == "response.completed"
    call: Any = last.response.output[-1].to_dict()
    nulls = {"max_output_length": None, "timeout_ms": None, "user": None, "working_directory": None}
    if "action" in call:
        call["action"] = {name: v for name, v in call["action"].items() if v is not None or name not in nulls}
    assert {name: call[name] for name in expected} == expected
    assert call["status"] == "completed"
    return last.response, call


@each_kind
def test_a_call_of_the_clients_is_answered_by_id_and_the_model_goes_on(client: OpenAI, kind: str) -> None:
    tool, _, _, answer = CASES[kind]
    first, call = ask(client, kind)
    second = client.responses.create(
        model="default",
        previous_response_id=first.id,
        input=[answer | {"call_id": call["call_id"]}],  # type: ignore[list-item]
        tools=[tool],
    )
    assert "42" in second.output_text


@each_kind
def test_a_call_of_the_clients_is_replayed_with_its_answer(client: OpenAI, kind: str) -> None:
    tool, question, _, answer = CASES[kind]
    first, call = ask(client, kind)
    history: Any = [
        {"role": "user", "content": question},
        *(item.to_dict() for item in first.output),
        answer | {"call_id": call["call_id"]},
    ]
    assert "42" in client.responses.create(model="default", input=history, tools=[tool]).output_text
    listed = client.responses.input_items.list(
        client.responses.create(model="default", input=history, tools=[tool]).id, order="asc"
    )
    assert [item.type for item in listed][-2:] == [call["type"], answer["type"]]


@each_kind
def test_a_call_of_the_clients_without_its_answer_is_refused(client: OpenAI, kind: str) -> None:
    tool, _, _, answer = CASES[kind]
    first, _ = ask(client, kind)
    for items, words in (
        ([{"role": "user", "content": "Go on"}], "No tool output found for"),
        ([answer | {"call_id": "other"}], "No tool call found for"),
    ):
        with pytest.raises(Exception, match=words):
            client.responses.create(
                model="default",
                previous_response_id=first.id,
                input=items,  # type: ignore[arg-type]
                tools=[tool],
            )


@pytest.mark.parametrize("sender", LISTS)
def test_the_tools_that_unchanged_clients_send_are_served(client: OpenAI, sender: str) -> None:
    """With the cluster that `make up` starts, as it is."""
    sent = LISTS[sender]
    response = client.responses.create(model="default", input="Count from 1 to 3", **sent)
    assert response.status == "completed"
    assert response.output_text == "1, 2, 3"
    assert [tool.type for tool in response.tools] == [tool["type"] for tool in sent["tools"]]
