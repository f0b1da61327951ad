"""The only importer of arq: a job says "X wants an owner", a doorbell says "look now".

Owns queueing and waking, nothing of what a job means. A job never runs inside arq: the serving
process takes it in hand and returns at once, so that arq's queue holds waiting work and nothing
else (docs/adr/0001-arq-rings-the-doorbell.md).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import msgspec
from arq.connections import ArqRedis
from arq.jobs import serialize_job
from arq.typing import WorkerCoroutine
from arq.worker import Retry, Worker, func

from shared.settings import Settings
from shared.store import keys
from shared.store.keys import ResponseKey
from shared.store.redis.client import RedisClient
from shared.store.redis.connections import REDIS_AWAY, make_pool
from shared.store.redis.scripts import LuaScript, read_word

_RING, _TAKE = LuaScript("ring"), LuaScript("take")
_log = logging.getLogger(__name__)

_DOORBELL_WAIT_S = 1
"""A lost token costs at most this long: after it, the queue itself is looked at."""
_JOB_TIMEOUT_S = 60
"""Longer than a handler can take: each of its commands is bounded by itself."""
_TRIES_MAX = 2**31
"""Who is to have work is decided by leases and claims; a job is tried until somebody has taken it in hand."""
_CROWDED_WAIT_S = 0.1
"""While a large job waits for bytes of this process: how often it looks whether some have become free."""
LARGE_BYTES = 64 * 2**10
"""What a job that is not large holds is bounded by how many jobs there may be."""
_TAKEN_MAX, _SCANNED_MAX = 64, 1_000
"""Jobs that are taken together, and how far one look goes into a queue whose head others are at."""
_IN_PROGRESS_S = 1.5
"""A job is locked only until its handler has returned; should the process die before, not longer."""
_RECONNECT_S = 0.1


_encode = msgspec.json.Encoder(enc_hook=repr).encode
"""Also for what arq would say of a job that has vanished: an exception, which nobody reads."""


def _job(function: str, *args: Any) -> bytes:
    return serialize_job(function, args, {}, None, 0, serializer=_encode)


def response_job(key: ResponseKey) -> bytes:
    """ "This response wants an owner"; handled by the worker's `start_response`."""
    return _job("start_response", str(key))


def count_job(name: str, request: str) -> bytes:
    """ "How many tokens has this request?"; handled by the worker's `count_input_tokens`."""
    return _job("count_input_tokens", name, request)


def tool_job(key: ResponseKey, call_index: int) -> bytes:
    """ "This tool call wants a runner"; handled by the tool runner's `start_tool_call`."""
    return _job("start_tool_call", str(key), call_index)


async def ring_again(redis: RedisClient, settings: Settings, key: ResponseKey) -> str:
    """Puts an open response without an owner back into the queue; what it found is returned."""
    reply = await redis.run(
        _RING(
            state=keys.state(key),
            log=keys.log(key),
            tools=keys.tools(key),
            secrets=keys.secrets(key),
            active=keys.ACTIVE,
            queue=keys.RESPONSES_QUEUE,
            doorbell=keys.doorbell(keys.RESPONSES_QUEUE),
            open=keys.open_responses(key.tenant),
            member=str(key),
            response_id=key.response_id,
            ring_again_ms=int(settings.ring_again_s * 1000),
            live_ttl_ms=settings.live_ttl_s * 1000,
            job=response_job(key),
            lease_ttl_max_ms=int(2 * settings.lease_ttl_s * 1000),
        )
    )
    return read_word(reply, "rung", "waiting", "held", "gone")


Handler = Callable[..., Awaitable[None]]
"""Takes a job's arguments, takes the work in hand and returns at once. Never raises for bad work."""


def bytes_of_large(size_bytes: int) -> int:
    """What a job of this size takes of the room for large ones."""
    return size_bytes if size_bytes >= LARGE_BYTES else 0


@dataclass(frozen=True, slots=True)
class BytesRoom:
    """How many bytes the large jobs may have that one process holds; one that has more is taken alone."""

    bytes_max: int
    left: Callable[[], int]
    """Without those that its handlers are being given."""


