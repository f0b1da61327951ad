"""Every process may die: what its clients see then. Each test drives a real cluster to the fault."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from local.ports import find_free
from tests.integration.mcp_servers import serving_http
from tests.patience import PATIENCE_S, wait_until
from tests.running import RunningCluster, start_cluster
from tests.streams import Frame, read_frames

SLOWLY = {
    "model": "default",
    "input": "Count slowly from 1 to 100",
    "stream": True,
    "enable_response_messages": True,
}
PYTHON: Any = {"type": "mcp", "server_label": "code_interpreter"}


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    """A cluster whose processes may be killed; the launcher starts them again."""
    data = tmp_path_factory.mktemp("fragile") / "data"
    # Nothing may be called twice here: what becomes of a call that lost its runner is to be seen.
    running = start_cluster(
        data,
        *("--apis", "2", "--workers", "2"),
        ANTIPHON_IDEMPOTENT_TOOLS="[]",
        ANTIPHON_REDIS_TIMEOUT_S="5",  # long for a loaded machine, short for a test in which Redis hangs
    )
    yield running
    running.stop()


@pytest.fixture
def client(fragile: RunningCluster) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=fragile.urls[0], timeout=PATIENCE_S) as client:
        yield client


class Reading:
    """One stream, read up to a moment and then to its end."""

    def __init__(self, response: httpx.Response) -> None:
        self._chunks = response.iter_bytes()
        self.body = b""

    @property
    def response_id(self) -> str:
        created = read_frames(self.body[: self.body.index(b"\n\n") + 2])[0].data
        return str(created["response"]["id"])

    def until(self, needle: bytes) -> None:
        while needle not in self.body:
            self.body += next(self._chunks)

    def to_the_end(self) -> list[Frame]:
        return read_frames(self.body + b"".join(self._chunks))

    def to_the_cut(self) -> list[Frame]:
        """The whole frames of a stream that must not end in order."""
        try:
            for chunk in self._chunks:
                self.body += chunk
        except httpx.RemoteProtocolError:
            return read_frames(self.body[: self.body.rindex(b"\n\n") + 2])
        raise AssertionError("the stream ended as if it were whole")


def field_of(fragile: RunningCluster, response_id: str, part: str, field: str) -> bytes | None:
    """A field of one of a response's hashes, past every layer of ours."""
    with redis.Redis.from_url(fragile.redis_url) as connection:
        value = connection.hget(f"antiphon:{{default/{response_id}}}:{part}", field)
    assert value is None or isinstance(value, bytes)
    return value


def owner_of(fragile: RunningCluster, response_id: str) -> int:
    """Number of the worker that owns a response, by the name that stands in its log."""
    name = field_of(fragile, response_id, "state", "owner")
    assert name is not None
    logs = {r["number"]: r["log"] for r in fragile.record["roles"] if r["kind"] == "worker"}
    (number,) = [n for n, log in logs.items() if name in Path(log).read_bytes()]
    return int(number)


def check_one_legal_end(frames: list[Frame]) -> dict[str, Any]:
    """Numbers without a gap, one terminal event, the last; returns its response."""
    assert [frame.id for frame in frames] == list(range(len(frames)))
    terminal = {"response.completed", "response.incomplete", "response.failed"}
    assert [frame.event in terminal for frame in frames] == [False] * (len(frames) - 1) + [True]
    response: dict[str, Any] = frames[-1].data["response"]
    return response


def test_a_killed_worker_costs_a_pause_and_nothing_else(
    fragile: RunningCluster, client: httpx.Client
) -> None:
    with client.stream("POST", "/v1/responses", json=SLOWLY) as stream:
        reading = Reading(stream)
        reading.until(b"output_text.delta")
        fragile.kill("worker", signal.SIGKILL, owner_of(fragile, reading.response_id))
        frames = reading.to_the_end()
    check_whole_count(frames)
    again = client.get(f"/v1/responses/{reading.response_id}", params={"stream": "true"}).content
    assert [f.raw_data for f in read_frames(again)] == [f.raw_data for f in frames]


def check_whole_count(frames: list[Frame]) -> None:
    """The response is the one that an undisturbed run gives."""
    response = check_one_legal_end(frames)
    assert response["status"] == "completed", response["error"]
    text = ", ".join(str(number) for number in range(1, 101))
    assert response["output"][-1]["content"][0]["text"] == text
    deltas = [f.data["delta"] for f in frames if f.event == "response.output_text.delta"]
    assert "".join(deltas) == text
    assert response["usage"]["output_tokens_details"]["output_tokens_per_turn"] == [
        response["usage"]["output_tokens"]
    ]


def test_a_worker_that_was_paused_past_its_lease_writes_nothing_any_more(
    fragile: RunningCluster, client: httpx.Client
) -> None:
    with client.stream("POST", "/v1/responses", json=SLOWLY) as stream:
        reading = Reading(stream)
        reading.until(b"output_text.delta")
        number = owner_of(fragile, reading.response_id)
        fragile.kill("worker", signal.SIGSTOP, number)
        wait_until(lambda: owner_of(fragile, reading.response_id) != number)
        fragile.kill("worker", signal.SIGCONT, number)
        frames = reading.to_the_end()
    check_whole_count(frames)


def test_a_stopped_worker_hands_over_in_mid_sentence(fragile: RunningCluster, client: httpx.Client) -> None:
    with client.stream("POST", "/v1/responses", json=SLOWLY) as stream:
        reading = Reading(stream)
        reading.until(b"output_text.delta")
        fragile.kill("worker", signal.SIGTERM, owner_of(fragile, reading.response_id))
        frames = reading.to_the_end()
    check_whole_count(frames)
    assert field_of(fragile, reading.response_id, "state", "deaths") in (b"0", None)


