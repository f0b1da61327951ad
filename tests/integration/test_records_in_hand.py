"""The records that a worker holds are limited in bytes, and nothing waits for ever because of that."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from shared.settings import Settings
from shared.store import keys
from shared.store.job_queue import LARGE_BYTES
from shared.store.keys import ResponseKey
from shared.store.records import token_count
from shared.store.redis.client import RedisClient
from shared.store.redis.scripts import LuaScript
from tests.patience import until
from tests.requests import accept, make_request
from worker import app
from worker.engines.protocol import Sampling, Sink
from worker.engines.scripted import script
from worker.engines.scripted.engine import ScriptedEngine

LARGE, HUGE, ROOM = 200_000, 550_000, 500_000
_TAKE = LuaScript("take")


class Gate(ScriptedEngine):
    """Says nothing until it is opened, and keeps what it was asked to go on with meanwhile."""

    def __init__(self) -> None:
        super().__init__(script.Script.load(None))
        self.running: set[str] = set()
        self.together: list[set[str]] = []
        """The responses that were running whenever one began."""
        self.opened = asyncio.Event()

    async def generate(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        sink: Sink,
        *,
        request_id: str,
        model: str = "default",
    ) -> None:
        name = request_id.split(":", maxsplit=1)[0]
        self.running.add(name)
        self.together.append(set(self.running))
        try:
            await self.opened.wait()
            await super().generate(prompt, sampling, sink, request_id=request_id, model=model)
        finally:
            self.running.discard(name)


@asynccontextmanager
async def working(settings: Settings, engine: Gate) -> AsyncIterator[None]:
    stopped = asyncio.Event()
    running = asyncio.create_task(app.run(settings, engine, stopped))
    try:
        yield
    finally:
        engine.opened.set()
        stopped.set()
        await running


async def accept_of(redis: RedisClient, settings: Settings, size_bytes: int) -> str:
    return str(await accept(redis, settings, make_request("word " * (size_bytes // 5))))


async def test_a_worker_holds_no_more_large_records_than_fit_and_small_ones_pass_them(
    redis: RedisClient, settings: Settings
) -> None:
    bound = settings.model_copy(update={"records_bytes_max": ROOM})
    sizes = {await accept_of(redis, settings, size): size for size in (LARGE, LARGE, LARGE, HUGE, LARGE)}
    large = list(sizes)
    small = [await accept_of(redis, settings, 10) for _ in range(3)]
    gate = Gate()
    async with working(bound, gate):
        await until(lambda: gate.running.issuperset(small))
        late = await accept_of(redis, settings, 10)
        await until(lambda: {late, *small, *large[:2]} == gate.running)
        gate.opened.set()
        for name in [*large, *small, late]:
            await closed(redis, name)
    for together in gate.together:
        held = [sizes[name] for name in together if name in sizes]
        assert sum(held) <= ROOM or len(held) == 1


async def closed(redis: RedisClient, name: str) -> None:
    async def is_completed() -> bool:
        state = keys.state(ResponseKey.parse(name))
        return bool(await redis.command("HGET", state, "closed") == b"completed")

    await until(is_completed)


async def take(redis: RedisClient, bytes_left: int, rings_on: int = 0) -> tuple[bool, dict[str, int]]:
    """Whether something is left for its bytes, and what was taken, with the bytes of large ones."""
    is_left, *taken = await redis.run(
        _TAKE(
            queue=keys.RESPONSES_QUEUE,
            doorbell=keys.doorbell(keys.RESPONSES_QUEUE),
            takers=keys.takers(keys.RESPONSES_QUEUE),
            count_max=100,
            lock_ms=60_000,
            scan_max=1_000,
            bytes_max=ROOM,
            bytes_left=bytes_left,
            large_bytes=LARGE_BYTES,
            state_pattern=keys.STATE_PATTERN,
            rings_on=rings_on,
        )
    )
    names = (job.decode().rsplit(":", 1)[0] for job in taken[::3])
    return bool(is_left), dict(zip(names, taken[2::3], strict=True))


async def test_large_jobs_keep_their_order_and_small_ones_pass_them(
    redis: RedisClient, settings: Settings
) -> None:
    first, huge, last = [await accept_of(redis, settings, size) for size in (LARGE, HUGE, LARGE)]
    small = await accept_of(redis, settings, 10)
    is_left, taken = await take(redis, ROOM)
    assert is_left
    assert list(taken) == [first, small], "what stands behind the huge one does not overtake it"
    assert taken[small] == 0
    assert LARGE <= taken[first] <= LARGE + 10_000
    assert await take(redis, ROOM - taken[first]) == (True, {})
    is_left, taken = await take(redis, ROOM)  # the first has ended
    assert (is_left, list(taken)) == (True, [huge]), "it is alone, however large it is"
    is_left, taken = await take(redis, ROOM)
    assert (is_left, list(taken)) == (False, [last])


async def test_what_does_not_fit_here_is_rung_for_once_more(redis: RedisClient, settings: Settings) -> None:
    await accept_of(redis, settings, LARGE)
    doorbell = keys.doorbell(keys.RESPONSES_QUEUE)
    await redis.command("DEL", doorbell)  # its token has woken this taker
    assert await take(redis, 1, rings_on=1) == (True, {})
    assert await redis.command("LLEN", doorbell) == 1
    await redis.command("DEL", doorbell)
    assert await take(redis, 1, rings_on=0) == (True, {})
    assert await redis.command("LLEN", doorbell) == 0


async def test_a_large_question_for_a_token_count_is_weighed_like_a_record(
    redis: RedisClient, settings: Settings
) -> None:
    asked = asyncio.create_task(
        token_count.ask(redis, settings, "default", b'"' + b"a" * LARGE + b'"', asyncio.Semaphore())
    )
    try:
        await until(lambda: redis.command("ZCARD", keys.RESPONSES_QUEUE))
        assert await take(redis, 1) == (True, {})
        _, taken = await take(redis, ROOM)
        (size_bytes,) = taken.values()
        assert LARGE <= size_bytes <= LARGE + 10_000
    finally:
        asked.cancel()
        await asyncio.wait([asked])
