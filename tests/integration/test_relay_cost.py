"""What relaying costs an API node, in counts that are the same on every machine; no time is measured."""

import asyncio
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any

import pytest
import uvloop

from local.valkey import Valkey
from shared.settings import Settings
from shared.store.keys import ResponseKey
from shared.store.log.response_log import Closing, NewEntry
from shared.store.redis.client import RedisClient
from tests.appending import append, begin
from tests.patience import PATIENCE_S, until
from tests.requests import make_request
from tests.serving import serving

STREAMS, ROUNDS = 20, 50
CALLS_MAX, TIMERS_MAX, TASKS_MAX = 6, 0.1, 0.1
"""For each event that goes to one client: Python functions that are entered or resumed, timers, tasks."""
TRIES_MAX = 5
"""A node that a loaded machine leaves no time falls behind, and its readers' tasks pass on what is late."""
IDLE_STREAMS, IDLE_S = 300, 5.0
SCRIPTS_MAX, IDLE_CALLS_MAX = 0.045, 9.0
"""For each idle stream and second: scripts that Redis runs, Python functions."""
CLOSING = Closing("completed", b"{}", 60)


@dataclass
class Counts:
    calls: int = 0
    timers: int = 0
    tasks: int = 0

    def without(self, idle: "Counts") -> "Counts":
        return Counts(self.calls - idle.calls, self.timers - idle.timers, self.tasks - idle.tasks)


class CountingLoop(uvloop.Loop):
    def __init__(self) -> None:
        self.counts = Counts()

    def create_task(self, *arguments: Any, **options: Any) -> Any:
        self.counts.tasks += 1
        return super().create_task(*arguments, **options)

    def call_later(self, *arguments: Any, **options: Any) -> Any:  # type: ignore[override]
        self.counts.timers += 1
        return super().call_later(*arguments, **options)


async def counting(work: Callable[[], None]) -> Counts:
    """What this thread does while the work is done in another."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, CountingLoop)

    def note(_frame: FrameType, event: str, _argument: object) -> None:
        loop.counts.calls += event == "call"

    loop.counts = Counts()
    sys.setprofile(note)
    try:
        await asyncio.to_thread(work)
    finally:
        sys.setprofile(None)
    return replace(loop.counts)


class Client(threading.Thread):
    """Reads a stream to its end, in a thread of its own."""

    def __init__(self, port: int, key: ResponseKey) -> None:
        super().__init__()
        self.received = bytearray()
        self._connection = socket.create_connection(("127.0.0.1", port), PATIENCE_S)
        head = f"GET /v1/responses/{key.response_id}?stream=true HTTP/1.1\r\nhost: localhost\r\n\r\n"
        self._connection.sendall(head.encode())
        self.start()

    def run(self) -> None:
        with self._connection as connection:
            while not self.received.endswith(b"\r\n0\r\n\r\n"):
                self.received += connection.recv(65_536)

    @property
    def events(self) -> int:
        return self.received.count(b"event: ")


def run(work: Callable[[RedisClient], Any], settings: Settings) -> None:
    """In another thread, and so in a loop of its own."""

    async def connect_and_work() -> None:
        redis = RedisClient.connect(settings.redis_url, timeout_s=5.0)
        await work(redis)
        await redis.close()

    asyncio.run(connect_and_work())


def frame_of(number: int) -> NewEntry:
    return NewEntry(b"event: x\nid: %d\ndata: {}\n\n" % number)


@pytest.fixture
def loop_runner() -> Any:
    with asyncio.Runner(loop_factory=CountingLoop) as runner:
        yield runner


def test_an_event_is_relayed_in_a_few_calls_without_a_timer_or_a_task(
    valkey: Valkey, settings: Settings, loop_runner: asyncio.Runner
) -> None:
    async def relay() -> Counts:
        redis = RedisClient.connect(settings.redis_url, timeout_s=5.0)
        held = [await begin(redis, settings, make_request(background=True)) for _ in range(STREAMS)]
        async with serving(settings) as port:
            clients = [Client(port, each.key) for each in held]

            async def append_to_all(redis: RedisClient, first: int, rounds: int) -> None:
                for number in range(first, first + rounds):
                    for each in held:
                        await append(redis, settings, each, number, [frame_of(number)])

            def have(events: int) -> Callable[[], bool]:
                return lambda: all(client.events == events for client in clients)

            await until(have(1))
            await append_to_all(redis, 1, 1)
            await until(have(2))

            async def produce(redis: RedisClient) -> None:
                await append_to_all(redis, 2, ROUNDS)
                await until(have(2 + ROUNDS))

            begun_s = time.monotonic()
            counts = await counting(lambda: run(produce, settings))
            took_s = time.monotonic() - begun_s
            idle = await counting(lambda: time.sleep(took_s))  # what the node does beside, however slow it is
            for each in held:
                await append(redis, settings, each, 2 + ROUNDS, [frame_of(2 + ROUNDS)], CLOSING)
            await until(have(3 + ROUNDS))
            for client in clients:
                await asyncio.to_thread(client.join)
        await redis.close()
        return counts.without(idle)

    events = STREAMS * ROUNDS
    for _ in range(TRIES_MAX):
        counts = loop_runner.run(relay())
        if counts.calls <= CALLS_MAX * events:
            break
    assert counts.calls <= CALLS_MAX * events, counts
    assert counts.timers <= TIMERS_MAX * events, counts
    assert counts.tasks <= TASKS_MAX * events, counts


def test_an_idle_stream_costs_next_to_nothing_however_many_there_are(
    valkey: Valkey, settings: Settings, loop_runner: asyncio.Runner
) -> None:
    """Nobody has left, and each would hear of what is appended: it is asked for all of them at once."""

    settings = settings.model_copy(update={"lease_ttl_s": 600.0})  # or sweepers would ring for each of them

    async def stay_idle() -> tuple[Counts, int, float]:
        redis = RedisClient.connect(settings.redis_url, timeout_s=5.0)
        held = [await begin(redis, settings) for _ in range(IDLE_STREAMS)]
        async with serving(settings) as port:
            clients = [Client(port, each.key) for each in held]
            await until(lambda: all(client.events == 1 for client in clients))
            scripts, begun_s = await count_scripts(redis), time.monotonic()
            counts = await counting(lambda: time.sleep(IDLE_S))
            scripts, idle_s = await count_scripts(redis) - scripts, time.monotonic() - begun_s
            for each in held:
                await append(redis, settings, each, 1, [frame_of(1)], CLOSING)
            for client in clients:
                await asyncio.to_thread(client.join)
        await redis.close()
        return counts, scripts, idle_s

    counts, scripts, idle_s = loop_runner.run(stay_idle())
    assert scripts <= SCRIPTS_MAX * IDLE_STREAMS * idle_s
    assert counts.calls <= IDLE_CALLS_MAX * IDLE_STREAMS * idle_s, counts


async def count_scripts(redis: RedisClient) -> int:
    stats = await redis.command("INFO", "commandstats")
    return sum(
        int(stats[f"cmdstat_{name}"]["calls"]) for name in ("eval", "evalsha") if f"cmdstat_{name}" in stats
    )
