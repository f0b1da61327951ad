"""The only importer of arq: a job means "X needs an owner", a doorbell token means "check the queue now".

Owns queueing and waking, not what a job means. A job never runs inside arq: its handler takes the work over
and returns at once, so that arq's queue holds waiting work and nothing else
(docs/adr/0001-arq-rings-the-doorbell.md).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import msgspec
from arq.connections import ArqRedis
from arq.constants import in_progress_key_prefix, job_key_prefix, retry_key_prefix
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
"""The longest delay that a lost token causes: after this, the queue is checked anyway."""
_JOB_TIMEOUT_S = 60
"""Longer than a handler can take, since each of its commands has a bound of its own."""
_TRIES_MAX = 2**31
"""Practically unlimited: a job is retried until a process takes it; leases and claims decide which."""
_CROWDED_WAIT_S = 0.1
"""While a large job waits for room in this process: how often the room is checked."""
LARGE_BYTES = 64 * 2**10
"""The size from which a job counts as large. The number of jobs bounds the memory of smaller ones."""
_TAKEN_MAX, _SCANNED_MAX = 64, 1_000
"""The number of jobs taken at once, and how many are scanned if others hold the head of the queue."""
_IN_PROGRESS_S = 1.5
"""How long a job is locked, unless its handler returns earlier; bounds the delay if the process dies."""
_RECONNECT_S = 0.1
_FINISH_S = 1.0
"""How long a queue that stops waits until the jobs that were taken over are removed; a job left is locked for
no longer than above, and then taken again to find that its work has an owner."""


_encode = msgspec.json.Encoder(enc_hook=repr).encode
"""Also encodes what arq reports about a vanished job: an exception, which nothing reads."""


def _job(function: str, *args: Any) -> bytes:
    return serialize_job(function, args, {}, None, 0, serializer=_encode)


def response_job(key: ResponseKey) -> bytes:
    """Returns the job "this response needs an owner", which the worker's `start_response` handles."""
    return _job("start_response", str(key))


def count_job(name: str, request: str, listed: str | None = None) -> bytes:
    """Returns the job "count this request's tokens", which the worker's `count_input_tokens` handles."""
    return _job("count_input_tokens", name, request, *([] if listed is None else [listed]))


def listing_job(name: str, tenant: str, request: str) -> bytes:
    """Returns the job "list these servers' tools", which the tool runner's `list_tools` handles."""
    return _job("list_tools", name, tenant, request)


def tool_job(key: ResponseKey, call_index: int) -> bytes:
    """Returns the job "this tool call needs a runner", which the tool runner's `start_tool_call` handles."""
    return _job("start_tool_call", str(key), call_index)


