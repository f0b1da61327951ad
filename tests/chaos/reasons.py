"""Which strikes may excuse what a client observed, and for how long no strike excuses anything.

Pure. Owns reaches and bounds, all of them multiples of what is configured, none of the machine's speed; what
is a violation is `checker`'s to say.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from tests.chaos.history import Asked, EventSeen, Observation, OfCall, Replayed, Struck, ViewEnded, ViewOpened

LEASE_TTL_S = 1.5
"""`lease_ttl_s` of the cluster that is judged; a tool runner's claim lasts as long."""
REACH_S = 10 * LEASE_TTL_S
"""So long after its end a misfortune may still be felt: leases lapse, processes start (the launcher waits for
up to 10 s), connections are made anew."""
REJOIN_S = 10.0
"""For so long a Sentinel lets a server be that comes back (it waits until the others have announced
themselves four times). Then it makes a replica of it, which loads everything; writes that wait for all
replicas wait for that."""
CALM_WAIT_MAX_S = 20 * LEASE_TTL_S
"""How long a client may wait for an event while no strike has any effect."""
ABANDONED_AFTER_S = 30.0
"""`disconnect_grace_s` of the cluster that is judged: longer than any client is kept away from its stream,
however the processes fall."""

_NO_DEATH = frozenset({"miss", "drain", "upgrade", "slow", "cut", "reset"})


@dataclass(frozen=True, slots=True)
class Span:
    """A span of the run's time."""

    begin_s: float
    end_s: float

    def overlaps(self, other: "Span") -> bool:
        return self.begin_s <= other.end_s and other.begin_s <= self.end_s


class Strikes:
    """All strikes, by what they hit."""

    def __init__(self, observations: Iterable[Observation]) -> None:
        strikes = [seen for seen in observations if isinstance(seen, Struck) and seen.action != "miss"]
        self._struck = [seen for seen in strikes if seen.role != "webhooks"]  # which no client waits for
        self._has_replicas = any(seen.action == "failover" for seen in self._struck)

    def count(self, roles: Collection[str], within: Span) -> int:
        """Returns the number of strikes on these roles that have an effect within a span."""
        return sum(seen.role in roles and self._reach(seen).overlaps(within) for seen in self._struck)

    @property
    def is_upgrade(self) -> bool:
        """Returns True if two versions ran, each of which reports in its own form what the other has
        written."""
        return any(seen.action == "upgrade" for seen in self._struck)

    def is_mixed(self, at_s: float) -> bool:
        """Returns True if API nodes of an earlier version ran until shortly before."""
        return any(
            (seen.action, seen.role) == ("upgrade", "api") and at_s < self._reach(seen).end_s
            for seen in self._struck
        )

    def is_replaced(self, node: int, within: Span) -> bool:
        """Returns True if an API node of an earlier version was ended within a span."""
        return any(
            (seen.action, seen.role, seen.number) == ("upgrade", "api", node)
            and self._reach(seen).overlaps(within)
            for seen in self._struck
        )

    def deaths(self, within: Span) -> int:
        """Returns the number of strikes that may have cost a worker its leases."""
        return sum(
            seen.role == "worker" and seen.action not in _NO_DEATH and self._reach(seen).overlaps(within)
            for seen in self._struck
        )

    def calm_s(self, within: Span) -> float:
        """Returns how much of a span no strike has an effect on."""
        calm_s, since_s = 0.0, within.begin_s
        for reach in sorted(map(self._reach, self._struck), key=lambda reach: reach.begin_s):
            if not reach.overlaps(within):
                continue
            calm_s += max(0.0, reach.begin_s - since_s)
            since_s = max(since_s, reach.end_s)
        return calm_s + max(0.0, within.end_s - since_s)

    def _reach(self, seen: Struck) -> Span:
        comes_back = self._has_replicas and seen.role == "valkey" and seen.action in ("kill", "stop")
        after_s = REACH_S + REJOIN_S if comes_back else REACH_S
        return Span(seen.at_s, seen.at_s + seen.lasting_s + after_s)


def span_of(seen: Iterable[OfCall]) -> Span:
    """Returns the span from the first to the last observation of a call, without the final replay.

    A response abandoned by its client continues unobserved until the grace period is over.
    """
    times_s, unseen_s = [], 0.0
    for one in seen:
        if isinstance(one, Replayed):
            break
        if isinstance(one, Asked) and one.way == "abandon":
            unseen_s = ABANDONED_AFTER_S
        times_s.append(one.at_s)
    return Span(min(times_s, default=0.0), max(times_s, default=0.0) + unseen_s)


def waits(seen: Iterable[OfCall]) -> Iterator[Span]:
    """Yields how long a client waited for each event: since the last one, or since it requested a stream.

    The time between its own disconnect and its next request does not count.
    """
    since_s: float | None = None
    for one in seen:
        match one:
            case Replayed():
                return
            case ViewOpened(at_s=at_s):
                since_s = at_s if since_s is None else since_s
            case EventSeen(at_s=at_s):
                if since_s is not None:
                    yield Span(since_s, at_s)
                since_s = at_s
            case ViewEnded(how="dropped"):
                since_s = None
            case _:
                pass
