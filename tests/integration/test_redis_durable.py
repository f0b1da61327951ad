"""`durable_writes`: what counts is confirmed first; what cannot be confirmed is refused."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
import redis as plain_redis

from api.app import create_app
from api.auth import Keyring
from local.valkey import Valkey
from shared.settings import Settings
from shared.store import event_log, lease
from shared.store.event_log import APPEND, Draft, append_call
from shared.store.lease import Acquired, Lease
from shared.store.redis_client import REDIS_AWAY, RedisClient
from tests.requests import accept

URL = "http://antiphon"


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
    client = RedisClient.connect(own.url, timeout_s=2.0, durability="aof")
    yield client
    await client.close()


def count(server: "plain_redis.Redis", command: str) -> int:
    stats: Any = server.info("commandstats")
    return int(stats.get(f"cmdstat_{command}", {"calls": 0})["calls"])


def file_bytes(server: "plain_redis.Redis") -> int:
    persistence: Any = server.info("persistence")
    return int(persistence["aof_current_size"])


async def own_three(client: RedisClient, settings: Settings) -> list[Lease]:
    leases = []
    for _ in range(3):
        acquired = await lease.acquire(client, settings, await accept(client, settings), "a")
        assert isinstance(acquired, Acquired)
        leases.append(acquired.lease)
    return leases


async def test_one_confirmation_serves_all_appends_of_a_write(
    durable: RedisClient, server: "plain_redis.Redis"
) -> None:
    settings = Settings()
    leases = await own_three(durable, settings)
    assert count(server, "waitaof") == 3  # one for each response that was accepted
    calls = [append_call(settings, held, 1, [Draft(b"event: x\n\n")], None) for held in leases]
    replies = await durable.run_many(APPEND, calls)
    assert replies == [[b"ok", 2]] * 3
    assert count(server, "waitaof") == 4


async def test_without_the_setting_nothing_is_waited_for(own: Valkey, server: "plain_redis.Redis") -> None:
    client = RedisClient.connect(own.url, timeout_s=2.0)
    await own_three(client, Settings())
    await client.close()
    assert count(server, "waitaof") == count(server, "wait") == 0


async def test_an_append_that_is_sent_again_is_confirmed_again(
    durable: RedisClient, server: "plain_redis.Redis"
) -> None:
    """Though it writes nothing then: the confirmation covers what another connection has written."""
    settings = Settings()
    held = (await own_three(durable, settings))[0]
    await event_log.append(durable, settings, held, 1, [Draft(b"event: x\n\n")])
    written = file_bytes(server)
    await event_log.append(durable, settings, held, 1, [Draft(b"event: x\n\n")])
    assert count(server, "waitaof") == 5
    assert file_bytes(server) > written


async def test_a_server_that_keeps_no_file_refuses_and_says_why(
    own: Valkey, durable: RedisClient, server: "plain_redis.Redis"
) -> None:
    server.config_set("appendonly", "no")
    with pytest.raises(REDIS_AWAY, match=r"cannot be confirmed.*appendonly"):
        await accept(durable, Settings())
    app = create_app(Settings(redis_url=own.url, durable_writes="aof"), Keyring())
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url=URL) as client,
    ):
        answer = await client.post("/v1/responses", json={"input": "Hello", "background": True})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


async def test_without_a_replica_nothing_is_replicated(own: Valkey) -> None:
    client = RedisClient.connect(own.url, timeout_s=0.5, durability="replica")
    with pytest.raises(REDIS_AWAY, match="not confirmed in time"):
        await accept(client, Settings())
    await client.close()
