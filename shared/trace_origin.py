"""Where the trace of a response begins, as its record says it. Pure; `traces.py` continues it."""

import msgspec


class TraceOrigin(msgspec.Struct, frozen=True):
    """Written on acceptance, if there are traces, so that every owner continues the same trace."""

    parent: str
    """The traceparent of the call that created the response."""
    accepted_ms: int
    """By the clock of the node that accepted it."""
