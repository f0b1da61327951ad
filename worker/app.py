"""The worker's composition root: creates every part once and runs it until the process is stopped.

Owns the wiring and the order of startup and shutdown; contains no rule of the protocol.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from functools import partial
from math import nan
from typing import Any

from shared import metrics, metrics_listener, process
from shared.ids import new_owner
from shared.race import race
from shared.settings import Settings
from shared.store import job_queue, keys
from shared.store.job_queue import BytesRoom
from shared.store.log.appender import Appender
from shared.store.owning import draining, fleet, presence
from shared.store.owning.fleet import AboutWorker
from shared.store.owning.sweeper import sweep
from shared.store.redis.client import RedisClient
from shared.store.redis.subscription import Subscription
from worker.archiver import archive_due
from worker.counting import TokenCounter
from worker.engines.protocol import Engine, EngineUnavailable
from worker.engines.scripted.engine import ScriptedEngine
from worker.engines.scripted.script import Script
from worker.ownership import Ownership
from worker.response.gathering import Gathering
from worker.response.remote_tools import RemoteTools
from worker.response.resources import Resources
from worker.response.stepper import Stepper
from worker.serving import capacity_of, describe_served, engine_room

_log = logging.getLogger(__name__)


def make_engine(settings: Settings) -> Engine:
    """Returns the engine that the settings name, not yet started. Raises EngineUnavailable, ScriptError."""
    if settings.engine == "scripted":
        return ScriptedEngine(
            Script.load(settings.script),
            adapters=settings.script_adapters,
            sequences_max=settings.script_sequences_max,
        )
    try:
        from worker.engines.vllm.engine import VllmEngine, read_engine_args
    except ModuleNotFoundError as missing:
        raise EngineUnavailable(f"the engine vllm needs the package {missing.name}") from missing
    return VllmEngine(read_engine_args(settings.engine_args), settings.engine_silence_max_s)


async def run(settings: Settings, engine: Engine, stopped: asyncio.Event) -> None:
    """Runs a worker until `stopped` is set.

    Raises SystemExit if the engine dies, EngineUnavailable if it cannot start.
    """
    if not await _start(engine, stopped):
        return
    process.collect_rarely()
    owner = new_owner("worker", settings.place)
    redis = RedisClient.connect(
        settings.redis_url,
        timeout_s=settings.redis_timeout_s,
        durability=settings.durable_writes,
        replicas=settings.durable_replicas,
    )
    listener = RedisClient.connect_listener(settings.redis_url)
    appender = Appender(redis, settings)
    tools = RemoteTools(redis, settings)
    served = describe_served(settings, engine)
    queues = list(dict.fromkeys(each.queue for each in served))

    def room() -> int:
        free = engine_room(engine, ownership.running, tools.responses)
        return min(ownership.room(), free) - counter.pending

    gathering = Gathering(settings.flush_budget_ms / 1000)
    resources = Resources(
        settings,
        redis,
        appender,
        engine,
        tools,
        lambda: int(time.time()),
        Stepper(),
        gathering,
        is_full=lambda: room() <= 0,
    )
    ownership, counter = (
        Ownership(resources, owner, queues),
        TokenCounter(redis, resources.stepper, settings.python_tool),
    )

    def about() -> AboutWorker:
        capacity = capacity_of(settings, engine)
        return AboutWorker(
            served, settings.engine, capacity, ownership.running, tools.responses, settings.place
        )

    metrics.begin_models(model.name for model in served)
    ownership.start()
    drained = asyncio.Event()
    services: list[Coroutine[Any, Any, None]] = [
        appender.run(),
        relay_notifications(Subscription(listener), owner, tools, ownership),
        sweep(redis, settings, settings.sweep_interval_s),
        archive_due(redis, settings),
        presence.maintain(redis, "worker", owner),
        fleet.maintain(redis, owner, about),
        draining.watch(redis, owner, drained),
        resources.meter.run(),
        *metrics_listener.services(
            settings, "worker", owner, [partial(refresh_metrics, resources, ownership)]
        ),
    ]
    taking = job_queue.serve(
        settings.redis_url,
        queues[0],
        {
            "start_response": ownership.start_response,
            "count_input_tokens": counter.count_input_tokens,
        },
        room,
        BytesRoom(
            settings.records_bytes_max,
            lambda: settings.records_bytes_max - ownership.large_bytes - counter.large_bytes,
        ),
        ownership.claim,
    )
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(service) for service in services]
            queue = group.create_task(taking)
            _log.info("worker %s is ready", owner)
            await race(stopped.wait(), drained.wait(), ownership.engine_died.wait(), engine.wait_until_dead())
            if not (stopped.is_set() or drained.is_set()):
                ownership.engine_died.set()
            queue.cancel()
            await counter.stop()
            await ownership.drain()
            for task in tasks:
                task.cancel()
        if drained.is_set():
            await _stay_drained(redis, owner, stopped)
    finally:
        await tools.close()
        await engine.stop()
        resources.stepper.close()
        await listener.close()
        await redis.close()
    if ownership.engine_died.is_set():
        raise SystemExit("the engine died")


async def _stay_drained(redis: RedisClient, owner: str, stopped: asyncio.Event) -> None:
    """Waits to be stopped, without taking anything: a process that ended would be started again."""
    _log.info("worker %s is drained", owner)
    await race(stopped.wait(), presence.maintain(redis, draining.DRAINED, owner))


async def refresh_metrics(resources: Resources, ownership: Ownership) -> None:
    """Reads what the worker has, and what its engine says of itself."""
    figures, meter = resources.engine.figures(), resources.meter
    metrics.IN_FLIGHT.set(ownership.in_flight)
    metrics.GENERATIONS.set(meter.generations)
    metrics.STALLED.set(meter.stalled)
    metrics.ENGINE_REQUESTS.labels("running").set(figures.running)
    metrics.ENGINE_REQUESTS.labels("waiting").set(figures.waiting)
    metrics.ENGINE_CACHE_USAGE.set(nan if figures.cache_usage is None else figures.cache_usage)


async def relay_notifications(
    subscription: Subscription, owner: str, tools: RemoteTools, ownership: Ownership
) -> None:
    """Passes notifications of tool results and cancels to their handlers, until cancelled.

    A missed notification does no harm: the tool journal and the leases are polled as well.
    """
    handlers: dict[str, Callable[[bytes], None]] = {
        keys.results(owner): tools.on_result,
        keys.CANCELLED: ownership.on_cancel,
    }
    for channel in handlers:
        await subscription.add(channel)
    await subscription.listen(lambda channel, payload: handlers[channel](payload), lambda: None)


async def _start(engine: Engine, stopped: asyncio.Event) -> bool:
    """Starts the engine; returns False if the worker is stopped before the model has loaded."""
    starting = asyncio.ensure_future(engine.start())
    await race(asyncio.shield(starting), stopped.wait())
    if stopped.is_set():
        starting.cancel()
        return False
    await starting
    return True
