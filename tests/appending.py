"""Owns responses and appends to their logs, for tests that play an owner."""

from collections.abc import Sequence

from shared.responses import ResponseRequest
from shared.settings import Settings
from shared.store.log.appender import Appender
from shared.store.log.response_log import Closing, LogLimits, NewEntry, ResponseLog, Write, write_now
from shared.store.owning import lease
from shared.store.owning.lease import Acquired, Lease
from shared.store.redis.client import RedisClient
from tests.requests import accept


async def begin(redis: RedisClient, settings: Settings, request: ResponseRequest | None = None) -> Lease:
    """Creates a response and acquires its lease."""
    acquired = await lease.acquire(redis, settings, await accept(redis, settings, request), "a")
    assert isinstance(acquired, Acquired)
    return acquired.lease


def make_write(
    log: ResponseLog, held: Lease, first: int, entries: Sequence[NewEntry], closing: Closing | None = None
) -> Write:
    if closing is None:
        return log.append(held.proof, first, entries)
    return log.close(held.proof, first, entries, closing)


async def append(
    redis: RedisClient,
    settings: Settings,
    held: Lease,
    first: int,
    entries: Sequence[NewEntry],
    closing: Closing | None = None,
) -> None:
    """Appends entries by themselves, in one round trip."""
    log = ResponseLog(LogLimits.of(settings), held.key)
    await write_now(redis, make_write(log, held, first, entries, closing))


async def append_through(
    appender: Appender,
    held: Lease,
    first: int,
    entries: Sequence[NewEntry],
    closing: Closing | None = None,
) -> None:
    """Appends entries together with what other responses append at that moment."""
    await appender.write(make_write(appender.log_of(held.key), held, first, entries, closing))
