"""The rules of webhooks: every end is delivered, and nothing else is. Pure."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from tests.chaos.history import Deleted, Delivered, Log, Observation
from tests.chaos.judging import CallHistory, Violation

_IN_BACKGROUND = b'"background":true'


def check_webhooks(
    observations: Sequence[Observation], histories: Mapping[int, CallHistory], logs: Mapping[str, Log]
) -> Iterator[Violation]:
    """Checks deliveries against the logs. They may come more than once, and in any order."""
    calls = {response_id: call for call, history in histories.items() for response_id in history.response_ids}
    deleted = {
        response_id
        for history in histories.values()
        if any(isinstance(seen, Deleted) for seen in history.seen)
        for response_id in history.response_ids
    }
    delivered: defaultdict[str, list[Delivered]] = defaultdict(list)
    for seen in observations:
        if isinstance(seen, Delivered):
            delivered[seen.response_id].append(seen)
    for response_id, log in logs.items():
        if not is_announced(log):
            continue
        if not any(seen.is_taken for seen in delivered.get(response_id, ())):
            what = f"{response_id} ended as {log.closed!r}, and no webhook said so"
            yield Violation("every end is delivered", calls.get(response_id), what)
    for response_id, attempts in delivered.items():
        fault = _find_fault(attempts, logs.get(response_id), is_deleted=response_id in deleted)
        if fault is not None:
            what = f"{response_id}: {fault}"
            yield Violation("what is delivered has ended", calls.get(response_id), what)


def is_announced(log: Log) -> bool:
    """Returns True if the end of the response is to be delivered; those with `store: false` have expired."""
    return bool(log.closed) and _IN_BACKGROUND in log.frames[0]


def _find_fault(attempts: Sequence[Delivered], log: Log | None, *, is_deleted: bool) -> str | None:
    if not all(seen.is_signed for seen in attempts):
        return "a delivery was not signed"
    if len({(seen.event_type, seen.event_id) for seen in attempts}) != 1:
        return f"its deliveries differ: {sorted({seen.event_type for seen in attempts})}"
    if open_then := {seen.status_then for seen in attempts} - {"", attempts[0].event_type.partition(".")[2]}:
        return f"{attempts[0].event_type} was delivered, and the response was {sorted(open_then)}"
    if log is None:
        return None if is_deleted else "it does not exist"
    event_type = attempts[0].event_type
    if event_type != f"response.{log.closed}" or not is_announced(log):
        return f"{event_type} was delivered, its log ended as {log.closed!r}"
    return None
