"""Decides whether anything was lost, repeated, invented or left: histories and logs in, violations out.

Pure. Owns the rules; how the observations were made, and by what misfortunes, is not known here.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from shared import events as ev
from shared.lifecycle import IllegalEvent, fold
from shared.responses import TERMINAL, McpCall, McpListTools, McpProtocolError, Response
from shared.tool_calls import describe
from tests.chaos.history import (
    Accepted,
    Asked,
    EventSeen,
    GaveUp,
    Log,
    Observation,
    OfCall,
    Refused,
    Replayed,
    Store,
    Told,
    ViewEnded,
    ViewOpened,
    sha_of_bytes,
    sha_of_response,
)
from tests.chaos.output import Output, say, with_failures
from tests.chaos.plans import PLANS, REPEATABLE

_TERMINAL_EVENTS = (ev.ResponseCompleted, ev.ResponseIncomplete, ev.ResponseFailed)
_LATER = (429, 503)
"""Answers that ask to try again, and say nothing of the response."""


@dataclass(frozen=True, slots=True)
class Violation:
    rule: str
    call: int | None
    """None: it is the store's, no single call's."""
    what: str


@dataclass(slots=True)
class CallHistory:
    """What was observed of one create call, in order."""

    asked: Asked
    seen: list[OfCall] = field(default_factory=list)
    response_ids: list[str] = field(default_factory=list)


@dataclass(slots=True)
class View:
    opened: ViewOpened
    events: list[EventSeen] = field(default_factory=list)
    is_replay: bool = False
    has_closed: bool = False


def check(observations: Sequence[Observation], store: Store, attempts_max: int) -> list[Violation]:
    """Every violation that can be found, those of single calls first, in the order of the calls.

    `attempts_max`: after so many lost owners a response may fail, and only then.
    """
    histories = group(observations)
    undisturbed = read_undisturbed(histories, store)
    violations: list[Violation] = []
    for call, history in histories.items():
        found = _check_call(history, store, undisturbed, attempts_max)
        violations += [Violation(rule, call, what) for rule, what in found]
    known = {response_id for history in histories.values() for response_id in history.response_ids}
    return [*violations, *_check_store(store, known)]


def group(observations: Iterable[Observation]) -> dict[int, CallHistory]:
    histories: dict[int, CallHistory] = {}
    for seen in observations:
        match seen:
            case Asked():
                histories[seen.call] = CallHistory(seen)
            case Accepted():
                histories[seen.call].response_ids.append(seen.response_id)
            case _:
                pass
        if isinstance(seen, OfCall):
            histories[seen.call].seen.append(seen)
    return histories


def read_undisturbed(histories: Mapping[int, CallHistory], store: Store) -> dict[str, Output]:
    """plan -> what its response says when nothing goes wrong."""
    told: dict[str, Output] = {}
    for history in histories.values():
        log = _log_of(history, store)
        if history.asked.is_undisturbed and log is not None:
            response = _response_of(log)
            if response is not None:
                told[history.asked.plan] = say(response, history.asked.key)
    return told


def _log_of(history: CallHistory, store: Store) -> Log | None:
    return store.logs.get(history.response_ids[0]) if history.response_ids else None


def _response_of(log: Log) -> Response | None:
    try:
        return fold(ev.decode(frame) for frame in log.frames)
    except (IllegalEvent, msgspec.DecodeError, IndexError):
        return None


_Findings = Iterator[tuple[str, str]]


def _check_call(
    history: CallHistory, store: Store, undisturbed: Mapping[str, Output], attempts_max: int
) -> _Findings:
    yield from _check_answers(history)
    if len(set(history.response_ids)) > 1:
        yield "one call, one response", f"the call made {', '.join(sorted(set(history.response_ids)))}"
    log = _log_of(history, store)
    if log is None:
        if history.response_ids:
            yield "nothing accepted is lost", f"{history.response_ids[0]} has no log"
        return
    yield from _check_log(log)
    yield from _check_views(history, log)
    response = _response_of(log)
    if response is None:
        return  # told by `_check_log`
    yield from _check_told(history, response)
    yield from _check_end(history, log, response, attempts_max)
    yield from _check_tools(history, log, response, store.counted)
    if response.status == PLANS[history.asked.plan].status:
        yield from _check_text(history.asked, response, undisturbed)


# --- what the client was answered -----------------------------------------------------------------


def _check_answers(history: CallHistory) -> _Findings:
    asks_cancel = history.asked.way == "cancel"
    for seen in history.seen:
        match seen:
            case GaveUp():
                yield "every response ends", "the client waited in vain"
            case Refused(operation=operation, status=status, body=body) if status not in _LATER:
                if not (asks_cancel and operation == "cancel" and status == 400):
                    yield "every answer is right", f"{operation} was answered {status}: {body}"
            case _:
                pass
    if not history.response_ids:
        yield "every response ends", "the call was never accepted"


def _check_told(history: CallHistory, response: Response) -> _Findings:
    """Whole responses that were told agree with the log."""
    final = sha_of_response(msgspec.to_builtins(response))
    for seen in history.seen:
        if isinstance(seen, Told) and seen.status in TERMINAL and seen.sha != final:
            yield "what is told is the log", f"{seen.operation} told another {seen.status} response"
    ended = False
    for seen in history.seen:
        if isinstance(seen, Told):
            if ended and seen.status not in TERMINAL:
                yield "what is told is the log", f"told {seen.status} after the end"
            ended = ended or seen.status in TERMINAL


# --- the log and its views ------------------------------------------------------------------------


def _check_log(log: Log) -> _Findings:
    if log.numbers != tuple(range(len(log.numbers))):
        yield "numbers 0…n", f"the log holds {_show(log.numbers)}"
    try:
        events = [ev.decode(frame) for frame in log.frames]
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


def _check_deltas(events: Sequence[ev.StreamEvent]) -> _Findings:
    """The pieces of every text make that text."""
    pieces: defaultdict[str, str] = defaultdict(str)
    for event in events:
        match event:
            case (
                ev.ReasoningTextDelta()
                | ev.OutputTextDelta()
                | ev.McpCallArgumentsDelta()
                | ev.FunctionCallArgumentsDelta()
            ):
                pieces[event.item_id] += event.delta
            case (
                ev.ReasoningTextDone(text=text)
                | ev.OutputTextDone(text=text)
                | ev.McpCallArgumentsDone(arguments=text)
                | ev.FunctionCallArgumentsDone(arguments=text)
            ):
                if pieces[event.item_id] != text:
                    yield "the pieces make the text", f"{pieces[event.item_id]!r} became {text!r}"
            case _:
                pass


def _check_views(history: CallHistory, log: Log) -> _Findings:
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
            case ViewEnded(view=view, how=how):
                views[view].has_closed = how == "closed"
            case _:
                pass
    return views


def _show(numbers: Sequence[int]) -> str:
    """The first place where numbers do not go on by one, with its surroundings."""
    for place in range(1, len(numbers)):
        if numbers[place] != numbers[place - 1] + 1:
            return f"… {', '.join(map(str, numbers[max(0, place - 3) : place + 3]))} …"
    return f"{numbers[0]} to {numbers[-1]}" if numbers else "nothing"


# --- how it ended ---------------------------------------------------------------------------------


def _check_end(history: CallHistory, log: Log, response: Response, attempts_max: int) -> _Findings:
    match response.status:
        case "cancelled":
            if history.asked.way != "cancel":
                yield "an end has its reason", "cancelled, and nobody asked for it"
        case "failed":
            if log.deaths < attempts_max:
                reason = response.error.message if response.error else "no reason"
                yield "an end has its reason", f"failed after {log.deaths} lost owners: {reason}"
        case status:
            if status != PLANS[history.asked.plan].status:
                yield "an end has its reason", f"{status} instead of {PLANS[history.asked.plan].status}"
    is_cancelled = response.status == "cancelled"
    for seen in history.seen:
        if isinstance(seen, Told) and seen.operation == "cancel" and not is_cancelled:
            yield "cancelled is cancelled", f"the cancel was granted, the log ended as {response.status}"


def _check_text(asked: Asked, response: Response, undisturbed: Mapping[str, Output]) -> _Findings:
    if any(isinstance(item, McpListTools) and item.error for item in response.output):
        return  # told by `_check_tools`; what follows is another conversation
    expected, said = undisturbed.get(asked.plan), say(response, asked.key)
    if expected is None:
        yield "as in the undisturbed run", f"there is none of {asked.plan!r}"
        return
    if asked.parent is not None and not any(item[0] == "listing" for item in said):
        # A response that goes on from one that has listed the tools does not list them again.
        expected = tuple(item for item in expected if item[0] != "listing")
    if said != with_failures(expected, said):
        yield "as in the undisturbed run", f"said {said}, undisturbed {expected}"


# --- tools ----------------------------------------------------------------------------------------


def _check_tools(history: CallHistory, log: Log, response: Response, counted: Mapping[str, int]) -> _Findings:
    asked = history.asked
    calls = [item for item in response.output if isinstance(item, McpCall)]
    for number in range(1, PLANS[asked.plan].calls + 1):
        count = counted.get(f"{asked.key}-{number}", 0)
        if count > 1:
            yield "no call runs twice", f"the call {asked.key}-{number} was executed {count} times"
    results = Counter(call.output for call in calls if call.output is not None)
    for output, times in results.items():
        if times > 1:
            yield "each result is there once", f"{output!r} is there {times} times"
    for call in calls:
        yield from _check_tool_call(call, counted)
    for item in response.output:
        if isinstance(item, McpListTools) and item.error:
            yield "what may be repeated succeeds", f"the listing failed: {item.error}"
    if response.status in ("completed", "incomplete"):
        yield from _check_journal(log, response)


def _check_tool_call(call: McpCall, counted: Mapping[str, int]) -> _Findings:
    key = str(msgspec.json.decode(call.arguments).get("key")) if call.arguments.endswith("}") else ""
    if call.status == "completed" and call.name == "count" and counted.get(key, 0) != 1:
        yield "a result has its call", f"{key} is told as counted, and was {counted.get(key, 0)} times"
    if call.status != "failed" or call.error is None:
        return
    why = describe(call.error)
    if call.name in REPEATABLE:
        yield "what may be repeated succeeds", f"{call.name}: {why}"
    elif not isinstance(call.error, McpProtocolError) or "unknown" not in call.error.message:
        yield "a failed call says why", f"{call.name}: {why}"


def _check_journal(log: Log, response: Response) -> _Findings:
    """A log that is not compacted keeps its journal: a result for every intent, one for every call."""
    if log.is_compacted:
        return
    intents = {name.partition(":")[0] for name in log.journal if name.endswith(":intent")}
    results = {name.partition(":")[0] for name in log.journal if name.endswith(":result")}
    made = {
        str(index) for index, item in enumerate(response.output) if isinstance(item, McpCall | McpListTools)
    }
    if not intents == results == made:
        yield "a journal entry for every call", f"intents {intents}, results {results}, calls {made}"


# --- what is left ---------------------------------------------------------------------------------


def _check_store(store: Store, known: set[str]) -> Iterator[Violation]:
    for response_id in store.logs.keys() - known:
        yield Violation("nothing is invented", None, f"{response_id} was never told to the client who asked")
    for left in store.leftovers:
        yield Violation("nothing is left over", None, left)
    for key in store.without_ttl:
        yield Violation("no key without TTL", None, key)
