"""A `flex` response gives way between its turns: to others that wait, by hand-over, and exactly."""

import pytest

from shared.events import ResponseCompleted
from shared.frames import decode
from shared.service_tiers import turn_cost
from shared.settings import Settings
from shared.store import keys
from shared.store.job_queue import LARGE_BYTES, Room, ring_again
from shared.store.keys import RESPONSES_QUEUE, ResponseKey
from shared.store.owning import lease
from shared.store.owning.claiming import Claimant
from shared.store.redis.client import RedisClient
from tests.patience import until
from tests.requests import accept, make_request
from tests.scripted import SEED
from tests.working import ROOMY, Worker, finish, working

FULL = Room(0, 2**20, 2**20, rings_on=False)
PYTHON = [{"type": "mcp", "server_label": "code_interpreter", "require_approval": "never"}]


async def begin(
    redis: RedisClient, settings: Settings, worker: Worker, tier: str, size_bytes: int = 0
) -> ResponseKey:
    """Has a worker begin a response of two turns; returns when it has left it again."""
    request = make_request(SEED, tools=PYTHON, service_tier=tier, safety_identifier="x" * size_bytes)
    key = await accept(redis, settings, request, tenant="slow")
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
    async with working(redis, settings, room=FULL) as worker:
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
    async with working(redis, settings, room=FULL) as worker:
        await accept(redis, settings, tenant="other")
        key = await begin(redis, settings, worker, "flex")
        entries = await finish(redis, worker, key)
    assert isinstance(decode(entries[-1].frame), ResponseCompleted)


async def test_what_was_cancelled_hides_nobody_who_waits_behind_it(
    redis: RedisClient, settings: Settings
) -> None:
    async with working(redis, settings, room=FULL) as worker:
        cancelled = await accept(redis, settings, tenant="other")
        await accept(redis, settings, tenant="other")
        await redis.command("ZREM", RESPONSES_QUEUE, f"{cancelled}:0")
        key = await begin(redis, settings, worker, "flex")
        assert await state(redis, key, "closed") == [b""]


@pytest.mark.parametrize(
    ("tier", "room", "waits"), [("default", FULL, "other"), ("flex", ROOMY, "other"), ("flex", FULL, "")]
)
async def test_it_keeps_its_place_otherwise(
    redis: RedisClient, settings: Settings, tier: str, room: Room, waits: str
) -> None:
    async with working(redis, settings, room=room) as worker:
        if waits:
            await accept(redis, settings, tenant=waits)
        await accept(redis, settings, make_request(service_tier="flex"), tenant="also flex")
        key = await begin(redis, settings, worker, tier)
    assert await state(redis, key, "closed") == [b"completed"]


async def wait_for_bytes(redis: RedisClient, settings: Settings, size_bytes: int, tier: str) -> None:
    """Another tenant's large response has had its turn at a worker that had no room for it."""
    request = make_request("x" * size_bytes, service_tier=tier)
    key = await accept(redis, settings, request, tenant="other")
    crowded = Claimant(redis, settings, "crowded")
    assert (await crowded.claim(Room(1, 2**20, 0, rings_on=False))).taken.is_left
    await crowded.close()
    assert await redis.command("ZRANGE", keys.large(RESPONSES_QUEUE), 0, -1) == [f"{key}:0".encode()]


MORE = 2 * LARGE_BYTES


@pytest.mark.parametrize(
    ("own_bytes", "room", "tier", "gives"),
    [
        pytest.param(0, FULL, "default", True, id="its place"),
        pytest.param(0, FULL, "flex", False, id="flex waits, too"),
        pytest.param(0, Room(0, 2**20, MORE, rings_on=False), "default", False, id="its place is not enough"),
        pytest.param(0, Room(0, 0, -1, rings_on=False), "default", True, id="nothing else is large there"),
        pytest.param(MORE, Room(1, 2**20, MORE, rings_on=False), "default", True, id="its bytes"),
        pytest.param(
            MORE, Room(1, 2**20, 0, rings_on=False), "default", False, id="its bytes are not enough"
        ),
        pytest.param(MORE, ROOMY, "default", False, id="there is room beside it"),
        pytest.param(0, Room(1, 2**20, MORE, rings_on=False), "default", False, id="it has no bytes to give"),
    ],
)
async def test_it_gives_way_to_a_large_one_if_that_can_then_be_taken(
    redis: RedisClient, settings: Settings, own_bytes: int, room: Room, tier: str, gives: bool
) -> None:
    await wait_for_bytes(redis, settings, MORE + LARGE_BYTES, tier)
    async with working(redis, settings, room=room) as worker:
        key = await begin(redis, settings, worker, "flex", own_bytes)
    assert await state(redis, key, "closed") == [b"" if gives else b"completed"]


async def test_what_is_too_large_for_its_place_hides_no_small_one(
    redis: RedisClient, settings: Settings
) -> None:
    await wait_for_bytes(redis, settings, MORE, "default")
    await accept(redis, settings, tenant="third")
    async with working(redis, settings, room=Room(0, 2**20, 0, rings_on=False)) as worker:
        key = await begin(redis, settings, worker, "flex")
    assert await state(redis, key, "closed") == [b""]


@pytest.mark.parametrize(("tier", "closed"), [("default", b""), ("flex", b"completed")])
async def test_it_gives_way_to_what_has_lost_its_owner_and_is_not_flex(
    redis: RedisClient, settings: Settings, tier: str, closed: bytes
) -> None:
    left = await accept(redis, settings, make_request(service_tier=tier), tenant="other")
    acquired = await lease.acquire(redis, settings, left, "stopped")
    assert not isinstance(acquired, str)
    await redis.command("ZREM", RESPONSES_QUEUE, f"{left}:0")
    await lease.release(redis, settings, acquired.lease)
    assert await ring_again(redis, settings, left) == "rung"
    async with working(redis, settings, room=FULL) as worker:
        key = await begin(redis, settings, worker, "flex")
    assert await state(redis, key, "closed") == [closed]


async def test_it_does_not_give_way_to_what_another_worker_is_taking(
    redis: RedisClient, settings: Settings
) -> None:
    other = await accept(redis, settings, make_request("x" * LARGE_BYTES), tenant="other")
    taker = Claimant(redis, settings, "taker")
    (job,) = (await taker.claim(ROOMY)).taken.jobs
    await taker.close()
    await redis.command("PEXPIRE", f"arq:in-progress:{job.id.decode()}", 600_000)
    async with working(redis, settings, room=FULL) as worker:
        key = await begin(redis, settings, worker, "flex")
    assert await state(redis, key, "closed") == [b"completed"]
    assert await redis.command("ZSCORE", RESPONSES_QUEUE, f"{other}:0") is not None


async def test_it_keeps_its_tenants_weight_which_workers_do_not_know(
    redis: RedisClient, settings: Settings
) -> None:
    heavy = settings.model_copy(update={"tenant_weight": 4.0})
    async with working(redis, settings, room=FULL) as worker:
        await accept(redis, settings, tenant="other")
        key = await accept(redis, heavy, make_request(SEED, tools=PYTHON, service_tier="flex"), tenant="slow")
        await run(redis, worker, key)
    costs = await redis.command("HGET", keys.costs(RESPONSES_QUEUE), "slow/flex")
    assert int(costs) == turn_cost("flex", 4.0)


async def test_of_its_flow_the_worker_that_it_left_takes_it_first_and_any_other_in_its_order(
    redis: RedisClient, settings: Settings
) -> None:
    """Its prefix is in that worker's cache; the others of its flow are in nobody's."""
    async with working(redis, settings, room=FULL) as worker:
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
