"""What the commands answer, from what Redis has: for people as text, for programs as JSON.

Pure. Owns the words and columns; `shared/store/overview` owns what is read, `checks.py` the judgement.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from shared.store.overview.one_response import Grant, ResponseDetail
from shared.store.overview.open_responses import OpenResponses, ResponseView
from shared.store.overview.processes import ProcessView
from shared.store.overview.waiting_work import QueueView, TenantView
from shared.table import lay_out


@dataclass(frozen=True, slots=True)
class AdminAnswer:
    """What a command answers. `value`: for JSON. `is_fine`: False makes the exit code 1."""

    value: Any
    lines: Sequence[str]
    is_fine: bool = True

    def as_json(self) -> str:
        return msgspec.json.encode(self.value).decode()


def responses_answer(found: OpenResponses) -> AdminAnswer:
    """Lists open responses."""
    rows = [_response_row(view) for view in found.responses]
    head = ("tenant", "response", "standing", "age", "owner", "attempt", "owners lost", "rings", "kind")
    shown = len(found.responses)
    rest = f"{shown} of {found.total} open responses" if shown < found.total else f"{shown} open responses"
    return AdminAnswer(found, [*_table(head, rows), rest])


def _response_row(view: ResponseView) -> tuple[str, ...]:
    kind = "background" if view.is_background else "foreground"
    return (
        view.tenant,
        view.response_id,
        view.status or view.standing,
        _seconds(view.age_ms),
        view.owner or "-",
        str(view.attempt),
        str(view.owners_lost),
        str(view.rings),
        kind if view.is_stored else f"{kind}, not stored",
    )


def detail_answer(found: ResponseDetail) -> AdminAnswer:
    """Describes one response."""
    view = found.response
    log = "archived" if found.is_archived else f"{found.log_entries} events"
    lines = [
        f"response  {view.response_id}",
        f"tenant    {view.tenant}",
        f"state     {view.status or view.standing}, accepted {_seconds(view.age_ms)} ago",
        f"model     {found.model or '-'}",
        f"queue     {found.queue or '-'}",
        f"owner     {view.owner or '-'}",
        f"attempts  {view.attempt}, owners lost {view.owners_lost}, rung again {view.rings}",
        f"log       {log}, record format {found.record_format}",
        f"request   {found.request_bytes} bytes",
        f"readers   {'-' if view.is_background else found.readers}",
        f"expires   in {_seconds(found.ttl_ms)}, unless it is renewed",
    ]
    rows = [
        (
            str(call.call_index),
            call.server_label,
            call.tool,
            call.standing,
            call.runner or "-",
            str(call.attempt),
            f"{call.result_bytes} bytes" if call.result_bytes else "-",
        )
        for call in found.calls
    ]
    head = ("call", "server", "tool", "standing", "runner", "attempt", "result")
    lines += map(_grant_line, found.grants)
    lines.append(f"journal   {found.calls_total} calls")
    return AdminAnswer(found, [*lines, *(_table(head, rows) if rows else ())])


def _grant_line(grant: Grant) -> str:
    """Says who got the response, and if it is known, how that owner's time ended."""
    line = f"owner {grant.attempt}   {grant.owner}, after {_seconds(grant.after_ms)}"
    if grant.parting is None or grant.until_ms is None:
        return line
    return f"{line}; {grant.parting.replace('_', ' ')} after {_seconds(grant.until_ms)}"


def processes_answer(found: Sequence[ProcessView]) -> AdminAnswer:
    """Lists processes."""
    head = ("role", "name", "present", "responses", "of", "wait for tools", "engine", "serves")
    return AdminAnswer(found, _table(head, [_process_row(each) for each in found]))


def _process_row(view: ProcessView) -> tuple[str, ...]:
    known = (
        view.role,
        view.name,
        "yes" if view.is_present else "no",
        "-" if view.responses is None else str(view.responses),
    )
    if (about := view.about) is None:
        return (*known, "-", "-", "-", "-")
    served = ", ".join(each.name for each in about.served)
    return (*known, str(about.capacity), str(about.waiting), about.engine, served)


def queues_answer(found: Sequence[QueueView]) -> AdminAnswer:
    """Lists queues and what waits in them."""
    queues = [
        (queue.name, str(queue.waiting), str(queue.first), str(queue.large), str(queue.flows_total))
        for queue in found
    ]
    flows = [
        (
            queue.name,
            flow.tenant,
            flow.tier,
            str(flow.waiting),
            str(flow.turn_cost),
            "-" if flow.oldest_ms is None else _seconds(flow.oldest_ms),
        )
        for queue in found
        for flow in queue.flows
    ]
    lines = _table(("queue", "waiting", "first", "large", "flows"), queues)
    if flows:
        lines += ["", *_table(("queue", "tenant", "tier", "waiting", "turn cost", "oldest"), flows)]
    return AdminAnswer(found, lines)


def tenants_answer(found: Sequence[TenantView]) -> AdminAnswer:
    """Lists tenants."""
    rows = [(each.tenant, str(each.open), str(each.waiting), str(each.held_bytes)) for each in found]
    return AdminAnswer(found, _table(("tenant", "open", "waiting", "held bytes"), rows))


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    return lay_out([head, *rows])


def _seconds(time_ms: int) -> str:
    return f"{time_ms / 1000:.1f} s"
