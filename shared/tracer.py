"""What a tracer is: the spans that roles tell their work by, and who makes them.

`traces.py` is what the roles call; `open_telemetry.py` is the tracer that sends spans to a collector.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Literal, Protocol

Attributes = Mapping[str, str | int | float | bool]
SpanKind = Literal["server", "consumer", "client", "internal"]
HEADER = "traceparent"


class Span(Protocol):
    """One piece of work. It ends with its context."""

    def note(self, attributes: Attributes) -> None: ...

    def happen(self, event: str) -> None:
        """Says that something has happened now."""

    def rename(self, name: str) -> None: ...

    def fail(self, reason: str) -> None: ...


class Tracer(Protocol):
    """Makes spans; implemented by `open_telemetry.OtlpTracer`."""

    has_content: bool

    def span(
        self, name: str, kind: SpanKind, parent: str, attributes: Attributes
    ) -> AbstractContextManager[Span]: ...

    def instant(
        self,
        name: str,
        parent: str,
        span_id: int,
        begun_ms: int | None,
        continued_id: int | None,
        attributes: Attributes,
    ) -> str: ...

    def within(self, parent: str) -> AbstractContextManager[None]: ...

    def current(self) -> str: ...

    def trace_id(self) -> str: ...

    def close(self) -> None: ...


class TracesUnusable(Exception):
    """Traces are on, but what sends them is not installed, or one of its settings is invalid."""
