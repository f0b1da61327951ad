"""What precedes a response's first token can be cancelled, and ends in any case."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from api.offload import Offload
from shared.events import Error, ResponseFailed
from shared.frames import decode
from shared.settings import Settings
from shared.store import keys
from shared.store.keys import ResponseKey
from shared.store.log import closing, event_log
from shared.store.log.event_log import Entry
from shared.store.owning import lease
from shared.store.owning.lease import Acquired
from shared.store.owning.sweeper import sweep
from shared.store.redis.client import RedisClient
from tests.patience import until
from tests.requests import accept, make_request
from tests.working import Worker, finish, leave_behind, working
from worker.engines.scripted.engine import ScriptedEngine
from worker.engines.scripted.script import Script
from worker.harmony import tokens as harmony
from worker.response.turn_reader import TurnReader

LONG = "word " * 1_000_000


PIECE_S = 0.02


class Encoder:
    """Counts the pieces that are encoded, each of which takes `PIECE_S`: the long text would take twelve
    seconds, far longer than anybody needs to notice a loss."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pieces = 0
        self._encode = harmony.encode_piece
        monkeypatch.setattr(harmony, "encode_piece", self)

    def __call__(self, piece: str) -> list[int]:
        self.pieces += 1
        time.sleep(PIECE_S)
        return self._encode(piece)


async def stop_by_cancel(redis: RedisClient, settings: Settings, key: ResponseKey) -> None:
    assert await closing.cancel(redis, settings, key, "api-test", Offload().run) == "ended"


async def stop_by_loss(redis: RedisClient, settings: Settings, key: ResponseKey) -> None:
    assert isinstance(await lease.seize(redis, settings, key, "another"), Acquired)


@pytest.mark.parametrize("stop", [stop_by_cancel, stop_by_loss])
async def test_what_is_stopped_while_its_prompt_is_made_is_encoded_no_further(
    redis: RedisClient,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    stop: Callable[[RedisClient, Settings, ResponseKey], Any],
) -> None:
    wide = settings.model_copy(update={"context_tokens_max": 10_000_000})
    encoder = Encoder(monkeypatch)
    async with working(redis, wide) as worker:
        key = await accept(redis, wide, make_request(LONG))
        await worker.ownership.start_response(str(key))
        await until(lambda: encoder.pieces > 3)
        await stop(redis, wide, key)
        await until(lambda: worker.ownership.room() == wide.responses_in_flight_max)
        stepper = worker.stepper
        await stepper.call(lambda: None, len(LONG))  # what was begun is done
        pieces = encoder.pieces
        for _ in range(5):
            await stepper.call(lambda: None, len(LONG))
        assert encoder.pieces == pieces < len(LONG) // 8_192


