"""The spans of an attempt: what took it over, its prompt, its turns and its tool calls.

Owns their names and attributes, by OpenTelemetry's conventions for generative AI where there are some;
`shared/traces.py` makes them.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import msgspec
from msgspec import UnsetType

from shared import traces
from shared.store.owning.lease import Acquired
from shared.tool_calls import ToolCall, ToolFailure, ToolResult, ToolTask
from shared.tracer import Span
from worker.response.history import LoadedRecord
from worker.response.usage import Turn

FIRST_TOKEN = "first token"


def traced_attempt(acquired: Acquired, record: LoadedRecord) -> AbstractContextManager[None]:
    """Continues the response's trace, for what the attempt does."""
    held, origin = acquired.lease, record.request.trace
    attributes: dict[str, str | int] = {
        "antiphon.response.id": held.key.response_id,
        "antiphon.tenant": held.key.tenant,
        "antiphon.attempt": held.fencing_token,
        "antiphon.owners_lost": acquired.deaths,
        "antiphon.owner": held.owner,
    }
    known = None if isinstance(origin, UnsetType) else origin
    return traces.taken(known, held.key.response_id, held.fencing_token, attributes)


def trace_id_of(record: LoadedRecord) -> str:
    """Returns the response's trace, '' if it has none or there are no traces."""
    origin = record.request.trace
    return traces.trace_id_of("" if isinstance(origin, UnsetType) else origin.parent)


@contextmanager
def traced_turn(model: str, turn: Turn) -> Iterator[Span]:
    """Makes a span of a turn of the model, which says how many tokens it had."""
    about = {"gen_ai.operation.name": "chat", "gen_ai.request.model": model}
    with traces.span(f"chat {model}", about, kind="client") as span:
        try:
            yield span
        finally:
            span.note(
                {
                    "gen_ai.usage.input_tokens": turn.prompt,
                    "gen_ai.usage.output_tokens": turn.output,
                    "gen_ai.usage.cache_read.input_tokens": turn.cached,
                }
            )


@contextmanager
def traced_call(task: ToolTask) -> Iterator[Span]:
    """Makes a span of a call of a tool, or of the listing of a server's tools."""
    if not isinstance(task, ToolCall):
        with traces.span("list_tools", {"antiphon.server": task.server_label}) as span:
            yield span
        return
    about: dict[str, str] = {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": task.name,
        "antiphon.server": task.server_label,
    }
    if traces.is_content_wanted():
        about["gen_ai.tool.call.arguments"] = traces.cut(task.arguments)
    with traces.span(f"execute_tool {task.name}", about) as span:
        yield span


def note_result(span: Span, result: ToolResult) -> None:
    """Says how a call ended: the kind of its failure, and what it returned only if that is wanted."""
    if isinstance(result, ToolFailure):
        span.fail(str(result.error.__struct_config__.tag))
    if traces.is_content_wanted():
        span.note({"gen_ai.tool.call.result": traces.cut(msgspec.json.encode(result).decode())})
