"""What a tracer is: the spans that roles tell their work by, and who makes them.

`traces.py` is what the roles call; `open_telemetry.py` is the tracer that sends spans to a collector.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Literal, NamedTuple, Protocol, Self

Attributes = Mapping[str, str | int | float | bool]
SpanKind = Literal["server", "consumer", "client", "internal"]
PARENT_HEADER, STATE_HEADER = "traceparent", "tracestate"
_STATE_CHARS_MAX = 512
"""What everybody passes on, by W3C's rules; a longer one loses its last entries."""


class TraceContext(NamedTuple):
    """Which span something belongs to, as one process tells it another (W3C Trace Context)."""

    parent: str = ""
    """A `traceparent`; '' if it belongs to none."""
    state: str = ""
    """A `tracestate`: what tracing systems of the client's have added, which is passed on as it is."""

    @classmethod
    def told(cls, parent: str, states: Sequence[str]) -> Self:
        """Returns what a message's headers say. `states`: each `tracestate` header, in their order."""
        kept, chars = list[str](), -1
        for entry in ",".join(states).split(",") if parent else []:
            if (chars := chars + 1 + len(entry)) > _STATE_CHARS_MAX:
                break
            kept.append(entry)
        return cls(parent, ",".join(kept))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Returns what `str` has made a text of."""
        parent, _, state = text.partition(" ")
        return cls(parent, state)

    def __str__(self) -> str:
        return f"{self.parent} {self.state}".strip()

    def headers(self) -> dict[str, str]:
        """Returns the headers that tell it; empty if there is nothing to tell."""
        named = {PARENT_HEADER: self.parent, STATE_HEADER: self.state}
        return {name: value for name, value in named.items() if value}


NO_CONTEXT = TraceContext()


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
        self, name: str, kind: SpanKind, parent: TraceContext, attributes: Attributes
    ) -> AbstractContextManager[Span]: ...

    def instant(
        self,
        name: str,
        parent: TraceContext,
        span_id: int,
        begun_ms: int | None,
        continued_id: int | None,
        attributes: Attributes,
    ) -> TraceContext: ...

    def within(self, parent: TraceContext) -> AbstractContextManager[None]: ...

    def current(self) -> TraceContext: ...

    def trace_id(self) -> str: ...

    def close(self) -> None: ...


class TracesUnusable(Exception):
    """Traces are on, but what sends them is not installed, or one of its settings is invalid."""
