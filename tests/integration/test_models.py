"""Several models behind one Redis: what workers announce can be asked for, and waits for one that has it."""

import asyncio

from local.valkey import Valkey
from shared.settings import Settings
from shared.store import job_queue, keys
from shared.store.job_queue import Room
from shared.store.keys import ResponseKey
from shared.store.owning import fleet, lease
from shared.store.owning.claiming import Claimant
from shared.store.owning.fleet import AboutWorker
from shared.store.redis.client import RedisClient
from tests.edges import error_of, serving
from tests.overhearing import overhearing
from tests.patience import until
from tests.scripted import SCRIPT
from tests.working import working
from worker.engines.scripted.engine import ScriptedEngine
from worker.serving import describe_served

ROOM = Room(64, 2**20, 2**20, rings_on=False)
ONE = Room(1, 2**20, 2**20, rings_on=False)


def about(settings: Settings, *names: str, adapters: tuple[str, ...] = ()) -> AboutWorker:
    engine = ScriptedEngine(SCRIPT, adapters=adapters)
    chosen = settings.model_copy(update={"served_models": list(names), "context_tokens_max": 9_000})
    return AboutWorker(describe_served(chosen, engine), "scripted", 512)


async def claim(redis: RedisClient, settings: Settings, worker: str, announced: AboutWorker) -> list[str]:
    claimant = Claimant(redis, settings, worker, announced.queues)
    claimed = await claimant.claim(ROOM)
    await claimant.close()
    return [acquired.lease.key.response_id for acquired in claimed.begun]


async def test_a_response_waits_for_a_worker_that_has_its_model(
    redis: RedisClient, settings: Settings
) -> None:
    plain, big = about(settings, adapters=("legal",)), about(settings, "big", "vendor/big")
    async with serving(settings) as client:

        async def ask(model: str | None) -> str:
            body = {"input": "Hello", "background": True} | ({"model": model} if model else {})
            return str((await client.post("/v1/responses", json=body)).json()["id"])

        refused = await client.post("/v1/responses", json={"input": "Hello", "model": "big"})
        assert (refused.status_code, error_of(refused)["code"]) == (404, "model_not_found")
        await fleet.announce(redis, "w1", plain)
        await fleet.announce(redis, "w2", big)
        asked = {name: await ask(name) for name in (None, "legal", "big", "vendor/big")}
        listed = (await client.get("/v1/models")).json()["data"]
        assert [(model["id"], model["max_model_len"]) for model in listed if model["id"] != "default"] == [
            (name, 9_000) for name in ("big", "legal", "vendor/big")
        ]
    assert set(await claim(redis, settings, "w1", plain)) == {asked[None], asked["legal"]}
    assert await claim(redis, settings, "w2", big) == [asked["big"], asked["vendor/big"]]
    key = ResponseKey("default", asked["big"])
    await redis.command("HSET", keys.state(key), "lease_until_ms", 1)
    assert await job_queue.ring_again(redis, settings, key) == "rung", "its owner was lost"
    assert await redis.command("ZRANGE", keys.queue_of("big"), 0, -1) == [f"{key}:1".encode()]


async def test_a_pinned_model_is_waited_for_and_one_that_has_gone_is_not_listed(
    redis: RedisClient, settings: Settings
) -> None:
    pinned = settings.model_copy(update={"pinned_models": ["later"]})
    await fleet.announce(redis, "w", about(settings, "gone"))
    members = await redis.command("ZRANGE", keys.MODELS, 0, -1)
    await redis.command("ZADD", keys.MODELS, await lease.now_ms(redis) - 1, members[0])
    async with serving(pinned) as client:
        assert [model["id"] for model in (await client.get("/v1/models")).json()["data"]] == [
            "default",
            "later",
        ]
        for model in ("later", "gone"):
            body = {"input": "Hello", "model": model, "background": True}
            assert (await client.post("/v1/responses", json=body)).status_code == 200
            assert await redis.command("ZCARD", keys.queue_of(model)) == 1


async def test_a_worker_with_room_for_one_takes_from_each_queue_in_turn(
    redis: RedisClient, settings: Settings
) -> None:
    announced = about(settings, adapters=("legal",))
    await fleet.announce(redis, "w", announced)
    claimant = Claimant(redis, settings, "w", announced.queues)
    async with serving(settings) as client:
        for model in ("default", "legal") * 3:
            body = {"input": "Hello", "model": model, "background": True}
            await client.post("/v1/responses", json=body)
    lengths = []
    for _ in range(6):
        await claimant.claim(ONE)
        lengths.append([int(await redis.command("ZCARD", queue)) for queue in announced.queues])
    await claimant.close()
    assert all(abs(first - second) <= 1 for first, second in lengths)
    assert lengths[-1] == [0, 0]


async def test_a_takeover_leaves_the_queue_of_its_model_with_its_job(
    redis: RedisClient, settings: Settings, valkey: Valkey
) -> None:
    await fleet.announce(redis, "w", about(settings, adapters=("big",)))
    async with serving(settings) as client:
        body = {"input": "Hello", "model": "big", "background": True}
        key = ResponseKey("default", (await client.post("/v1/responses", json=body)).json()["id"])
    assert await claim(redis, settings, "dead", about(settings, adapters=("big",))) == [key.response_id]
    await redis.command("HSET", keys.state(key), "lease_until_ms", 1)
    assert await job_queue.ring_again(redis, settings, key) == "rung"
    queues, own_queue = about(settings, adapters=("big",)).queues, keys.queue_of("big")
    assert queues[0] != own_queue
    async with working(redis, settings, SCRIPT, queues=queues) as worker:
        handlers = {"start_response": worker.ownership.start_response}
        owned = worker.ownership
        serve = job_queue.serve(settings.redis_url, queues[0], handlers, owned.room, claim=owned.claim)
        async with overhearing(valkey.port) as overheard:
            queue = asyncio.create_task(serve)

            async def is_done() -> bool:
                closed = await redis.command("HGET", keys.state(key), "closed")
                return closed == b"completed" and not await redis.command("EXISTS", own_queue)

            await until(is_done)
            queue.cancel()
            await asyncio.wait([queue])
            await overheard.wait_for("arq:job:")
    asked = [line for line in overheard.lines if " lua]" not in line]
    (leaving,) = [line for line in asked if '"ZREM"' in line and f'"{own_queue}"' in line]
    connection = leaving.split("]")[0].rpartition(" ")[2]
    sent = [line for line in asked if f" {connection}]" in line]
    place = sent.index(leaving)
    end = next(at for at in range(place, len(sent)) if '"EXEC"' in sent[at])
    begin = next(at for at in range(place, -1, -1) if '"MULTI"' in sent[at] or '"EXEC"' in sent[at])
    assert '"MULTI"' in sent[begin], "what comes between two commands would leave the job without a queue"
    assert [line for line in sent[begin:end] if f"arq:job:{key}:1" in line], "with the job itself"
