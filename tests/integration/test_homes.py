"""Continuations go to the worker that has their prefix: for a while, and while it is not much fuller."""

import hashlib
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from shared.settings import Settings
from shared.store import keys
from shared.store.job_queue import Room
from shared.store.keys import RESPONSES_QUEUE, ResponseKey
from shared.store.owning import fleet, lease, presence
from shared.store.owning.claiming import Claimant
from shared.store.owning.fleet import AboutWorker, Served
from shared.store.records import response_store
from shared.store.records.admission import NewResponse
from shared.store.redis.client import RedisClient
from tests.patience import until
from tests.requests import accept, make_request
from tests.scripted import Mute
from tests.working import working
from worker.engines.scripted.script import Script

ROOM, ONE = (Room(count, 2**20, 2**20, rings_on=False) for count in (64, 1))
SERVED = [Served("default", RESPONSES_QUEUE, 9_000)]
LONG = {"affinity_s": 60.0}


async def come(redis: RedisClient, worker: str, responses: int = 0, *, is_present: bool = True) -> None:
    """Announces a worker that has so many responses, of eight that it could run."""
    if is_present:
        await presence.announce(redis, "worker", worker)
    await fleet.announce(redis, worker, AboutWorker(SERVED, "scripted", 8, responses))


async def had_by(redis: RedisClient, settings: Settings, worker: str) -> ResponseKey:
    key = await accept(redis, settings)
    acquired = await lease.acquire(redis, settings, key, worker)
    assert not isinstance(acquired, str)
    await redis.command("ZREM", RESPONSES_QUEUE, f"{key}:0")
    await redis.command("DEL", keys.doorbell(RESPONSES_QUEUE))
    return key


async def go_on(redis: RedisClient, settings: Settings, parent: ResponseKey, tenant: str = "a") -> str:
    request = make_request()
    key = ResponseKey(tenant, request.response.id)
    new = NewResponse.of(key, request, {}, parent)
    await response_store.create(redis, settings, new)
    return str(key)


async def ask(
    redis: RedisClient, settings: Settings, cache_key: str | None = "k", tenant: str = "a", **more: Any
) -> str:
    """As agents do that send the whole history each time."""
    request = make_request(prompt_cache_key=cache_key, store=False, **more)
    return str(await accept(redis, settings, request, tenant=tenant))


async def take(
    redis: RedisClient, settings: Settings, worker: str, room: Room = ROOM, running: int = 0
) -> list[str]:
    claimant = Claimant(redis, settings, worker)
    claimed = await claimant.claim(room, running=running)
    await claimant.close()
    return [str(acquired.lease.key) for acquired in claimed.begun]


async def tokens(redis: RedisClient, worker: str) -> tuple[int, int]:
    """Those in the doorbell, and those in the worker's own bell."""
    doorbell, own = keys.doorbell(RESPONSES_QUEUE), keys.bell(worker)
    return await redis.command("LLEN", doorbell), await redis.command("LLEN", own)


async def commands(redis: RedisClient) -> int:
    """Those within scripts, and what calls these."""
    found = await redis.command("INFO", "commandstats")
    return sum(each["calls"] for name, each in found.items() if name.startswith("cmdstat_"))


async def test_a_continuation_is_left_to_the_worker_that_has_its_prefix(
    redis: RedisClient, settings: Settings
) -> None:
    patient = settings.model_copy(update=LONG)
    for worker in ("w1", "w2"):
        await come(redis, worker)
    parent = await had_by(redis, patient, "w1")
    child = await go_on(redis, patient, parent)
    assert await tokens(redis, "w1") == (0, 1), "it alone is woken"
    assert await take(redis, patient, "w2") == []
    other = str(await accept(redis, patient, tenant="a"))
    assert await take(redis, patient, "w2") == [other], "what comes after it does not wait"
    assert await take(redis, patient, "w1") == [child]
    assert await redis.command("EXISTS", RESPONSES_QUEUE, keys.homes(RESPONSES_QUEUE)) == 0


async def test_it_is_left_to_it_for_a_while_only(redis: RedisClient, settings: Settings) -> None:
    hasty = settings.model_copy(update={"affinity_s": 0.05})
    for worker in ("w1", "w2"):
        await come(redis, worker)
    child = await go_on(redis, hasty, await had_by(redis, hasty, "w1"))

    async def is_taken() -> bool:
        return await take(redis, hasty, "w2") == [child]

    await until(is_taken)


@pytest.mark.parametrize(
    ("reason", "w1", "w2"),
    [("it is full", 8, 4), ("it is much fuller", 5, 1), ("it is gone", 0, 0), ("affinity is off", 0, 0)],
)
async def test_it_is_for_anybody_if_that_worker(
    redis: RedisClient, settings: Settings, reason: str, w1: int, w2: int
) -> None:
    wait_s = 0.0 if reason == "affinity is off" else 60.0
    patient = settings.model_copy(update={"affinity_s": wait_s})
    await come(redis, "w1", w1, is_present=reason != "it is gone")
    await come(redis, "w2", w2)
    child = await go_on(redis, patient, await had_by(redis, patient, "w1"))
    assert await tokens(redis, "w1") == (1, 0)
    assert await take(redis, patient, "w2") == [child]


