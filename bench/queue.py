"""Measures the queue: what accepting and taking a response cost Redis however many wait, and how long one
tenant waits beside a thousand slow responses of another.

Owns both measurements. The second is a simulation: Redis and its scripts are real, the responses only take a
virtual time. In the order of arrival means here that all responses are one tenant's.
"""

import heapq
import math
import random
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from bench import tables
from bench.page import Result
from bench.scale import Scale
from local.valkey import Valkey
from shared.settings import Settings
from shared.store import keys
from shared.store.job_queue import Room
from shared.store.keys import RESPONSES_QUEUE
from shared.store.owning.claiming import Claimant
from shared.store.redis.client import RedisClient
from tests.requests import accept, make_request

_SAMPLES, _FILLED_AT_ONCE = 200, 1_000
_PLACES, _SLOW, _SLOW_S, _QUICK_S = 64, 1_000, (5.0, 15.0), 1.0
_VISITS, _EVERY_S = 20, 5.0
_SCRIPTS = ("eval", "evalsha")


async def measure(scale: Scale) -> Result:
    with tempfile.TemporaryDirectory(prefix="antiphon-bench-") as folder, Valkey(Path(folder)) as valkey:
        settings = Settings(redis_url=valkey.url, queue_depth_max=10**9, tenant_responses_max=10**9)
        redis = RedisClient.connect(valkey.url, timeout_s=30.0)
        try:
            costs = [await measure_cost(redis, settings, waiting) for waiting in scale.waiting]
            waits = [await simulate(redis, settings, case) for case in CASES]
        finally:
            await redis.close()
    cost, wait = render_costs(scale.waiting, costs), render_waits(waits)
    slow = f"{_SLOW:,} responses of {_SLOW_S[0]:.0f} to {_SLOW_S[1]:.0f} s that arrive at once"
    quick = f"{_VISITS} of {_QUICK_S:.0f} s, one every {_EVERY_S:.0f} s"
    places = f"{_PLACES} places at one worker, {slow}, and beside them {quick}."
    return Result(f"{cost}\n\n{_SAMPLES} responses each, one at a time.\n\n{wait}\n\n{places}")


# --- what it costs -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cost:
    """Per response."""

    commands: float
    """Commands within the script."""
    redis_us: float


async def measure_cost(redis: RedisClient, settings: Settings, waiting: int) -> tuple[Cost, Cost]:
    """Returns what accepting and taking a response cost while so many wait."""
    await redis.command("FLUSHALL")
    for _ in range(_SAMPLES):
        await accept(redis, settings)
    await _fill(redis, waiting)
    before = await _stats(redis)
    for _ in range(_SAMPLES):
        await accept(redis, settings)
    accepted = await _stats(redis)
    claimant = Claimant(redis, settings, "bench")
    for _ in range(_SAMPLES):
        claimed = await claimant.claim(Room(1, 2**26, 2**26, rings_on=False))
        assert len(claimed.begun) == 1
    taken = await _stats(redis)
    await claimant.close()
    return _cost(before, accepted), _cost(accepted, taken)


async def _fill(redis: RedisClient, count: int) -> None:
    """Adds waiting jobs as `queue.lua` does, without what they are about; they are not taken."""
    flow = keys.flow("default", "default")
    for begin in range(0, count, _FILLED_AT_ONCE):
        jobs = [f"default/filler{number}:0" for number in range(begin, min(count, begin + _FILLED_AT_ONCE))]
        places = [word for place, job in enumerate(jobs, begin + _SAMPLES + 1) for word in (place, job)]
        await redis.transaction(
            ("ZADD", RESPONSES_QUEUE, *places),
            ("RPUSH", keys.waiting(RESPONSES_QUEUE, flow), *jobs),
            ("HSET", keys.flows(RESPONSES_QUEUE), *(word for job in jobs for word in (job, flow))),
        )


async def _stats(redis: RedisClient) -> Mapping[str, tuple[int, float]]:
    """Command -> its calls and its microseconds so far."""
    found = await redis.command("INFO", "commandstats")
    return {name.removeprefix("cmdstat_"): (each["calls"], each["usec"]) for name, each in found.items()}


