"""Where the trace of a response begins, as its record says it. Pure; `traces.py` continues it."""

import msgspec

from shared.tracer import TraceContext


class TraceOrigin(msgspec.Struct, frozen=True, omit_defaults=True):
    """Written on acceptance, if there are traces, so that every owner continues the same trace."""

    parent: str
    """The traceparent of the call that created the response."""
    accepted_ms: int
    """By the clock of the node that accepted it."""
    state: str = ""
    """The `tracestate` that belongs to `parent`."""

    @property
    def context(self) -> TraceContext:
        return TraceContext(self.parent, self.state)
