"""Runs a worker without the API, on a real Redis, with an engine that plays a script.

Owns the worker's services, and a tool runner that calculates; tests own the requests.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec

from shared.hosted_tools import BROWSER
from shared.record_format import RECORD_FORMAT
from shared.responses import ResponseRequest
from shared.settings import Settings
from shared.store import job_queue, keys
from shared.store.job_queue import Room
from shared.store.keys import ResponseKey
from shared.store.log import event_log
from shared.store.log.appender import Appender
from shared.store.log.event_log import Entry
from shared.store.log.response_log import NewEntry
from shared.store.owning import lease
from shared.store.owning.lease import Acquired
from shared.store.redis.client import RedisClient
from shared.store.redis.subscription import Subscription
from shared.store.tools import tool_journal
from shared.store.tools.tool_journal import Claim
from shared.tool_calls import ToolCall, ToolFailure, ToolListing, ToolOutput, ToolsListed
from tests.appending import append_through
from tests.browsing import browse
from tests.patience import PATIENCE_S
from tests.requests import accept
from worker.app import relay_notifications
from worker.engines.protocol import Engine
from worker.engines.scripted.engine import ScriptedEngine
from worker.engines.scripted.script import Script
from worker.ownership import Ownership
from worker.response.remote_tools import RemoteTools
from worker.response.resources import Resources
from worker.response.stepper import Stepper


@dataclass(frozen=True)
class Worker:
    ownership: Ownership
    appender: Appender
    stepper: Stepper


ROOMY = Room(64, 2**20, 2**20, rings_on=False)
Answer = ToolOutput | ToolFailure | ToolsListed


def calculate(task: ToolCall | ToolListing) -> Answer:
    assert isinstance(task, ToolCall)
    if task.server_label == BROWSER.server_label:
        return browse(task)
    arguments = msgspec.json.decode(task.arguments)
    answer = eval(arguments["code"]) if "code" in arguments else f"{task.name} ran"
    return ToolOutput(f"{answer}\n")


@asynccontextmanager
async def working(
    redis: RedisClient,
    settings: Settings,
    script: Script | None = None,
    engine: Engine | None = None,
    answer: Callable[[ToolCall | ToolListing], Answer] | None = calculate,
    queues: Sequence[str] = (keys.RESPONSES_QUEUE,),
    *,
    room: Room = ROOMY,
) -> AsyncIterator[Worker]:
    """Yields a worker with everything except a queue, and runs a tool runner that takes results from
    `answer`; None: it runs none. `room`: what the worker says that it has."""
    engine = engine or ScriptedEngine(script or Script.load(None))
    await engine.start()
    appender, tools = Appender(redis, settings), RemoteTools(redis, settings)
    stepper = Stepper()
    resources = Resources(
        settings, redis, appender, engine, tools, lambda: 1_763_769_700, stepper, room=lambda: room
    )
    ownership = Ownership(resources, queues=queues, waiting=lambda: tools.responses)
    ownership.start()
    listener = RedisClient.connect_listener(settings.redis_url)

    async def run_tool(name: str, index: int) -> None:
        key = ResponseKey.parse(name)
        intent = await tool_journal.claim(redis, settings, key, index, "runner")
        if intent is None:
            return  # another runner has it
        claim = Claim(key, index, "runner", intent)
        assert answer is not None
        await tool_journal.finish(redis, claim, answer(intent.task), None)

    flows: list[Coroutine[Any, Any, None]] = [
        appender.run(),
        relay_notifications(Subscription(listener), ownership.owner, tools, ownership),
    ]
    if answer is not None:
        handlers = {"start_tool_call": run_tool}
        flows.append(job_queue.serve(settings.redis_url, keys.TOOLS_QUEUE, handlers, lambda: 10))
    services = [asyncio.create_task(flow) for flow in flows]
    try:
        yield Worker(ownership, appender, stepper)
    finally:
        await ownership.drain()
        for service in services:
            service.cancel()
        await asyncio.gather(*services, return_exceptions=True)
        await tools.close()
        await engine.stop()
        stepper.close()
        await listener.close()


async def finish(redis: RedisClient, worker: Worker, key: ResponseKey) -> list[Entry]:
    """Makes the worker run the response; returns its whole log once it is closed."""
    await worker.ownership.start_response(str(key))
    async with asyncio.timeout(PATIENCE_S):
        while True:
            page = await event_log.read(redis, key, -1, 5_000, with_token_records=True)
            if page.is_closed:
                return page.entries
            await asyncio.sleep(0.002)


async def leave_behind(
    redis: RedisClient,
    settings: Settings,
    worker: Worker,
    request: ResponseRequest,
    entries: list[Entry],
    *,
    born_with: int | None = None,
    record_format: int = RECORD_FORMAT,
) -> ResponseKey:
    """Creates what an owner that died after these appends leaves behind: its entries, and a lapsed lease.

    `born_with`: the number of entries that the API wrote, if another version accepted the response.
    """
    key = await accept(redis, settings, request, record_format=record_format)
    if born_with is not None:
        await redis.command("DEL", keys.log(key))
        for number, entry in enumerate(entries[:born_with], 1):
            await redis.command("XADD", keys.log(key), f"{number}-0", "e", entry.frame)
        await redis.command("EXPIRE", keys.log(key), 60)
    dead = await lease.acquire(redis, settings, key, "dead")
    assert isinstance(dead, Acquired)
    first = dead.next_sequence_number
    if len(entries) > first:
        drafts = [NewEntry(entry.frame, entry.tokens, entry.token_record) for entry in entries[first:]]
        await append_through(worker.appender, dead.lease, first, drafts)
    await redis.command("HSET", keys.state(key), "lease_until_ms", 1)
    return key


async def keep_journal(redis: RedisClient, key: ResponseKey) -> list[bytes]:
    fields: Any = await redis.command("HGETALL", keys.tools(key))
    return [part for pair in fields.items() for part in pair]


async def restore_journal(redis: RedisClient, key: ResponseKey, kept: list[bytes]) -> None:
    """Restores what `keep_journal` returned as the tool journal of this response."""
    if kept:
        await redis.command("HSET", keys.tools(key), *kept)
        await redis.command("EXPIRE", keys.tools(key), 60)
