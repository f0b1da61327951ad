"""What the rules take: the history of each call, and the parameters shared by all calls of a run. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from tests.chaos.history import Accepted, Asked, Observation, OfCall, Store
from tests.chaos.output import Output
from tests.chaos.plans import PLANS
from tests.chaos.reasons import Strikes, waits


@dataclass(frozen=True, slots=True)
class Violation:
    rule: str
    call: int | None
    """None if it concerns the store and not a single call."""
    what: str


@dataclass(slots=True)
class CallHistory:
    """The observations of one create call, in order."""

    asked: Asked
    seen: list[OfCall] = field(default_factory=list)
    response_ids: list[str] = field(default_factory=list)


Findings = Iterator[tuple[str, str]]
"""A rule, and what was found."""


@dataclass(frozen=True, slots=True)
class Run:
    """The parameters by which all calls of a run are judged."""

    store: Store
    undisturbed: Mapping[str, Output]
    owners_lost_max: int
    strikes: Strikes
    pauses_s: Mapping[str, float]
    """plan -> the longest wait for an event when nothing goes wrong."""


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


def own_pauses_s(histories: Mapping[int, CallHistory]) -> dict[str, float]:
    """Returns the longest wait for an event of each plan when nothing goes wrong."""
    pauses = dict.fromkeys(PLANS, 0.0)
    for history in histories.values():
        if history.asked.is_undisturbed:
            lengths = [wait.end_s - wait.begin_s for wait in waits(history.seen)]
            pauses[history.asked.plan] = max([pauses[history.asked.plan], *lengths])
    return pauses
