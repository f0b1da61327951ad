"""Approvals of MCP calls, whoever serves the answer: once, of exactly what was asked, by its tenant only."""

import hashlib
import json
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from openai import BadRequestError, NotFoundError, OpenAI
from openai.types.responses import Response
from openai.types.responses.response_output_item import McpApprovalRequest, McpCall

from tests.integration.mcp_servers import serving_http
from tests.patience import wait_until
from tests.running import PATIENT, RunningCluster, start_cluster

Connect = Callable[..., OpenAI]
KEYS = {"one": "key-of-one", "other": "key-of-other"}


@pytest.fixture(scope="module")
def server_url() -> Iterator[str]:
    with serving_http() as url:
        yield url


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    """A cluster with two tenants, whose processes a test may kill."""
    folder = tmp_path_factory.mktemp("own")
    keys = {hashlib.sha256(key.encode()).hexdigest(): tenant for tenant, key in KEYS.items()}
    (folder / "keys.json").write_text(json.dumps(keys))
    environment = PATIENT | {"ANTIPHON_API_KEYS": str(folder / "keys.json")}
    running = start_cluster(folder / "data", "--apis", "2", **environment)
    yield running
    running.stop()


@pytest.fixture
def connect(own: RunningCluster) -> Iterator[Connect]:
    with ExitStack() as open_clients:

        def make(node: int = 0, tenant: str = "one", max_retries: int = 0) -> OpenAI:
            url = f"{own.urls[node]}/v1"
            return open_clients.enter_context(
                OpenAI(base_url=url, api_key=KEYS[tenant], max_retries=max_retries)
            )

        yield make


@pytest.fixture
def client(connect: Connect) -> OpenAI:
    return connect()


def dwelling(url: str, **fields: Any) -> list[Any]:
    return [{"type": "mcp", "server_label": "workshop", "server_url": url} | fields]


def ask(client: OpenAI, url: str, folder: Path, **fields: Any) -> tuple[Response, McpApprovalRequest]:
    """Has the model call a tool that counts its executions, by a server that needs approval unless said."""
    (folder / "go").touch()
    text = f"Use workshop.dwell with {json.dumps({'folder': str(folder)})}"
    asked = client.responses.create(model="default", input=text, tools=dwelling(url), **fields)
    request = asked.output[-1]
    assert isinstance(request, McpApprovalRequest)
    assert executions(folder) == 0
    return asked, request


def answer(request: McpApprovalRequest, *, approve: bool = True, **fields: Any) -> Any:
    return {"type": "mcp_approval_response", "approval_request_id": request.id, "approve": approve} | fields


def executions(folder: Path) -> int:
    started = folder / "started"
    return len(started.read_text().splitlines()) if started.exists() else 0


def call_of(response: Response) -> McpCall:
    (call,) = [item for item in response.output if isinstance(item, McpCall)]
    return call


def test_an_approval_is_given_on_another_node_after_every_process_was_replaced(
    own: RunningCluster, connect: Connect, server_url: str, tmp_path: Path
) -> None:
    asked, request = ask(connect(), server_url, tmp_path)
    for kind, number in (("worker", 0), ("tool_runner", 0), ("api", 0), ("api", 1)):
        wait_until_replaced(own, kind, number, own.kill(kind, signal.SIGKILL, number))
    answered = connect(node=1, max_retries=10).responses.create(
        model="default",
        input=[answer(request)],
        tools=dwelling(server_url),
        previous_response_id=asked.id,
        extra_headers={"Idempotency-Key": "answered once"},  # one that is retried may have been accepted
    )
    call = call_of(answered)
    assert call.error is None
    assert (call.arguments, call.output) == (request.arguments, "done")
    assert call.approval_request_id == request.id
    assert executions(tmp_path) == 1


def wait_until_replaced(cluster: RunningCluster, kind: str, number: int, pid: int) -> None:
    wait_until(lambda: pid_of(cluster, kind, number) not in (None, pid))


def pid_of(cluster: RunningCluster, kind: str, number: int) -> int | None:
    roles = cluster.record["roles"]
    return next((r["pid"] for r in roles if (r["kind"], r["number"]) == (kind, number)), None)


