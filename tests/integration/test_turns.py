"""Tenants take turns in the queue: the scripts choose as a model in Python does, and none waits for ever."""

from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from shared.service_tiers import TURN_COST, turn_cost
from shared.settings import Settings
from shared.store import job_queue, keys
from shared.store.job_queue import Room
from shared.store.keys import RESPONSES_QUEUE, ResponseKey
from shared.store.owning.claiming import Claimant
from shared.store.redis.client import RedisClient
from shared.store.redis.scripts import LuaScript
from tests.requests import accept, make_request
from tests.scripted import Mute
from tests.working import working
from worker.engines.scripted.script import Script

ROOM = Room(64, 2**20, 2**20, rings_on=False)
_COUNT, _TAKE = LuaScript("records/count"), LuaScript("take")
FLOWS = {
    "a/default": TURN_COST,
    "a/priority": turn_cost("priority", 1),
    "a/flex": turn_cost("flex", 1),
    "b/default": turn_cost("default", 3),
    "c/default": TURN_COST,
}


@dataclass
class Model:
    """What the queue is meant to do: each flow has its jobs, and its next turn as much later as one costs."""

    now: int = 0
    jobs: dict[str, list[str]] = field(default_factory=dict)
    turns: dict[str, int] = field(default_factory=dict)

    def add(self, flow: str, job: str) -> None:
        if flow not in self.turns:
            self.turns[flow] = self.now + FLOWS[flow]
        self.jobs.setdefault(flow, []).append(job)

    def take(self) -> str | None:
        """Jobs that were cancelled are empty strings, and cost their flow no turn."""
        while self.turns:
            flow = min(self.turns, key=lambda each: (self.turns[each], each))
            jobs = self.jobs[flow]
            job = jobs.pop(0)
            if job:
                self.now = max(self.now, self.turns[flow])
                self.turns[flow] = self.now + FLOWS[flow]
            if not jobs:
                del self.turns[flow], self.jobs[flow]
            if not self.turns:
                self.now = 0
            if job:
                return job
        return None

    def cancel(self, place: int) -> str | None:
        waiting = [(jobs, i) for jobs in self.jobs.values() for i, job in enumerate(jobs) if job]
        if not waiting:
            return None
        jobs, i = waiting[place % len(waiting)]
        job, jobs[i] = jobs[i], ""
        return job


async def add(redis: RedisClient, flow: str, job_id: str) -> None:
    call = _COUNT(
        queue=RESPONSES_QUEUE,
        doorbell=keys.doorbell(RESPONSES_QUEUE),
        job_key=keys.job(job_id),
        held=keys.held("x"),
        held_bytes=keys.held_bytes("x"),
        job_id=job_id,
        job="{}",
        ttl_ms=60_000,
        queue_depth_max=10_000,
        bytes_max=2**30,
        flow=flow,
        turn_cost=FLOWS[flow],
    )
    assert await redis.run(call) == b"ok"


async def take(redis: RedisClient, room: int, scan_max: int = 1_000) -> list[str]:
    """Takes jobs, and handles them at once, as arq does: they leave the queue."""
    call = _TAKE(
        queue=RESPONSES_QUEUE,
        doorbell=keys.doorbell(RESPONSES_QUEUE),
        takers=keys.takers(RESPONSES_QUEUE),
        count_max=room,
        lock_ms=60_000,
        scan_max=scan_max,
        bytes_max=0,
        bytes_left=0,
        large_bytes=0,
        state_pattern=keys.STATE_PATTERN,
        rings_on=0,
    )
    _, *taken = await redis.run(call)
    jobs = [job.decode() for job in taken[::3]]
    for job in jobs:
        await redis.command("ZREM", RESPONSES_QUEUE, job)
        await redis.command("DEL", f"arq:in-progress:{job}", keys.job(job))
    return jobs


async def order_keys(redis: RedisClient) -> list[str]:
    return sorted(key.decode() for key in await redis.command("KEYS", f"{RESPONSES_QUEUE}:*"))


ADDS = st.tuples(st.just("add"), st.sampled_from(sorted(FLOWS)))
TAKES = st.tuples(st.just("take"), st.integers(1, 7))
CANCELS = st.tuples(st.just("cancel"), st.integers(0, 30))


@hypothesis_settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.one_of(ADDS, ADDS, TAKES, CANCELS), max_size=40))
async def test_every_job_is_taken_once_in_the_order_of_the_model(
    redis: RedisClient, steps: list[tuple[str, Any]]
) -> None:
    await redis.command("FLUSHALL")
    model, numbers = Model(), count()
    for what, value in [*steps, ("take", 64)]:
        if what == "add":
            job = f"count/{next(numbers)}"
            model.add(value, job)
            await add(redis, value, job)
        elif what == "take":
            expected = [taken for _ in range(value) if (taken := model.take())]
            assert await take(redis, value) == expected
        elif cancelled := model.cancel(value):
            await redis.command("ZREM", RESPONSES_QUEUE, cancelled)
    assert await take(redis, 64) == []
    doorbell = keys.doorbell(RESPONSES_QUEUE)
    assert [key for key in await order_keys(redis) if key != doorbell] == [], "empty, it vanishes"