def _cost(before: Mapping[str, tuple[int, float]], after: Mapping[str, tuple[int, float]]) -> Cost:
    calls, micros = 0, 0.0
    for name, (count, usec) in after.items():
        earlier = before.get(name, (0, 0.0))
        if name in _SCRIPTS:
            micros += usec - earlier[1]
        elif name != "info":
            calls += count - earlier[0]
    return Cost(calls / _SAMPLES, micros / _SAMPLES)


# --- how long a tenant waits ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    visitor: str = "b"
    """The tenant of the responses that are timed; the slow ones are `a`'s."""
    tier: str = "default"
    slow_tier: str = "default"


CASES = (
    Case("in the order of arrival", visitor="a"),
    Case("in turns"),
    Case("in turns, the slow ones `priority`", slow_tier="priority"),
    Case("in turns, the other one `flex`", tier="flex"),
    Case("one tenant, the quick ones `priority`", visitor="a", tier="priority"),
    Case("one tenant, the slow ones `flex`", visitor="a", slow_tier="flex"),
)


@dataclass
class Simulation:
    """One worker's places in virtual time."""

    redis: RedisClient
    settings: Settings
    claimant: Claimant
    random: random.Random
    now_s: float = 0.0
    quick: dict[str, float] = field(default_factory=dict)
    """The quick responses that wait, by when they arrived."""
    running: list[tuple[float, str]] = field(default_factory=list)
    """Heap: when each response ends, and its tenant."""
    waits_s: list[float] = field(default_factory=list)

    async def fill_places(self) -> None:
        held = Counter(tenant for _, tenant in self.running)
        room = Room(_PLACES - len(self.running), 2**26, 2**26, rings_on=False)
        for acquired in (await self.claimant.claim(room, held)).begun:
            key = acquired.lease.key
            arrived_s = self.quick.pop(key.response_id, None)
            lasts_s = self.random.uniform(*_SLOW_S) if arrived_s is None else _QUICK_S
            if arrived_s is not None:
                self.waits_s.append(self.now_s - arrived_s)
            heapq.heappush(self.running, (self.now_s + lasts_s, key.tenant))

    async def run(self, until_s: float) -> None:
        while self.running and self.running[0][0] <= until_s:
            self.now_s, _ = heapq.heappop(self.running)
            await self.fill_places()
        self.now_s = until_s

    async def arrive(self, tenant: str, tier: str) -> None:
        request = make_request(service_tier=tier)
        key = await accept(self.redis, self.settings, request, tenant=tenant)
        self.quick[key.response_id] = self.now_s


async def simulate(redis: RedisClient, settings: Settings, case: Case) -> tuple[Case, Sequence[float]]:
    """Returns how many virtual seconds the quick responses waited."""
    await redis.command("FLUSHALL")
    few = settings.model_copy(update={"responses_in_flight_max": _PLACES})
    claimant = Claimant(redis, few, "bench")
    simulation = Simulation(redis, few, claimant, random.Random(1))
    for _ in range(_SLOW):
        await accept(redis, few, make_request(service_tier=case.slow_tier), tenant="a")
    await simulation.fill_places()
    for visit in range(1, _VISITS + 1):
        await simulation.run(visit * _EVERY_S)
        await simulation.arrive(case.visitor, case.tier)
    await simulation.run(math.inf)
    await claimant.close()
    return case, simulation.waits_s


# --- tables --------------------------------------------------------------------------------------


def render_costs(waiting: Sequence[int], costs: Sequence[tuple[Cost, Cost]]) -> str:
    head = (
        "waiting",
        "accept: commands",
        "accept: µs of Redis",
        "take: commands",
        "take: µs of Redis",
    )
    rows = [
        [
            f"{count:,}",
            *(tables.show_number(value) for cost in pair for value in (cost.commands, cost.redis_us)),
        ]
        for count, pair in zip(waiting, costs, strict=True)
    ]
    return tables.render(head, rows)


def render_waits(waits: Sequence[tuple[Case, Sequence[float]]]) -> str:
    head = ("order", "median wait, s", "longest, s")
    rows = [
        [case.name, *(tables.show_number(value) for value in (median(found), max(found)))]
        for case, found in waits
    ]
    return tables.render(head, rows)