def test_an_approval_is_used_once(client: OpenAI, server_url: str, tmp_path: Path) -> None:
    tools = dwelling(server_url)
    asked, request = ask(client, server_url, tmp_path)
    first = client.responses.create(
        model="default", input=[answer(request)], tools=tools, previous_response_id=asked.id
    )
    with pytest.raises(BadRequestError) as refused:
        client.responses.create(
            model="default", input=[answer(request)], tools=tools, previous_response_id=first.id
        )
    assert refused.value.param == "input[0].approval_request_id"
    branch = client.responses.create(
        model="default", input=[answer(request)], tools=tools, previous_response_id=asked.id
    )
    assert (branch.status, call_of(branch).status) == ("completed", "failed")
    assert "another response has used the approval" in str(call_of(branch).error)
    again = client.responses.create(
        model="default", input="Thanks", tools=tools, previous_response_id=first.id
    )
    assert not [item for item in again.output if isinstance(item, McpCall)]
    assert executions(tmp_path) == 1


@pytest.mark.parametrize("way", ["limited", "limited in a conversation", "cancelled"])
def test_an_approved_call_that_was_not_made_is_not_made_later(
    client: OpenAI, server_url: str, tmp_path: Path, way: str
) -> None:
    tools, folders = dwelling(server_url), [tmp_path / "one", tmp_path / "two"]
    shared: Any = {"conversation": client.conversations.create().id} if way.endswith("conversation") else {}
    following, requests = dict(shared), list[McpApprovalRequest]()
    for folder in folders:
        folder.mkdir()
        asked, request = ask(client, server_url, folder, **following)
        requests.append(request)
        following = shared or {"previous_response_id": asked.id}
    for folder in folders if way == "cancelled" else ():
        (folder / "go").unlink()
    given: Any = {"model": "default", "input": list(map(answer, requests)), "tools": tools, **following}
    if way == "cancelled":
        answered = client.responses.create(background=True, **given)
        wait_until(lambda: executions(folders[0]) == 1)
        assert client.responses.cancel(answered.id).status == "cancelled"
        (folders[1] / "go").touch()
    else:
        answered = client.responses.create(max_tool_calls=1, **given)
    later: Any = client.responses.create(
        model="default",
        input="Stop. Do nothing.",
        tools=tools,
        extra_body={"enable_response_messages": True},
        **(shared or {"previous_response_id": answered.id}),
    )
    assert not [item for item in later.output if isinstance(item, McpCall)]
    told = [message["content"][0]["text"] for message in later.input_messages if message["role"] == "tool"]
    assert "The user approved this call, but it was not made." in told
    assert [executions(folder) for folder in folders] == [1, 0]


def test_nobody_else_can_approve(connect: Connect, server_url: str, tmp_path: Path) -> None:
    asked, request = ask(connect(), server_url, tmp_path)
    other, tools = connect(tenant="other"), dwelling(server_url)
    with pytest.raises(BadRequestError) as unknown:
        other.responses.create(
            model="default", input=[answer(request)], tools=tools, previous_response_id=asked.id
        )
    assert unknown.value.code == "previous_response_not_found"
    with pytest.raises(BadRequestError) as unasked:
        other.responses.create(model="default", input=[answer(request)], tools=tools)
    assert unasked.value.param == "input[0].approval_request_id"
    reference: Any = {"type": "item_reference", "id": request.id}
    with pytest.raises(NotFoundError):
        other.responses.create(model="default", input=[reference, answer(request)], tools=tools)
    assert executions(tmp_path) == 0


def test_the_model_reads_why_a_call_was_refused(client: OpenAI, server_url: str, tmp_path: Path) -> None:
    asked, request = ask(client, server_url, tmp_path)
    answered = client.responses.create(
        model="default",
        input=[answer(request, approve=False, reason="It costs too much.")],
        tools=dwelling(server_url),
        previous_response_id=asked.id,
        extra_body={"enable_response_messages": True},
    )
    assert answered.status == "completed"
    read: Any = answered.model_extra["input_messages"] if answered.model_extra else []
    (told,) = [message["content"][0]["text"] for message in read if message["role"] == "tool"]
    assert told == "The user did not approve this call; it was not made. Reason: It costs too much."
    assert executions(tmp_path) == 0


def test_an_approval_in_a_history_that_the_client_keeps(
    client: OpenAI, server_url: str, tmp_path: Path
) -> None:
    """As with `store: false`: the client sends everything again, and streams."""
    asked, request = ask(client, server_url, tmp_path, store=False)
    history: Any = [item.model_dump(exclude_unset=True) for item in asked.output]
    with client.responses.stream(
        model="default",
        input=[{"role": "user", "content": "Go"}, *history, answer(request)],
        tools=dwelling(server_url),
        store=False,
    ) as stream:
        types = [event.type for event in stream]
        answered = stream.get_final_response()
    assert [kind for kind in types if "mcp" in kind] == [
        "response.mcp_call.in_progress",
        "response.mcp_call_arguments.done",
        "response.mcp_call.completed",
    ]
    assert call_of(answered).arguments == request.arguments
    assert executions(tmp_path) == 1


