"""Decides whether anything was lost, repeated, invented or left over: takes histories and logs, yields
violations.

Pure. Owns the rules; does not know how the observations were made, or what went wrong.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from shared import events as ev
from shared.frames import data_of, decode
from shared.lifecycle import IllegalEvent, fold
from shared.responses import TERMINAL, McpCall, McpListTools, Response
from tests.chaos.history import (
    Asked,
    Beyond,
    Conversed,
    Deleted,
    Ended,
    EventSeen,
    GaveUp,
    Log,
    Observation,
    OfCall,
    Refused,
    Replayed,
    Reported,
    Store,
    Struck,
    ViewEnded,
    ViewOpened,
    sha_of_bytes,
    sha_of_response,
)
from tests.chaos.judging import CallHistory, Findings, Run, Violation, group, own_pauses_s
from tests.chaos.output import Output, say, with_failures
from tests.chaos.plans import PLANS
from tests.chaos.reasons import CALM_WAIT_MAX_S, Span, Strikes, span_of, waits
from tests.chaos.serving_rules import check_looks, check_served, check_traces, is_of_a_lost_socket
from tests.chaos.tool_rules import check_tools
from tests.chaos.webhook_rules import check_webhooks

_TERMINAL_EVENTS = (ev.ResponseCompleted, ev.ResponseIncomplete, ev.ResponseFailed)
_INPUT = "input"
_MOMENT_S = 0.001
_GIVEN_UP = "workers were lost while they had it"
_ENDS = ("exit code 0", "SIGKILL", "SIGTERM")
_LATER = (429, 503)
"""Statuses that ask the client to retry, and say nothing about the response."""


@dataclass(slots=True)
class View:
    opened: ViewOpened
    events: list[EventSeen] = field(default_factory=list)
    is_replay: bool = False
    has_closed: bool = False
    ended_s: float = 0.0


def check(observations: Sequence[Observation], store: Store, owners_lost_max: int) -> list[Violation]:
    """Yields every violation, those of single calls first, in the order of the calls.

    `owners_lost_max`: the number of lost owners after which, and only then, a response may fail.
    """
    histories = group(observations)
    run = Run(
        store,
        read_undisturbed(histories, store),
        owners_lost_max,
        Strikes(observations),
        own_pauses_s(histories),
    )
    violations: list[Violation] = []
    for call, history in histories.items():
        found = _check_call(history, run)
        violations += [Violation(rule, call, what) for rule, what in found]
    known = {response_id for history in histories.values() for response_id in history.response_ids}
    conversed = [seen for seen in observations if isinstance(seen, Conversed)]
    joined = [found for seen in conversed for found in _check_conversation(seen, histories, store)]
    told = check_webhooks(observations, histories, store.logs) if store.has_webhooks else ()
    traced = check_traces(store.traces, histories)
    looked = check_looks(observations, run.strikes)
    known |= {
        response_id
        for response_id, log in store.logs.items()
        if response_id not in known and is_of_a_lost_socket(log, histories.values())
    }
    processes, stored = _check_processes(observations), _check_store(store, known)
    return [*violations, *joined, *told, *traced, *looked, *processes, *stored]


def read_undisturbed(histories: Mapping[int, CallHistory], store: Store) -> dict[str, Output]:
    """Returns the undisturbed output of each plan."""
    undisturbed: dict[str, Output] = {}
    for history in histories.values():
        log = _log_of(history, store)
        if history.asked.is_undisturbed and log is not None:
            response = _response_of(log)
            if response is not None:
                undisturbed[history.asked.plan] = say(response, history.asked.key)
    return undisturbed


def _log_of(history: CallHistory, store: Store) -> Log | None:
    return store.logs.get(history.response_ids[0]) if history.response_ids else None


def _response_of(log: Log) -> Response | None:
    try:
        return fold(decode(frame) for frame in log.frames)
    except (IllegalEvent, msgspec.DecodeError, IndexError):
        return None


def _check_call(history: CallHistory, run: Run) -> Findings:
    store = run.store
    yield from _check_answers(history, run.strikes)
    yield from _check_waits(history, run)
    if len(set(history.response_ids)) > 1:
        yield "one call, one response", f"the call made {', '.join(sorted(set(history.response_ids)))}"
    log = _log_of(history, store)
    if log is None:
        yield from _check_without_log(history)
        return
    if any(isinstance(seen, Deleted) for seen in history.seen):
        yield "what is deleted is gone", f"{log.response_id} has a log"
    yield from _check_log(log)
    yield from _check_views(history, log, run.strikes)
    response = _response_of(log)
    if response is None:
        return  # reported by `_check_log`
    yield from _check_reported(history, log, run.strikes)
    yield from _check_end(history, log, response, run)
    yield from check_tools(history, log, response, run)
    yield from check_served(history, response)
    if response.status == PLANS[history.asked.plan].status:
        yield from _check_text(history.asked, response, run.undisturbed)


# --- answers to the client ------------------------------------------------------------------------


def _check_answers(history: CallHistory, strikes: Strikes) -> Findings:
    is_deleted = False
    for seen in history.seen:
        match seen:
            case GaveUp():
                yield "every response ends", "the client waited in vain"
            case Refused(operation=operation, status=status, body=body, at_s=at_s):
                if status in _LATER:
                    if strikes.calm_s(Span(at_s, at_s + _MOMENT_S)) > 0:
                        yield (
                            "a refusal has its cause",
                            f"{operation} was answered {status} at {at_s}: {body}",
                        )
                elif not _is_expected(history.asked, operation, status, is_deleted):
                    yield "every answer is right", f"{operation} was answered {status}: {body}"
            case Deleted():
                is_deleted = True
            case Reported(operation=operation) if is_deleted:
                yield "what is deleted is gone", f"{operation} returned it"
            case Beyond(after=after, has_learned=False, at_s=at_s) if not strikes.is_mixed(at_s):
                yield "every reader learns the end", f"silence after {after}, which never was"
            case _:
                pass
    if not history.response_ids:
        yield "every response ends", "the call was never accepted"


def _is_expected(asked: Asked, operation: str, status: int, is_deleted: bool) -> bool:
    """Returns True for a cancel that is too late, a repeated delete, and a response that is deleted or not
    stored."""
    match operation, status:
        case "cancel", 400:
            return asked.way == "cancel"
        case "delete", 404:
            return asked.way == "delete"
        case "poll", 404:
            return is_deleted
        case "read", 404:
            return asked.way == "unstored"
        case _:
            return False


def _check_without_log(history: CallHistory) -> Findings:
    if history.response_ids and history.asked.way not in ("delete", "unstored"):
        yield "nothing accepted is lost", f"{history.response_ids[0]} has no log"


def _check_waits(history: CallHistory, run: Run) -> Findings:
    """While no misfortune reaches, a client waits no longer than twice as long as the plan itself, or a bound
    that is made of lease times."""
    if history.asked.is_undisturbed or history.asked.tier == "flex":  # which waits for all others
        return
    for wait in waits(history.seen):
        calm_s = run.strikes.calm_s(wait)
        if calm_s > CALM_WAIT_MAX_S + run.pauses_s.get(history.asked.plan, 0.0) * 2:
            yield "no wait without a cause", f"{calm_s:.1f} s without an event until {wait.end_s}"


def _check_reported(history: CallHistory, log: Log, strikes: Strikes) -> Findings:
    """Checks that whole responses as reported agree with the log, which another version may have written."""
    final = sha_of_response(msgspec.json.decode(data_of(log.frames[-1])).get("response", {}))
    shas = (
        {seen.sha for seen in history.seen if isinstance(seen, Reported)} if strikes.is_upgrade else {final}
    )
    for seen in history.seen:
        if isinstance(seen, Reported) and seen.status in TERMINAL and seen.sha not in shas:
            yield "what is reported is the log", f"{seen.operation} reported another {seen.status} response"
    ended = False
    for seen in history.seen:
        if isinstance(seen, Reported):
            if ended and seen.status not in TERMINAL:
                yield "what is reported is the log", f"reported {seen.status} after the end"
            ended = ended or seen.status in TERMINAL


# --- the log and its views ------------------------------------------------------------------------


def _check_log(log: Log) -> Findings:
    if log.numbers != tuple(range(len(log.numbers))):
        yield "numbers 0…n", f"the log holds {_show(log.numbers)}"
    try:
        events = [decode(frame) for frame in log.frames]
    except msgspec.DecodeError as error:
        yield "every entry is an event", str(error)
        return
    terminal = [number for number, event in enumerate(events) if isinstance(event, _TERMINAL_EVENTS)]
    if terminal != [len(events) - 1]:
        yield "one terminal event, the last", f"terminal events at {terminal} of {len(events)} entries"
        return
    try:
        before, response = fold(events[:-1]), fold(events)
    except (IllegalEvent, IndexError) as error:
        yield "the log is one story", str(error)
        return
    if response.status in ("completed", "incomplete") and before.output != response.output:
        yield "the log is one story", "the terminal event's output is not the sum of the events before it"
    if log.closed != response.status:
        yield "closed as it ended", f"closed as {log.closed!r}, ended as {response.status!r}"
    yield from _check_deltas(events)


def _check_deltas(events: Sequence[ev.StreamEvent]) -> Findings:
    """Checks that the deltas of every text make that text."""
    pieces: defaultdict[str, str] = defaultdict(str)
    for event in events:
        match event:
            case ev.OutputItemAdded(item=McpCall(approval_request_id=str(), arguments=text)):
                pieces[event.item.id] = text  # which the client has approved
            case (
                ev.ReasoningTextDelta()
                | ev.OutputTextDelta()
                | ev.McpCallArgumentsDelta()
                | ev.FunctionCallArgumentsDelta()
                | ev.CustomToolCallInputDelta()
                | ev.CodeInterpreterCallCodeDelta()
            ):
                pieces[event.item_id] += event.delta
            case (
                ev.ReasoningTextDone(text=text)
                | ev.OutputTextDone(text=text)
                | ev.McpCallArgumentsDone(arguments=text)
                | ev.FunctionCallArgumentsDone(arguments=text)
                | ev.CustomToolCallInputDone(input=text)
                | ev.CodeInterpreterCallCodeDone(code=text)
            ):
                if pieces[event.item_id] != text:
                    yield "the pieces make the text", f"{pieces[event.item_id]!r} became {text!r}"
            case _:
                pass


def _check_views(history: CallHistory, log: Log, strikes: Strikes) -> Findings:
    shas = {number: sha_of_bytes(frame) for number, frame in zip(log.numbers, log.frames, strict=True)}
    views = read_views(history.seen)
    for view in views.values():
        first = view.opened.after + 1
        numbers = [event.number for event in view.events]
        if numbers != list(range(first, first + len(numbers))):
            yield "numbers 0…n in every view", f"view {view.opened.view} from {first} saw {_show(numbers)}"
        for event in view.events:
            if shas.get(event.number) != event.sha:
                yield "every view is the log", f"view {view.opened.view} saw other bytes at {event.number}"
                break
        if view.is_replay and view.has_closed and len(numbers) != len(log.numbers):
            yield (
                "every view is the log",
                f"a replay ended in order after {len(numbers)} of {len(log.numbers)} events",
            )
        following = numbers[-1] + 1 if numbers else first
        span = Span(view.opened.at_s, view.ended_s)
        is_earlier = strikes.is_replaced(view.opened.node, span)  # whose code has these faults
        if not view.has_closed or view.is_replay or is_earlier:
            continue
        what = f"view {view.opened.view} ended in order before {following} of {len(log.numbers)}"
        if following < len(log.numbers):
            yield "a stream that ends short is cut", what
        if not numbers and following > len(log.numbers):
            yield "every reader learns the end", what


def read_views(seen: Iterable[OfCall]) -> dict[int, View]:
    views: dict[int, View] = {}
    replays: set[int] = set()
    for one in seen:
        match one:
            case Replayed(view=view):
                replays.add(view)
            case ViewOpened(view=view):
                views[view] = View(one, is_replay=view in replays)
            case EventSeen(view=view):
                views[view].events.append(one)
            case ViewEnded(view=view, how=how, at_s=at_s):
                views[view].has_closed, views[view].ended_s = how == "closed", at_s
            case _:
                pass
    return views


def _show(numbers: Sequence[int]) -> str:
    """Returns the first place where the numbers do not rise by one, with its surroundings."""
    for place in range(1, len(numbers)):
        if numbers[place] != numbers[place - 1] + 1:
            return f"… {', '.join(map(str, numbers[max(0, place - 3) : place + 3]))} …"
    return f"{numbers[0]} to {numbers[-1]}" if numbers else "nothing"


# --- how it ended ---------------------------------------------------------------------------------


def _check_end(history: CallHistory, log: Log, response: Response, run: Run) -> Findings:
    match response.status:
        case "cancelled":
            if history.asked.way not in ("cancel", "abandon"):
                yield "an end has its reason", "cancelled, and nobody asked for it"
        case "failed":
            reason = response.error.message if response.error else "no reason"
            if log.deaths < run.owners_lost_max or _GIVEN_UP not in reason:
                yield "an end has its reason", f"failed after {log.deaths} lost owners: {reason}"
            elif run.strikes.deaths(span_of(history.seen)) < run.owners_lost_max:
                yield "a death has its cause", f"{log.deaths} owners were counted as lost: {reason}"
        case status:
            if status != PLANS[history.asked.plan].status:
                yield "an end has its reason", f"{status} instead of {PLANS[history.asked.plan].status}"
    is_cancelled = response.status == "cancelled"
    for seen in history.seen:
        if isinstance(seen, Reported) and seen.operation == "cancel" and not is_cancelled:
            yield "cancelled is cancelled", f"the cancel was granted, the log ended as {response.status}"


def _check_text(asked: Asked, response: Response, undisturbed: Mapping[str, Output]) -> Findings:
    if any(isinstance(item, McpListTools) and item.error for item in response.output):
        return  # reported by `_check_tools`; what follows is another conversation
    expected, said = undisturbed.get(asked.plan), say(response, asked.key)
    if expected is None:
        yield "as in the undisturbed run", f"there is none of {asked.plan!r}"
        return
    if asked.parent is not None and not any(item[0] == "listing" for item in said):
        # A response that continues one that has listed the tools does not list them again.
        expected = tuple(item for item in expected if item[0] != "listing")
    if said != with_failures(expected, said):
        yield "as in the undisturbed run", f"said {said}, undisturbed {expected}"


def _check_conversation(
    seen: Conversed, histories: Mapping[int, CallHistory], store: Store
) -> Iterator[Violation]:
    """Checks that a conversation has the input of each call, followed by every item of its output once, in
    order."""
    expected: list[str] = []
    for call in seen.calls:
        log = _log_of(histories[call], store)
        response = None if log is None else _response_of(log)
        if response is None or response.status != PLANS[histories[call].asked.plan].status:
            return  # reported elsewhere
        expected += [_INPUT, *(item.id for item in response.output)]
    outputs = set(expected)
    held = [item_id if item_id in outputs else _INPUT for item_id in seen.item_ids]
    if held != expected:
        what = f"{seen.conversation} holds {seen.item_ids}, its calls made {expected}"
        yield Violation("a conversation holds all of its calls once", seen.calls[-1], what)


# --- who ran ---------------------------------------------------------------------------------------


def _check_processes(observations: Sequence[Observation]) -> Iterator[Violation]:
    """Checks that processes end only when they are killed or stopped, once each, by a signal or in order."""
    ordered = Counter(
        f"{seen.role}-{seen.number}"
        for seen in observations
        if isinstance(seen, Struck) and seen.action in ("kill", "drain")
    )
    for seen in observations:
        if not isinstance(seen, Ended):
            continue
        ordered[seen.process] -= 1
        if seen.how not in _ENDS or ordered[seen.process] < 0:
            yield Violation("a process ends when it is ended", None, f"{seen.process} ended with {seen.how}")


# --- what is left over ----------------------------------------------------------------------------


def _check_store(store: Store, known: set[str]) -> Iterator[Violation]:
    for response_id in store.logs.keys() - known:
        yield Violation(
            "nothing is invented", None, f"{response_id} was never returned to the client that asked for it"
        )
    for left in store.leftovers:
        yield Violation("nothing is left over", None, left)
    for key in store.without_ttl:
        yield Violation("no key without TTL", None, key)
