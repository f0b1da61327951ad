"""Makes spans with OpenTelemetry's SDK and sends them by OTLP: the only module that imports it.

Owns how a span is made; `traces.py` owns what is said. Where spans go, which are sampled and what the process
is called are OpenTelemetry's own settings (`OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_TRACES_SAMPLER` …).
"""

import logging
import os
import re
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
from opentelemetry.sdk import trace as sdk
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import Link, SpanContext, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from shared.tracer import (
    PARENT_HEADER,
    STATE_HEADER,
    Attributes,
    Span,
    SpanKind,
    TraceContext,
    TracesUnusable,
)

_DELAY_MS = 500
"""How long a span that has ended waits to be sent with others: what a process loses that is killed."""
_CLOSE_S = 2.0
_SCOPE = "antiphon"
_DELAY_SETTING = "OTEL_BSP_SCHEDULE_DELAY"
_PROTOCOL = "http/protobuf"
_HEADER_FORM = re.compile(r"\s*[!#$%&'*+.^_`|~0-9A-Za-z-]+\s*=[\x20-\x7e]*")
_KINDS = {
    "server": trace.SpanKind.SERVER,
    "consumer": trace.SpanKind.CONSUMER,
    "client": trace.SpanKind.CLIENT,
    "internal": trace.SpanKind.INTERNAL,
}
_propagator = TraceContextTextMapPropagator()
for _name in ("opentelemetry.trace.span", "opentelemetry.trace.propagation.tracecontext"):
    logging.getLogger(_name).setLevel(logging.ERROR)  # they would repeat what is wrong in a client's headers
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


class _OfResponses(SpanProcessor):
    """Passes on our spans, and those that libraries have made within them: not what MCP's client asks of a
    server on its own, as when a tool runner starts.

    Takes out of those of libraries what may be content, unless that is wanted: what servers and exceptions
    say.
    """

    def __init__(self, inner: SpanProcessor, *, has_content: bool) -> None:
        self._inner = inner
        self._has_content = has_content

    def on_start(self, span: sdk.Span, parent_context: Context | None = None) -> None:
        self._inner.on_start(span, parent_context)

    def on_end(self, span: sdk.ReadableSpan) -> None:
        scope = span.instrumentation_scope
        if scope is None or scope.name != _SCOPE:
            if span.parent is None:
                return
            if not self._has_content and (span.status.description is not None or span.events):
                span = _silenced(span)
        self._inner.on_end(span)

    def shutdown(self) -> None:
        self._inner.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._inner.force_flush(timeout_millis)


def _silenced(span: sdk.ReadableSpan) -> sdk.ReadableSpan:
    """Returns a span without the text of its status and without its events."""
    return sdk.ReadableSpan(
        name=span.name,
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes=span.attributes,
        links=span.links,
        kind=span.kind,
        status=Status(span.status.status_code),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


class OtlpTracer:
    def __init__(self, provider: TracerProvider, *, has_content: bool) -> None:
        self.has_content = has_content
        self.provider = provider
        self._tracer = provider.get_tracer(_SCOPE)

    @classmethod
    def to_collector(cls, role: str, place: str, *, has_content: bool) -> Self:
        """Returns one that sends spans to a collector, and is that of libraries which make spans, such as
        MCP's. Raises TracesUnusable."""
        _check_settings()
        try:
            delay_ms = float(os.environ.get(_DELAY_SETTING) or _DELAY_MS)
            sending = BatchSpanProcessor(OTLPSpanExporter(), schedule_delay_millis=delay_ms)
            made = cls.through(sending, role, place, has_content=has_content)
        except (ValueError, OSError) as error:
            raise TracesUnusable(f"a setting of OpenTelemetry is invalid: {error}") from error
        trace.set_tracer_provider(made.provider)
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
        provider.add_span_processor(_OfResponses(processor, has_content=has_content))
        return cls(provider, has_content=has_content)

    @contextmanager
    def span(self, name: str, kind: SpanKind, parent: TraceContext, attributes: Attributes) -> Iterator[Span]:
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
        parent: TraceContext,
        span_id: int,
        begun_ms: int | None,
        continued_id: int | None,
        attributes: Attributes,
    ) -> TraceContext:
        """Makes a span that ends now; returns what tells others of it. `begun_ms`: None for now;
        `continued_id`: the id of a span of the same trace that it is linked with."""
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
        return _told_of(trace.set_span_in_context(made))

    @contextmanager
    def within(self, parent: TraceContext) -> Iterator[None]:
        token = context.attach(_context_of(parent) or Context())
        try:
            yield
        finally:
            context.detach(token)

    def current(self) -> TraceContext:
        return _told_of(None)

    def trace_id(self) -> str:
        found = trace.get_current_span().get_span_context()
        return trace.format_trace_id(found.trace_id) if found.is_valid else ""

    def close(self) -> None:
        """Sends what is left, within a limit: a collector that is away must not keep a process."""
        closing = threading.Thread(target=self.provider.shutdown, daemon=True)
        closing.start()
        closing.join(_CLOSE_S)


def _check_settings() -> None:
    """Refuses those with which no span would arrive, or which OpenTelemetry would log, secrets and all.

    Raises TracesUnusable.
    """
    for name in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        if (protocol := os.environ.get(name, _PROTOCOL)) not in ("", _PROTOCOL):
            raise TracesUnusable(f"{name} is {protocol}, but spans are sent by {_PROTOCOL} only")
    for name in ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"):
        address = os.environ.get(name)
        if address and not address.startswith(("http://", "https://")):
            raise TracesUnusable(f"{name} must begin with http:// or https://")
    for name in ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"):
        headers = os.environ.get(name, "")
        if any(header.strip() and not _HEADER_FORM.fullmatch(header) for header in headers.split(",")):
            raise TracesUnusable(f"{name} must be NAME=VALUE, separated by commas")


def _context_of(told: TraceContext) -> Context | None:
    """Returns the context that another process has told; None, which stands for the current one, if none has.
    One that is malformed begins a new trace."""
    return _propagator.extract(told.headers(), Context()) if told.parent else None


def _told_of(of: Context | None) -> TraceContext:
    carrier: dict[str, str] = {}
    _propagator.inject(carrier, of)
    return TraceContext(carrier.get(PARENT_HEADER, ""), carrier.get(STATE_HEADER, ""))