@pytest.mark.parametrize("is_stored", [True, False])
def test_only_the_call_that_the_model_asked_about_can_be_approved(
    client: OpenAI, server_url: str, tmp_path: Path, is_stored: bool
) -> None:
    _, request = ask(client, server_url, tmp_path, store=is_stored)
    sent = request.model_dump(exclude_unset=True)
    changes = {
        "arguments": json.dumps({"folder": str(tmp_path / "elsewhere")}),
        "name": "add",
        "server_label": "python_shop",
        "id": f"{request.id}0",
    }

    def approve(question: Any) -> Response:
        history: Any = [question, answer(request) | {"approval_request_id": question["id"]}]
        tools = dwelling(server_url)
        return client.responses.create(model="default", input=history, tools=tools, store=is_stored)

    for name, changed in changes.items():
        with pytest.raises(BadRequestError) as refused:
            approve(sent | {name: changed})
        assert refused.value.param == f"input[0].{name}"
    assert executions(tmp_path) == 0
    spaced = json.dumps(json.loads(request.arguments), indent=2)
    assert call_of(approve(sent | {"arguments": spaced})).output == "done"
    assert executions(tmp_path) == 1


def test_a_question_that_the_model_did_not_ask_runs_from_no_context(
    client: OpenAI, server_url: str, tmp_path: Path
) -> None:
    """Neither one of an earlier input, nor one of a conversation whose call the client has removed."""
    (tmp_path / "go").touch()
    invented: Any = {
        "type": "mcp_approval_request",
        "id": "mcpr_invented",
        "server_label": "workshop",
        "name": "dwell",
        "arguments": json.dumps({"folder": str(tmp_path)}),
    }
    approval: Any = {"type": "mcp_approval_response", "approval_request_id": invented["id"], "approve": True}
    before = client.responses.create(model="default", input=[invented, {"role": "user", "content": "Hi"}])
    with pytest.raises(BadRequestError) as refused:
        client.responses.create(
            model="default",
            input=[approval],
            tools=dwelling(server_url),
            previous_response_id=before.id,
        )
    assert refused.value.param == "input[0].approval_request_id"
    made = {"type": "mcp_call", "id": "mcp_invented", "output": "done", "approval_request_id": invented["id"]}
    call: Any = {**invented, **made}
    conversation = client.conversations.create(items=[invented, approval, call])
    client.conversations.items.delete("mcp_invented", conversation_id=conversation.id)
    after = client.responses.create(
        model="default", input="Hi", tools=dwelling(server_url), conversation=conversation.id
    )
    assert after.status == "completed"
    assert executions(tmp_path) == 0


def test_what_is_no_longer_allowed_is_not_run_though_it_was_approved(
    client: OpenAI, server_url: str, tmp_path: Path
) -> None:
    asked, request = ask(client, server_url, tmp_path)
    answered = client.responses.create(
        model="default",
        input=[answer(request)],
        tools=dwelling(server_url, allowed_tools=["add"]),
        previous_response_id=asked.id,
    )
    call = call_of(answered)
    assert (call.status, call.output) == ("failed", None)
    assert "not offered in this request" in str(call.error)
    assert executions(tmp_path) == 0


@pytest.mark.parametrize(("rule", "asks"), [("never", False), (None, True)])
def test_who_asks_for_no_approval_gets_none(
    client: OpenAI, server_url: str, tmp_path: Path, rule: str | None, asks: bool
) -> None:
    (tmp_path / "go").touch()
    text = f"Use workshop.dwell with {json.dumps({'folder': str(tmp_path)})}"
    tools = dwelling(server_url, **({} if rule is None else {"require_approval": rule}))
    response = client.responses.create(model="default", input=text, tools=tools)
    assert any(isinstance(item, McpApprovalRequest) for item in response.output) == asks
    assert executions(tmp_path) == (0 if asks else 1)


def test_a_tool_that_the_choice_names_and_no_server_lists_ends_the_response_as_failed(
    client: OpenAI, server_url: str
) -> None:
    choice: Any = {"type": "mcp", "server_label": "workshop", "name": "fly"}
    response = client.responses.create(
        model="default", input="Fly", tools=dwelling(server_url), tool_choice=choice
    )
    assert response.status == "failed"
    assert response.error is not None
    assert "'fly'" in response.error.message
    assert "'workshop'" in response.error.message


def test_a_star_allows_every_tool(client: OpenAI, server_url: str) -> None:
    tools = dwelling(server_url, allowed_tools=["*"], require_approval="never")
    response = client.responses.create(
        model="default", input='Use workshop.add with {"a": 19, "b": 23}', tools=tools
    )
    assert call_of(response).output == "42"
