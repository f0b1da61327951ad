"""A connection that dies, in any manner and on any event loop, raises one kind of error, REDIS_AWAY."""

import asyncio
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop
from redis.exceptions import ConnectionError as RedisConnectionError

from local.valkey import Valkey
from shared.settings import Settings
from shared.store import job_queue, keys
from shared.store.log import event_log
from shared.store.log.appender import Appender
from shared.store.log.response_log import NewEntry
from shared.store.owning import lease, presence
from shared.store.owning.lease import Acquired
from shared.store.redis.client import RedisClient
from shared.store.redis.connections import REDIS_AWAY, make_pool
from shared.store.redis.subscription import Subscription
from tests.appending import append_through
from tests.cutting import MANNERS, CutWay, Manner
from tests.patience import PATIENCE_S, until
from tests.requests import accept

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "uvloop": uvloop.new_event_loop,
    "asyncio": asyncio.new_event_loop,
}
CUTS = 40


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with Valkey(Path(tmp_path_factory.mktemp("own"))) as server:
        yield server


@pytest.fixture
def way(own: Valkey) -> Iterator[CutWay]:
    with CutWay(int(own.url.rpartition(":")[2].partition("/")[0])) as way:
        yield way


async def ask(connection: Any, *, is_asked: bool) -> None:
    if not is_asked:
        await connection.send_command("PING")
    await connection.read_response()


@pytest.mark.parametrize("manner", MANNERS)
@pytest.mark.parametrize("loop", LOOPS)
def test_a_connection_that_died_unnoticed_says_that_it_is_dead(
    way: CutWay, manner: Manner, loop: str
) -> None:
    async def die_and_ask() -> None:
        connection = make_pool(way.url).make_connection()  # type: ignore[no-untyped-call]
        for step in ("before it is written to", "before it is read from"):
            await connection.connect()
            transport = connection._writer.transport
            if step == "before it is read from":
                await connection.send_command("BLPOP", "nothing", 0)
            way.cut(manner)
            if manner in ("reset", "halved"):
                await until(transport.is_closing)
            with pytest.raises(RedisConnectionError):
                await ask(connection, is_asked=step == "before it is read from")
            await connection.send_command("PING")
            assert await connection.read_response() == b"PONG"
            await connection.disconnect()

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(die_and_ask())


@pytest.mark.parametrize("loop", LOOPS)
def test_everything_that_listens_or_writes_lives_through_any_cut(way: CutWay, loop: str) -> None:
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(live_through_cuts(way))


async def live_through_cuts(way: CutWay) -> None:
    settings = Settings(redis_url=way.url)
    client = RedisClient.connect(way.url, timeout_s=PATIENCE_S)
    await client.command("FLUSHALL")
    listener = RedisClient.connect_listener(way.url)
    appender, subscription = Appender(client, settings), Subscription(listener)
    heard: list[bytes] = []
    rung = asyncio.Event()

    async def take(_name: str, _index: int) -> None:
        rung.set()

    flows = [
        appender.run(),
        subscription.listen(lambda _, payload: heard.append(payload), lambda: None),
        presence.maintain(client, "worker", "one"),
        job_queue.serve(way.url, keys.TOOLS_QUEUE, {"start_tool_call": take}, lambda: 1),
    ]
    tasks = [asyncio.create_task(flow) for flow in flows]
    key = await accept(client, settings)
    acquired = await lease.acquire(client, settings, key, "a")
    assert isinstance(acquired, Acquired)
    for number, manner in zip(range(CUTS), itertools.cycle(MANNERS), strict=False):
        appending = asyncio.create_task(
            append_through(appender, acquired.lease, number + 1, [NewEntry(b"event: x\n\n")])
        )
        changing = asyncio.create_task(subscription.add(f"channel {number}"))
        for _ in range(number % 7):
            await asyncio.sleep(0)
        way.cut(manner)
        ended, _ = await asyncio.wait(
            [*tasks, changing], timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED
        )
        assert ended == {changing}
        async with asyncio.timeout(PATIENCE_S):
            await changing
            await appending
    page = await event_log.read(client, key, -1)
    assert [entry.sequence_number for entry in page.entries] == list(range(CUTS + 1))

    async def is_heard() -> bool:
        await client.command("PUBLISH", f"channel {CUTS - 1}", "again")
        return b"again" in heard

    await until(is_heard)
    job = job_queue.tool_job(key, 0)
    await client.command("SET", keys.job("j"), job, "PX", 60_000)

    async def is_rung() -> bool:
        await client.command("ZADD", keys.TOOLS_QUEUE, 1, "j")
        return rung.is_set()

    await until(is_rung)
    assert await presence.count(client, "worker") == 1
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await subscription.close()
    await listener.close()
    await client.close()


def test_a_transaction_that_the_server_cannot_end_for_now_is_no_fault_of_ours(own: Valkey) -> None:
    async def turn_between_multi_and_exec() -> None:
        client = RedisClient.connect(own.url, timeout_s=PATIENCE_S)
        connection = make_pool(own.url).make_connection()  # type: ignore[no-untyped-call]
        for command in (("MULTI",), ("SET", "x", "1", "PX", "60000")):
            await connection.send_command(*command)
            await connection.read_response()
        try:
            await client.command("CONFIG", "SET", "min-replicas-to-write", 1)
            await connection.send_command("EXEC")
            with pytest.raises(RedisConnectionError, match="NOREPLICAS"):
                await connection.read_response()
        finally:
            await client.command("CONFIG", "SET", "min-replicas-to-write", 0)
        await connection.disconnect()
        await client.close()

    asyncio.run(turn_between_multi_and_exec())


def test_a_server_that_takes_no_further_connection_is_away(own: Valkey) -> None:
    async def ask_for_one_too_many() -> None:
        client = RedisClient.connect(own.url, timeout_s=PATIENCE_S)
        await client.command("CONFIG", "SET", "maxclients", 1)
        try:
            further = RedisClient.connect(own.url, timeout_s=2.0)  # refused at once, or never let in
            with pytest.raises(REDIS_AWAY):
                await further.command("PING")
            await further.close()
        finally:
            await client.command("CONFIG", "SET", "maxclients", 10_000)
        await client.close()

    asyncio.run(ask_for_one_too_many())
