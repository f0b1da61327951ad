"""`durable_writes`: what counts is confirmed first; what cannot be confirmed is refused."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
import redis as plain_redis

from api.app import create_app
from api.tenants import Tenants
from local.valkey import Valkey
from shared.settings import Settings
from shared.store.log.response_log import LogLimits, NewEntry, ResponseLog
from shared.store.owning.lease import Lease
from shared.store.redis.client import RedisClient
from shared.store.redis.connections import REDIS_AWAY
from tests.appending import append, begin, make_write
from tests.edges import serving
from tests.patience import PATIENCE_S
from tests.requests import accept
from tests.running import PATIENT, start_cluster
from tests.streams import read_frames

URL = "http://127.0.0.1"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with Valkey(Path(tmp_path_factory.mktemp("own"))) as server:
        yield server


@pytest.fixture
def server(own: Valkey) -> Iterator["plain_redis.Redis"]:
    """The server itself, past every layer of ours; its file is on."""
    with plain_redis.Redis.from_url(own.url) as connection:
        connection.config_set("appendonly", "yes")
        connection.config_resetstat()
        yield connection


@pytest_asyncio.fixture
async def durable(own: Valkey) -> AsyncIterator[RedisClient]:
    client = RedisClient.connect(own.url, timeout_s=PATIENCE_S, durability="aof")
    yield client
    await client.close()


def count(server: "plain_redis.Redis", command: str) -> int:
    stats: Any = server.info("commandstats")
    return int(stats.get(f"cmdstat_{command}", {"calls": 0})["calls"])


def file_bytes(server: "plain_redis.Redis") -> int:
    persistence: Any = server.info("persistence")
    return int(persistence["aof_current_size"])


async def own_three(client: RedisClient, settings: Settings) -> list[Lease]:
    return [await begin(client, settings) for _ in range(3)]


async def test_one_confirmation_serves_all_appends_of_a_write(
    durable: RedisClient, server: "plain_redis.Redis"
) -> None:
    settings = Settings()
    await own_three(durable, settings)
    before = count(server, "waitaof")
    leases = await own_three(durable, settings)
    assert count(server, "waitaof") == before + 3  # one for each response that was accepted
    logs = [ResponseLog(LogLimits.of(settings), held.key) for held in leases]
    calls = [
        make_write(log, held, 1, [NewEntry(b"event: x\n\n")]).call
        for log, held in zip(logs, leases, strict=True)
    ]
    await append(durable, settings, leases[0], 1, [NewEntry(b"event: x\n\n")])
    before = count(server, "waitaof")
    replies = await durable.run_many(calls[1:])
    assert replies == [2] * 2
    assert count(server, "waitaof") == before + 1


async def test_without_the_setting_nothing_is_waited_for(own: Valkey, server: "plain_redis.Redis") -> None:
    client = RedisClient.connect(own.url, timeout_s=PATIENCE_S)
    await own_three(client, Settings())
    await client.close()
    assert count(server, "waitaof") == count(server, "wait") == 0


async def test_an_append_that_is_sent_again_is_confirmed_again(
    durable: RedisClient, server: "plain_redis.Redis"
) -> None:
    """Though it writes nothing then: the confirmation covers what another connection has written."""
    settings = Settings()
    held = (await own_three(durable, settings))[0]
    await append(durable, settings, held, 1, [NewEntry(b"event: x\n\n")])
    confirmed, written = count(server, "waitaof"), file_bytes(server)
    await append(durable, settings, held, 1, [NewEntry(b"event: x\n\n")])
    assert count(server, "waitaof") == confirmed + 1
    assert file_bytes(server) > written


async def test_a_server_that_keeps_no_file_refuses_and_says_why(
    own: Valkey, durable: RedisClient, server: "plain_redis.Redis"
) -> None:
    server.config_set("appendonly", "no")
    with pytest.raises(REDIS_AWAY, match=r"cannot be confirmed.*appendonly"):
        await accept(durable, Settings())
    app = create_app(Settings(redis_url=own.url, durable_writes="aof", redis_timeout_s=PATIENCE_S), Tenants())
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url=URL) as client,
    ):
        answer = await client.post("/v1/responses", json={"input": "Hello", "background": True})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


async def test_without_a_replica_nothing_is_replicated(own: Valkey) -> None:
    # A fifth of it is left for the answer once the wait is over.
    client = RedisClient.connect(own.url, timeout_s=5.0, durability="replica")
    with pytest.raises(REDIS_AWAY, match="not confirmed in time"):
        await accept(client, Settings())
    await client.close()


async def test_that_a_response_is_missing_is_not_said_by_a_server_that_may_have_been_replaced(
    own: Valkey,
) -> None:
    settings = Settings(redis_url=own.url, durable_writes="replica", redis_timeout_s=0.5)
    missing = f"/v1/responses/resp_0_{'a' * 32}"
    async with serving(settings) as client:
        for path in (missing, f"{missing}/input_items"):
            assert (await client.get(path)).status_code == 503
        following = {"input": "Hello", "previous_response_id": missing.rpartition("/")[2]}
        assert (await client.post("/v1/responses", json=following)).status_code == 503


def test_a_stream_whose_events_are_all_confirmed_outlives_the_servers_death(tmp_path: Path) -> None:
    cluster = start_cluster(tmp_path / "data", ANTIPHON_DURABLE_WRITES="aof", **PATIENT)
    try:
        body = {"model": "default", "input": "Count slowly from 1 to 40", "stream": True}
        received = b""
        with httpx.stream("POST", f"{cluster.urls[0]}/v1/responses", json=body, timeout=PATIENCE_S) as stream:
            chunks = stream.iter_bytes()
            while received.count(b"output_text.delta") < 20:
                received += next(chunks)
            cluster.kill("valkey")
            received += b"".join(chunks)
    finally:
        cluster.stop()
    frames = read_frames(received)
    assert [frame.id for frame in frames] == list(range(len(frames)))
    response = frames[-1].data["response"]
    assert response["status"] == "completed", response["error"]
    assert response["output"][-1]["content"][0]["text"].endswith("38, 39, 40")
