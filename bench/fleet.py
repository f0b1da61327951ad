"""Simulates a hundred workers: how long responses wait, whether they find their prefix, how fair it is.

Redis and its scripts are real; time, workers and tenants are not. Workers that do not know where a prefix is
are the opponent; the order of arrival is what it was before tenants took turns.
"""

import heapq
import random
import tempfile
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from statistics import fmean, median, quantiles

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
_BUSY = 0.9
"""The part of all places that the load would keep busy if every prefix were found."""
_NEVER_MS = 10**15


@dataclass(frozen=True, slots=True)
class Order:
    name: str
    has_turns: bool
    is_affine: bool


ORDERS = (
    Order("in the order of arrival, any worker", has_turns=False, is_affine=False),
    Order("in turns, any worker", has_turns=True, is_affine=False),
    Order("in turns, the worker with the prefix first", has_turns=True, is_affine=True),
)


@dataclass
class Asked:
    tenant: str
    turn: int
    """Its place in its chain, from 0; the prefix is that many answers long."""
    parent: ResponseKey | None
    home: str
    arrived_s: float
    answer_s: float
    taken_s: float = 0.0


@dataclass
class Outcome:
    waits_s: list[float] = field(default_factory=list)
    hits: int = 0
    continuations: int = 0
    speeds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Of each tenant: what its responses took by themselves, of what they took with their wait."""


def fairness(speeds: Sequence[float]) -> float:
    """Jain's index: 1 if all are equal, 1/n if one has everything."""
    return sum(speeds) ** 2 / (len(speeds) * sum(speed**2 for speed in speeds))


class Fleet:
    """Workers, and what they run, in virtual time."""

    def __init__(self, redis: RedisClient, settings: Settings, order: Order) -> None:
        self._redis, self._settings, self._order = redis, settings, order
        self._random, self._numbers = random.Random(1), count()
        self._events: list[tuple[float, int, str, object]] = []
        self._claimants: dict[str, Claimant] = {}
        self._running: dict[str, dict[str, Asked]] = {}
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
        return self.outcome

    async def _happen(self, what: str, of: object) -> None:
        match what, of:
            case "chain", _:
                rate = _BUSY * WORKERS * PLACES / _ANSWER_S * (1 - _GOES_ON)
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
            self._running[worker] = {}
            await self._redis.command("ZADD", keys.presence("worker"), _NEVER_MS, worker)
            self._idle.append(worker)
        await self._announce()

    async def _announce(self) -> None:
        loads = [(len(running) * 1_000 // PLACES, worker) for worker, running in self._running.items()]
        words = [word for pair in loads for word in pair]
        await self._redis.transaction(
            ("ZADD", keys.loads(RESPONSES_QUEUE), *words), ("PEXPIRE", keys.loads(RESPONSES_QUEUE), 600_000)
        )

    async def _die(self, worker: str) -> None:
        """Its responses are rung for when their leases have lapsed."""
        for name in self._running.pop(worker):
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
        new = NewResponse.of(key, request, {}, parent)
        await response_store.create(self._redis, self._settings, new)
        kept = await self._redis.command("HGET", keys.homes(RESPONSES_QUEUE), f"{key}:0")
        if kept is None:
            await self._wake_any()
            return
        self._at(self._now_s + Settings().affinity_s, "give up waiting", str(key))
        worker = kept.decode().partition(" ")[0]
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
        running = self._running[worker]
        room = Room(PLACES - len(running), 2**26, 2**26, rings_on=False)
        await self._redis.command("DEL", keys.bell(worker))  # it has come
        claimed = await self._claimants[worker].claim(room)
        for acquired in claimed.begun:
            self._begin(worker, str(acquired.lease.key))
        for job in claimed.taken.jobs:
            name = job.id.decode().rpartition(":")[0]
            await self._redis.command("ZREM", RESPONSES_QUEUE, job.id)
            self._begin(worker, name)
        if len(running) >= PLACES and worker in self._idle:
            self._idle.remove(worker)

    def _begin(self, worker: str, name: str) -> None:
        asked, outcome = self._asked[name], self.outcome
        self._running[worker][name] = asked
        is_hit = asked.home == worker
        took_s = asked.answer_s + (0.0 if is_hit else _PREFIX_S * asked.turn)
        if not asked.taken_s:
            asked.taken_s = self._now_s
            wait_s = self._now_s - asked.arrived_s
            outcome.waits_s.append(wait_s)
            outcome.continuations += asked.turn > 0
            outcome.hits += is_hit
            outcome.speeds[asked.tenant].append(asked.answer_s / (wait_s + asked.answer_s))
        self._at(self._now_s + took_s, "end", (worker, name))

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
    found: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="antiphon-bench-") as folder, Valkey(Path(folder)) as valkey:
        for order in ORDERS:
            settings = Settings(
                redis_url=valkey.url,
                queue_depth_max=10**9,
                tenant_responses_max=10**9,
                responses_in_flight_max=PLACES,
                tenant_worker_share_max=1.0,
                affinity_s=60.0 if order.is_affine else 0.0,
            )
            redis = RedisClient.connect(valkey.url, timeout_s=30.0)
            found.append(await Fleet(redis, settings, order).run(scale.simulated_s))
            await redis.close()
    text = (
        f"{WORKERS} workers with {PLACES} places each, of which {DEAD} die after a third of the "
        f"{scale.simulated_s:.0f} s and {MORE} come after two thirds; {TENANTS} tenants, of which the first "
        f"sends {TENANTS**SKEW:.0f} times as much as the last; answers of {_ANSWER_S:.0f} s on average, and "
        f"{_PREFIX_S} s more for each earlier answer of the chain that is not in the worker's cache."
    )
    return Result(f"{render(found)}\n\n{text}")


def render(found: Sequence[Outcome]) -> str:
    head = ("order", "responses", "median wait, s", "95th percentile, s", "prefix found", "fairness index")
    rows = [
        [
            order.name,
            f"{len(outcome.waits_s):,}",
            tables.show_number(median(outcome.waits_s)),
            tables.show_number(quantiles(outcome.waits_s, n=20)[-1]),
            f"{100 * outcome.hits / max(1, outcome.continuations):.0f} %",
            f"{fairness([fmean(speeds) for speeds in outcome.speeds.values()]):.3f}",
        ]
        for order, outcome in zip(ORDERS, found, strict=True)
    ]
    return tables.render(head, rows)