async def test_a_short_prompt_does_not_wait_for_a_long_one(
    redis: RedisClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = settings.model_copy(update={"context_tokens_max": 10_000_000})
    encoder = Encoder(monkeypatch)
    async with working(redis, wide) as worker:
        long = await accept(redis, wide, make_request(LONG))
        await worker.ownership.start_response(str(long))
        await until(lambda: encoder.pieces > 3)
        # One that is done at once, and one that needs a few turns of its own.
        for text in ("Hello!", "word " * 10_000):
            await finish(redis, worker, await accept(redis, wide, make_request(text)))
        assert encoder.pieces < len(LONG) // 8_192, "the long one is still being made"
        await stop_by_cancel(redis, wide, long)


async def test_a_cancel_reads_no_request(redis: RedisClient, settings: Settings) -> None:
    key = await accept(redis, settings)
    await redis.command("HSET", keys.state(key), "request", b"\xff no JSON")
    await stop_by_cancel(redis, settings, key)
    (_, last) = await read(redis, key)
    assert isinstance(last, ResponseFailed)
    assert last.response.status == "cancelled"


@asynccontextmanager
async def sweeping(redis: RedisClient, settings: Settings, worker: Worker) -> AsyncIterator[None]:
    """Rings for what has no owner; the worker takes what was rung for."""

    async def take() -> None:
        while True:
            for name in await redis.command("ZRANGE", keys.ACTIVE, 0, -1):
                await worker.ownership.start_response(name.decode())
            await asyncio.sleep(0.01)

    tasks = [asyncio.create_task(take()), asyncio.create_task(sweep(redis, settings, 0.05))]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def read(redis: RedisClient, key: ResponseKey) -> list[Any]:
    return [decode(entry.frame) for entry in (await event_log.read(redis, key, -1)).entries]


async def wait_until_closed(redis: RedisClient, key: ResponseKey) -> list[Any]:
    async def is_closed() -> bool:
        return (await event_log.read(redis, key, -1)).is_closed

    await until(is_closed)
    return await read(redis, key)


async def check_given_up(redis: RedisClient, settings: Settings, key: ResponseKey) -> None:
    *_, last = await wait_until_closed(redis, key)
    assert isinstance(last, ResponseFailed)
    assert last.response.error is not None
    assert last.response.error.code == "server_error"
    assert "could not load it" in last.response.error.message
    deaths = await redis.command("HGET", keys.state(key), "deaths")
    assert int(deaths) == settings.owners_lost_max


@pytest.mark.parametrize("record", [b"\xff no JSON", b"{}", b'{"response": 1, "input": []}'])
async def test_a_record_that_cannot_be_decoded_is_given_up_after_a_number_of_attempts(
    redis: RedisClient, settings: Settings, record: bytes
) -> None:
    key = await accept(redis, settings)
    await redis.command("HSET", keys.state(key), "request", record)
    async with working(redis, settings) as worker, sweeping(redis, settings, worker):
        await check_given_up(redis, settings, key)
        well = await accept(redis, settings)
        assert (await wait_until_closed(redis, well))[-1].response.status == "completed"


class _Narrow(asyncio.Protocol):
    """Passes on what Redis says, until it is more at once than goes through in time."""

    def __init__(self, client: asyncio.Transport) -> None:
        self._client = client
        self._passed = 0

    def data_received(self, data: bytes) -> None:
        if len(data) > 16 * 1024 or self._passed > _NARROW_BYTES:
            self._passed = _NARROW_BYTES + 1  # the rest of a long reply never comes
            return
        self._client.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._client.close()


_NARROW_BYTES = 64 * 1024


class _Gate(asyncio.Protocol):
    def __init__(self, port: int) -> None:
        self._port = port
        self._held: list[bytes] = []
        self._redis: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._client = transport
        self._opening = asyncio.ensure_future(self._open())

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        redis, _ = await loop.create_connection(lambda: _Narrow(self._client), "127.0.0.1", self._port)
        redis.write(b"".join(self._held))
        self._redis = redis

    def data_received(self, data: bytes) -> None:
        if self._redis is None:
            self._held.append(data)
        else:
            self._redis.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._redis is not None:
            self._redis.close()


async def test_a_record_that_does_not_arrive_in_time_is_given_up_after_a_number_of_attempts(
    redis: RedisClient, settings: Settings
) -> None:
    """Everything else arrives: Redis is available, and the doorbell is not rung for minutes."""
    port = int(settings.redis_url.rsplit(":", 1)[1].split("/")[0])
    gate = await asyncio.get_running_loop().create_server(lambda: _Gate(port), "127.0.0.1", 0)
    narrow = RedisClient.connect(f"redis://127.0.0.1:{gate.sockets[0].getsockname()[1]}/0", timeout_s=2.0)
    fewer = settings.model_copy(update={"owners_lost_max": 2})
    key = await accept(redis, fewer, make_request("word " * 100_000))
    try:
        async with working(narrow, fewer) as worker, sweeping(redis, fewer, worker):
            await check_given_up(redis, fewer, key)
            well = await accept(redis, fewer)
            assert (await wait_until_closed(redis, well))[-1].response.status == "completed"
    finally:
        await narrow.close()
        gate.close()


async def test_a_long_log_is_replayed_in_turn_with_others(
    redis: RedisClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing in a replay waits, so that it has to let others in by itself."""
    request = make_request("Count from 1 to 250")
    turns, read_in_turn = 0, [0]

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            read_in_turn.append(0)
            await asyncio.sleep(0)

    read_token = TurnReader.read

    def read_and_count(reader: TurnReader, *args: Any) -> Any:
        read_in_turn[-1] += 1
        return read_token(reader, *args)

    async with working(redis, settings) as worker:
        whole: list[Entry] = await finish(redis, worker, await accept(redis, settings, request))
        assert sum(len(entry.tokens) for entry in whole) > 700
        await redis.command("FLUSHALL")
        key = await leave_behind(redis, settings, worker, request, whole[:-1])
        monkeypatch.setattr(TurnReader, "read", read_and_count)
        ticking = asyncio.create_task(take_turns())
        await finish(redis, worker, key)
        ticking.cancel()
    assert sum(read_in_turn) > 700
    assert max(read_in_turn) <= 256


async def test_a_prompt_that_is_too_long_takes_nothing_of_the_engine(
    redis: RedisClient, settings: Settings
) -> None:
    narrow = settings.model_copy(update={"context_tokens_max": 1_000})
    engine = ScriptedEngine(Script.load(None))
    async with working(redis, narrow, engine=engine) as worker:
        entries = await finish(redis, worker, await accept(redis, narrow, make_request("word " * 2_000)))
        error, failed = (decode(entry.frame) for entry in entries[-2:])
        assert isinstance(error, Error)
        assert isinstance(failed, ResponseFailed)
        assert failed.response.usage is None
        assert engine.requests_under_way == 0
