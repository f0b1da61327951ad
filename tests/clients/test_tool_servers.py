"""MCP servers that others have written, on the TypeScript SDK: their tools work, and their sessions go on."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI
from openai.types.responses import Response
from openai.types.responses.response_output_item import McpCall, McpListTools

from local.ports import HOST, find_free
from tests.clients import scenarios

EVERYTHING = scenarios.NODE / "node_modules/@modelcontextprotocol/server-everything/dist/index.js"
PAGES = scenarios.NODE / "servers/pages.mjs"


@contextmanager
def running(home: Path, *command: str, **environment: str) -> Iterator[str]:
    """Runs a server; yields the line by which it says that it is ready."""
    process = subprocess.Popen(
        ["node", *command],
        env=scenarios.isolated(home) | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        yield next(line for line in lines if re.search(r"on port|^\d+$", line))
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module", params=[("streamableHttp", "/mcp"), ("sse", "/sse")], ids=["http", "sse"])
def everything(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Runs server-everything over each of its transports; yields its URL."""
    transport, path = request.param
    port = find_free(1)[0]
    home = tmp_path_factory.mktemp("everything")
    with running(home, os.fspath(EVERYTHING), transport, PORT=str(port)):
        yield f"http://{HOST}:{port}{path}"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running(tmp_path_factory.mktemp("pages"), os.fspath(PAGES)) as line:
        yield f"http://{HOST}:{int(line)}/mcp"


@pytest.fixture
def client(url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=url, api_key="any", max_retries=0) as client:
        yield client


def use(
    client: OpenAI, server_url: str, tool: str, after: Response | None = None, **arguments: Any
) -> Response:
    """Has the model call a tool, in a response that continues `after`."""
    response = client.responses.create(
        model="default",
        input=f"Use there.{tool} with {json.dumps(arguments)}",
        tools=[
            {"type": "mcp", "server_label": "there", "server_url": server_url, "require_approval": "never"}
        ],
        previous_response_id=after.id if after else None,
    )
    assert response.status == "completed"
    return response


def output_of(response: Response) -> str | None:
    (call,) = [item for item in response.output if isinstance(item, McpCall)]
    assert (call.status, call.error) == ("completed", None)
    return call.output


def test_the_tools_of_server_everything_are_listed_and_called(client: OpenAI, everything: str) -> None:
    response = use(client, everything, "get-sum", a=19, b=23)
    listed = response.output[0]
    assert isinstance(listed, McpListTools)
    assert {"echo", "get-sum", "toggle-simulated-logging"} <= {tool.name for tool in listed.tools}
    assert output_of(response) == "The sum of 19 and 23 is 42."
    assert "[image image/png" in str(output_of(use(client, everything, "get-tiny-image")))


def test_server_everything_keeps_its_session_from_response_to_response(
    client: OpenAI, everything: str
) -> None:
    first = use(client, everything, "toggle-simulated-logging")
    started = re.match(r"Started .* for session (\S+)", str(output_of(first)))
    assert started
    second = use(client, everything, "toggle-simulated-logging", after=first)
    assert output_of(second) == f"Stopped simulated logging for session {started[1]}"
    apart = use(client, everything, "toggle-simulated-logging")
    assert str(output_of(apart)).startswith("Started ")


def test_a_page_stays_open_from_response_to_response(client: OpenAI, pages: str) -> None:
    first = use(client, pages, "visit", page="one")
    second = use(client, pages, "look", after=first)
    assert output_of(second) == "one"
    third = use(client, pages, "visit", after=second, page="two")
    assert output_of(use(client, pages, "look", after=third)) == "two"
    assert output_of(use(client, pages, "look")) == "about:blank"
