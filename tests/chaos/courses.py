"""Defines runs: their size, what goes wrong, what is asked. Pure; `run.py` drives them."""

import random
from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from itertools import chain, repeat
from pathlib import Path
from typing import Literal

from local.cluster import ROOT
from tests.chaos.fleet import MIXED, PLAIN, Fleet
from tests.chaos.history import Way
from tests.chaos.nemesis import ALL, ODDS, Action, Odds, Strike, schedule
from tests.chaos.plans import PLANS

WAYS: Mapping[Way, int] = {
    "stream": 40,
    "background": 20,
    "poll": 15,
    "wait": 15,
    "cancel": 10,
    "abandon": 3,
    "delete": 5,
    "unstored": 6,
    "chat": 6,
    "socket": 6,
}
Fsync = Literal["no", "everysec", "always"]
_FSYNCS: tuple[Fsync, ...] = ("no", "everysec", "always")


@dataclass(frozen=True, slots=True)
class Course:
    """A run, which ends after `responses` and `strikes_min`, in any case after `seconds_max`."""

    seed: int
    responses: int
    _: KW_ONLY
    strikes_min: int = 0
    """Calls go on until this many strikes hit, however fast the machine serves them."""
    seconds_max: float = 3600.0
    clients: int = 60
    apis: int = 3
    workers: int = 3
    tool_runners: int = 2
    webhooks: int = 0
    """The processes that deliver webhooks; if 0, none is registered."""
    odds: tuple[Odds, ...] = ODDS
    wait_s: tuple[float, float] = (0.5, 3.5)
    script: tuple[Strike, ...] = ()
    """If set, strikes are made in this order, repeatedly, instead of at random."""
    plans: Mapping[str, int] = field(
        default_factory=lambda: {name: plan.weight for name, plan in PLANS.items()}
    )
    """The relative frequency of each plan."""
    ways: Mapping[Way, int] = field(default_factory=lambda: WAYS)
    """The relative frequency of each way to read a response. A run waits for the grace of abandoned ones."""
    fleet: Fleet = PLAIN
    """With webhooks only, which need a file of tenants, too."""
    is_traced: bool = False
    replicas: int = 0
    """If not 0, Redis is a primary with this many replicas, watched by Sentinels."""
    fsync: Fsync = "no"
    settings: Mapping[str, str] = field(default_factory=dict)
    long_tool_s: float = 20.0
    root: Path = ROOT
    """The folder with the code that runs."""
    older: str | None = None
    """If set, a commit whose code runs first, and is then replaced process by process."""

    @property
    def counts(self) -> dict[str, int]:
        roles = {"api": self.apis, "worker": self.workers, "tool_runner": self.tool_runners}
        return roles | {"webhooks": self.webhooks, "valkey": 1}

    @property
    def process_names(self) -> list[str]:
        """The names of the processes that connect to Redis."""
        return [
            f"{role}-{n}" for role, count in self.counts.items() if role != "valkey" for n in range(count)
        ]

    def strikes(self) -> Iterator[Strike]:
        if self.script:
            return chain.from_iterable(repeat(self.script))
        return schedule(random.Random(f"{self.seed} nemesis"), self.counts, self.odds, self.wait_s)


