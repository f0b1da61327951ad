"""The checker of `make chaos` finds violations: one broken history for each of its rules."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from shared import events as ev
from shared.frames import frame
from shared.lifecycle import cancel, complete, fail
from shared.responses import (
    InputTokensDetails,
    McpCall,
    McpListTools,
    McpProtocolError,
    McpTool,
    Message,
    OutputText,
    OutputTokensDetails,
    Response,
    ResponseError,
    Usage,
)
from tests.chaos import figures
from tests.chaos.__main__ import read_course
from tests.chaos.checker import check
from tests.chaos.history import (
    Accepted,
    Asked,
    Beyond,
    Conversed,
    Deleted,
    Delivered,
    Ended,
    EventSeen,
    GaveUp,
    Log,
    Observation,
    Refused,
    Replayed,
    Reported,
    Store,
    Struck,
    ViewEnded,
    ViewOpened,
    Way,
    sha_of_bytes,
    sha_of_response,
)
from tests.chaos.judging import Violation
from tests.chaos.plans import HELD, KEPT, LABEL, TURN, make_key
from tests.chaos.reasons import CALM_WAIT_MAX_S
from tool_runner.run_tool import NEW_SESSION

UNDISTURBED, CALL = 0, 7
OWNERS_LOST_MAX = 3
_OF_REPLAY = (Replayed, ViewOpened, EventSeen, ViewEnded)
GIVEN_UP = "The response was given up: 3 workers were lost while they had it."
_USAGE = Usage(1, InputTokensDetails(0), 1, OutputTokensDetails(0), 2)


def message(id_: str, text: str, status: Any = "completed") -> Message:
    return Message(id_, status, "assistant", (OutputText(text),))


def text_events(index: int, pieces: Sequence[str]) -> list[ev.StreamEvent]:
    id_, text = f"msg_{index}", "".join(pieces)
    return [
        ev.OutputItemAdded(index, Message(id_, "in_progress", "assistant", ())),
        ev.ContentPartAdded(index, 0, id_, OutputText("")),
        *(ev.OutputTextDelta(index, 0, id_, piece) for piece in pieces),
        ev.OutputTextDone(index, 0, id_, text),
        ev.ContentPartDone(index, 0, id_, OutputText(text)),
        ev.OutputItemDone(index, message(id_, text)),
    ]


def listing_events(index: int, error: str | None = None) -> list[ev.StreamEvent]:
    id_ = f"mcpl_{index}"
    tools = () if error else (McpTool("count", {}),)
    return [
        ev.OutputItemAdded(index, McpListTools(id_, LABEL, ())),
        ev.OutputItemDone(index, McpListTools(id_, LABEL, tools, error)),
    ]


def call_events(
    index: int,
    name: str,
    key: str,
    output: str | None,
    error: McpProtocolError | None = None,
    label: str = LABEL,
) -> list[ev.StreamEvent]:
    arguments = f'{{"key": "{key}"}}'
    call = McpCall(f"mcp_{index}", "in_progress", label, name, "")
    done = msgspec.structs.replace(
        call, status="failed" if error else "completed", arguments=arguments, output=output, error=error
    )
    return [
        ev.OutputItemAdded(index, call),
        ev.McpCallArgumentsDelta(index, call.id, arguments),
        ev.McpCallArgumentsDone(index, call.id, arguments),
        ev.OutputItemDone(index, done),
    ]


def make_events(
    body: Sequence[ev.StreamEvent],
    call: int = CALL,
    way: str = "completed",
    reason: str = GIVEN_UP,
    *,
    is_background: bool = False,
) -> list[ev.StreamEvent]:
    """A whole log with `body` between its beginning and its end."""
    id_ = f"resp_0_{call:032d}"
    begun = Response(id=id_, created_at=1, status="in_progress", model="default", background=is_background)
    output = tuple(event.item for event in body if isinstance(event, ev.OutputItemDone))
    whole = msgspec.structs.replace(begun, output=output)
    end: ev.StreamEvent
    match way:
        case "cancelled":
            end = cancel(begun)
        case "failed":
            end = fail(whole, ResponseError("server_error", reason))
        case _:
            end = complete(whole, _USAGE, 2)
    return [ev.ResponseCreated(begun), ev.ResponseInProgress(begun), *body, end]


def make_log(events: Sequence[ev.StreamEvent], call: int = CALL, **fields: Any) -> Log:
    frames = tuple(frame(event, number) for number, event in enumerate(events))
    closed = events[-1].response.status if isinstance(events[-1], ev.LifecycleEvent) else ""
    log = Log(f"resp_0_{call:032d}", tuple(range(len(frames))), frames, closed, is_archived=True)
    return replace(log, **fields)


def response_of(log: Log) -> Any:
    return msgspec.json.decode(log.frames[-1].split(b"data: ")[1])["response"]


def seen_in(log: Log, call: int, view: int, first: int, count: int | None = None) -> list[Observation]:
    end = len(log.frames) if count is None else first + count
    return [
        EventSeen(1.0 + 0.1 * number, call, view, number, sha_of_bytes(log.frames[number]))
        for number in range(first, end)
    ]


def read_by_a_client(log: Log, plan: str, way: Way = "stream", call: int = CALL) -> list[Observation]:
    """Streamed for three events, dropped, resumed to the end, and read again when all was over."""
    return [
        Asked(0.0, call, 1, plan, way, make_key(call), None, None, call == UNDISTURBED),
        ViewOpened(0.1, call, 0, 0, -1),
        Accepted(0.2, call, log.response_id),
        *seen_in(log, call, 0, 0, 3),
        ViewEnded(1.3, call, 0, "dropped"),
        ViewOpened(1.4, call, 1, 1, 2),
        *seen_in(log, call, 1, 3),
        ViewEnded(5.0, call, 1, "closed"),
        Replayed(9.0, call, 9),
        ViewOpened(9.0, call, 9, 2, -1),
        *seen_in(log, call, 9, 0),
        ViewEnded(9.1, call, 9, "closed"),
    ]


PIECES = ("one", ", ", "two")


class Run:
    """A small run without violations; each test breaks one thing in it."""

    def __init__(
        self, plan: str = "middle", body: Callable[[str], list[ev.StreamEvent]] | None = None
    ) -> None:
        make = body or (lambda _: text_events(0, PIECES))
        self.plan = plan
        self.undisturbed = make_log(make_events(make(make_key(UNDISTURBED)), UNDISTURBED), UNDISTURBED)
        self.events = make_events(make(make_key(CALL)))
        self.way: Way = "stream"
        self.counted: dict[str, int] = {}
        self.turns: dict[str, str] = {}
        self.leftovers: tuple[str, ...] = ()
        self.without_ttl: tuple[str, ...] = ()
        self.has_webhooks = False
        self.fields: dict[str, Any] = {}
        self.more: list[Observation] = []

    @property
    def log(self) -> Log:
        return make_log(self.events, **self.fields)

    @property
    def history(self) -> list[Observation]:
        quiet = read_by_a_client(self.undisturbed, self.plan, call=UNDISTURBED)
        return [*quiet, *read_by_a_client(self.log, self.plan, self.way), *self.more]

    @property
    def store(self) -> Store:
        logs = {log.response_id: log for log in (self.undisturbed, self.log)}
        return Store(logs, self.leftovers, self.without_ttl, self.counted, self.turns, self.has_webhooks)

    def check(
        self, history: Sequence[Observation] | None = None, store: Store | None = None
    ) -> list[Violation]:
        return check(self.history if history is None else history, store or self.store, OWNERS_LOST_MAX)

    def rules(self, history: Sequence[Observation] | None = None, store: Store | None = None) -> set[str]:
        found = self.check(history, store)
        assert all(violation.call in (CALL, None) for violation in found), found
        return {violation.rule for violation in found}


def counting(key: str) -> list[ev.StreamEvent]:
    """Returns two calls of the counting tool, and the violations in them."""
    return [
        *listing_events(0),
        *call_events(1, "count", f"{key}-1", f"counted {key}-1"),
        *call_events(2, "count", f"{key}-2", f"counted {key}-2"),
        *text_events(3, (f"counted {key}-1", " and ", f"counted {key}-2")),
    ]


def counted_once() -> Run:
    run = Run("count", counting)
    run.counted = {f"{make_key(call)}-{number}": 1 for call in (UNDISTURBED, CALL) for number in (1, 2)}
    return run


def looked_up_once() -> Run:
    run = Run("lookup", lambda key: [*call_events(0, "lookup", f"{key}-1", "it"), *text_events(1, ("it",))])
    run.counted = {f"{make_key(call)}-1": 1 for call in (UNDISTURBED, CALL)}
    return run


def struck(role: str, *, at_s: float, action: str = "kill", lasting_s: float = 0.0) -> Struck:
    return Struck(at_s, action, role, 0, 1, lasting_s)


def without(history: Sequence[Observation], view: int, number: int) -> list[Observation]:
    return [
        seen
        for seen in history
        if not (isinstance(seen, EventSeen) and (seen.call, seen.view, seen.number) == (CALL, view, number))
    ]


def test_a_whole_history_has_no_violation() -> None:
    assert Run().check() == []
    assert counted_once().check() == []


# --- views and log --------------------------------------------------------------------------------


def test_a_gap_in_a_view_is_found() -> None:
    run = Run()
    assert run.rules(without(run.history, 1, 4)) == {"numbers 0…n in every view"}


def test_a_repeated_event_in_a_view_is_found() -> None:
    run = Run()
    history = run.history
    place = next(i for i, seen in enumerate(history) if isinstance(seen, EventSeen) and seen.call == CALL)
    assert run.rules([*history[: place + 1], *history[place:]]) == {"numbers 0…n in every view"}


def test_a_resume_that_skips_an_event_is_found() -> None:
    run = Run()
    assert run.rules(without(run.history, 1, 3)) == {"numbers 0…n in every view"}


def test_other_bytes_in_a_view_are_found() -> None:
    run = Run()
    changed = [
        msgspec.structs.replace(seen, sha="0" * 16)
        if isinstance(seen, EventSeen) and (seen.call, seen.view, seen.number) == (CALL, 1, 4)
        else seen
        for seen in run.history
    ]
    assert run.rules(changed) == {"every view is the log"}


def test_an_event_that_the_log_does_not_hold_is_found() -> None:
    run = Run()
    beyond = EventSeen(5.0, CALL, 1, len(run.log.frames), "0" * 16)
    history = run.history
    place = max(
        i
        for i, seen in enumerate(history)
        if isinstance(seen, EventSeen) and (seen.call, seen.view) == (CALL, 1)
    )
    assert run.rules([*history[: place + 1], beyond, *history[place + 1 :]]) == {"every view is the log"}


def test_a_replay_that_ends_in_order_too_early_is_found() -> None:
    run = Run()
    assert run.rules(without(run.history, 9, len(run.log.frames) - 1)) == {"every view is the log"}


def test_a_gap_in_the_log_is_found() -> None:
    run = Run()
    log = run.log
    holed = replace(log, numbers=log.numbers[:4] + log.numbers[5:], frames=log.frames[:4] + log.frames[5:])
    store = replace(run.store, logs={**run.store.logs, log.response_id: holed})
    assert "numbers 0…n" in run.rules(store=store)


def test_an_event_after_the_end_is_found() -> None:
    run = Run()
    run.events.append(ev.OutputTextDelta(0, 0, "msg_0", "late"))
    run.fields = {"closed": "completed"}
    assert "one terminal event, the last" in run.rules()


def test_two_ends_are_found() -> None:
    run = Run()
    run.events.append(run.events[-1])
    assert "one terminal event, the last" in run.rules()


def test_a_log_without_an_end_is_found() -> None:
    run = Run()
    del run.events[-1]
    run.leftovers = ("its state is open",)
    assert run.rules() >= {"one terminal event, the last", "nothing is left over"}


def test_a_log_that_is_closed_as_something_else_is_found() -> None:
    run = Run()
    run.fields = {"closed": "failed"}
    assert run.rules() == {"closed as it ended"}


def test_a_delta_written_by_two_owners_is_found() -> None:
    run = Run()
    place = next(i for i, event in enumerate(run.events) if isinstance(event, ev.OutputTextDelta))
    run.events.insert(place, run.events[place])
    assert run.rules() == {"the pieces make the text"}


def test_an_item_that_the_end_does_not_know_is_found() -> None:
    run = Run()
    run.events[-1:-1] = text_events(1, ("foreign",))
    assert run.rules() == {"the log is one story"}


def test_an_event_that_cannot_follow_is_found() -> None:
    run = Run()
    run.events.insert(3, ev.OutputTextDelta(5, 0, "msg_5", "foreign"))
    assert "the log is one story" in run.rules()


def test_bytes_that_are_no_event_are_found() -> None:
    run = Run()
    log = run.log
    strange = replace(log, frames=(*log.frames[:3], b"event: x\nid: 3\ndata: {}\n\n", *log.frames[4:]))
    store = replace(run.store, logs={**run.store.logs, log.response_id: strange})
    assert "every entry is an event" in run.rules(store=store)


# --- ends and answers -----------------------------------------------------------------------------


def test_an_accepted_response_without_a_log_is_found() -> None:
    run = Run()
    store = replace(run.store, logs={run.undisturbed.response_id: run.undisturbed})
    assert run.rules(store=store) == {"nothing accepted is lost"}


def test_a_client_that_waited_in_vain_is_found() -> None:
    run = Run()
    run.more = [GaveUp(60.0, CALL)]
    assert run.rules() == {"every response ends"}


def test_a_call_that_was_never_accepted_is_found() -> None:
    run = Run()
    history = [seen for seen in run.history if not isinstance(seen, Accepted) or seen.call != CALL]
    assert "every response ends" in run.rules(history)


def test_a_call_that_made_two_responses_is_found() -> None:
    run = Run()
    run.more = [Accepted(2.0, CALL, "resp_0_another")]
    assert run.rules() == {"one call, one response"}


def test_a_response_that_nobody_asked_for_is_found() -> None:
    run = Run()
    other = make_log(run.events, 99)
    store = replace(run.store, logs={**run.store.logs, other.response_id: other})
    assert run.rules(store=store) == {"nothing is invented"}


def test_an_answer_that_knows_nothing_of_a_response_is_found() -> None:
    run = Run()
    run.more = [Refused(3.0, CALL, "read", 1, 404, "not found")]
    assert run.rules() == {"every answer is right"}


def test_an_answer_to_try_again_later_is_no_violation() -> None:
    run = Run()
    run.more = [Refused(3.0, CALL, "read", 1, 503, "later"), struck("valkey", at_s=2.0)]
    assert run.check() == []


def test_an_answer_to_try_again_later_while_nothing_was_wrong_is_found() -> None:
    run = Run()
    run.more = [Refused(3.0, CALL, "read", 1, 503, "later")]
    assert run.rules() == {"a refusal has its cause"}
    run.more += [struck("valkey", at_s=3.1), struck("worker", at_s=1.0, action="miss")]
    assert run.rules() == {"a refusal has its cause"}


def test_a_503_while_a_killed_server_becomes_a_replica_again_has_its_cause() -> None:
    run = Run()
    run.more = [struck("valkey", at_s=2.0), Refused(20.0, CALL, "read", 1, 503, "later")]
    assert run.rules() == {"a refusal has its cause"}
    run.more.append(struck("valkey", at_s=90.0, action="failover"))
    assert run.rules() == set()


def test_a_failure_without_lost_owners_is_found() -> None:
    run = Run()
    run.events = make_events(text_events(0, PIECES), way="failed")
    run.fields = {"deaths": OWNERS_LOST_MAX - 1}
    assert run.rules() == {"an end has its reason"}


def test_a_failure_after_too_many_lost_owners_is_no_violation() -> None:
    run = Run()
    run.events = make_events(text_events(0, PIECES), way="failed")
    run.fields = {"deaths": OWNERS_LOST_MAX}
    run.more = [struck("worker", at_s=1.0 + number) for number in range(OWNERS_LOST_MAX)]
    assert run.check() == []


def test_a_failure_for_another_reason_is_found_however_many_owners_were_lost() -> None:
    run = Run()
    run.events = make_events(text_events(0, PIECES), way="failed", reason="The server had an error.")
    run.fields = {"deaths": OWNERS_LOST_MAX}
    run.more = [struck("worker", at_s=1.0 + number) for number in range(OWNERS_LOST_MAX)]
    assert run.rules() == {"an end has its reason"}


def test_deaths_of_owners_that_nobody_killed_are_found() -> None:
    run = Run()
    run.events = make_events(text_events(0, PIECES), way="failed")
    run.fields = {"deaths": OWNERS_LOST_MAX}
    run.more = [struck("valkey", at_s=1.0 + number, action="stop") for number in range(OWNERS_LOST_MAX)]
    assert run.rules() == {"a death has its cause"}


def test_a_stream_that_ends_in_order_before_the_end_of_the_log_is_found() -> None:
    run = Run()
    short = seen_in(run.log, CALL, 2, 3, 2)
    run.more = [ViewOpened(5.1, CALL, 2, 0, 2), *short, ViewEnded(5.3, CALL, 2, "closed")]
    assert run.rules() == {"a stream that ends short is cut"}
    run.more[-1] = ViewEnded(5.3, CALL, 2, "broken")
    assert run.check() == []


def test_a_node_of_an_earlier_version_may_end_a_stream_in_order_when_it_is_replaced() -> None:
    run = Run()
    short = seen_in(run.log, CALL, 2, 3, 2)
    run.more = [ViewOpened(5.1, CALL, 2, 0, 2), *short, ViewEnded(5.3, CALL, 2, "closed")]
    run.more += [
        struck("api", at_s=5.0, action="upgrade"),
        Reported(6.0, CALL, "poll", 1, "completed", "0" * 16),
    ]
    assert run.check() == [], "and two versions tell of a response in two shapes"
    run.more[-2] = struck("api", at_s=60.0, action="upgrade")
    assert run.rules() == {"a stream that ends short is cut"}


def test_a_stream_that_ends_in_order_where_the_log_ends_is_no_violation() -> None:
    run = Run()
    last = len(run.log.frames) - 1
    run.more = [ViewOpened(5.1, CALL, 2, 0, last), ViewEnded(5.3, CALL, 2, "closed")]
    assert run.check() == []


def test_a_reader_beyond_the_end_that_gets_no_answer_is_found() -> None:
    run = Run()
    run.more = [Beyond(8.0, CALL, 99, has_learned=True)]
    assert run.check() == []
    run.more = [Beyond(8.0, CALL, 99, has_learned=False)]
    assert run.rules() == {"every reader learns the end"}
    run.more.append(struck("api", at_s=9.0, action="upgrade"))
    assert run.check() == [], "nodes of an earlier version were silent"


def test_a_stream_that_ends_in_order_beyond_the_end_of_the_log_is_found() -> None:
    run = Run()
    run.more = [ViewOpened(5.1, CALL, 2, 0, len(run.log.frames)), ViewEnded(5.3, CALL, 2, "closed")]
    assert run.rules() == {"every reader learns the end"}
    run.more[-1] = ViewEnded(5.3, CALL, 2, "broken")
    assert run.check() == []


def test_a_process_that_ends_by_itself_is_found() -> None:
    run = Run()
    run.more = [struck("api", at_s=6.0), struck("api", at_s=7.0, action="drain")]
    run.more += [Ended(8.0, "api-0", "SIGKILL"), Ended(8.0, "api-0", "exit code 0")]
    assert run.check() == []
    run.more.append(Ended(8.0, "api-0", "exit code 0"))
    assert run.rules() == {"a process ends when it is ended"}, "nobody told it to"
    run.more[2:] = [Ended(8.0, "api-0", "exit code 1")]
    assert run.rules() == {"a process ends when it is ended"}, "it was told, and had an error"


def test_a_long_wait_is_found_unless_a_misfortune_reaches_into_it() -> None:
    run = Run()
    bound_s = CALM_WAIT_MAX_S + 3
    late = [
        msgspec.structs.replace(seen, at_s=seen.at_s + bound_s)
        if isinstance(seen, EventSeen | ViewEnded) and (seen.call, seen.view) == (CALL, 1)
        else seen
        for seen in run.history
    ]
    assert run.rules(late) == {"no wait without a cause"}
    assert run.check([*late, struck("worker", at_s=1.5, action="stop", lasting_s=bound_s)]) == []


def test_what_is_deleted_may_not_be_there_any_more() -> None:
    run = Run()
    run.way = "delete"
    run.more = [Deleted(5.5, CALL), Refused(5.6, CALL, "poll", 0, 404, "not found")]
    history = [
        seen
        for seen in run.history
        if not (isinstance(seen, _OF_REPLAY) and (seen.call, seen.view) == (CALL, 9))
    ]
    store = replace(run.store, logs={run.undisturbed.response_id: run.undisturbed})
    assert run.check(history, store) == []
    assert run.rules(history) == {"what is deleted is gone"}
    told = Reported(5.7, CALL, "poll", 0, "completed", "0" * 16)
    assert run.rules([*history, told], store) == {"what is deleted is gone"}


def test_a_conversation_that_lacks_or_repeats_something_is_found() -> None:
    run = Run()
    for item_ids, is_right in (
        (("msg_in", "msg_0"), True),
        (("msg_in",), False),
        (("msg_0",), False),
        (("msg_in", "msg_0", "msg_0"), False),
        (("msg_0", "msg_in"), False),
    ):
        run.more = [Conversed(8.0, "conv", (CALL,), item_ids)]
        assert run.rules() == (set() if is_right else {"a conversation holds all of its calls once"})


def test_an_abandoned_response_may_be_cancelled_and_an_unstored_one_may_be_gone() -> None:
    run = Run()
    run.way, run.events = "abandon", make_events(text_events(0, PIECES), way="cancelled")
    assert run.check() == []
    run = Run()
    run.way = "unstored"
    store = replace(run.store, logs={run.undisturbed.response_id: run.undisturbed})
    assert run.check(store=store) == []


def test_a_cancelled_response_that_nobody_cancelled_is_found() -> None:
    run = Run()
    run.events = make_events(text_events(0, PIECES), way="cancelled")
    assert run.rules() == {"an end has its reason"}


def test_a_granted_cancel_that_did_not_cancel_is_found() -> None:
    run = Run()
    run.way = "cancel"
    sha = sha_of_response(response_of(run.log))
    run.more = [Reported(3.0, CALL, "cancel", 0, "cancelled", sha)]
    assert run.rules() == {"cancelled is cancelled"}


def test_a_poll_that_reports_another_end_is_found() -> None:
    run = Run()
    run.more = [Reported(6.0, CALL, "poll", 0, "completed", "0" * 16)]
    assert run.rules() == {"what is reported is the log"}


def test_a_poll_that_goes_back_after_the_end_is_found() -> None:
    run = Run()
    sha = sha_of_response(response_of(run.log))
    run.more = [
        Reported(6.0, CALL, "poll", 0, "completed", sha),
        Reported(6.5, CALL, "poll", 1, "in_progress", "0" * 16),
    ]
    assert run.rules() == {"what is reported is the log"}


def test_another_text_than_the_undisturbed_one_is_found() -> None:
    run = Run()
    run.events = make_events(text_events(0, ("one, two, two",)))
    assert run.rules() == {"as in the undisturbed run"}


def test_a_response_that_goes_on_from_another_need_not_list_the_tools_again() -> None:
    run = counted_once()
    key = make_key(CALL)
    run.events = make_events(
        [
            *call_events(0, "count", f"{key}-1", f"counted {key}-1"),
            *call_events(1, "count", f"{key}-2", f"counted {key}-2"),
            *text_events(2, (f"counted {key}-1", " and ", f"counted {key}-2")),
        ]
    )
    assert run.rules() == {"as in the undisturbed run"}
    history = [
        msgspec.structs.replace(seen, parent=3) if isinstance(seen, Asked) and seen.call == CALL else seen
        for seen in run.history
    ]
    assert run.rules(history) == set()


def test_an_incomplete_end_of_a_plan_that_completes_is_found() -> None:
    run = Run()
    end = run.events[-1]
    assert isinstance(end, ev.ResponseCompleted)
    run.events[-1] = ev.ResponseIncomplete(msgspec.structs.replace(end.response, status="incomplete"))
    assert run.rules() == {"an end has its reason"}


# --- tools ----------------------------------------------------------------------------------------


def test_a_call_that_was_executed_twice_is_found() -> None:
    run = counted_once()
    run.counted[f"{make_key(CALL)}-1"] = 2
    assert run.rules() == {"no call runs twice", "a result has its call"}


def test_a_call_whose_outcome_is_unknown_may_have_been_executed_once_or_never() -> None:
    run = counted_once()
    key, error = make_key(CALL), McpProtocolError(-32002, "whether the tool ran is unknown")
    told = f"The tool call failed: {error.message} (code {error.code})."
    run.events = make_events(
        [
            *listing_events(0),
            *call_events(1, "count", f"{key}-1", None, error),
            *call_events(2, "count", f"{key}-2", f"counted {key}-2"),
            *text_events(3, (told, " and ", f"counted {key}-2")),
        ]
    )
    assert run.rules() == {"an unknown outcome has its cause"}
    run.more = [struck("valkey", at_s=1.0)]
    assert run.rules() == {"an unknown outcome has its cause"}
    run.more = [struck("tool_runner", at_s=1.0)]
    assert run.check() == []
    run.counted[f"{key}-1"] = 0
    assert run.check() == []
    run.counted[f"{key}-1"] = 2
    assert run.rules() == {"no call runs twice"}
    run.counted[f"{key}-1"] = 1
    run.more = [struck("tool_runner", at_s=20.0)]
    assert run.rules() == {"an unknown outcome has its cause"}
    run.way = "abandon"
    assert run.check() == [], "its client has left, and it goes on"


def test_a_result_without_an_execution_is_found() -> None:
    run = counted_once()
    del run.counted[f"{make_key(CALL)}-2"]
    assert run.rules() == {"a result has its call"}


def test_a_result_that_is_there_twice_is_found() -> None:
    run = counted_once()
    key = make_key(CALL)
    run.events = make_events(
        [
            *listing_events(0),
            *call_events(1, "count", f"{key}-1", f"counted {key}-1"),
            *call_events(2, "count", f"{key}-2", f"counted {key}-1"),
            *text_events(3, (f"counted {key}-1", " and ", f"counted {key}-2")),
        ]
    )
    assert run.rules() == {"each result is there once", "as in the undisturbed run"}


def test_a_repeatable_call_that_failed_is_found() -> None:
    error = McpProtocolError(-32002, "whether the tool ran is unknown")
    told = f"The tool call failed: {error.message} (code {error.code})."
    run = looked_up_once()
    run.events = make_events([*call_events(0, "lookup", "k-1", None, error), *text_events(1, (told,))])
    assert "what may be repeated succeeds" in run.rules()


def test_a_repeatable_call_that_was_repeated_without_a_cause_is_found() -> None:
    run = looked_up_once()
    run.counted[f"{make_key(CALL)}-1"] = 2
    assert run.rules() == {"no call runs twice"}
    run.more = [struck("tool_runner", at_s=1.0)]
    assert run.check() == []


def test_a_listing_that_failed_is_found() -> None:
    run = counted_once()
    run.events = make_events([*listing_events(0, "the runner was lost"), *text_events(1, ("Nothing fits",))])
    assert run.rules() == {"what may be repeated succeeds"}


def test_a_failed_call_that_does_not_say_that_its_outcome_is_unknown_is_found() -> None:
    run = counted_once()
    error = McpProtocolError(-32000, "refused")
    run.events = make_events(call_events(0, "count", f"{make_key(CALL)}-1", None, error))
    assert "a failed call says why" in run.rules()


def in_turns(label: str, told: bool) -> Run:
    """A response with two calls of a server with sessions; `told`: the second one is said to have a new
    session, and has."""

    def take_turns(key: str) -> list[ev.StreamEvent]:
        outputs = [f"turn of {key}-1", f"turn of {key}-2"]
        if told and key == make_key(CALL):
            outputs[1] = f"{NEW_SESSION}\n{outputs[1]}"
        calls = [
            call_events(n, TURN, f"{key}-{n + 1}", output, None, label) for n, output in enumerate(outputs)
        ]
        return [*calls[0], *calls[1]]

    run = Run("held", take_turns)
    keys = [f"{make_key(call)}-{number}" for call in (UNDISTURBED, CALL) for number in (1, 2)]
    run.counted = dict.fromkeys(keys, 1)
    run.turns = dict.fromkeys(keys, "one") | ({keys[-1]: "other"} if told else {})
    return run


def test_a_session_that_was_left_without_a_word_is_found() -> None:
    run = in_turns(HELD, told=False)
    assert run.check() == []
    run.turns[f"{make_key(CALL)}-2"] = "other"
    run.more = [struck("tool_runner", at_s=1.0)]
    assert run.rules() == {"a new session is told"}


def test_a_new_session_while_no_tool_runner_was_harmed_is_found() -> None:
    run = in_turns(HELD, told=True)
    assert run.rules() == {"a new session has its cause"}
    run.more = [struck("tool_runner", at_s=1.0)]
    assert run.check() == []
    run.turns[f"{make_key(CALL)}-2"] = "one"
    assert run.rules() == {"a new session has its cause"}


def test_a_new_session_with_a_server_that_any_tool_runner_can_continue_with_is_found() -> None:
    run = in_turns(KEPT, told=True)
    run.more = [struck("tool_runner", at_s=1.0)]
    assert run.rules() == {"a new session has its cause"}


def test_a_journal_without_a_result_is_found() -> None:
    run = counted_once()
    entries = {f"{index}:{part}" for index in (0, 1, 2) for part in ("intent", "claim", "result")}
    for is_archived in (False, True):
        run.fields = {"is_archived": is_archived, "journal": frozenset(entries)}
        assert run.check() == []
        run.fields["journal"] = frozenset(entries - {"2:result"})
        assert run.rules() == {"a journal entry for every call"}


# --- webhooks -------------------------------------------------------------------------------------


def delivering_run(**fields: Any) -> tuple[Run, Delivered]:
    """A response in the background, and the delivery of its end."""
    run = Run()
    run.events = make_events(text_events(0, PIECES), is_background=True)
    run.has_webhooks = True
    told = Delivered(6.0, run.log.response_id, "response.completed", "evt_1", is_signed=True, is_taken=True)
    return run, msgspec.structs.replace(told, **fields)


def test_ends_may_be_delivered_more_than_once_and_those_of_the_foreground_are_not() -> None:
    run, told = delivering_run()
    asked = msgspec.structs.replace(told, status_then="completed")
    run.more = [msgspec.structs.replace(told, is_taken=False), told, asked]
    assert run.check() == []
    measured = figures.measure(run.history, run.store)
    assert (measured.delivered, measured.deliveries, measured.delivered_when_ended) == (1, 3, 1)


def test_an_end_that_was_not_delivered_is_found() -> None:
    run, told = delivering_run(is_taken=False)
    assert run.rules() == {"every end is delivered"}
    run.more = [told]
    assert run.rules() == {"every end is delivered"}
    run.has_webhooks = False
    assert run.rules() == set()


@pytest.mark.parametrize(
    "fields",
    [
        {"event_type": "response.failed"},
        {"is_signed": False},
        {"response_id": "resp_0_none"},
        {"status_then": "in_progress"},
    ],
    ids=str,
)
def test_a_delivery_of_an_end_that_was_none_is_found(fields: dict[str, Any]) -> None:
    run, told = delivering_run()
    run.more = [told, msgspec.structs.replace(told, **fields)]
    assert run.rules() == {"what is delivered has ended"}


def test_a_delivery_for_a_response_that_is_open_or_in_the_foreground_is_found() -> None:
    run, told = delivering_run()
    run.more = [told]
    run.fields = {"closed": ""}
    assert "what is delivered has ended" in run.rules()
    run.fields, run.events = {}, make_events(text_events(0, PIECES))
    assert run.rules() == {"what is delivered has ended"}


# --- what is left over ----------------------------------------------------------------------------


def test_a_key_that_is_left_over_is_found() -> None:
    run = Run()
    run.leftovers = ("arq:job:default/resp:0 (a string)",)
    assert run.rules() == {"nothing is left over"}


def test_a_key_without_ttl_is_found() -> None:
    run = Run()
    run.without_ttl = ("antiphon:{queue}:closed",)
    assert run.rules() == {"no key without TTL"}


# --- figures --------------------------------------------------------------------------------------


def test_a_stall_is_the_wait_beyond_the_plans_own() -> None:
    run = Run()
    late = [
        msgspec.structs.replace(seen, at_s=seen.at_s + 2)
        if isinstance(seen, EventSeen) and seen.call == CALL and seen.view == 1 and seen.number > 4
        else seen
        for seen in run.history
        if not isinstance(seen, ViewEnded) or seen.view != 1
    ]
    measured = figures.measure(late, run.store)
    (stall_s,) = measured.stalls_s
    own_s = max(figures.waits_s(read_by_a_client(run.undisturbed, "middle")))  # type: ignore[arg-type]
    assert abs(own_s + stall_s - 2.1) < 0.01


def test_the_time_between_a_clients_own_drop_and_its_resume_is_no_stall() -> None:
    def waits(how: Any) -> float:
        return max(
            figures.waits_s(
                [
                    ViewOpened(0.0, CALL, 0, 0, -1),
                    EventSeen(0.1, CALL, 0, 0, ""),
                    ViewEnded(0.2, CALL, 0, how),
                    ViewOpened(3.0, CALL, 1, 0, 0),
                    EventSeen(3.1, CALL, 1, 1, ""),
                ]
            )
        )

    assert abs(waits("dropped") - 0.1) < 0.01
    assert abs(waits("broken") - 3.0) < 0.01


def test_a_run_takes_its_size_from_the_command_line() -> None:
    asked, is_kept = read_course(["--seed", "7", "--responses", "90", "--minutes", "2", "--clients", "5"])
    assert (asked.seed, asked.responses, asked.seconds_max, asked.clients) == (7, 90, 120.0, 5)
    assert (asked.strikes_min, is_kept) == (0, False)
    unlimited, _ = read_course(["--minutes", "1"])
    assert unlimited.responses == 10**6
    assert read_course([])[0].responses == 2000
