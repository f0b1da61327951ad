"""What earlier attempts have written into a response's log, and the record that they started from.

Owns the reading. A replay is an ordinary attempt that takes tokens and results from here first; the log
writer compares the events it makes with those in the log.
"""

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import msgspec

from shared.frames import is_queued
from shared.request_json import decode_request
from shared.responses import ResponseRequest, ServerCall
from shared.store.keys import ResponseKey
from shared.store.log import event_log
from shared.store.log.event_log import Entry
from shared.store.log.unshown import holds_unshown, read_unshown
from shared.store.owning.lease import Acquired, LeaseLost, now_ms
from shared.store.records import response_store
from shared.store.redis.client import RedisClient
from shared.store.redis.connections import REDIS_AWAY
from worker.response.stepper import Stepper
from worker.response.token_record import LoggedToken, read_logged


class Diverged(Exception):
    """A replay made other bytes than the log holds: continuing would contradict what clients have read."""


@dataclass(frozen=True, slots=True)
class History:
    """What workers have written, oldest first; both queues are emptied by the replay."""

    frames: deque[bytes]
    tokens: deque[LoggedToken]
    unshown: Mapping[int, ServerCall] = field(default_factory=dict)
    """The calls of which clients were shown less, by output_index."""
    first: int = 1
    """The sequence number of the first event written by a worker; the API wrote those before it."""


@dataclass(frozen=True, slots=True)
class LoadedRecord:
    """A request as it was accepted. `size`: bytes of its JSON; `format`: the record format of its log;
    `accepted_s`: when it was (loop time), if that is known."""

    request: ResponseRequest
    size: int
    format: int
    accepted_s: float | None = field(default=None, compare=False)


class Unloadable(Exception):
    """This worker cannot load the record: it does not arrive in time, or cannot be decoded."""


async def load_record(redis: RedisClient, stepper: Stepper, acquired: Acquired) -> LoadedRecord:
    """Returns the record of a response just acquired.

    Raises Unloadable, LeaseLost if the record is gone, REDIS_AWAY if Redis does not answer at all.
    """
    accepted_s = asyncio.get_running_loop().time() - acquired.age_ms / 1000
    stored = acquired.request or await _read_request(redis, acquired.lease.key)
    try:
        request = await stepper.call(lambda: decode_request(stored), len(stored))
    except msgspec.DecodeError as error:
        raise Unloadable(f"it cannot be decoded: {error}") from error
    return LoadedRecord(request, len(stored), acquired.format, accepted_s)


async def _read_request(redis: RedisClient, key: ResponseKey) -> bytes:
    """Returns the stored request; tries twice, since an outage in between is not the record's fault."""
    for _ in range(2):
        try:
            stored = await response_store.read_request(redis, key)
        except REDIS_AWAY:
            await now_ms(redis)
            continue
        if not stored:
            raise LeaseLost(f"{key}: gone")
        return stored
    raise Unloadable("it does not arrive in time, although Redis answers")


async def history_before(redis: RedisClient, stepper: Stepper, acquired: Acquired) -> History:
    """Returns what `read_history` does; the first owner reads nothing, as only the API has written before."""
    if acquired.lease.fencing_token == 1:
        return History(deque(), deque(), first=max(1, acquired.next_sequence_number))
    return await read_history(redis, stepper, acquired.lease.key)


async def read_history(redis: RedisClient, stepper: Stepper, key: ResponseKey) -> History:
    """Returns everything that workers have written. Raises LeaseLost if the log is closed or gone."""
    entries: list[Entry] = []
    async for page in event_log.pages(redis, key, 0, with_token_records=True):
        if page.is_closed or page.is_missing:
            raise LeaseLost(f"{key}: closed or gone")
        entries += page.entries
    size = sum(len(entry.token_record) for entry in entries)
    return await stepper.call(lambda: history_of(entries), size)


def history_of(entries: Iterable[Entry]) -> History:
    """Returns the history in a log's entries. `entries`: all but entry 0."""
    frames: deque[bytes] = deque()
    tokens: deque[LoggedToken] = deque()
    unshown: list[bytes] = []
    for entry in entries:
        frames.append(entry.frame)
        record = entry.token_record
        if holds_unshown(entry):
            unshown.append(record)
            record = b""
        tokens.extend(read_logged(entry.tokens, record))
    first = 1
    if frames and is_queued(frames[0]):
        frames.popleft()
        first = 2
    return History(frames, tokens, read_unshown(unshown), first)