OLDER = "9ee4a65"
"""The version that an upgrade begins with: the last one before this issue's."""
_OUTAGES = (
    Strike(5.0, "stop", "valkey", 0, 2.5),
    Strike(8.0, "stop", "valkey", 0, 4.0),
    Strike(8.0, "kill", "valkey", 0),
    Strike(6.0, "slow", "valkey", 0, 4.0),
    Strike(6.0, "drain", "valkey", 0),
)
_FAILOVERS = (
    Strike(12.0, "failover", "valkey", 0),
    Strike(1.0, "kill", "webhooks", 0),
    Strike(11.0, "failover", "valkey", 0),
    Strike(1.0, "stop", "webhooks", 1, 4.0),
    Strike(11.0, "kill", "valkey", 0),
    Strike(20.0, "stop", "valkey", 0, 6.0),
    Strike(25.0, "failover", "valkey", 0),
)
"""One server at a time: each strike waits until all follow the primary, which a killed server and a former
primary do some twelve seconds later on an idle machine. Two that are lost together are beyond what
`durable_writes` promises."""
_DELIVERIES = Odds("webhooks", {"kill": 4, "stop": 2, "drain": 2, "hold": 1, "cut": 1}, (0.5, 4.0))
_GRACE = {"ANTIPHON_DISCONNECT_GRACE_S": "20"}
NAMES = ("all", "redis", "cuts", "restarts", "tools", "away", "failover", "upgrade")
_NEW_DOORS: tuple[Way, ...] = ("chat", "socket")
"""Of which the earliest version that is upgraded knows nothing."""
_TOOLS = {"count": 4, "build": 4, "study": 3, "short": 3, "middle": 2, "slow": 2}
_SESSIONS = {"kept": 4, "held": 4, "together": 3, "web": 3, "patch": 1, "count": 2}
_STREAMS = {name: PLANS[name].weight for name in ("quick", "short", "middle", "long", "characters", "count")}


def make_course(name: str, course: Course) -> Course:
    """Returns the course of that name, based on `course`."""
    match name:
        case "redis":  # only Redis fails, for longer than a claim lasts; tools take long
            fsync = _fsync(course)
            settings = _durable(fsync)
            plans = _TOOLS | _SESSIONS
            return replace(course, script=_OUTAGES, plans=plans, fsync=fsync, settings=settings)
        case "cuts":  # connections break repeatedly
            fates: dict[Action, int] = {"cut": 1, "reset": 2}
            cuts = tuple(Odds(role, fates) for role in ("worker", "worker", "tool_runner", "api"))
            return replace(course, odds=cuts, wait_s=(0.01, 0.1))
        case "restarts":  # every process in turn is stopped
            names = (name.rpartition("-") for name in course.process_names)
            drains = tuple(Strike(2.0, "drain", role, int(number)) for role, _, number in names)
            return replace(course, script=drains, plans=_STREAMS)
        case "tools":  # only tool runners are harmed
            harmed: dict[Action, int] = {"kill": 4, "stop": 2, "drain": 2, "hold": 1, "cut": 1}
            odds = (Odds("tool_runner", harmed, (0.5, 4.0)),)
            return replace(course, odds=odds, wait_s=(2.0, 6.0), plans=_SESSIONS)
        case "away":  # no API node for longer than the disconnect grace
            away = (Strike(4.0, "stop", "api", ALL, 40.0), Strike(55.0, "kill", "api", ALL))
            return replace(course, script=away, plans={"endless": 1}, settings=_GRACE)
        case "failover":  # planned, by kill and by hang, with settings that lose nothing
            durable = {"ANTIPHON_DURABLE_WRITES": "replica"}
            plans = {"quick": 6, "short": 3, "count": 2}
            strikes_min = max(course.strikes_min, len(_FAILOVERS))
            course = replace(course, script=_FAILOVERS, strikes_min=strikes_min, plans=plans)
            return replace(course, replicas=2, settings=durable, webhooks=2, fleet=MIXED, workers=4)
        case "upgrade":
            ways = {way: weight for way, weight in course.ways.items() if way not in _NEW_DOORS}
            older = course.older or OLDER
            return replace(course, plans=_TOOLS | _STREAMS, ways=ways, older=older)
        case _:
            with_deliveries = (*course.odds, _DELIVERIES)
            settings = _durable(_fsync(course))
            course = replace(
                course, fsync=_fsync(course), settings=settings, webhooks=2, odds=with_deliveries
            )
            return replace(course, fleet=MIXED, workers=4, is_traced=True)


def _fsync(course: Course) -> Fsync:
    return _FSYNCS[course.seed % 3]


def _durable(fsync: Fsync) -> dict[str, str]:
    """With `everysec`, a SIGKILL may lose what is not confirmed."""
    return {"ANTIPHON_DURABLE_WRITES": "aof"} if fsync == "everysec" else {}