async def test_a_tenant_that_comes_to_a_long_queue_waits_for_one_turn(
    redis: RedisClient, settings: Settings
) -> None:
    for _ in range(30):
        await accept(redis, settings, tenant="a")
    late = [await accept(redis, settings, tenant="b") for _ in range(2)]
    claimant = Claimant(redis, settings, "w")
    order = [
        acquired.lease.key
        for _ in range(6)
        for acquired in (await claimant.claim(Room(1, 2**20, 2**20, rings_on=False))).begun
    ]
    assert [order.index(key) for key in late] == [1, 3]
    await claimant.close()


async def test_priority_is_taken_before_and_flex_after_the_others_and_none_waits_for_ever(
    redis: RedisClient, settings: Settings
) -> None:
    await redis.command("FLUSHALL")
    for number in range(60):
        await add(redis, "c/default", f"count/{number}")
    await add(redis, "a/flex", "count/flex")
    assert await take(redis, 4) == [f"count/{number}" for number in range(4)]
    for number in range(8):
        await add(redis, "a/priority", f"count/priority{number}")
    assert await take(redis, 8) == [f"count/priority{number}" for number in range(8)]
    taken = await take(redis, 60)
    assert taken.index("count/flex") == turn_cost("flex", 1) // TURN_COST - 4 - 1
    assert len(taken) == 57


async def test_a_tenant_with_its_share_of_a_worker_is_passed_over_while_others_wait(
    redis: RedisClient, settings: Settings
) -> None:
    few = settings.model_copy(update={"responses_in_flight_max": 8})  # of which a tenant may have four
    crowd = [await accept(redis, few, tenant="a") for _ in range(6)]
    other = [await accept(redis, few, tenant="b") for _ in range(2)]
    claimant = Claimant(redis, few, "w")
    claimed = await claimant.claim(Room(3, 2**20, 2**20, rings_on=False), {"a": 3})
    assert [acquired.lease.key for acquired in claimed.begun] == [crowd[0], *other]
    alone = await claimant.claim(Room(3, 2**20, 2**20, rings_on=False), {"a": 4})
    assert [acquired.lease.key for acquired in alone.begun] == crowd[1:4], "nobody else waits"
    yielding = await accept(redis, few, make_request(service_tier="flex"), tenant="b")
    last = await claimant.claim(Room(1, 2**20, 2**20, rings_on=False), {"a": 4})
    assert [acquired.lease.key for acquired in last.begun] == crowd[4:5], "nobody is passed over for flex"
    assert await first_of(claimant, Room(1, 2**20, 2**20, rings_on=False)) == crowd[5]
    assert await first_of(claimant, Room(1, 2**20, 2**20, rings_on=False)) == yielding
    await claimant.close()


async def test_a_tenants_share_is_of_what_the_engine_can_run(redis: RedisClient, settings: Settings) -> None:
    """Not of what the worker may have besides, which is far more."""
    async with working(redis, settings, engine=Mute(Script.load(None), sequences_max=8)) as worker:
        crowd = [await accept(redis, settings, tenant="a") for _ in range(6)]
        await worker.ownership.claim(Room(4, 2**20, 2**20, rings_on=False))
        other = [await accept(redis, settings, tenant="b") for _ in range(3)]
        await worker.ownership.claim(Room(3, 2**20, 2**20, rings_on=False))
        waiting = await redis.command("ZRANGE", RESPONSES_QUEUE, 0, -1)
    left = {str(key) for key in crowd} & {job.decode().rpartition(":")[0] for job in waiting}
    assert (len(left), len(waiting)) == (2, 2), f"{len(other)} others have all been taken"


async def test_a_takeover_waits_for_nobody(redis: RedisClient, settings: Settings) -> None:
    owned = await accept(redis, settings, tenant="a")
    dead = Claimant(redis, settings, "dead")
    assert (await dead.claim(ROOM)).begun
    await dead.close()
    for _ in range(3):
        await accept(redis, settings, tenant="a")
    await redis.command("HSET", keys.state(owned), "lease_until_ms", 0)
    assert await job_queue.ring_again(redis, settings, owned) == "rung"
    claimant = Claimant(redis, settings, "w")
    claimed = await claimant.claim(Room(1, 2**20, 2**20, rings_on=False), {"a": 10_000})
    assert [job.id.decode() for job in claimed.taken.jobs] == [f"{owned}:1"]
    await claimant.close()