def test_a_stopped_api_node_cuts_its_streams_and_another_continues(
    fragile: RunningCluster,
) -> None:
    urls = fragile.urls
    with httpx.stream("POST", f"{urls[1]}/v1/responses", json=SLOWLY, timeout=PATIENCE_S) as stream:
        reading = Reading(stream)
        reading.until(b"output_text.delta")
        fragile.kill("api", signal.SIGTERM, 1)
        head = reading.to_the_cut()
    assert head[-1].event == "response.output_text.delta"
    with httpx.Client(base_url=urls[0], timeout=PATIENCE_S) as client:
        params = {"stream": "true", "starting_after": str(head[-1].id)}
        rest = read_frames(client.get(f"/v1/responses/{reading.response_id}", params=params).content)
    check_whole_count(head + rest)
    wait_until(lambda: is_healthy(urls[1]))


def is_healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").status_code == 200
    except httpx.TransportError:
        return False


def test_a_stream_goes_on_after_redis_has_restarted(fragile: RunningCluster, client: httpx.Client) -> None:
    with client.stream("POST", "/v1/responses", json=SLOWLY) as stream:
        reading = Reading(stream)
        reading.until(b"output_text.delta")
        fragile.kill("valkey", signal.SIGTERM)
        frames = reading.to_the_end()
    response = check_one_legal_end(frames)
    assert response["status"] == "completed", response["error"]
    assert response["output"][-1]["content"][0]["text"].endswith("99, 100")


def test_without_redis_a_request_is_deferred_and_not_left_hanging(fragile: RunningCluster) -> None:
    pid = fragile.kill("valkey", signal.SIGSTOP)
    try:
        with httpx.Client(base_url=fragile.urls[1], timeout=PATIENCE_S) as client:
            answer = client.post("/v1/responses", json={"model": "default", "input": "Hello"})
            ready = client.get("/ready")
            health = client.get("/health")
    finally:
        os.kill(pid, signal.SIGCONT)
    assert answer.status_code == 503
    assert answer.headers["retry-after"]
    assert answer.json()["error"]["code"] == "service_unavailable"
    assert (ready.status_code, health.status_code) == (503, 200)


def test_a_killed_tool_runner_fails_the_call_and_the_model_goes_on(
    fragile: RunningCluster, client: httpx.Client
) -> None:
    body = {
        "model": "default",
        "input": "Run this python code: sum(range(10**12))",
        "tools": [PYTHON],
        "stream": True,
    }
    with client.stream("POST", "/v1/responses", json=body) as stream:
        reading = Reading(stream)
        reading.until(b"mcp_call_arguments.done")
        wait_until(lambda: field_of(fragile, reading.response_id, "tools", "1:claim") is not None)
        fragile.kill("tool_runner")
        frames = reading.to_the_end()
    response = check_one_legal_end(frames)
    assert response["status"] == "completed"
    (call,) = [item for item in response["output"] if item["type"] == "mcp_call"]
    assert call["status"] == "failed"
    assert call["error"]["type"] == "mcp_protocol_error"
    assert "mcp_call.failed" in "".join(frame.event for frame in frames)


def test_a_listing_from_an_earlier_response_still_says_what_may_be_repeated_and_what_only_reads(
    fragile: RunningCluster, client: httpx.Client, tmp_path: Path
) -> None:
    """The hints travel through the response that listed them, under the names that clients know."""

    def ask(text: str, previous: str | None = None, **server: Any) -> dict[str, Any]:
        tool = {"type": "mcp", "server_label": "test", "server_url": url, "require_approval": "never"}
        body = {"input": text, "previous_response_id": previous, "tools": [tool | server]}
        response: dict[str, Any] = client.post("/v1/responses", json=body).raise_for_status().json()
        assert response["status"] == "completed", response["error"]
        return response

    held = tmp_path / "held"
    with serving_http() as url, ThreadPoolExecutor(1) as aside:
        first = ask("Hello")
        hints = {tool["name"]: tool["annotations"] for tool in first["output"][0]["tools"]}
        assert hints["add"] == {"read_only": True}
        assert hints["hold"] == {"read_only": False, "idempotentHint": True}
        call = aside.submit(ask, f'Use test.hold with {{"folder": "{tmp_path}"}}', first["id"])
        wait_until(held.exists)
        fragile.kill("tool_runner")
        wait_until(lambda: len(held.read_text().splitlines()) == 2)
        (tmp_path / "go").touch()
        second = call.result()
        assert [item["type"] for item in second["output"]] == ["reasoning", "mcp_call", "message"]
        assert second["output"][1]["output"] == "held"
        third = ask("What can you do?", second["id"], allowed_tools={"read_only": True})
        assert "Tools offered here: test.add." in third["output"][-1]["content"][0]["text"]


def test_an_unreachable_server_fails_its_listing_and_the_stream_continues(
    client: httpx.Client,
) -> None:
    server = {
        "type": "mcp",
        "server_label": "nowhere",
        "server_url": f"http://127.0.0.1:{find_free(1)[0]}/mcp",
        "require_approval": "never",
    }
    body = {
        "model": "default",
        "input": "Hello",
        "tools": [server],
        "stream": True,
        "enable_response_messages": True,
    }
    frames = read_frames(client.post("/v1/responses", json=body).content)
    response = check_one_legal_end(frames)
    assert response["status"] == "completed"
    assert response["output"][0]["type"] == "mcp_list_tools"
    told = response["input_messages"][1]["content"][0]["instructions"]
    assert "nowhere: The tool's server could not be used" in told
    assert response["output"][0]["error"]
    assert "response.mcp_list_tools.failed" in [frame.event for frame in frames]
