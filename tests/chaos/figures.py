"""Summarizes a run: strikes by role, takeovers, resumes, and how long clients had to wait.

Pure. Owns the counts and their text; `checker.py` judges the run.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from shared.responses import TERMINAL
from tests.chaos.history import (
    Delivered,
    EventSeen,
    Log,
    Observation,
    OfCall,
    Store,
    Struck,
    ViewEnded,
    ViewOpened,
)
from tests.chaos.judging import CallHistory, group, own_pauses_s
from tests.chaos.reasons import span_of, waits


@dataclass(frozen=True, slots=True)
class Figures:
    seconds: float
    responses: int
    events_seen: int
    strikes: Mapping[str, Mapping[str, int]]
    """role -> action -> number of strikes."""
    ends: Mapping[str, int]
    """status -> number of responses."""
    takeovers: int
    """The number of owners after the first ones."""
    taken_over: int
    """The number of responses with more than one owner."""
    deaths: int
    gave_way: int
    """The number of `flex` responses that were handed over more often than workers were told to stop."""
    resumes: int
    broken_views: int
    failed_calls: int
    delivered: int
    """The number of responses whose ends webhooks have delivered."""
    deliveries: int
    delivered_when_ended: int
    """Of the deliveries, those at which an API node said how the response had ended."""
    stalls_s: Sequence[float]
    """For every streamed response, in order of size: the longest wait for an event, beyond the plan's own."""
    stalls_taken_over_s: Sequence[float]
    """The same, for responses that were taken over."""


def measure(observations: Sequence[Observation], store: Store) -> Figures:
    histories = group(observations)
    logs = {
        call: store.logs[history.response_ids[0]]
        for call, history in histories.items()
        if history.response_ids and history.response_ids[0] in store.logs
    }
    own_s = own_pauses_s(histories)
    stalls, stalls_taken_over = [], []
    for call, history in histories.items():
        if history.asked.is_undisturbed or call not in logs:
            continue
        waits = list(waits_s(history.seen))
        if waits:
            stall_s = max(0.0, max(waits) - own_s[history.asked.plan])
            stalls.append(stall_s)
            if owners(logs[call]) > 1:
                stalls_taken_over.append(stall_s)
    told = [seen for seen in observations if isinstance(seen, Delivered)]
    return Figures(
        seconds=max((seen.at_s for seen in observations), default=0.0),
        responses=len(logs),
        events_seen=sum(isinstance(seen, EventSeen) for seen in observations),
        strikes=_count_strikes(observations),
        ends=Counter(log.closed or "open" for log in logs.values()),
        takeovers=sum(owners(log) - 1 for log in logs.values()),
        taken_over=sum(owners(log) > 1 for log in logs.values()),
        deaths=sum(log.deaths for log in logs.values()),
        gave_way=_count_given_way(observations, histories, logs),
        resumes=sum(isinstance(seen, ViewOpened) and seen.after >= 0 for seen in observations),
        broken_views=sum(isinstance(seen, ViewEnded) and seen.how == "broken" for seen in observations),
        failed_calls=sum(
            b"event: response.mcp_call.failed" in frame for log in logs.values() for frame in log.frames
        ),
        delivered=len({seen.response_id for seen in told if seen.is_taken}),
        deliveries=len(told),
        delivered_when_ended=sum(seen.status_then in TERMINAL for seen in told),
        stalls_s=sorted(stalls),
        stalls_taken_over_s=sorted(stalls_taken_over),
    )


def owners(log: Log) -> int:
    """Returns the number of owners; a process that cancels takes the lease too, but does not count."""
    return max(1, log.attempt - (log.closed == "cancelled"))


def _count_given_way(
    observations: Sequence[Observation], histories: Mapping[int, CallHistory], logs: Mapping[int, Log]
) -> int:
    drains_s = [
        seen.at_s
        for seen in observations
        if isinstance(seen, Struck) and (seen.action, seen.role) == ("drain", "worker")
    ]
    count = 0
    for call, log in logs.items():
        history = histories[call]
        span = span_of(history.seen)
        drains = sum(span.begin_s <= at_s <= span.end_s for at_s in drains_s)
        count += history.asked.tier == "flex" and owners(log) - 1 - log.deaths > drains
    return count


def _count_strikes(observations: Iterable[Observation]) -> dict[str, Counter[str]]:
    strikes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for seen in observations:
        if isinstance(seen, Struck):
            strikes[seen.role][seen.action] += 1
    return dict(strikes)


def waits_s(seen: Iterable[OfCall]) -> Iterator[float]:
    for wait in waits(seen):
        yield wait.end_s - wait.begin_s


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Returns a percentile of sorted values; 0 if there are none."""
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def describe(figures: Figures) -> str:
    lines = [
        f"{figures.responses} responses in {figures.seconds:.0f} s: "
        + ", ".join(f"{count} {end}" for end, count in sorted(figures.ends.items())),
        f"{figures.events_seen} events seen; {figures.resumes} resumes, "
        f"{figures.broken_views} views broken by faults",
        f"{figures.taken_over} responses were taken over, {figures.takeovers} times in all; "
        f"{figures.deaths} deaths of owners; {figures.failed_calls} tool calls with unknown outcome; "
        f"{figures.gave_way} of `flex` gave way",
        f"{figures.delivered} ends were delivered to webhooks, in {figures.deliveries} attempts; "
        f"at {figures.delivered_when_ended} of these a node said that the response had ended",
    ]
    for role, actions in sorted(figures.strikes.items()):
        lines.append(
            f"{role}: " + ", ".join(f"{action} {count}" for action, count in sorted(actions.items()))
        )
    for name, stalls in (("all streams", figures.stalls_s), ("taken over", figures.stalls_taken_over_s)):
        lines.append(
            f"stall, {name} ({len(stalls)}): p50 {percentile(stalls, 50):.2f} s, "
            f"p99 {percentile(stalls, 99):.2f} s, max {percentile(stalls, 100):.2f} s"
        )
    return "\n".join(lines)
