"""A `flex` response gives way between its turns: to others that wait, by hand-over, and exactly."""

import pytest

from shared.events import ResponseCompleted
from shared.frames import decode
from shared.service_tiers import turn_cost
from shared.settings import Settings
from shared.store import keys
from shared.store.job_queue import Room
from shared.store.keys import RESPONSES_QUEUE, ResponseKey
from shared.store.owning.claiming import Claimant
from shared.store.redis.client import RedisClient
from tests.patience import until
from tests.requests import accept, make_request
from tests.scripted import SEED
from tests.working import Worker, finish, working

PYTHON = [{"type": "mcp", "server_label": "code_interpreter", "require_approval": "never"}]


async def begin(redis: RedisClient, settings: Settings, worker: Worker, tier: str) -> ResponseKey:
    """Has a worker begin a response of two turns; returns when it has left it again."""
    key = await accept(redis, settings, make_request(SEED, tools=PYTHON, service_tier=tier), tenant="slow")
    await run(redis, worker, key)
    return key


async def run(redis: RedisClient, worker: Worker, key: ResponseKey) -> None:
    """Has a worker take a response from the queue and run it; returns when it has left it again."""
    await redis.command("ZREM", RESPONSES_QUEUE, f"{key}:0")
    await worker.ownership.start_response(str(key))

    async def is_left() -> bool:
        return worker.ownership.running == 0

    await until(is_left)


async def state(redis: RedisClient, key: ResponseKey, *names: str) -> list[bytes]:
    found: list[bytes] = await redis.command("HMGET", keys.state(key), *names)
    return found


async def test_a_flex_response_gives_way_between_its_turns_and_goes_on_exactly(
    redis: RedisClient, settings: Settings
) -> None:
    async with working(redis, settings, is_full=True) as worker:
        other = await accept(redis, settings, tenant="other")
        key = await begin(redis, settings, worker, "flex")
        closed, lease_until, deaths, job = await state(
            redis, key, "closed", "lease_until_ms", "deaths", "job"
        )
        assert (closed, lease_until, deaths) == (b"", b"0", b"0")
        assert await redis.command("LRANGE", keys.waiting(RESPONSES_QUEUE, "slow/flex"), -1, -1) == [job]
        assert await redis.command("ZSCORE", keys.front(RESPONSES_QUEUE), job) is None, "not before all turns"
        before = await redis.command("XRANGE", keys.log(key), "-", "+")
        assert any(b"mcp_call.completed" in fields[b"e"] for _, fields in before), "after the tool"
        await redis.command("ZREM", RESPONSES_QUEUE, f"{other}:0")
        entries = await finish(redis, worker, key)
    assert isinstance(decode(entries[-1].frame), ResponseCompleted)
    assert [entry.frame for entry in entries[: len(before)]] == [fields[b"e"] for _, fields in before]
    assert await state(redis, key, "deaths") == [b"0"], "it was handed over, not lost"


async def test_it_ends_though_others_wait_all_the_time(redis: RedisClient, settings: Settings) -> None:
    async with working(redis, settings, is_full=True) as worker:
        await accept(redis, settings, tenant="other")
        key = await begin(redis, settings, worker, "flex")
        entries = await finish(redis, worker, key)
    assert isinstance(decode(entries[-1].frame), ResponseCompleted)


async def test_what_was_cancelled_hides_nobody_who_waits_behind_it(
    redis: RedisClient, settings: Settings
) -> None:
    async with working(redis, settings, is_full=True) as worker:
        cancelled = await accept(redis, settings, tenant="other")
        await accept(redis, settings, tenant="other")
        await redis.command("ZREM", RESPONSES_QUEUE, f"{cancelled}:0")
        key = await begin(redis, settings, worker, "flex")
        assert await state(redis, key, "closed") == [b""]


@pytest.mark.parametrize(
    ("tier", "is_full", "waits"), [("default", True, "other"), ("flex", False, "other"), ("flex", True, "")]
)
async def test_it_keeps_its_place_otherwise(
    redis: RedisClient, settings: Settings, tier: str, is_full: bool, waits: str
) -> None:
    async with working(redis, settings, is_full=is_full) as worker:
        if waits:
            await accept(redis, settings, tenant=waits)
        await accept(redis, settings, make_request(service_tier="flex"), tenant="also flex")
        key = await begin(redis, settings, worker, tier)
    assert await state(redis, key, "closed") == [b"completed"]


async def test_it_keeps_its_tenants_weight_which_workers_do_not_know(
    redis: RedisClient, settings: Settings
) -> None:
    heavy = settings.model_copy(update={"tenant_weight": 4.0})
    async with working(redis, settings, is_full=True) as worker:
        await accept(redis, settings, tenant="other")
        key = await accept(redis, heavy, make_request(SEED, tools=PYTHON, service_tier="flex"), tenant="slow")
        await run(redis, worker, key)
    costs = await redis.command("HGET", keys.costs(RESPONSES_QUEUE), "slow/flex")
    assert int(costs) == turn_cost("flex", 4.0)


async def test_of_its_flow_the_worker_that_it_left_takes_it_first_and_any_other_in_its_order(
    redis: RedisClient, settings: Settings
) -> None:
    """Its prefix is in that worker's cache; the others of its flow are in nobody's."""
    async with working(redis, settings, is_full=True) as worker:
        other = await accept(redis, settings, tenant="other")
        earlier = [
            await accept(redis, settings, make_request(service_tier="flex"), tenant="slow") for _ in range(2)
        ]
        key = await begin(redis, settings, worker, "flex")
        await redis.command("ZREM", RESPONSES_QUEUE, f"{other}:0")
        one = Room(1, 2**20, 2**20, rings_on=False)
        stranger = Claimant(redis, settings, "stranger")
        assert [begun.lease.key for begun in (await stranger.claim(one)).begun] == earlier[:1]
        owner = Claimant(redis, settings, worker.ownership.owner)
        assert [job.id.decode() for job in (await owner.claim(one)).taken.jobs] == [f"{key}:1"]
        assert [begun.lease.key for begun in (await stranger.claim(one)).begun] == earlier[1:]
        await stranger.close()
        await owner.close()