async def test_it_does_not_wait_for_a_worker_that_has_just_filled_up_but_that_one_takes_it_first(
    redis: RedisClient, settings: Settings
) -> None:
    """It need not have announced that; once it looks again, what continues its responses is kept for it."""
    patient = settings.model_copy(update=LONG | {"affinity_margin": 1.0})
    for worker in ("w1", "w2"):
        await come(redis, worker)
    parent = await had_by(redis, patient, "w1")
    claimant = Claimant(redis, patient, "w1")
    await accept(redis, patient)
    assert len((await claimant.claim(ONE)).begun) == 1
    early = await go_on(redis, patient, parent)
    assert await tokens(redis, "w1") == (2, 0), "anybody is woken"
    assert await take(redis, patient, "w2") == [early]
    first = str(await accept(redis, patient, tenant="a"))
    listed = await go_on(redis, patient, parent)
    assert [str(acquired.lease.key) for acquired in (await claimant.claim(ONE)).begun] == [listed]
    assert await take(redis, patient, "w2") == [first]
    assert (await claimant.claim(ONE)).begun == []
    late = await go_on(redis, patient, parent)
    assert await take(redis, patient, "w2") == []
    assert [str(acquired.lease.key) for acquired in (await claimant.claim(ONE)).begun] == [late]
    await claimant.close()


async def test_one_that_does_not_come_to_what_is_kept_for_it_gets_no_more(
    redis: RedisClient, settings: Settings
) -> None:
    patient = settings.model_copy(update=LONG)
    await come(redis, "w1")
    parent = await had_by(redis, patient, "w1")
    for _ in range(7):
        await go_on(redis, patient, parent)
    assert await tokens(redis, "w1") == (2, 5)


@pytest.mark.parametrize(("before", "overtakes"), [(16, True), (17, False)])
async def test_a_worker_takes_what_is_kept_for_it_first_but_overtakes_few(
    redis: RedisClient, settings: Settings, before: int, overtakes: bool
) -> None:
    patient = settings.model_copy(update=LONG)
    for worker in ("w1", "w2"):
        await come(redis, worker)
    parent = await had_by(redis, patient, "w1")
    waiting = [str(await accept(redis, patient, tenant="a")) for _ in range(before)]
    child = await go_on(redis, patient, parent)
    assert await take(redis, patient, "w1", ONE) == [child if overtakes else waiting[0]]


async def test_another_tenants_turn_comes_before_what_is_kept(redis: RedisClient, settings: Settings) -> None:
    patient = settings.model_copy(update=LONG)
    await come(redis, "w1")
    parent = await had_by(redis, patient, "w1")
    kept = [await go_on(redis, patient, parent) for _ in range(3)]
    other = str(await accept(redis, patient, tenant="b"))
    taken = [(await take(redis, patient, "w1", ONE))[0] for _ in range(4)]
    assert taken.index(other) <= 1
    assert [each for each in taken if each != other] == kept


async def test_the_next_request_with_its_prompt_cache_key_is_left_to_the_worker_that_had_the_last(
    redis: RedisClient, settings: Settings
) -> None:
    patient = settings.model_copy(update=LONG)
    for worker in ("w1", "w2"):
        await come(redis, worker)
    first = await ask(redis, patient)
    assert await take(redis, patient, "w1") == [first]
    await redis.command("DEL", keys.state(ResponseKey.parse(first)), keys.doorbell(RESPONSES_QUEUE))
    second = await ask(redis, patient, user="another", safety_identifier="another")
    assert await tokens(redis, "w1") == (0, 1), "long after that one has gone"
    assert await take(redis, patient, "w2") == []
    assert await take(redis, patient, "w1") == [second]


@pytest.mark.parametrize(
    "other",
    [{"tenant": "b"}, {"cache_key": "another"}, {"cache_key": None}, {"cache_key": ""}, {"is_off": True}],
    ids=str,
)
async def test_a_prompt_cache_key_means_nothing_to(
    redis: RedisClient, settings: Settings, other: dict[str, Any]
) -> None:
    patient = settings.model_copy(update=LONG)
    other = dict(other)
    asking = settings.model_copy(update={"affinity_s": 0.0}) if other.pop("is_off", False) else patient
    for worker in ("w1", "w2"):
        await come(redis, worker)
    await ask(redis, patient)
    assert len(await take(redis, patient, "w1")) == 1
    await redis.command("DEL", keys.doorbell(RESPONSES_QUEUE))
    await ask(redis, asking, **other)
    assert await tokens(redis, "w1") == (1, 0)


