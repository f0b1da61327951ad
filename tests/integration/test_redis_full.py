"""A Redis out of memory refuses writes: nothing is half-written, running work waits, and reads still work."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import redis as plain_redis

from local.valkey import Valkey
from shared.settings import Settings
from shared.store import keys
from shared.store.log.response_log import NewEntry
from shared.store.owning import lease
from shared.store.owning.lease import Acquired, Renewal
from shared.store.redis.client import RedisClient
from tests.appending import append
from tests.patience import PATIENCE_S, wait_until
from tests.requests import accept
from tests.running import PATIENT, RunningCluster, start_cluster
from tests.streams import read_frames

OUTAGE_MAX_S = 2
SLOWLY = {"model": "default", "input": "Count slowly from 1 to 100", "stream": True}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with Valkey(Path(tmp_path_factory.mktemp("small"))) as server:
        yield server


@pytest.fixture(scope="module")
def cluster(small: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    data = tmp_path_factory.mktemp("full") / "data"
    running = start_cluster(
        data, "--redis-url", small.url, ANTIPHON_REDIS_OUTAGE_MAX_S=str(OUTAGE_MAX_S), **PATIENT
    )
    yield running
    running.stop()


def set_room(small: Valkey, maxmemory: int) -> None:
    """0: no limit."""
    with plain_redis.Redis.from_url(small.url) as connection:
        connection.config_set("maxmemory", maxmemory)


async def read_everything(redis: RedisClient) -> dict[bytes, bytes]:
    return {name: await redis.command("DUMP", name) for name in await redis.command("KEYS", "*")}


async def test_a_refused_write_leaves_nothing_behind(redis: RedisClient, settings: Settings) -> None:
    key = await accept(redis, settings)
    held = await lease.acquire(redis, settings, key, "a")
    assert isinstance(held, Acquired)
    before = await read_everything(redis)
    await redis.command("CONFIG", "SET", "maxmemory", 1)
    try:
        with pytest.raises(plain_redis.exceptions.OutOfMemoryError):
            await accept(redis, settings)
        with pytest.raises(plain_redis.exceptions.OutOfMemoryError):
            await append(redis, settings, held.lease, 1, [NewEntry(b"event: x\n\n")])
        assert await read_everything(redis) == before
    finally:
        await redis.command("CONFIG", "SET", "maxmemory", 0)
    await append(redis, settings, held.lease, 1, [NewEntry(b"event: x\n\n")])


async def test_a_lease_is_kept_in_a_full_redis(redis: RedisClient, settings: Settings) -> None:
    key = await accept(redis, settings)
    held = await lease.acquire(redis, settings, key, "a")
    assert isinstance(held, Acquired)
    await redis.command("HSET", keys.state(key), "lease_until_ms", 1)
    await redis.command("CONFIG", "SET", "maxmemory", 1)
    try:
        assert await lease.renew_all(redis, [Renewal.of(settings, held.lease)]) == []
        assert int(await redis.command("HGET", keys.state(key), "lease_until_ms")) > 1
    finally:
        await redis.command("CONFIG", "SET", "maxmemory", 0)


@pytest.mark.parametrize("is_long", [False, True])
def test_a_stream_waits_for_room_and_goes_on(cluster: RunningCluster, small: Valkey, is_long: bool) -> None:
    """Shorter or longer than a worker holds what it cannot append."""
    with httpx.Client(base_url=cluster.urls[0], timeout=PATIENCE_S) as client:
        done = client.post("/v1/responses", json={"model": "default", "input": "Hello"}).json()
        with client.stream("POST", "/v1/responses", json=SLOWLY) as stream:
            chunks = stream.iter_bytes()
            body = b""
            while body.count(b"output_text.delta") < 20:
                body += next(chunks)
            set_room(small, 1)
            try:
                check_refusals(client, done["id"])
                if is_long:
                    wait_until(lambda: b"given up, Redis is unavailable" in log_of(cluster))
            finally:
                set_room(small, 0)
            body += b"".join(chunks)
        frames = read_frames(body)
        assert [frame.id for frame in frames] == list(range(len(frames)))
        response = frames[-1].data["response"]
        assert response["status"] == "completed", response["error"]
        assert response["output"][-1]["content"][0]["text"].endswith("98, 99, 100")
        answer = client.post("/v1/responses", json={"model": "default", "input": "Hello"})
        assert answer.json()["status"] == "completed"
    assert [role["restarts"] for role in cluster.record["roles"]] == [0] * len(cluster.record["roles"])


def check_refusals(client: httpx.Client, response_id: str) -> None:
    """A new response is deferred; one that is there is read, waited for and streamed."""
    refused = client.post("/v1/responses", json={"model": "default", "input": "Hello"})
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert refused.json()["error"]["code"] == "service_unavailable"
    assert client.get(f"/v1/responses/{response_id}").json()["status"] == "completed"
    again = client.get(f"/v1/responses/{response_id}", params={"stream": "true"})
    assert read_frames(again.content)[-1].event == "response.completed"


def log_of(cluster: RunningCluster) -> bytes:
    (path,) = [role["log"] for role in cluster.record["roles"] if role["kind"] == "worker"]
    return Path(path).read_bytes()
