"""MCP servers that a request names: their tools are listed, called, and called only once approved."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import InternalServerError, OpenAI
from openai.types.responses import Response
from openai.types.responses.response_output_item import McpApprovalRequest, McpCall, McpListTools

from tests.integration.mcp_servers import serving_http
from tests.running import RunningCluster


@pytest.fixture(scope="module")
def server_url() -> Iterator[str]:
    with serving_http() as url:
        yield url


@pytest.fixture
def client(cluster: RunningCluster) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{cluster.urls[0]}/v1", api_key="any", max_retries=0) as client:
        yield client


def server(url: str, require_approval: Any, **fields: Any) -> Any:
    return {
        "type": "mcp",
        "server_label": "workshop",
        "server_url": url,
        "require_approval": require_approval,
        **fields,
    }


def dwell_in(folder: Path) -> str:
    """A message whose tool counts its executions in a file, and answers at once."""
    (folder / "go").touch()
    return f"Use workshop.dwell with {json.dumps({'folder': str(folder)})}"


def executions(folder: Path) -> int:
    started = folder / "started"
    return len(started.read_text().splitlines()) if started.exists() else 0


def calls_of(response: Response) -> list[McpCall]:
    return [item for item in response.output if isinstance(item, McpCall)]


def approval_of(response: Response) -> McpApprovalRequest:
    """The one approval request, which ends the response."""
    assert response.status == "completed"
    (request,) = [item for item in response.output if isinstance(item, McpApprovalRequest)]
    assert response.output[-1] == request
    assert calls_of(response) == []
    return request


def test_a_servers_tools_are_listed_and_called(client: OpenAI, server_url: str) -> None:
    tools = [server(server_url, "never", allowed_tools=["add", "count"])]
    with client.responses.stream(
        model="default", input='Use workshop.add with {"a": 19, "b": 23}', tools=tools
    ) as stream:
        types = [event.type for event in stream]
        response = stream.get_final_response()
    listing = [name.removeprefix("response.") for name in types if "list_tools" in name]
    assert listing == ["mcp_list_tools.in_progress", "mcp_list_tools.completed"]
    listed = response.output[0]
    assert isinstance(listed, McpListTools)
    assert listed.server_label == "workshop"
    tool = next(tool for tool in listed.tools if tool.name == "add")
    assert (tool.description, tool.annotations["read_only"]) == ("Adds two numbers.", True)  # type: ignore[index]
    assert set(tool.input_schema["properties"]) == {"a", "b"}  # type: ignore[index]
    (call,) = calls_of(response)
    assert (call.server_label, call.name, call.status, call.output) == ("workshop", "add", "completed", "42")
    assert json.loads(call.arguments) == {"a": 19, "b": 23}
    assert "42" in response.output_text


def test_a_listing_that_the_client_has_is_not_asked_for_again(client: OpenAI, server_url: str) -> None:
    tools = [server(server_url, "never")]
    ask = 'Use workshop.add with {"a": 1, "b": 2}'
    first = client.responses.create(model="default", input=ask, tools=tools)
    second = client.responses.create(model="default", input=ask, tools=tools, previous_response_id=first.id)
    assert [item.type for item in first.output].count("mcp_list_tools") == 1
    assert [item.type for item in second.output].count("mcp_list_tools") == 0
    assert calls_of(second)[0].output == "3"


def count(client: OpenAI, tools: list[Any], **fields: Any) -> int:
    fields = {"model": "default", "input": "Hello"} | fields
    return client.responses.input_tokens.count(tools=tools, **fields).input_tokens


def test_the_tools_of_servers_are_counted_as_the_model_reads_them(client: OpenAI, server_url: str) -> None:
    """Also those of two servers at once, and those that an earlier response has listed."""
    tools = [server(server_url, "never"), server(server_url, "never", server_label="annex")]
    response = client.responses.create(model="default", input="Hello", tools=tools)
    assert response.usage is not None
    assert count(client, tools) == response.usage.input_tokens > count(client, [tools[0]]) > count(client, [])
    few = count(client, [server(server_url, "never", allowed_tools=["add"])])
    assert count(client, []) < few < count(client, [tools[0]])
    assert count(client, tools, previous_response_id=response.id) > response.usage.input_tokens


def test_tools_that_cannot_be_listed_cannot_be_counted(client: OpenAI) -> None:
    with pytest.raises(InternalServerError) as refused:
        count(client, [server("http://127.0.0.1:9/mcp", "never")])
    assert refused.value.status_code == 503
    assert "'workshop'" in str(refused.value)
    assert "port 9 is not allowed here" in str(refused.value)
    assert count(client, [server("http://127.0.0.1:9/mcp", "never")], tool_choice="none") > 0


def test_an_approved_call_runs_once_after_the_approval_and_not_before(
    client: OpenAI, server_url: str, tmp_path: Path
) -> None:
    tools = [server(server_url, "always")]
    asked = client.responses.create(model="default", input=dwell_in(tmp_path), tools=tools)
    request = approval_of(asked)
    assert (request.server_label, request.name) == ("workshop", "dwell")
    assert json.loads(request.arguments) == {"folder": str(tmp_path)}
    assert executions(tmp_path) == 0
    answer: Any = {"type": "mcp_approval_response", "approval_request_id": request.id, "approve": True}
    answered = client.responses.create(
        model="default", input=[answer], tools=tools, previous_response_id=asked.id
    )
    (call,) = calls_of(answered)
    assert (call.name, call.arguments, call.output) == ("dwell", request.arguments, "done")
    assert call.approval_request_id == request.id
    assert "done" in answered.output_text
    assert executions(tmp_path) == 1


def test_a_refused_call_does_not_run_and_the_model_goes_on(
    client: OpenAI, server_url: str, tmp_path: Path
) -> None:
    tools = [server(server_url, {"always": {"tool_names": ["dwell"]}})]
    asked = client.responses.create(model="default", input=dwell_in(tmp_path), tools=tools)
    request = approval_of(asked)
    answer: Any = {"type": "mcp_approval_response", "approval_request_id": request.id, "approve": False}
    answered = client.responses.create(
        model="default", input=[answer], tools=tools, previous_response_id=asked.id
    )
    assert answered.status == "completed"
    assert answered.output_text
    assert calls_of(answered) == []
    assert executions(tmp_path) == 0


def test_a_tool_that_needs_no_approval_runs_beside_one_that_does(client: OpenAI, server_url: str) -> None:
    tools = [server(server_url, {"never": {"tool_names": ["add"]}})]
    free = client.responses.create(
        model="default", input='Use workshop.add with {"a": 2, "b": 2}', tools=tools
    )
    assert calls_of(free)[0].output == "4"
    bound = client.responses.create(
        model="default", input='Use workshop.repeat with {"text": "a", "times": 3}', tools=tools
    )
    assert approval_of(bound).name == "repeat"
