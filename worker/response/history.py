"""What earlier attempts have put into a log: read once, replayed, and never written again.

Owns the reading. Replaying is the attempt's own way, with logged tokens instead of the engine's and
the journal's results instead of the tools'; the log writer compares what comes out with what stands.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from shared.events import is_queued
from shared.request_json import decode_request
from shared.responses import ResponseRequest
from shared.store.keys import ResponseKey
from shared.store.log import event_log
from shared.store.log.event_log import Entry
from shared.store.owning.lease import Acquired, LeaseLost, now_ms
from shared.store.records import response_store
from shared.store.redis.client import RedisClient
from shared.store.redis.connections import REDIS_AWAY
from worker.response.stepper import Stepper
from worker.response.token_record import LoggedToken, read_logged


class Diverged(Exception):
    """A replay made other bytes than the log holds: going on would tell the client two stories."""


@dataclass(frozen=True, slots=True)
class History:
    """What workers have written, oldest first; both queues empty as they are replayed."""

    frames: deque[bytes]
    tokens: deque[LoggedToken]
    first: int = 1
    """The number of the first event that is a worker's; those before are the API's."""


@dataclass(frozen=True, slots=True)
class LoadedRecord:
    """What was asked for. `size`: bytes of its JSON; `format`: of the log that is made of it."""

    request: ResponseRequest
    size: int
    format: int


class Unloadable(Exception):
    """This worker cannot read the record: it is too long to come in time, or not what this version writes."""


async def load_record(redis: RedisClient, stepper: Stepper, acquired: Acquired) -> LoadedRecord:
    """Raises Unloadable; LeaseLost if it is gone; REDIS_AWAY if Redis does not answer at all."""
    stored = await _read_request(redis, acquired.lease.key)
    try:
        request = await stepper.call(lambda: decode_request(stored), len(stored))
    except msgspec.DecodeError as error:
        raise Unloadable(f"it cannot be decoded: {error}") from error
    return LoadedRecord(request, len(stored), acquired.format)


async def _read_request(redis: RedisClient, key: ResponseKey) -> bytes:
    """Twice, if Redis answers in between: an outage is not the record's fault."""
    for _ in range(2):
        try:
            stored = await response_store.read_request(redis, key)
        except REDIS_AWAY:
            await now_ms(redis)
            continue
        if not stored:
            raise LeaseLost(f"{key}: gone")
        return stored
    raise Unloadable("it does not come in time, though Redis answers")


async def read_history(redis: RedisClient, key: ResponseKey) -> History:
    """Everything after what the API wrote at its birth. Raises LeaseLost if the log is closed or gone."""
    entries: list[Entry] = []
    async for page in event_log.pages(redis, key, 0, with_token_records=True):
        if page.is_closed or page.is_missing:
            raise LeaseLost(f"{key}: closed or gone")
        entries += page.entries
    return history_of(entries)


def history_of(entries: Iterable[Entry]) -> History:
    """`entries`: those of a log, but for entry 0."""
    frames: deque[bytes] = deque()
    tokens: deque[LoggedToken] = deque()
    for entry in entries:
        frames.append(entry.frame)
        tokens.extend(read_logged(entry.tokens, entry.token_record))
    if frames and is_queued(frames[0]):
        frames.popleft()
        return History(frames, tokens, first=2)
    return History(frames, tokens)
