"""Makes spans with OpenTelemetry's SDK and sends them by OTLP: the only module that imports it.

Owns how a span is made; `traces.py` owns what is said. Where spans go, which are sampled and what the process
is called are OpenTelemetry's own settings (`OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_TRACES_SAMPLER` …).
"""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Self

from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import Link, SpanContext, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from shared.traces import HEADER, Attributes, Span, SpanKind

_DELAY_MS = 500
"""How long a span that has ended waits to be sent with others: what a process loses that is killed."""
_CLOSE_S = 2.0
_DELAY_SETTING = "OTEL_BSP_SCHEDULE_DELAY"
_KINDS = {
    "server": trace.SpanKind.SERVER,
    "consumer": trace.SpanKind.CONSUMER,
    "client": trace.SpanKind.CLIENT,
    "internal": trace.SpanKind.INTERNAL,
}
_propagator = TraceContextTextMapPropagator()
_next_id: ContextVar[int | None] = ContextVar("span id", default=None)


class _Ids(RandomIdGenerator):
    """Random ids, except for a span whose id is known before."""

    def generate_span_id(self) -> int:
        chosen = _next_id.get()
        return super().generate_span_id() if chosen is None else chosen


class _Span:
    def __init__(self, made: trace.Span) -> None:
        self._made = made

    def note(self, attributes: Attributes) -> None:
        self._made.set_attributes(dict(attributes))

    def happen(self, event: str) -> None:
        self._made.add_event(event)

    def rename(self, name: str) -> None:
        self._made.update_name(name)

    def fail(self, reason: str) -> None:
        self._made.set_status(Status(StatusCode.ERROR, reason))


class OtlpTracer:
    def __init__(self, provider: TracerProvider, *, has_content: bool) -> None:
        self.has_content = has_content
        self._provider = provider
        self._tracer = provider.get_tracer("antiphon")

    @classmethod
    def to_collector(cls, role: str, place: str, *, has_content: bool) -> Self:
        """Returns one that sends spans to a collector, and is that of libraries which make spans, such as
        MCP's."""
        delay_ms = int(os.environ.get(_DELAY_SETTING, _DELAY_MS))
        made = cls.through(
            BatchSpanProcessor(OTLPSpanExporter(), schedule_delay_millis=delay_ms),
            role,
            place,
            has_content=has_content,
        )
        trace.set_tracer_provider(made._provider)
        return made

    @classmethod
    def through(
        cls, processor: SpanProcessor, role: str, place: str = "", *, has_content: bool = False
    ) -> Self:
        """Returns one whose spans go to a processor. `place`: where the process runs, '' if that is not
        set."""
        named = {
            "service.name": os.environ.get("OTEL_SERVICE_NAME", f"antiphon-{role}"),
            "service.instance.id": f"{place or socket.gethostname()}-{os.getpid()}",
        }
        provider = TracerProvider(
            resource=Resource.create(named), id_generator=_Ids(), shutdown_on_exit=False
        )
        provider.add_span_processor(processor)
        return cls(provider, has_content=has_content)

    @contextmanager
    def span(self, name: str, kind: SpanKind, parent: str, attributes: Attributes) -> Iterator[Span]:
        """An exception gives the span its class, and not its message, which may have content."""
        made = self._tracer.start_span(
            name, _context_of(parent), _KINDS[kind], dict(attributes), record_exception=False
        )
        token = context.attach(trace.set_span_in_context(made))
        try:
            yield _Span(made)
        except BaseException as error:
            made.set_attribute("error.type", type(error).__name__)
            if isinstance(error, Exception):
                made.set_status(Status(StatusCode.ERROR))
            raise
        finally:
            context.detach(token)
            made.end()

    def instant(
        self,
        name: str,
        parent: str,
        span_id: int,
        begun_ms: int | None,
        continued_id: int | None,
        attributes: Attributes,
    ) -> str:
        """Makes a span that ends now; returns its traceparent. `begun_ms`: None for now; `continued_id`: the
        id of a span of the same trace that it is linked with."""
        around = _context_of(parent) or Context()
        links = []
        of_parent = trace.get_current_span(around).get_span_context()
        if continued_id is not None and of_parent.is_valid:
            continued = SpanContext(
                of_parent.trace_id, continued_id, is_remote=True, trace_flags=of_parent.trace_flags
            )
            links = [Link(continued, {"antiphon.link": "continues"})]
        now_ns = time.time_ns()
        begun_ns = now_ns if begun_ms is None else min(begun_ms * 1_000_000, now_ns)
        chosen = _next_id.set(span_id)
        try:
            made = self._tracer.start_span(
                name, around, trace.SpanKind.CONSUMER, dict(attributes), links, begun_ns
            )
        finally:
            _next_id.reset(chosen)
        made.end(now_ns)
        return _traceparent_of(trace.set_span_in_context(made))

    @contextmanager
    def within(self, parent: str) -> Iterator[None]:
        token = context.attach(_context_of(parent) or Context())
        try:
            yield
        finally:
            context.detach(token)

    def current(self) -> str:
        return _traceparent_of(None)

    def trace_id(self) -> str:
        found = trace.get_current_span().get_span_context()
        return trace.format_trace_id(found.trace_id) if found.is_valid else ""

    def close(self) -> None:
        """Sends what is left, within a limit: a collector that is away must not keep a process."""
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(_CLOSE_S)


def _context_of(parent: str) -> Context | None:
    """Returns the context of a traceparent; None, which stands for the current one, without one. One that is
    malformed begins a new trace."""
    return _propagator.extract({HEADER: parent}, Context()) if parent else None


def _traceparent_of(of: Context | None) -> str:
    carrier: dict[str, str] = {}
    _propagator.inject(carrier, of)
    return carrier.get(HEADER, "")
