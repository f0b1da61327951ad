"""The worker's composition root: creates every part once and runs it until the process is stopped.

Owns the wiring and the order of startup and shutdown; contains no rule of the protocol.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from math import nan
from typing import Any, Self

from shared import metrics, metrics_listener, process
from shared.ids import new_owner
from shared.race import race
from shared.settings import Settings
from shared.store import job_queue, keys
from shared.store.job_queue import BytesRoom, Room
from shared.store.log.appender import Appender
from shared.store.owning import draining, fleet, presence
from shared.store.owning.fleet import AboutWorker, Served
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


@dataclass(frozen=True, slots=True)
class _Parts:
    """What a worker consists of, wired together; nothing runs yet."""

    settings: Settings
    owner: str
    redis: RedisClient
    listener: RedisClient
    served: Sequence[Served]
    tools: RemoteTools
    resources: Resources
    ownership: Ownership
    counter: TokenCounter

    @classmethod
    def wire(cls, settings: Settings, engine: Engine) -> Self:
        """`engine` has been started."""
        redis = RedisClient.connect(
            settings.redis_url,
            timeout_s=settings.redis_timeout_s,
            durability=settings.durable_writes,
            replicas=settings.durable_replicas,
        )
        tools = RemoteTools(redis, settings)
        resources = Resources(
            settings,
            redis,
            Appender(redis, settings),
            engine,
            tools,
            lambda: int(time.time()),
            Stepper(),
            Gathering(settings.flush_budget_ms / 1000),
            room=lambda: Room(parts.places(), settings.records_bytes_max, parts.bytes_left(), rings_on=False),
        )
        owner, served = new_owner("worker", settings.place), describe_served(settings, engine)
        queues = list(dict.fromkeys(each.queue for each in served))
        parts = cls(
            settings,
            owner,
            redis,
            RedisClient.connect_listener(settings.redis_url),
            served,
            tools,
            resources,
            Ownership(resources, owner, queues, lambda: tools.responses),
            TokenCounter(redis, resources.stepper, settings.python_tool),
        )
        return parts

    def places(self) -> int:
        """Returns how many further responses or counts it may take now."""
        free = engine_room(self.resources.engine, self.ownership.running, self.tools.responses)
        return min(self.ownership.room(), free) - self.counter.pending

    def bytes_left(self) -> int:
        """Returns the bytes that further large records may have."""
        return self.settings.records_bytes_max - self.ownership.large_bytes - self.counter.large_bytes

    def about(self) -> AboutWorker:
        settings, running = self.settings, self.ownership.running
        capacity = capacity_of(settings, self.resources.engine)
        waiting = self.tools.responses
        has = (capacity, running, waiting)
        ended = int(metrics.RESPONSES.total)
        return AboutWorker(self.served, settings.engine, *has, settings.place, os.getpid(), ended)

    def services(self, drained: asyncio.Event) -> list[Coroutine[Any, Any, None]]:
        """Returns all that runs until the worker ends, besides taking work."""
        settings, owner, redis = self.settings, self.owner, self.redis
        refresh = partial(refresh_metrics, self.resources, self.ownership)
        return [
            self.resources.appender.run(),
            relay_notifications(Subscription(self.listener), owner, self.tools, self.ownership),
            sweep(redis, settings, settings.sweep_interval_s),
            archive_due(redis, settings),
            presence.maintain(redis, "worker", owner),
            fleet.maintain(redis, owner, self.about),
            draining.watch(redis, owner, drained),
            self.resources.meter.run(),
            *metrics_listener.services(settings, "worker", owner, [refresh]),
        ]

    def take_work(self) -> Coroutine[Any, Any, None]:
        return job_queue.serve(
            self.settings.redis_url,
            self.served[0].queue,
            {
                "start_response": self.ownership.start_response,
                "count_input_tokens": self.counter.count_input_tokens,
            },
            self.places,
            BytesRoom(self.settings.records_bytes_max, self.bytes_left),
            self.ownership.claim,
        )

    async def close(self) -> None:
        await self.tools.close()
        await self.resources.engine.stop()
        self.resources.stepper.close()
        await self.listener.close()
        await self.redis.close()


async def run(settings: Settings, engine: Engine, stopped: asyncio.Event) -> None:
    """Runs a worker until `stopped` is set.

    Raises SystemExit if the engine dies, EngineUnavailable if it cannot start.
    """
    if not await _start(engine, stopped):
        return
    process.collect_rarely()
    parts, drained = _Parts.wire(settings, engine), asyncio.Event()
    ownership = parts.ownership
    metrics.begin_models(model.name for model in parts.served)
    ownership.start()
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(service) for service in parts.services(drained)]
            queue = group.create_task(parts.take_work())
            _log.info("worker %s is ready", parts.owner)
            await race(stopped.wait(), drained.wait(), ownership.engine_died.wait(), engine.wait_until_dead())
            if not (stopped.is_set() or drained.is_set()):
                ownership.engine_died.set()
            queue.cancel()
            await parts.counter.stop()
            await ownership.drain()
            for task in tasks:
                task.cancel()
        if drained.is_set():
            await _stay_drained(parts.redis, parts.owner, stopped)
    finally:
        await parts.close()
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
