"""Measures what an appended event costs Redis: through the worker's script with its checks, and without any.

Owns the comparison, with somebody subscribed to every log; the writes are those of `shared/store/log`.
"""

import asyncio
import tempfile
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench import tables
from bench.page import Result
from bench.scale import Scale
from bench.usage import read_cpu_s
from local.valkey import Valkey
from shared.settings import Settings
from shared.store import keys
from shared.store.log.appender import Appender
from shared.store.log.response_log import NewEntry
from shared.store.owning import lease
from shared.store.owning.lease import Acquired, Lease
from shared.store.redis.client import RedisClient
from shared.store.redis.subscription import Subscription
from tests.requests import accept

_BATCHES = (1, 32, 256)
"""Responses that have an event in one write."""
_EVENTS_MIN = 3_200
"""Measured each time, at least."""
_FRAME = (
    b"event: response.output_text.delta\nid: 12345\ndata: "
    b'{"type":"response.output_text.delta","sequence_number":12345,"item_id":"msg_%032d",'
    b'"output_index":0,"content_index":0,"delta":" token","logprobs":[]}\n\n' % 0
)
_OURS, _PLAIN = "the worker's script", "`XADD` and `PUBLISH`, unchecked"


class Writers:
    """Both ways of writing, each with logs of its own."""

    def __init__(self, redis: RedisClient, appender: Appender, leases: list[Lease]) -> None:
        self._redis, self._appender, self._leases = redis, appender, leases
        self._logs = [appender.log_of(held.key) for held in leases]
        self._next = [1] * len(leases)
        self._plain = [1] * len(leases)

    async def write_ours(self, batch: int) -> None:
        """Returns when an event of each of the first responses is in its log."""
        writes = []
        for number in range(batch):
            first = self._next[number]
            self._next[number] += 1
            entries = [NewEntry(_FRAME, (first,))]
            writes.append(self._logs[number].append(self._leases[number].proof, first, entries))
        await asyncio.gather(*(self._appender.write(write) for write in writes))

    async def write_plain(self, batch: int) -> None:
        async with self._redis.raw.pipeline(transaction=False) as pipe:
            for number in range(batch):
                first = self._plain[number]
                self._plain[number] += 1
                key = self._leases[number].key
                entry = {"e": _FRAME, "t": first.to_bytes(4, "little")}
                pipe.execute_command(
                    "XADD",
                    f"{keys.log(key)}:plain",
                    f"{first}-0",
                    *(x for pair in entry.items() for x in pair),
                )
                pipe.execute_command("PUBLISH", keys.live(key), b"%d %d 0\n" % (first, first + 1) + _FRAME)
            await pipe.execute()


async def measure(scale: Scale) -> Result:
    found: dict[tuple[int, str], list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="antiphon-bench-") as folder, Valkey(Path(folder)) as valkey:
        await compare(valkey, scale, found)
    rows = [
        [f"{batch} in a write", *(tables.show_spread(found[batch, way]) for way in (_OURS, _PLAIN))]
        for batch in _BATCHES
    ]
    table = tables.render(("Redis's CPU, µs per event", _OURS, _PLAIN), rows)
    return Result(f"{table}\n\n{scale.rounds} rounds, in turn; each log has a subscriber.")


async def compare(valkey: Valkey, scale: Scale, found: dict[tuple[int, str], list[float]]) -> None:
    settings = Settings(redis_url=valkey.url, lease_ttl_s=600.0)
    redis, listener = (
        RedisClient.connect(valkey.url, timeout_s=5.0),
        RedisClient.connect_listener(valkey.url),
    )
    appender = Appender(redis, settings)
    leases = [await _own(redis, settings) for _ in range(max(_BATCHES))]
    writers = Writers(redis, appender, leases)
    ways: dict[str, Callable[[int], Awaitable[None]]] = {
        _OURS: writers.write_ours,
        _PLAIN: writers.write_plain,
    }
    tasks = [asyncio.create_task(appender.run()), await _subscribe(listener, leases)]
    for write in ways.values():
        await write(max(_BATCHES))
    for _ in range(scale.rounds):
        for batch in _BATCHES:
            for name, write in ways.items():
                found[batch, name].append(await _time(valkey, write, batch, scale.steps))
    for task in tasks:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    await listener.close()
    await redis.close()


async def _own(redis: RedisClient, settings: Settings) -> Lease:
    acquired = await lease.acquire(redis, settings, await accept(redis, settings), "worker")
    assert isinstance(acquired, Acquired)
    return acquired.lease


async def _subscribe(listener: RedisClient, leases: list[Lease]) -> "asyncio.Task[None]":
    subscription = Subscription(listener)

    def ignore(_channel: Any, _payload: bytes) -> None:
        """Hears and forgets."""

    task = asyncio.create_task(subscription.listen(ignore, lambda: None))
    for held in leases:
        await subscription.add(keys.live(held.key))
    return task


async def _time(valkey: Valkey, write: Callable[[int], Awaitable[None]], batch: int, steps: int) -> float:
    """Returns Redis's CPU microseconds per event."""
    writes = max(steps, _EVENTS_MIN // batch)
    begun_s = read_cpu_s(valkey.pid)
    for _ in range(writes):
        await write(batch)
    return 1e6 * (read_cpu_s(valkey.pid) - begun_s) / (writes * batch)
