"""Traces: what is done for a request, in which process, and how long it takes. Off unless a setting says so.

Owns what the roles say about their work, and how a trace goes from one process to the next: as
`traceparent` and `tracestate` (W3C Trace Context). `open_telemetry.py` makes and sends spans, and is imported
if there are any. No attribute has content, except where `is_content_wanted` is asked first.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from shared.logs import WithSubject
from shared.settings import Settings
from shared.trace_origin import TraceOrigin
from shared.tracer import NO_CONTEXT, Attributes, Span, SpanKind, TraceContext, Tracer, TracesUnusable

_NO_ATTRIBUTES: Attributes = {}
_CONTENT_CHARS_MAX = 16_384


class _Nothing:
    """The span where there are no traces."""

    def note(self, attributes: Attributes) -> None:
        pass

    def happen(self, event: str) -> None:
        pass

    def rename(self, name: str) -> None:
        pass

    def fail(self, reason: str) -> None:
        pass


NOTHING: Span = _Nothing()
_tracers: list[Tracer] = []
"""The one of this process, if it has traces."""
_base: ContextVar[TraceContext] = ContextVar("trace base", default=NO_CONTEXT)


def start(settings: Settings, role: str) -> None:
    """Turns traces on, if the settings say so. Raises TracesUnusable."""
    if settings.traces == "off":
        return
    try:
        from shared.open_telemetry import OtlpTracer
    except ModuleNotFoundError as missing:
        raise TracesUnusable(
            f"ANTIPHON_TRACES={settings.traces} needs the package {missing.name}: "
            "pip install -r requirements/traces.txt"
        ) from missing
    use(OtlpTracer.to_collector(role, settings.place, has_content=settings.traces_content))


def use(tracer: Tracer) -> None:
    """Has the spans of this process made by a tracer."""
    _tracers[:] = [tracer]
    WithSubject.read_trace_id = tracer.trace_id


def stop() -> None:
    """Sends what has not been sent yet, and turns traces off."""
    for tracer in _tracers:
        tracer.close()
    _tracers.clear()
    WithSubject.read_trace_id = str


def is_on() -> bool:
    return bool(_tracers)


def is_content_wanted() -> bool:
    """Returns True if spans are to have content as well (`traces_content`)."""
    return any(tracer.has_content for tracer in _tracers)


def cut(content: str) -> str:
    """Returns content as an attribute has it."""
    return content[:_CONTENT_CHARS_MAX]


@contextmanager
def span(
    name: str,
    attributes: Attributes = _NO_ATTRIBUTES,
    *,
    kind: SpanKind = "internal",
    parent: TraceContext = NO_CONTEXT,
) -> Iterator[Span]:
    """Makes a span of the block. `parent`: what another process has told; else it is the span around this."""
    if not _tracers:
        yield NOTHING
        return
    with _tracers[0].span(name, kind, parent, attributes) as made:
        yield made


def current() -> TraceContext:
    """Returns what tells others of the span around the caller, if there is one."""
    return _tracers[0].current() if _tracers else NO_CONTEXT


def origin(now_s: float) -> TraceOrigin | None:
    """Returns what the record of a response says that the caller is accepting; None without traces."""
    if not _tracers:
        return None
    here = current()
    return TraceOrigin(here.parent, int(now_s * 1000), here.state)


def trace_id_of(parent: str) -> str:
    """Returns the trace that a traceparent belongs to, '' if it is none or there are no traces."""
    return parent.split("-")[1] if _tracers and parent.count("-") >= 3 else ""


def base() -> TraceContext:
    """Returns what tells others of what this process was given to do (`taken`), if there is something.

    What other processes do hangs on this and not on `current`: a span is sent when it ends, so that of a
    process that is killed meanwhile is never sent.
    """
    return _base.get()


@contextmanager
def taken(
    origin: TraceOrigin | None, response_id: str, attempt: int, attributes: Attributes
) -> Iterator[None]:
    """Continues the trace of a response, for an attempt at it.

    The first attempt is given a span `queue`, from when the response was accepted until now; each further
    one a span `takeover`, linked with that of the attempt before. Both end at once, so that they are sent
    whatever becomes of this process. `origin`: None for a response that was accepted without traces.
    """
    if not _tracers:
        yield
        return
    is_first = attempt <= 1
    parent = _tracers[0].instant(
        "queue" if is_first else "takeover",
        origin.context if origin else NO_CONTEXT,
        _span_id(response_id, attempt),
        origin.accepted_ms if is_first and origin else None,
        None if is_first else _span_id(response_id, attempt - 1),
        attributes,
    )
    before = _base.set(parent)
    try:
        with _tracers[0].within(parent):
            yield
    finally:
        _base.reset(before)


def _span_id(response_id: str, attempt: int) -> int:
    """Returns the span id of an attempt's beginning, which the next owner knows without being told."""
    digest = hashlib.sha256(f"{response_id} {attempt}".encode()).digest()
    return int.from_bytes(digest[:8], "big") or 1