async def ring_again(redis: RedisClient, settings: Settings, key: ResponseKey) -> str:
    """Queues an open response again unless it has an owner or is still queued.

    Returns `rung`, `waiting` (still queued: only the doorbell was rung), `held` (it has an owner) or `gone`.
    """
    reply = await redis.run(
        _RING(
            state=keys.state(key),
            log=keys.log(key),
            tools=keys.tools(key),
            secrets=keys.secrets(key),
            active=keys.ACTIVE,
            queue=keys.RESPONSES_QUEUE,
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
"""Takes a job's arguments, takes the work over and returns at once. Never raises because of bad work."""


def bytes_of_large(size_bytes: int) -> int:
    """Returns the bytes that a job of this size takes of the room for large ones: 0 if it is not large."""
    return size_bytes if size_bytes >= LARGE_BYTES else 0


@dataclass(frozen=True, slots=True)
class Room:
    """What a taker has room for, and the rules by which jobs are taken (`taking.lua`)."""

    count_max: int
    bytes_max: int
    bytes_left: int
    rings_on: bool
    """If everything left is too large for this taker, another one is woken."""
    wait_s: float = 0.0
    """How long a token of the doorbell is waited for; jobs are taken in any case."""
    scan_max: int = _SCANNED_MAX
    large_bytes: int = LARGE_BYTES
    lock_ms: int = int(_IN_PROGRESS_S * 1000)


class Job(NamedTuple):
    id: bytes
    score: int
    large_bytes: int
    """Its bytes if it is large, else 0."""
    queue: str

    @classmethod
    def read(cls, reply: Sequence[Any], queue: str) -> "list[Job]":
        """Returns the jobs of a queue in a script's reply: id, score and bytes of each in turn."""
        columns = zip(reply[::3], reply[1::3], reply[2::3], strict=True)
        return [cls(job_id, int(score), large_bytes, queue) for job_id, score, large_bytes in columns]


@dataclass(frozen=True, slots=True)
class Taken:
    jobs: list[Job]
    """Those that are locked until their handlers have returned."""
    has_begun: bool
    """Other work has begun already."""
    is_left: bool
    """A job is left because of its bytes."""


Take = Callable[[Room], Awaitable[Taken]]


@dataclass(frozen=True, slots=True)
class BytesRoom:
    """Limits the total size of the large jobs in one process; a larger job is taken only alone."""

    bytes_max: int
    left: Callable[[], int]
    """Returns the bytes left, not counting jobs whose handlers have not returned yet."""


class _DoorbellWorker(Worker):
    """arq's worker, woken by tokens instead of a clock; takes as many jobs at once as it has room for."""

    def __init__(
        self,
        queue: str,
        handlers: Mapping[str, Handler],
        room: Callable[[], int],
        bytes_room: BytesRoom | None,
        claim: Take | None,
        pool: ArqRedis,
        bell: ArqRedis,
    ) -> None:
        self._starting: dict[str, int] = {}
        """Jobs whose handlers have not returned yet -> their bytes if large, else 0."""
        self._queues: dict[str, str] = {}
        """The queue of each job that is being handled."""
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
        self.finishing: set[asyncio.Task[None]] = set()
        """They outlive `tasks` and still use the connections."""
        self._room = room
        self._bytes_room = bytes_room or BytesRoom(0, int)
        self._is_crowded = False
        """A large job did not fit at the last check."""
        self._bytes_then = 0
        """The bytes that were left at the last check."""
        self._bell = bell
        self._doorbell = keys.doorbell(queue)
        self._claim = claim
        self._is_new = True
        """It has not looked at the queue yet, where a connection that broke may have left something."""

    async def run_job(self, job_id: str, score: int) -> None:
        try:
            await super().run_job(job_id, score)
        finally:
            self._starting.pop(job_id, None)
            self._queues.pop(job_id, None)

    async def finish_job(self, job_id: str, finish: bool, *args: Any) -> None:
        self._note_finishing()
        if finish:
            await self._remove(job_id)
        else:
            await super().finish_job(job_id, finish, *args)

    async def finish_failed_job(self, job_id: str, *_args: Any) -> None:
        self._note_finishing()
        await self._remove(job_id)

    async def _remove(self, job_id: str) -> None:
        """Replaces arq's own, which takes a job out of the one queue that it knows. In one transaction: a job
        without a queue would be left if Redis were lost between two."""
        queue = self._queues.get(job_id, self.queue_name)
        parts = [prefix + job_id for prefix in (job_key_prefix, retry_key_prefix, in_progress_key_prefix)]
        await RedisClient(self.pool).transaction(("ZREM", queue, job_id), ("DEL", *parts))

    def _note_finishing(self) -> None:
        """Keeps the current task, which removes a job: arq shields it from the cancellation of `run_job`."""
        finishing = cast("asyncio.Task[None]", asyncio.current_task())
        self.finishing.add(finishing)
        finishing.add_done_callback(self.finishing.discard)

    def _make_coroutine(self, handler: Handler) -> WorkerCoroutine:
        async def coroutine(context: dict[Any, Any], *args: Any) -> None:
            try:
                await handler(*args)
            except REDIS_AWAY as away:
                _log.warning("job %s stays queued, Redis is unavailable (%s)", context["job_id"], away)
                raise Retry from None
            self._starting.pop(context["job_id"], None)

        return cast(WorkerCoroutine, coroutine)

    async def _poll_iteration(self) -> None:
        """Replaces arq's own, which takes one job after the other, with four round trips each."""
        if self._jobs_left() <= 0:
            await asyncio.sleep(0.02)
        else:
            await self._look()
        for job_id, task in list(self.tasks.items()):
            if task.done():
                del self.tasks[job_id]
                task.result()  # an error ends this worker, and `serve` makes another with new connections
        await self.heart_beat()

    def _jobs_left(self) -> int:
        return self._room() - len(self._starting)

    def _bytes_left(self) -> int:
        return self._bytes_room.left() - sum(self._starting.values())

    async def _look(self) -> None:
        """Waits for a token, or for room, and takes jobs."""
        is_new, self._is_new = self._is_new, False
        if self._claim is not None and not (is_new or self._is_crowded):
            await self._take_jobs(self._claim, wait_s=_DOORBELL_WAIT_S)
        elif is_new or await self._wait_for_work():
            await self._take_jobs(self._claim or self._lock_jobs)

    async def _wait_for_work(self) -> bool:
        """Waits for a token, or for room; returns False if there still is no room for a waiting large job."""
        wait_s = _CROWDED_WAIT_S if self._is_crowded else _DOORBELL_WAIT_S
        token = await RedisClient(self._bell).command("BLPOP", self._doorbell, wait_s)
        return token is not None or not self._is_crowded or self._bytes_left() > self._bytes_then

    async def _take_jobs(self, take: Take, *, wait_s: float = 0.0) -> None:
        """Takes waiting jobs, up to the room left and a fair share among the queue's processes."""
        self._bytes_then = self._bytes_left()
        room = Room(
            min(max(self._jobs_left(), 0), _TAKEN_MAX),
            self._bytes_room.bytes_max,
            self._bytes_then,
            rings_on=not self._is_crowded,
            wait_s=wait_s,
        )
        taken = await take(room)
        for job in taken.jobs:
            name = job.id.decode()
            if name in self.tasks and not self.tasks[name].done():
                continue  # its lock had lapsed and was taken by us again
            self._starting[name], self._queues[name] = job.large_bytes, job.queue
            self.tasks[name] = self.loop.create_task(self.run_job(name, job.score))
        self._is_crowded = taken.is_left
        if taken.is_left and not (taken.jobs or taken.has_begun):
            # Otherwise tokens for jobs that do not fit would keep it busy.
            await asyncio.sleep(_CROWDED_WAIT_S)

    async def _lock_jobs(self, room: Room) -> Taken:
        is_left, *taken = await RedisClient(self._bell).run(
            _TAKE(
                queue=self.queue_name,
                doorbell=self._doorbell,
                takers=keys.takers(self.queue_name),
                count_max=room.count_max,
                lock_ms=room.lock_ms,
                scan_max=room.scan_max,
                bytes_max=room.bytes_max,
                bytes_left=room.bytes_left,
                large_bytes=room.large_bytes,
                state_pattern=keys.STATE_PATTERN,
                rings_on=int(room.rings_on),
            )
        )
        return Taken(Job.read(taken, self.queue_name), has_begun=False, is_left=bool(is_left))


async def serve(
    redis_url: str,
    queue: str,
    handlers: Mapping[str, Handler],
    room: Callable[[], int],
    bytes_room: BytesRoom | None = None,
    claim: Take | None = None,
) -> None:
    """Serves a queue until cancelled, across any number of Redis restarts; `claim` may take from others too.

    `room()` is called before every check; at 0, no token and no job is taken. `bytes_room`: the limit on
    large jobs, for the queue of responses; None means no limit. `claim`: waits for the doorbell and takes
    jobs, as `claim.lua` does; None means that every job is locked and goes to its handler.
    """
    while True:
        # Two pools, so that a blocking command does not delay the others.
        pool, bell = (cast(ArqRedis, ArqRedis.from_pool(make_pool(redis_url))) for _ in range(2))
        worker = _DoorbellWorker(queue, handlers, room, bytes_room, claim, pool, bell)
        try:
            await worker.async_run()
        except REDIS_AWAY as away:
            _log.warning("queue %s: Redis is unavailable (%s), retrying", queue, away)
            await asyncio.sleep(_RECONNECT_S)
        finally:
            await _stop(worker, pool, bell)


async def _stop(worker: _DoorbellWorker, pool: ArqRedis, bell: ArqRedis) -> None:
    for task in worker.tasks.values():
        task.cancel()
    if worker.main_task:
        worker.main_task.cancel()
    await asyncio.gather(*worker.tasks.values(), return_exceptions=True)
    if worker.finishing:
        await asyncio.wait(worker.finishing, timeout=_FINISH_S)
    for task in worker.finishing:
        task.cancel()
    await asyncio.gather(*worker.finishing, return_exceptions=True)
    await bell.aclose()
    await pool.aclose()
