"""A response is one trace through every process, and a takeover is linked with the attempt before it."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from shared.settings import Settings
from shared.store.redis.client import RedisClient
from shared.trace_origin import TraceOrigin
from tests.collector import Collector, collecting
from tests.patience import PATIENCE_S, wait_until
from tests.requests import accept, make_request
from tests.running import RunningCluster, start_cluster
from tests.serving import serving
from tests.spans import exporting
from tests.working import finish, leave_behind, working

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
CLIENTS = f"00-{TRACE_ID}-b7ad6b7169203331-01"
KILLED_ID = "1" * 32
PYTHON = {"type": "mcp", "server_label": "code_interpreter"}
SECRET = "Multiply 123*456"


def named(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in exporter.get_finished_spans()}


async def test_a_takeover_continues_the_trace_and_says_which_attempt_it_continues(
    redis: RedisClient, settings: Settings, exported: InMemorySpanExporter
) -> None:
    request = make_request(SECRET, tools=[PYTHON])
    request = msgspec.structs.replace(request, trace=TraceOrigin(CLIENTS, 1_763_769_600_000))
    async with working(redis, settings) as worker:
        entries = await finish(redis, worker, await accept(redis, settings, request))
        first = exported.get_finished_spans()
        assert [span.name for span in first] == [
            "queue",
            "prompt",
            "chat default",
            "execute_tool python",
            "chat default",
        ]
        assert [event.name for event in first[2].events] == ["first token"]
        exported.clear()
        await redis.command("FLUSHALL")
        key = await leave_behind(redis, settings, worker, request, entries[: len(entries) // 2])
        again = await finish(redis, worker, key)
    assert [entry.frame for entry in again] == [entry.frame for entry in entries]
    spans = named(exported)
    takeover, queue = spans["takeover"], first[0]
    assert takeover.context is not None
    assert queue.context is not None
    assert [link.context.span_id for link in takeover.links] == [queue.context.span_id]
    assert takeover.attributes is not None
    assert (takeover.attributes["antiphon.attempt"], takeover.attributes["antiphon.owners_lost"]) == (2, 1)
    every = [*first, *exported.get_finished_spans()]
    assert {f"{span.context.trace_id:032x}" for span in every if span.context} == {TRACE_ID}
    assert not [span for span in every if "123*456" in span.to_json()]


async def test_a_call_to_the_api_continues_its_clients_trace(
    redis: RedisClient, settings: Settings, exported: InMemorySpanExporter
) -> None:
    async with serving(settings) as port, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        body = {"model": "default", "input": "my secret", "background": True}
        created = await client.post("/v1/responses", json=body, headers={"traceparent": CLIENTS})
        await client.get("/v1/responses/resp_0_0", headers={"traceparent": CLIENTS})
        await client.get("/health")
    spans = named(exported)
    assert spans.keys() == {"POST /v1/responses", "GET /v1/responses/{response_id}"}
    attributes = spans["POST /v1/responses"].attributes
    assert attributes is not None
    assert attributes["antiphon.response.id"] == created.json()["id"]
    assert attributes["http.response.status_code"] == 200
    assert spans["GET /v1/responses/{response_id}"].parent is not None
    assert "secret" not in spans["POST /v1/responses"].to_json()


async def test_content_is_in_spans_only_if_that_is_wanted(redis: RedisClient, settings: Settings) -> None:
    with exporting(has_content=True) as exporter:
        async with working(redis, settings) as worker:
            await finish(redis, worker, await accept(redis, settings, make_request(SECRET, tools=[PYTHON])))
    attributes = named(exporter)["execute_tool python"].attributes
    assert attributes is not None
    assert "123*456" in str(attributes["gen_ai.tool.call.arguments"])
    assert "56088" in str(attributes["gen_ai.tool.call.result"])


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.fixture
def traced_cluster(tmp_path: Path, collector: Collector) -> Iterator[RunningCluster]:
    running = start_cluster(
        tmp_path / "data",
        ANTIPHON_TRACES="otlp",
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
        OTEL_BSP_SCHEDULE_DELAY="50",
    )
    yield running
    running.stop()


@pytest.mark.slow
def test_a_response_is_one_trace_and_so_is_one_whose_worker_is_killed(
    traced_cluster: RunningCluster, collector: Collector
) -> None:
    with httpx.Client(base_url=traced_cluster.urls[0], timeout=PATIENCE_S) as client:
        body = {"model": "default", "input": SECRET, "tools": [PYTHON]}
        client.post("/v1/responses", json=body, headers={"traceparent": CLIENTS}).raise_for_status()
        wait_until(lambda: "POST /v1/responses" in collector.names(TRACE_ID), "the API's span")
        _count_while_the_worker_is_killed(client, traced_cluster, collector)
    whole = collector.by_name(TRACE_ID)
    root, queue, run = (whole[name] for name in ("POST /v1/responses", "queue", "run_tool python"))
    assert root.parent_id == "b7ad6b7169203331"
    assert queue.parent_id == root.span_id
    assert {whole[name].parent_id for name in ("prompt", "chat default", run.name)} == {queue.span_id}
    (call,) = [span for span in whole.values() if span.attributes.get("mcp.method.name") == "tools/call"]
    assert call.parent_id == run.span_id
    assert [span.service for span in (root, queue, run, call)] == [
        "antiphon-api",
        "antiphon-worker",
        "antiphon-tool_runner",
        "antiphon-tool_runner",
    ]
    taken_over = collector.by_name(KILLED_ID)
    assert taken_over["takeover"].linked == (taken_over["queue"].span_id,)
    assert taken_over["takeover"].parent_id == taken_over["POST /v1/responses"].span_id
    assert taken_over["chat default"].parent_id == taken_over["takeover"].span_id
    assert not [body for body in collector.raw if b"123*456" in body]


def _count_while_the_worker_is_killed(
    client: httpx.Client, cluster: RunningCluster, collector: Collector
) -> None:
    """Streams a response and kills its worker once its first span has been sent; the stream ends all the
    same."""
    body = {"model": "default", "stream": True, "input": "Count slowly to 200"}
    headers = {"traceparent": CLIENTS.replace(TRACE_ID, KILLED_ID)}
    types, is_killed = list[str](), False
    with client.stream("POST", "/v1/responses", json=body, headers=headers) as answer:
        for line in answer.iter_lines():
            types += [line.removeprefix("event: ")] if line.startswith("event: ") else []
            if not is_killed and types[-1:] == ["response.output_text.delta"]:
                wait_until(lambda: "queue" in collector.names(KILLED_ID), "the queue's span")
                cluster.kill("worker")
                is_killed = True
    assert types[-1] == "response.completed"
    wait_until(
        lambda: {"chat default", "POST /v1/responses"} <= set(collector.names(KILLED_ID)), "the trace's end"
    )