class _DoorbellWorker(Worker):
    """arq's worker, woken by a token instead of by its clock, and taking together what there is room for."""

    def __init__(
        self,
        queue: str,
        handlers: Mapping[str, Handler],
        room: Callable[[], int],
        bytes_room: BytesRoom | None,
        pool: ArqRedis,
        bell: ArqRedis,
    ) -> None:
        self._starting: dict[str, int] = {}
        """Jobs that are being taken in hand, and the bytes of those that are large."""
        super().__init__(
            functions=[func(self._make_coroutine(handler), name=name) for name, handler in handlers.items()],
            queue_name=queue,
            redis_pool=pool,
            handle_signals=False,
            poll_delay=0,
            job_timeout=_JOB_TIMEOUT_S,
            keep_result=0,
            max_tries=_TRIES_MAX,
            health_check_interval=30,
            job_serializer=_encode,
            job_deserializer=msgspec.json.decode,
            log_results=False,
        )
        self._room = room
        self._bytes_room = bytes_room or BytesRoom(0, int)
        self._is_crowded = False
        """A large job waits that did not fit at the last look, with so many bytes left:"""
        self._bytes_then = 0
        self._bell = bell
        self._doorbell = keys.doorbell(queue)

    async def run_job(self, job_id: str, score: int) -> None:
        try:
            await super().run_job(job_id, score)
        finally:
            self._starting.pop(job_id, None)

    def _make_coroutine(self, handler: Handler) -> WorkerCoroutine:
        async def coroutine(context: dict[Any, Any], *args: Any) -> None:
            try:
                await handler(*args)
            except REDIS_AWAY as away:
                _log.warning("job %s stays queued, Redis is away (%s)", context["job_id"], away)
                raise Retry from None
            self._starting.pop(context["job_id"], None)

        return cast(WorkerCoroutine, coroutine)

    async def _poll_iteration(self) -> None:
        """In place of arq's, which takes one job after the other, in four round trips each."""
        if self._jobs_left() <= 0:
            await asyncio.sleep(0.02)
        elif await self._is_worth_a_look():
            await self._take(self._jobs_left())
        for job_id, task in list(self.tasks.items()):
            if task.done():
                del self.tasks[job_id]
                task.result()  # what it raised ends this worker, and another connection is made
        await self.heart_beat()

    def _jobs_left(self) -> int:
        return self._room() - len(self._starting)

    def _bytes_left(self) -> int:
        return self._bytes_room.left() - sum(self._starting.values())

    async def _is_worth_a_look(self) -> bool:
        """Waits for a token, or for bytes to become free where those were lacking."""
        wait_s = _CROWDED_WAIT_S if self._is_crowded else _DOORBELL_WAIT_S
        token = await RedisClient(self._bell).command("BLPOP", self._doorbell, wait_s)
        return token is not None or not self._is_crowded or self._bytes_left() > self._bytes_then

    async def _take(self, jobs_left: int) -> None:
        """What waits, up to the room there is and a fair share among those who serve this queue."""
        self._bytes_then = self._bytes_left()
        is_left, *taken = await RedisClient(self._bell).run(
            _TAKE(
                queue=self.queue_name,
                doorbell=self._doorbell,
                takers=keys.takers(self.queue_name),
                count_max=min(max(jobs_left, 0), _TAKEN_MAX),
                lock_ms=int(_IN_PROGRESS_S * 1000),
                scan_max=_SCANNED_MAX,
                bytes_max=self._bytes_room.bytes_max,
                bytes_left=self._bytes_then,
                large_bytes=LARGE_BYTES,
                state_pattern=keys.STATE_PATTERN,
                rings_on=int(not self._is_crowded),
            )
        )
        for job_id, score, size_bytes in zip(taken[::3], taken[1::3], taken[2::3], strict=True):
            name = job_id.decode()
            if (
                name in self.tasks and not self.tasks[name].done()
            ):  # its lock has lapsed, and is ours again now
                continue
            self._starting[name] = size_bytes
            self.tasks[name] = self.loop.create_task(self.run_job(name, int(score)))
        self._is_crowded = bool(is_left)
        if is_left and not taken:  # tokens of what does not fit would have it look without end
            await asyncio.sleep(_CROWDED_WAIT_S)


async def serve(
    redis_url: str,
    queue: str,
    handlers: Mapping[str, Handler],
    room: Callable[[], int],
    bytes_room: BytesRoom | None = None,
) -> None:
    """Serves a queue until cancelled, through any number of Redis restarts.

    `room()` is asked before every look: with 0 neither a token nor a job is taken. `bytes_room`: of the
    queue of responses, whose jobs differ in size.
    """
    while True:
        # Two pools: a command that blocks must not hold up the others.
        pool, bell = (cast(ArqRedis, ArqRedis.from_pool(make_pool(redis_url))) for _ in range(2))
        worker = _DoorbellWorker(queue, handlers, room, bytes_room, pool, bell)
        try:
            await worker.async_run()
        except REDIS_AWAY as away:
            _log.warning("queue %s: Redis is away (%s), trying again", queue, away)
            await asyncio.sleep(_RECONNECT_S)
        finally:
            await _stop(worker, pool, bell)


async def _stop(worker: Worker, pool: ArqRedis, bell: ArqRedis) -> None:
    for task in worker.tasks.values():
        task.cancel()
    if worker.main_task:
        worker.main_task.cancel()
    await asyncio.gather(*worker.tasks.values(), return_exceptions=True)
    await bell.aclose()
    await pool.aclose()
