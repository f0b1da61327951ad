"""What stands between a create call and its first token, in commands to Redis: no time is measured."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest_asyncio

from local.valkey import Valkey
from shared.settings import Settings
from shared.store import keys
from shared.store.keys import ResponseKey
from shared.store.redis.client import RedisClient
from tests.overhearing import Overheard, overhearing
from tests.patience import until
from tests.requests import accept, make_request
from worker import app
from worker.engines.protocol import Engine
from worker.engines.scripted.engine import ScriptedEngine
from worker.engines.scripted.script import Script

DELTA, END = "response.output_text.delta", "response.completed"


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


async def test_a_worker_claims_with_one_command_and_appends_the_first_token_with_the_next(
    redis: RedisClient, settings: Settings, overheard: Overheard
) -> None:
    async with working(settings):
        first = await accept(redis, settings, make_request("Say this again.", background=True))
        await until(lambda: has_ended(redis, first))  # everything is connected, and Redis has the scripts
        overheard.clear()
        await accept(redis, settings, make_request("Say this again.", background=True))
        sent = await overheard.wait_for(DELTA)
    assert sent[0] == "records/create"
    assert [name for name in sent[1:] if name != "BLPOP"] == ["owning/claim", "log/append"], sent
    assert sent.count("BLPOP") <= 1, "it listens again"
