"""What stands between a create call and its first token, in commands to Redis: no time is measured."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import httpx
import pytest
import pytest_asyncio

from api import hub
from local.valkey import Valkey
from shared.settings import Settings
from shared.store import keys
from shared.store.keys import ResponseKey
from shared.store.redis.client import RedisClient
from shared.store.redis.subscription import Subscription
from tests.overhearing import Overheard, overhearing
from tests.patience import PATIENCE_S, until
from tests.requests import accept, make_request
from tests.serving import serving
from tests.streams import read_frames
from worker import app
from worker.engines.protocol import Engine
from worker.engines.scripted.engine import ScriptedEngine
from worker.engines.scripted.script import Script

CREATED, DELTA, END = b"response.created", "response.output_text.delta", "response.completed"

WORKERS = {"BLPOP", "owning/claim", "log/append", "log/close"}


@asynccontextmanager
async def working(settings: Settings, engine: Engine | None = None) -> AsyncIterator[None]:
    stopped = asyncio.Event()
    engine = engine or ScriptedEngine(Script.load(None))
    running = asyncio.create_task(app.run(settings, engine, stopped))
    try:
        yield
    finally:
        stopped.set()
        await running


@pytest_asyncio.fixture
async def overheard(valkey: Valkey, redis: RedisClient) -> AsyncIterator[Overheard]:
    async with overhearing(valkey.port) as overheard:
        yield overheard


async def has_ended(redis: RedisClient, key: ResponseKey) -> bool:
    return bool(await redis.command("HGET", keys.state(key), "closed"))


# --- the worker -----------------------------------------------------------------------------------


async def test_a_worker_claims_with_one_command_and_appends_the_first_token_with_the_next(
    redis: RedisClient, settings: Settings, overheard: Overheard
) -> None:
    async with working(settings):
        first = await accept(redis, settings, make_request("Say this again.", background=True))
        await until(lambda: has_ended(redis, first))  # everything is connected, and Redis has the scripts
        await overheard.begin(redis)
        await accept(redis, settings, make_request("Say this again.", background=True))
        sent = await overheard.wait_for(DELTA)
    sent = sent[sent.index("records/create") + 1 :]
    assert [name for name in sent if name != "BLPOP"] == ["owning/claim", "log/append"], sent


async def test_a_response_is_in_progress_as_soon_as_it_has_a_worker_however_long_its_first_token_takes(
    redis: RedisClient, settings: Settings
) -> None:
    engine = Slow()
    async with working(settings, engine):
        key = await accept(redis, settings, make_request("Hello", background=True))
        await until(lambda: engine.is_asked)
        await until(lambda: has_entries(redis, key, 2))
        engine.may_begin.set()
        await until(lambda: has_ended(redis, key))


async def has_entries(redis: RedisClient, key: ResponseKey, count: int) -> bool:
    return int(await redis.command("XLEN", keys.log(key))) >= count


class Slow(ScriptedEngine):
    """Says nothing until it may."""

    def __init__(self) -> None:
        super().__init__(Script.load(None))
        self.is_asked = False
        self.may_begin = asyncio.Event()

    async def generate(self, *arguments: Any, **options: Any) -> None:
        self.is_asked = True
        await self.may_begin.wait()
        await super().generate(*arguments, **options)


# --- the API --------------------------------------------------------------------------------------


class Client:
    """Streams what it creates, over one connection."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def create(self, text: str, **fields: Any) -> AsyncGenerator[bytes, None]:
        body = {"model": "default", "input": text, "stream": True, **fields}
        async with self._http.stream("POST", "/v1/responses", json=body) as answer:
            assert answer.status_code == 200
            async for some in answer.aiter_raw():
                yield some


@pytest_asyncio.fixture
async def client(redis: RedisClient, settings: Settings) -> AsyncIterator[Client]:
    async with serving(settings) as port, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
        client = Client(http)
        await accept(redis, settings, make_request())  # Redis gets the script
        yield client


@pytest.mark.parametrize("background", [False, True])
async def test_the_client_that_creates_a_response_gets_its_events_without_a_read_of_the_log(
    client: Client, redis: RedisClient, settings: Settings, overheard: Overheard, background: bool
) -> None:
    async with working(settings):
        async for _ in client.create("Hello", background=True):
            pass  # everything is connected, and Redis has the scripts
        await overheard.wait_for("UNSUBSCRIBE")
        await overheard.begin(redis)
        body = b"".join([some async for some in client.create("Say this again.", background=background)])
        sent = await overheard.wait_for("UNSUBSCRIBE")
    frames = read_frames(body)
    assert [frame.id for frame in frames] == list(range(len(frames)))
    assert frames[-1].event == END
    own = [name for name in sent if name not in WORKERS]
    assert sorted(own) == ["SUBSCRIBE", "UNSUBSCRIBE", "records/create"], sent


async def test_created_comes_before_anybody_has_taken_the_response(
    client: Client, overheard: Overheard, redis: RedisClient
) -> None:
    await overheard.begin(redis)
    stream = client.create("Hello")
    async with aclosing(stream):
        assert CREATED in await anext(stream)
        sent = await overheard.wait_for("EVALSHA")
        assert set(sent) <= {"records/create", "SUBSCRIBE"}
        (readers,) = await redis.command("KEYS", "antiphon:*:readers")
        assert await redis.command("ZCARD", readers) == 1, "its reader is announced"


async def test_a_node_that_subscribed_too_late_reads_what_it_missed(
    redis: RedisClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis says whether anybody heard it create the response. No later look would save the reader here."""
    monkeypatch.setattr(hub, "_ROUND_S", 10 * PATIENCE_S)
    monkeypatch.setattr(Subscription, "ask_for", lambda *_: None)
    async with (
        working(settings),
        serving(settings) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S) as http,
    ):
        body = b"".join([some async for some in Client(http).create("Hello")])
    frames = read_frames(body)
    assert [frame.id for frame in frames] == list(range(len(frames)))
    assert frames[-1].event == END
