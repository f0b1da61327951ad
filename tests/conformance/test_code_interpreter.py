"""The code interpreter with its real sandbox, as the public client sees it."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from openai import BadRequestError, OpenAI
from openai.types.responses import Response, ResponseCodeInterpreterToolCall
from openai.types.responses.response_code_interpreter_tool_call import OutputLogs
from openai.types.responses.response_output_item import McpApprovalRequest, McpCall

from tests.patience import PATIENCE_S
from tests.running import RunningCluster

TOOL: Any = {"type": "code_interpreter", "container": {"type": "auto"}}
LABELLED: Any = {"type": "mcp", "server_label": "code_interpreter"}
INCLUDE: Any = ["code_interpreter_call.outputs"]


@pytest.fixture
def client(cluster: RunningCluster) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{cluster.urls[0]}/v1", api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture
def other(cluster: RunningCluster) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{cluster.urls[1]}/v1", api_key="any", max_retries=0) as client:
        yield client


def run(client: OpenAI, code: str, **more: Any) -> Response:
    fields: dict[str, Any] = {"model": "default", "tools": [TOOL], "include": INCLUDE} | more
    response: Response = client.responses.create(input=f"Run this python code: {code}", **fields)
    return response


def call_in(response: Response) -> ResponseCodeInterpreterToolCall:
    (call,) = [item for item in response.output if isinstance(item, ResponseCodeInterpreterToolCall)]
    return call


def logs_in(response: Response) -> str:
    outputs = call_in(response).outputs
    assert outputs is not None
    return "".join(output.logs for output in outputs if isinstance(output, OutputLogs))


def test_the_clients_own_stream_follows_a_call(client: OpenAI) -> None:
    with client.responses.stream(
        model="default", input="Multiply 123*456", tools=[TOOL], include=INCLUDE
    ) as stream:
        types = [event.type for event in stream if "code_interpreter" in event.type]
        response = stream.get_final_response()
    assert [name for i, name in enumerate(types) if types[i - 1] != name or i == 0] == [
        "response.code_interpreter_call.in_progress",
        "response.code_interpreter_call_code.delta",
        "response.code_interpreter_call_code.done",
        "response.code_interpreter_call.interpreting",
        "response.code_interpreter_call.completed",
    ]
    call = call_in(response)
    assert (call.code, call.status, logs_in(response)) == ("123*456\n", "completed", "56088")
    assert call.container_id == f"cntr_{response.id.removeprefix('resp_')}"
    assert "56,088" in response.output_text


def test_variables_stay_in_a_chain_on_every_node_and_its_container_is_one(
    client: OpenAI, other: OpenAI
) -> None:
    first = run(client, "x = 41; print('set')")
    second = run(other, "x + 1", previous_response_id=first.id)
    third = run(client, "print(x + 2)", previous_response_id=second.id, include=[])
    assert [logs_in(first), logs_in(second)] == ["set", "42"]
    assert {call_in(each).container_id for each in (first, second, third)} == {call_in(first).container_id}
    assert call_in(third).outputs is None
    assert "43" in third.output_text


def test_variables_stay_in_a_conversation(client: OpenAI, other: OpenAI) -> None:
    conversation = client.conversations.create().id
    first = run(client, "x = 41", conversation=conversation)
    second = run(other, "x + 1", conversation=conversation)
    assert logs_in(second) == "42"
    assert call_in(second).container_id == call_in(first).container_id


def test_code_that_raises_has_a_traceback_in_its_logs(client: OpenAI) -> None:
    response = run(client, "1/0")
    assert call_in(response).status == "completed"
    assert "ZeroDivisionError" in logs_in(response)


def test_a_choice_names_the_tool_by_its_type(client: OpenAI) -> None:
    response = run(client, "6*7", tool_choice={"type": "code_interpreter"})
    assert logs_in(response) == "42"
    assert response.tool_choice.type == "code_interpreter"  # type: ignore[union-attr]


def test_files_are_refused_by_name(client: OpenAI) -> None:
    container = {"type": "auto", "file_ids": ["file_1"]}
    with pytest.raises(BadRequestError) as refused:
        run(client, "1", tools=[TOOL | {"container": container}])
    assert refused.value.param == "tools[0].container.file_ids"


def test_a_cancel_stops_code_that_runs(client: OpenAI, other: OpenAI) -> None:
    created = run(client, "while True: pass", background=True)
    deadline = time.monotonic() + PATIENCE_S
    while not any("while" in str(item) for item in other.responses.retrieve(created.id).output):
        assert time.monotonic() < deadline
    with other.responses.retrieve(created.id, stream=True) as stream:
        for event in stream:
            if event.type == "response.code_interpreter_call.interpreting":
                assert client.responses.cancel(created.id).status == "cancelled"
        assert event.type == "response.failed"
        assert (event.response.status, event.response.output) == ("cancelled", [])


def test_code_may_be_approved_by_its_label_and_runs_as_it_was_shown(client: OpenAI) -> None:
    tools = [LABELLED | {"require_approval": "always"}]
    asked = run(client, "print('\u2028 \"quoted\"')", tools=tools)
    (request,) = [item for item in asked.output if isinstance(item, McpApprovalRequest)]
    assert json.loads(request.arguments) == {"code": "print('\u2028 \"quoted\"')\n"}
    answer: Any = {"type": "mcp_approval_response", "approval_request_id": request.id, "approve": True}
    done = client.responses.create(
        model="default", input=[answer], tools=tools, previous_response_id=asked.id
    )
    (call,) = [item for item in done.output if isinstance(item, McpCall)]
    assert (call.arguments, call.output) == (request.arguments, '\u2028 "quoted"\n')
    assert call.approval_request_id == request.id


def test_the_arguments_of_the_labelled_tool_are_json_in_every_event(client: OpenAI) -> None:
    with client.responses.stream(model="default", input="Multiply 123*456", tools=[LABELLED]) as stream:
        events = list(stream)
    deltas = [event.delta for event in events if event.type == "response.mcp_call_arguments.delta"]
    (done,) = [event.arguments for event in events if event.type == "response.mcp_call_arguments.done"]
    assert json.loads("".join(deltas)) == json.loads(done) == {"code": "123*456\n"}
