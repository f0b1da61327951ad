"""Has traces, whose spans stay in memory, for tests that look at them."""

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from shared import traces
from shared.open_telemetry import OtlpTracer


@contextmanager
def exporting(role: str = "test", *, has_content: bool = False) -> Iterator[InMemorySpanExporter]:
    """Turns traces on for the block. The exporter keeps its spans afterwards."""
    exporter = InMemorySpanExporter()
    traces.use(OtlpTracer.through(SimpleSpanProcessor(exporter), role, has_content=has_content))
    try:
        yield exporter
    finally:
        traces.stop()
