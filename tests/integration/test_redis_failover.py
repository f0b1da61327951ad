"""Sentinels promote a replica in mid-stream: all clients switch to the new primary, and streams continue."""

import asyncio
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from redis.exceptions import RedisError

from shared.settings import Settings
from shared.store import job_queue, keys
from shared.store.overview.server import read_server
from shared.store.redis.client import RedisClient
from shared.store.redis.connections import REDIS_AWAY
from shared.store.redis.insisting import insist
from shared.store.redis.sentinels import SentinelView, read_sentinels
from shared.store.redis.subscription import Subscription
from tests.failover import WatchedValkeys, connect
from tests.patience import PATIENCE_S, until, wait_until
from tests.requests import accept
from tests.running import RunningCluster, ask, start_cluster
from tests.streams import Frame, read_frames

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

SLOWLY = {"model": "default", "input": "Count slowly from 1 to 100", "stream": True}


@pytest.fixture(scope="module")
def cluster(watched: WatchedValkeys, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    data = tmp_path_factory.mktemp("failover") / "data"
    # A Sentinel that could not run for two seconds elects no primary for thirty: longer than the default.
    patience = {"ANTIPHON_REDIS_OUTAGE_MAX_S": "100"}
    running = start_cluster(data, "--apis", "2", "--workers", "2", "--redis-url", watched.url, **patience)
    yield running
    running.stop()


def read_through(cluster: RunningCluster, strike: Callable[[], None]) -> list[Frame]:
    """Returns a stream's frames, and strikes in the middle of it."""
    body, is_struck = b"", False
    url = f"{cluster.urls[0]}/v1/responses"
    with httpx.Client(timeout=PATIENCE_S) as client, client.stream("POST", url, json=SLOWLY) as stream:
        if stream.status_code == 503:  # Redis did not answer in time, on a loaded machine
            time.sleep(int(stream.headers["retry-after"]))
            return read_through(cluster, strike)
        for chunk in stream.iter_bytes():
            body += chunk
            if not is_struck and body.count(b"output_text.delta") > 20:
                is_struck = True
                strike()
    return read_frames(body)


def check_whole(cluster: RunningCluster, frames: list[Frame]) -> None:
    """The stream is whole, the log on the new primary is the same, and every role has lived through it."""
    assert [frame.id for frame in frames] == list(range(len(frames)))
    response = frames[-1].data["response"]
    assert response["status"] == "completed", response["error"]
    text = ", ".join(str(number) for number in range(1, 101))
    assert response["output"][-1]["content"][0]["text"] == text
    with httpx.Client(base_url=cluster.urls[1], timeout=PATIENCE_S) as client:
        again = ask(client, "GET", f"/v1/responses/{response['id']}", params={"stream": "true"})
        assert [f.raw_data for f in read_frames(again.content)] == [f.raw_data for f in frames]
        next_one = ask(client, "POST", "/v1/responses", json={"model": "default", "input": "Multiply 3*4"})
        assert next_one.json()["status"] == "completed"
        wait_until(lambda: client.get("/ready").json() == READY)
    assert [role["restarts"] for role in cluster.record["roles"]] == [0] * len(cluster.record["roles"])


READY: dict[str, Any] = {"status": "ready", "redis": True, "workers": 2, "tool_runners": 1, "cell": "0"}


def test_a_stream_goes_on_when_the_primary_is_killed(
    valkeys: WatchedValkeys, cluster: RunningCluster
) -> None:
    primary = valkeys.primary()
    frames = read_through(cluster, lambda: valkeys.signal(primary, signal.SIGKILL))
    wait_until(lambda: valkeys.primary() != primary)
    check_whole(cluster, frames)
    valkeys.start(primary)


def test_a_stream_goes_on_when_the_primary_and_a_sentinel_hang(
    valkeys: WatchedValkeys, cluster: RunningCluster
) -> None:
    primary, first = valkeys.primary(), valkeys.sentinels[0]

    def hang() -> None:
        valkeys.signal(first, signal.SIGSTOP)
        valkeys.signal(primary, signal.SIGSTOP)

    try:
        frames = read_through(cluster, hang)
        wait_until(lambda: valkeys.primary() != primary)
        check_whole(cluster, frames)
    finally:
        valkeys.signal(primary, signal.SIGCONT)
        valkeys.signal(first, signal.SIGKILL)  # if it continued, it would elect no primary for thirty seconds
        valkeys.start(first)


def test_a_stream_goes_on_through_a_planned_failover(
    valkeys: WatchedValkeys, cluster: RunningCluster
) -> None:
    primary = valkeys.primary()

    frames = read_through(cluster, valkeys.begin_failover)
    wait_until(lambda: valkeys.primary() != primary)
    check_whole(cluster, frames)


def has(port: int, name: str) -> bool:
    """Whether a server has a key; one that an earlier test has killed may still be starting."""
    try:
        with connect(port) as server:
            return bool(server.exists(name))
    except RedisError:
        return False


async def test_each_sentinel_says_what_it_sees_and_one_that_hangs_says_nothing(
    valkeys: WatchedValkeys,
) -> None:
    """All see the same once they have heard of it, and while they get the processor in time."""
    redis = RedisClient.connect(valkeys.url, timeout_s=PATIENCE_S)
    addresses = sorted(f"127.0.0.1:{port}" for port in valkeys.sentinels)
    hanging = f"127.0.0.1:{valkeys.sentinels[0]}"

    def whole(address: str) -> SentinelView:
        return SentinelView(address, True, f"127.0.0.1:{valkeys.primary()}", False, 2, 0, 2, 2)

    async def see_all() -> bool:
        return await read_sentinels(redis) == [whole(address) for address in addresses]

    async def see_all_but_one() -> bool:
        seen = await read_sentinels(redis)
        return [each.address for each in seen if not each.does_answer] == [hanging]

    async def does_need_replicas() -> bool:
        return (await read_server(redis)).does_need_replicas

    try:
        await until(see_all)
        valkeys.signal(valkeys.sentinels[0], signal.SIGSTOP)
        try:
            await until(see_all_but_one)
        finally:
            valkeys.signal(valkeys.sentinels[0], signal.SIGCONT)
        await until(does_need_replicas)
    finally:
        await redis.close()


async def test_a_write_that_waits_for_a_replica_is_refused_without_one(valkeys: WatchedValkeys) -> None:
    settings = Settings(redis_url=valkeys.url)
    client = RedisClient.connect(valkeys.url, timeout_s=5.0, durability="replica")
    try:
        # A server that an earlier test has struck may count as alive again before it has caught up.
        key = await insist(lambda: accept(client, settings), PATIENCE_S)
        replicas = [port for port in valkeys.servers if port != valkeys.primary()]
        wait_until(lambda: any(has(port, keys.state(key)) for port in replicas))
        for port in replicas:
            valkeys.signal(port, signal.SIGSTOP)
        with pytest.raises(REDIS_AWAY, match="not confirmed"):
            await accept(client, settings)
    finally:
        for port in valkeys.servers:
            valkeys.signal(port, signal.SIGCONT)
        await client.close()


async def test_a_job_that_was_being_taken_when_redis_went_away_is_soon_taken_again(
    redis: RedisClient, settings: Settings
) -> None:
    key = await accept(redis, settings)
    job = (await redis.command("HGET", keys.state(key), "job")).decode()
    await redis.command("SET", f"arq:in-progress:{job}", 1, "PX", 15_000)  # what the cut-off worker leaves
    taken = asyncio.Event()

    async def take(_name: str) -> None:
        taken.set()

    handlers = {"start_response": take}
    serving = asyncio.create_task(
        job_queue.serve(settings.redis_url, keys.RESPONSES_QUEUE, handlers, lambda: 1)
    )
    try:
        assert await job_queue.ring_again(redis, settings, key) == "waiting"
        async with asyncio.timeout(PATIENCE_S):
            await taken.wait()
    finally:
        serving.cancel()
        await asyncio.wait([serving])


async def test_no_client_waits_for_ever_when_every_sentinel_is_gone() -> None:
    url = "redis+sentinel://127.0.0.1:1,127.0.0.1:2/main"
    client = RedisClient.connect(url, timeout_s=0.5)
    with pytest.raises(REDIS_AWAY):
        await client.command("PING")
    serving = asyncio.create_task(job_queue.serve(url, keys.TOOLS_QUEUE, {"x": no_handler}, lambda: 1))
    listening = asyncio.create_task(
        Subscription(RedisClient.connect_listener(url)).listen(lambda *_: None, lambda: None)
    )
    ended, _ = await asyncio.wait([serving, listening], timeout=1.5)
    assert not ended  # they try again
    for task in (serving, listening):
        task.cancel()
    ended, _ = await asyncio.wait([serving, listening], timeout=PATIENCE_S)
    assert len(ended) == 2
    await client.close()


async def no_handler() -> None:
    """Is never called."""
