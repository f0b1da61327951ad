"""Spans say what is done and nothing of its content, and a trace goes on from process to process."""

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from shared import traces
from shared.logs import WithSubject
from shared.open_telemetry import OtlpTracer
from shared.process import start
from shared.trace_origin import TraceOrigin
from shared.tracer import NO_CONTEXT, TraceContext

CLIENTS = TraceContext("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "vendor=1,other=x")
TRACE_ID = 0x0AF7651916CD43DD8448EB211C80319C
ROOT = Path(__file__).parents[2]


def ids(span: ReadableSpan) -> tuple[int, int]:
    assert span.context is not None
    return span.context.trace_id, span.context.span_id


def parent_of(span: ReadableSpan) -> int | None:
    return span.parent.span_id if span.parent else None


def test_without_traces_nothing_of_opentelemetry_is_imported() -> None:
    program = """
import sys
import api.app, api.cells.app, worker.app, webhooks.app, shared.process
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
import tool_runner.app  # MCP's client imports the interface, which does nothing by itself
assert not [name for name in sys.modules if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter"))]
from shared import process, traces
assert process.start("role", lambda settings: None) == 0
assert not traces.is_on() and traces.current() == traces.base() == ("", "")
assert not [name for name in sys.modules if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter"))]
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_a_clients_trace_is_continued_and_what_is_inside_hangs_on_it(exported: InMemorySpanExporter) -> None:
    with traces.span("POST", kind="server", parent=CLIENTS):
        assert (
            traces.current().parent.split("-")[1]
            == CLIENTS.parent.split("-")[1]
            == WithSubject.read_trace_id()
        )
        with traces.span("inside", {"count": 2}) as inside:
            inside.happen("first token")
    inner, outer = exported.get_finished_spans()
    assert ids(outer)[0] == ids(inner)[0] == TRACE_ID
    assert parent_of(outer) == 0xB7AD6B7169203331
    assert parent_of(inner) == ids(outer)[1]
    assert [event.name for event in inner.events] == ["first token"]


@pytest.mark.parametrize("parent", ["", "nonsense", "00-" + "0" * 32 + "-b7ad6b7169203331-01", "0" * 3_000])
def test_what_is_no_trace_begins_a_new_one(
    exported: InMemorySpanExporter, caplog: pytest.LogCaptureFixture, parent: str
) -> None:
    with traces.span("POST", parent=TraceContext(parent, "vendor=1")):
        pass
    (span,) = exported.get_finished_spans()
    assert span.parent is None
    with traces.span("POST", parent=TraceContext(CLIENTS.parent, ",=,no entry,é=ü")):
        pass
    assert exported.get_finished_spans()[1].parent is not None
    assert caplog.messages == [], "a client writes into the log"


def test_an_unsampled_trace_stays_so(exported: InMemorySpanExporter) -> None:
    with traces.span("POST", parent=TraceContext(CLIENTS.parent[:-2] + "00")):
        assert traces.current().parent.endswith("-00")
    assert exported.get_finished_spans() == ()


def test_an_error_gives_its_class_and_not_its_message(exported: InMemorySpanExporter) -> None:
    with pytest.raises(ValueError, match="a secret"), traces.span("works"):
        raise ValueError("a secret")
    (span,) = exported.get_finished_spans()
    assert "secret" not in span.to_json()
    assert span.attributes is not None
    assert span.attributes["error.type"] == "ValueError"


@pytest.mark.parametrize(
    ("states", "kept"),
    [
        ([], ""),
        (["a=1,b=2", "c=3"], "a=1,b=2,c=3"),
        (["a=" + "x" * 255, "b=" + "y" * 250, "c=" + "z" * 8], "a=" + "x" * 255 + ",b=" + "y" * 250),
        (["a=" + "x" * 600], ""),
    ],
)
def test_what_tracing_systems_have_added_is_passed_on_as_far_as_everybody_does(
    states: list[str], kept: str
) -> None:
    told = TraceContext.told(CLIENTS.parent, states)
    assert told == TraceContext.parse(str(told)) == (CLIENTS.parent, kept)
    assert len(told.state) <= 512
    assert TraceContext.told("", states) == NO_CONTEXT == TraceContext.parse(str(NO_CONTEXT))


@pytest.mark.parametrize("has_content", [False, True])
def test_what_a_library_repeats_of_a_server_is_in_its_spans_only_if_content_is_wanted(
    has_content: bool,
) -> None:
    exporter = InMemorySpanExporter()
    tracer = OtlpTracer.through(SimpleSpanProcessor(exporter), "test", has_content=has_content)
    library = tracer.provider.get_tracer("mcp-python-sdk")
    with tracer.span("run_tool", "internal", NO_CONTEXT, {}) as ours:
        ours.fail("http_error")
        with suppress(ValueError), library.start_as_current_span("MCP send") as span:
            span.set_attribute("error.type", "-32000")
            raise ValueError("a secret")
    with library.start_as_current_span("MCP send server/discover"):
        pass  # of no response
    theirs, own = exporter.get_finished_spans()
    assert ("a secret" in theirs.to_json()) == has_content
    assert theirs.status.status_code is StatusCode.ERROR
    assert theirs.attributes == {"error.type": "-32000"}
    assert parent_of(theirs) == ids(own)[1]
    assert own.status.description == "http_error"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("OTEL_BSP_SCHEDULE_DELAY", "soon", "soon"),
        ("OTEL_BSP_SCHEDULE_DELAY", "-5", "positive"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "10", "max_queue_size"),
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "x", "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "127.0.0.1:4318", "http://"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "Authorization: Bearer hidden", "NAME=VALUE"),
    ],
)
def test_a_setting_with_which_no_span_would_arrive_is_refused_and_no_secret_is_repeated(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str, said: str
) -> None:
    monkeypatch.setenv("ANTIPHON_TRACES", "otlp")
    monkeypatch.setenv(name, value)
    assert start("worker", lambda _: None) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("worker: ")
    assert said in line
    assert "hidden" not in line


def test_a_takeover_is_linked_with_what_was_sent_before_the_owner_was_lost(
    exported: InMemorySpanExporter,
) -> None:
    origin = TraceOrigin(CLIENTS.parent, 1_763_769_600_000, CLIENTS.state)
    for attempt in (1, 2):  # each in a process of its own
        with traces.taken(origin, "resp_1", attempt, {}):
            assert traces.base() == traces.current()
            assert traces.base().state == CLIENTS.state
            with traces.span("prompt"):
                assert traces.base() != traces.current()
    queue, first_prompt, takeover, second_prompt = exported.get_finished_spans()
    assert {ids(span)[0] for span in (queue, takeover)} == {TRACE_ID}
    assert queue.start_time == 1_763_769_600_000_000_000
    assert [link.context.span_id for link in takeover.links] == [ids(queue)[1]]
    assert (parent_of(first_prompt), parent_of(second_prompt)) == (ids(queue)[1], ids(takeover)[1])
    assert traces.base() == traces.current() == NO_CONTEXT


def test_what_is_not_installed_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ANTIPHON_TRACES", "otlp")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    monkeypatch.delitem(sys.modules, "shared.open_telemetry")
    assert start("worker", lambda _: None) == 2
    assert "pip install -r requirements/traces.txt" in capsys.readouterr().err
