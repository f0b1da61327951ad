"""Simulates a hundred workers: how long responses wait, whether they find their prefix, how fair it is.

Redis and its scripts are real; time, workers and tenants are not. Each part of the queue is compared with
what it replaced: workers that took as many responses as a constant said, the order of arrival, any worker.
"""

import heapq
import random
import tempfile
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from statistics import fmean, median

from bench import tables
from bench.page import Result
from bench.scale import Scale
from local.valkey import Valkey
from shared.settings import Settings
from shared.store import job_queue, keys
from shared.store.job_queue import Room
from shared.store.keys import RESPONSES_QUEUE, ResponseKey
from shared.store.owning.claiming import Claimant
from shared.store.records import response_store
from shared.store.records.admission import NewResponse
from shared.store.redis.client import RedisClient
from tests.requests import make_request

WORKERS, PLACES, DEAD, MORE = 100, 4, 10, 20
TENANTS, SKEW = 10, 1.2
_ANSWER_S, _PREFIX_S, _THINK_S, _GOES_ON = 4.0, 0.4, 2.0, 0.85
_LIGHTEST = 5
"""How many of the tenants, those that send least, have a column of their own."""
_NEVER_MS, _SOON_MS = 10**15, 10_000
"""Virtual time ends sooner than the one, and what is kept is so for longer than the other."""


@dataclass(frozen=True, slots=True)
class Order:
    name: str
    has_turns: bool
    affinity_s: float = 0.0
    """How long a continuation is kept for the worker with its prefix."""
    places_taken: int = PLACES
    """How many responses a worker takes; those beyond its places wait in its engine."""


@dataclass(frozen=True, slots=True)
class Pressure:
    """How much is asked. `part`: of all places, what chains would keep busy if every prefix were found."""

    name: str
    part: float


_AFFINITY_S = Settings().affinity_s
ORDERS = (
    Order("as before: by arrival, any worker, up to 512 each", has_turns=False, places_taken=512),
    Order("by arrival, any worker", has_turns=False),
    Order("in turns, any worker", has_turns=True),
    Order("in turns, the worker with the prefix first", has_turns=True, affinity_s=_AFFINITY_S),
)
PRESSURES = (Pressure("busy", 0.9), Pressure("too much for all", 3.0))


@dataclass
class Asked:
    tenant: str
    turn: int
    """Its place in its chain, from 0; the prefix is that many answers long."""
    parent: ResponseKey | None
    home: str
    arrived_s: float
    answer_s: float
    has_begun: bool = False


@dataclass
class Outcome:
    begun: int = 0
    hits: int = 0
    continuations: int = 0
    waits_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Of each tenant; those that still wait at the end have waited so far."""
    first_tokens_s: list[float] = field(default_factory=list)
    """Of those that have begun: how long they waited, and what is computed again of their prefix."""
    asked_s: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    served_s: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Of each tenant: the seconds of all its answers, and of those that have begun."""

    @property
    def fairness(self) -> float:
        """Jain's index of what the tenants got, each as a part of its fair share."""
        shares = share_fairly(sum(self.served_s.values()), self.asked_s)
        return jains_index([self.served_s[tenant] / share for tenant, share in shares.items()])


def share_fairly(total: float, asked: Mapping[str, float]) -> dict[str, float]:
    """Returns the max-min fair shares: nobody gets more than it asks for, and what it leaves is for those who
    ask for more."""
    shares, left = {}, total
    for number, tenant in enumerate(sorted(asked, key=asked.__getitem__)):
        shares[tenant] = min(asked[tenant], left / (len(asked) - number))
        left -= shares[tenant]
    return shares


def jains_index(values: Sequence[float]) -> float:
    """1 if all are equal, 1/n if one has everything."""
    return sum(values) ** 2 / (len(values) * sum(value**2 for value in values))