async def test_what_the_version_before_has_queued_is_served(redis: RedisClient, settings: Settings) -> None:
    """It knows arq's queue alone, and adds to its end."""
    old = await accept(redis, settings, tenant="old")
    await forget_places(redis)
    new = await accept(redis, settings, tenant="new")
    late = await accept(redis, settings, tenant="late")
    await redis.command("LREM", keys.waiting(RESPONSES_QUEUE, "late/default"), 0, f"{late}:0")
    await redis.command("HDEL", keys.flows(RESPONSES_QUEUE), f"{late}:0")
    claimant = Claimant(redis, settings, "w")
    one = Room(1, 2**20, 2**20, rings_on=False)
    assert await first_of(claimant, one) == old, "it stands first in arq's queue"
    assert await job_queue.ring_again(redis, settings, late) == "waiting"
    assert await first_of(claimant, one) == late, "the sweepers have found it"
    assert await first_of(claimant, one) == new
    await claimant.close()


async def forget_places(redis: RedisClient) -> None:
    for key in await order_keys(redis):
        await redis.command("DEL", key)


async def first_of(claimant: Claimant, room: Room) -> ResponseKey:
    (acquired,) = (await claimant.claim(room)).begun
    return acquired.lease.key


@pytest.mark.parametrize("lost", ["turns", "costs", "flows", "waiting:a/default", ""])
async def test_no_job_is_lost_with_a_key_of_the_order(
    redis: RedisClient, settings: Settings, lost: str
) -> None:
    accepted = [await accept(redis, settings, tenant="a") for _ in range(3)]
    await (redis.command("DEL", f"{RESPONSES_QUEUE}:{lost}") if lost else forget_places(redis))
    for key in accepted:
        assert await job_queue.ring_again(redis, settings, key) == "waiting"
    claimant = Claimant(redis, settings, "w")
    claimed = await claimant.claim(ROOM)
    assert sorted(acquired.lease.key for acquired in claimed.begun) == sorted(accepted)
    assert not [key for key in await order_keys(redis) if await redis.command("TTL", key) == -1]
    await claimant.close()


async def test_a_job_that_nobody_handles_is_taken_again_before_all_turns(
    redis: RedisClient, settings: Settings
) -> None:
    owned, waiting = [await accept(redis, settings, tenant="a") for _ in range(2)]
    await redis.command("HSET", keys.state(owned), "format", 1_000)  # for a later version's worker: locked
    claimant = Claimant(redis, settings, "w")
    one = Room(1, 2**20, 2**20, rings_on=False)
    (job,) = (await claimant.claim(one)).taken.jobs
    await redis.command("DEL", f"arq:in-progress:{job.id.decode()}")  # the lock lapses
    assert (await claimant.claim(one)).taken.jobs[0].id == job.id
    assert await first_of(claimant, one) == waiting
    await claimant.close()


async def test_the_tier_of_a_request_is_that_of_its_turns(redis: RedisClient, settings: Settings) -> None:
    asked = ["auto", "flex", "scale", "priority"]
    accepted = {tier: await accept(redis, settings, make_request(service_tier=tier)) for tier in asked}
    flows = await redis.command("HGETALL", keys.flows(RESPONSES_QUEUE))
    served = {key.decode(): flow.decode() for key, flow in flows.items()}
    assert [served[f"{accepted[tier]}:0"].split("/")[1] for tier in asked] == [
        "default",
        "flex",
        "default",
        "priority",
    ]


async def test_what_a_worker_of_the_version_before_has_locked_keeps_a_place(
    redis: RedisClient, settings: Settings
) -> None:
    await add(redis, "a/default", "count/1")
    await redis.command("SET", "arq:in-progress:count/1", 1, "PX", 60_000)
    assert await take(redis, 1) == []
    await add(redis, "a/default", "count/2")
    assert await take(redis, 1) == ["count/2"]
    assert await redis.command("ZSCORE", keys.front(RESPONSES_QUEUE), "count/1") is not None
    await redis.command("DEL", "arq:in-progress:count/1")  # its worker has died
    assert await take(redis, 1) == ["count/1"]


async def test_a_claim_forgets_what_has_left_a_queue_in_which_nothing_waits(
    redis: RedisClient, settings: Settings
) -> None:
    claimant = Claimant(redis, settings, "a")
    await add(redis, "a/default", "count/1")
    await claimant.claim(ROOM)
    await add(redis, "a/default", "count/2")
    await redis.command("ZREM", RESPONSES_QUEUE, "count/1", "count/2")  # one has ended, one was cancelled
    await claimant.claim(ROOM)
    await claimant.close()
    kept = (keys.front, keys.turns, keys.flows)
    assert [await redis.command("EXISTS", key(RESPONSES_QUEUE)) for key in kept] == [0, 0, 0]