@pytest.mark.parametrize("capacity", [8, 64])
async def test_one_prompt_cache_key_for_everything_fills_no_worker_beyond_the_margin(
    redis: RedisClient, settings: Settings, capacity: int
) -> None:
    """What a worker has taken counts at once, though it has announced nothing since."""
    patient = settings.model_copy(update=LONG | {"responses_in_flight_max": capacity})
    taken = {"w1": 0, "w2": 0}
    for worker in taken:
        await fleet.announce(redis, worker, AboutWorker(SERVED, "scripted", capacity))
        await presence.announce(redis, "worker", worker)
    for _ in range(capacity):
        await ask(redis, patient)
        homes = [worker for worker in taken if (await tokens(redis, worker))[1]]
        (worker,) = homes or [min(taken, key=taken.__getitem__)]
        taken[worker] += len(await take(redis, patient, worker, running=taken[worker]))
        await redis.command("DEL", keys.doorbell(RESPONSES_QUEUE), keys.bell(worker))
    assert sum(taken.values()) == capacity
    assert abs(taken["w1"] - taken["w2"]) <= capacity * patient.affinity_margin + 1


async def test_how_full_a_worker_is_is_known_as_soon_as_it_has_taken_something(
    redis: RedisClient, settings: Settings
) -> None:
    async with working(redis, settings, engine=Mute(Script.load(None), sequences_max=8)) as worker:
        owner = worker.ownership.owner
        await come(redis, owner)
        loads = list[bytes]()
        for count in (1, 2, 1):
            for _ in range(count):
                await accept(redis, settings)
            await worker.ownership.claim(ROOM if len(loads) < 2 else ONE)
            loads.append(await redis.command("ZSCORE", keys.loads(RESPONSES_QUEUE), owner))
    assert [float(load) for load in loads] == [125, 375, fleet.FULL], "the last had room for one"


async def test_what_a_response_continues_decides_before_its_prompt_cache_key_if_that_has_a_home(
    redis: RedisClient, settings: Settings
) -> None:
    patient = settings.model_copy(update=LONG)
    for worker in ("w1", "w2"):
        await come(redis, worker)
    parent = await had_by(redis, patient, "w2")
    await ask(redis, patient)
    assert len(await take(redis, patient, "w1")) == 1
    await redis.command("DEL", keys.doorbell(RESPONSES_QUEUE))
    for owner, expected in (("w2", [(0, 1), (0, 0)]), ("api", [(0, 1), (0, 1)])):
        await redis.command("HSET", keys.state(parent), "owner", owner)  # `api` if it was cancelled
        request = make_request(prompt_cache_key="k")
        new = NewResponse.of(ResponseKey("a", request.response.id), request, {}, parent)
        await response_store.create(redis, patient, new)
        assert [await tokens(redis, worker) for worker in ("w2", "w1")] == expected


async def test_whoever_takes_a_response_over_is_who_has_its_prefix_and_who_cancels_it_is_not(
    redis: RedisClient, settings: Settings
) -> None:
    patient = settings.model_copy(update=LONG)
    for worker in ("w1", "w2"):
        await come(redis, worker)
    key = ResponseKey.parse(await ask(redis, patient))
    assert len(await take(redis, patient, "w1")) == 1
    name = keys.prefix(RESPONSES_QUEUE, "a", hashlib.sha256(b"k").hexdigest())
    await redis.command("HSET", keys.state(key), "lease_until_ms", 0)
    assert not isinstance(await lease.acquire(redis, patient, key, "w2"), str)
    assert not isinstance(await lease.seize(redis, patient, key, "api"), str)
    assert await redis.command("GET", name) == b"w2"
    assert 0 < await redis.command("PTTL", name) <= 600_000


async def test_a_prompt_cache_key_costs_one_command_more_to_accept_and_one_to_take(
    redis: RedisClient, settings: Settings
) -> None:
    """One that is new: otherwise it costs what a continuation does."""
    found = dict[str | None, list[int]]()
    for cache_key in ("first", "k", None):  # before the first, the scripts are not there
        counts = [await commands(redis)]
        await ask(redis, settings, cache_key)
        counts.append(await commands(redis))
        assert len(await take(redis, settings, "w1", ONE)) == 1
        counts.append(await commands(redis))
        found[cache_key] = [after - before for before, after in pairwise(counts)]
    assert found["k"] == [count + 1 for count in found[None]]


@hypothesis_settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.one_of(
            st.sampled_from(["w1", "w2", "nobody"]),
            st.tuples(st.sampled_from(["w1", "w2"]), st.integers(1, 3)),
        ),
        max_size=25,
    )
)
async def test_every_response_is_taken_once_whoever_it_is_kept_for(
    redis: RedisClient, settings: Settings, steps: list[str | tuple[str, int]]
) -> None:
    await redis.command("FLUSHALL")
    patient = settings.model_copy(update=LONG)
    parents = dict[str, ResponseKey]()
    for worker in ("w1", "w2"):
        await come(redis, worker)
        parents[worker] = await had_by(redis, patient, worker)
    made, taken = list[str](), list[str]()
    for step in [*steps, ("w1", 64), ("w2", 64), ("w1", 64)]:
        if isinstance(step, tuple):
            room = Room(step[1], 2**20, 2**20, rings_on=False)
            while found := await take(redis, patient, step[0], room):
                taken += found
                if step[1] < 64:
                    break
        elif step == "nobody":
            made.append(str(await accept(redis, patient, tenant="a")))
        else:
            made.append(await go_on(redis, patient, parents[step]))
    assert sorted(taken) == sorted(made)
    assert await redis.command("EXISTS", RESPONSES_QUEUE) == 0