class Fleet:
    """Workers, and what they run, in virtual time."""

    def __init__(
        self, redis: RedisClient, settings: Settings, order: Order, pressure: Pressure, seed: int = 1
    ) -> None:
        self._redis, self._settings, self._order, self._pressure = redis, settings, order, pressure
        self._random, self._numbers = random.Random(seed), count()
        self._events: list[tuple[float, int, str, object]] = []
        self._claimants: dict[str, Claimant] = {}
        self._running: dict[str, dict[str, Asked]] = {}
        self._inside: dict[str, deque[str]] = {}
        """What waits in each worker's engine."""
        self._idle: deque[str] = deque()
        """In which order the doorbell wakes those with room."""
        self._asked: dict[str, Asked] = {}
        self._now_s = 0.0
        self.outcome = Outcome()

    def _at(self, when_s: float, what: str, of: object = None) -> None:
        heapq.heappush(self._events, (when_s, next(self._numbers), what, of))

    async def run(self, until_s: float) -> Outcome:
        """Workers die after a third of the time, others come after two thirds."""
        await self._redis.command("FLUSHALL")
        await self._come(WORKERS)
        self._at(until_s / 3, "deaths")
        self._at(until_s * 2 / 3, "scale-up")
        for second in range(int(until_s)):
            self._at(second, "announce")
        self._at(0.0, "chain")
        for _ in range(WORKERS * PLACES):
            self._at(self._random.uniform(0, _ANSWER_S + _THINK_S), "first chain")
        while self._events:
            self._now_s, _, what, of = heapq.heappop(self._events)
            if self._now_s > until_s:
                break
            await self._happen(what, of)
        for claimant in self._claimants.values():
            await claimant.close()
        for asked in self._asked.values():
            if not asked.has_begun:
                self.outcome.waits_s[asked.tenant].append(until_s - asked.arrived_s)
        return self.outcome

    async def _happen(self, what: str, of: object) -> None:
        match what, of:
            case "chain", _:
                rate = self._pressure.part * WORKERS * PLACES / _ANSWER_S * (1 - _GOES_ON)
                self._at(self._now_s + self._random.expovariate(rate), "chain")
                await self._ask(self._tenant(), 0, None, "")
            case "first chain", _:
                await self._ask(self._tenant(), 0, None, "")
            case "ask", (str(tenant), int(turn), ResponseKey() as parent, str(home)):
                await self._ask(tenant, turn, parent, home)
            case "end", (str(worker), str(name)):
                await self._end(worker, name)
            case "give up waiting", str(name):
                await self._release(name)
            case "ring", ResponseKey() as key:
                await self._redis.command("HSET", keys.state(key), "lease_until_ms", 1)
                await job_queue.ring_again(self._redis, self._settings, key)
                await self._wake_any()
            case "announce", _:
                await self._announce()
            case "deaths", _:
                for worker in self._random.sample(sorted(self._running), DEAD):
                    await self._die(worker)
            case "scale-up", _:
                await self._come(MORE)
            case _:
                raise AssertionError(what)

    def _tenant(self) -> str:
        weights = [1 / (rank + 1) ** SKEW for rank in range(TENANTS)]
        return self._random.choices([f"t{rank}" for rank in range(TENANTS)], weights)[0]

    async def _come(self, number: int) -> None:
        for _ in range(number):
            worker = f"w{next(self._numbers)}"
            self._claimants[worker] = Claimant(self._redis, self._settings, worker)
            self._running[worker], self._inside[worker] = {}, deque()
            await self._redis.command("ZADD", keys.presence("worker"), _NEVER_MS, worker)
            self._idle.append(worker)
        await self._announce()

    async def _announce(self) -> None:
        loads = [
            (min(1_000, len(running) * 1_000 // PLACES), worker) for worker, running in self._running.items()
        ]
        words = [word for pair in loads for word in pair]
        await self._redis.transaction(
            ("ZADD", keys.loads(RESPONSES_QUEUE), *words), ("PEXPIRE", keys.loads(RESPONSES_QUEUE), 600_000)
        )

    async def _die(self, worker: str) -> None:
        """Its responses are rung for when their leases have lapsed."""
        for name in (*self._running.pop(worker), *self._inside.pop(worker)):
            self._at(self._now_s + self._settings.lease_ttl_s, "ring", ResponseKey.parse(name))
        if worker in self._idle:
            self._idle.remove(worker)
        await self._claimants.pop(worker).close()
        await self._redis.command("ZREM", keys.presence("worker"), worker)
        await self._redis.command("ZREM", keys.loads(RESPONSES_QUEUE), worker)

    async def _ask(self, tenant: str, turn: int, parent: ResponseKey | None, home: str) -> None:
        request = make_request()
        key = ResponseKey(tenant if self._order.has_turns else "all", request.response.id)
        answer_s = self._random.expovariate(1 / _ANSWER_S)
        self._asked[str(key)] = Asked(tenant, turn, parent, home, self._now_s, answer_s)
        self.outcome.asked_s[tenant] += answer_s
        new = NewResponse.of(key, request, {}, parent)
        await response_store.create(self._redis, self._settings, new)
        kept = await self._redis.command("HGET", keys.homes(RESPONSES_QUEUE), f"{key}:0")
        worker, _, until_ms = kept.decode().partition(" ") if kept else ("", "", "0")
        if int(until_ms) < time.time() * 1000 + _SOON_MS:
            await self._wake_any()
            return
        self._at(self._now_s + self._order.affinity_s, "give up waiting", str(key))
        if worker in self._idle:
            await self._claim(worker)

    async def _release(self, name: str) -> None:
        """The time for which it was kept is over; somebody looks at the queue."""
        if await self._redis.command("HDEL", keys.homes(RESPONSES_QUEUE), f"{name}:0"):
            await self._wake_any()

    async def _wake_any(self) -> None:
        if self._idle:
            self._idle.rotate(-1)
            await self._claim(self._idle[-1])

    async def _claim(self, worker: str) -> None:
        running, inside = self._running[worker], self._inside[worker]
        room = Room(self._order.places_taken - len(running) - len(inside), 2**26, 2**26, rings_on=False)
        await self._redis.command("DEL", keys.bell(worker))  # it has come
        held = Counter(ResponseKey.parse(name).tenant for name in running)
        claimed = await self._claimants[worker].claim(room, held, PLACES, len(running))
        for acquired in claimed.begun:
            inside.append(str(acquired.lease.key))
        for job in claimed.taken.jobs:
            await self._redis.command("ZREM", RESPONSES_QUEUE, job.id)
            inside.append(job.id.decode().rpartition(":")[0])
        while inside and len(running) < PLACES:
            self._begin(worker, inside.popleft())
        if len(running) + len(inside) >= self._order.places_taken and worker in self._idle:
            self._idle.remove(worker)

    def _begin(self, worker: str, name: str) -> None:
        asked, outcome = self._asked[name], self.outcome
        self._running[worker][name] = asked
        is_hit = asked.home == worker
        prefix_s = 0.0 if is_hit else _PREFIX_S * asked.turn
        if not asked.has_begun:
            asked.has_begun = True
            outcome.begun += 1
            wait_s = self._now_s - asked.arrived_s
            outcome.waits_s[asked.tenant].append(wait_s)
            outcome.first_tokens_s.append(wait_s + prefix_s)
            outcome.continuations += asked.turn > 0
            outcome.hits += is_hit
            outcome.served_s[asked.tenant] += asked.answer_s
        self._at(self._now_s + prefix_s + asked.answer_s, "end", (worker, name))

    async def _end(self, worker: str, name: str) -> None:
        asked = self._running.get(worker, {}).pop(name, None)
        if asked is None:
            return  # its worker has died
        key = ResponseKey.parse(name)
        await self._redis.command("HSET", keys.state(key), "owner", worker)
        if self._random.random() < _GOES_ON:
            self._at(
                self._now_s + self._random.expovariate(1 / _THINK_S),
                "ask",
                (asked.tenant, asked.turn + 1, key, worker),
            )
        if worker not in self._idle:
            self._idle.append(worker)
        await self._claim(worker)


async def measure(scale: Scale) -> Result:
    parts = []
    with tempfile.TemporaryDirectory(prefix="antiphon-bench-") as folder, Valkey(Path(folder)) as valkey:
        for pressure in PRESSURES:
            found: list[list[Outcome]] = [[] for _ in ORDERS]
            for seed in range(scale.rounds):
                for order, outcomes in zip(ORDERS, found, strict=True):
                    outcomes.append(await simulate(valkey.url, order, pressure, scale.simulated_s, seed))
            parts.append(render(pressure, found))
    text = (
        f"{WORKERS} workers with {PLACES} places each, of which {DEAD} die after a third of the "
        f"{scale.simulated_s:.0f} s and {MORE} come after two thirds; {TENANTS} tenants, of which the first "
        f"sends {TENANTS**SKEW:.0f} times as much as the last; answers of {_ANSWER_S:.0f} s on average, and "
        f"{_PREFIX_S} s more for each earlier answer of the chain that is not in the worker's cache. "
        f"{scale.rounds} rounds, each with chance of its own."
    )
    return Result("\n\n".join([*parts, text]))


async def simulate(redis_url: str, order: Order, pressure: Pressure, until_s: float, seed: int) -> Outcome:
    settings = Settings(
        redis_url=redis_url,
        queue_depth_max=10**9,
        tenant_responses_max=10**9,
        affinity_s=60.0 if order.affinity_s else 0.0,  # it ends in virtual time
    )
    redis = RedisClient.connect(redis_url, timeout_s=30.0)
    try:
        return await Fleet(redis, settings, order, pressure, seed).run(until_s)
    finally:
        await redis.close()


def render(pressure: Pressure, found: Sequence[Sequence[Outcome]]) -> str:
    """`found`: the outcomes of each order, one for each round."""
    head = (
        f"{pressure.name}, {pressure.part:g} of all places asked for",
        *("responses begun", "wait, median, s", "95th percentile, s", "first token, mean, s"),
        *(f"the {_LIGHTEST} lightest tenants: wait, median, s", "95th percentile, s"),
        *("prefix found, %", "fairness index"),
    )
    lightest = [f"t{rank}" for rank in range(TENANTS - _LIGHTEST, TENANTS)]
    rows = []
    for order, outcomes in zip(ORDERS, found, strict=True):
        columns = zip(*(_figures(outcome, lightest) for outcome in outcomes), strict=True)
        rows.append([order.name, *(tables.show_spread(column) for column in columns)])
    return tables.render(head, rows)


def _figures(outcome: Outcome, lightest: Sequence[str]) -> list[float]:
    return [
        outcome.begun,
        *_middle_and_late(outcome.waits_s.values()),
        fmean(outcome.first_tokens_s),
        *_middle_and_late([outcome.waits_s[tenant] for tenant in lightest]),
        100 * outcome.hits / max(1, outcome.continuations),
        outcome.fairness,
    ]


def _middle_and_late(of_tenants: Iterable[Sequence[float]]) -> tuple[float, float]:
    """Returns the median and the 95th percentile."""
    waits_s = [wait_s for each in of_tenants for wait_s in each]
    return median(waits_s), tables.percentile(waits_s, 95)
