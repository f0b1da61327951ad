"""Records and logs of earlier versions: a response begun by one continues, in the form in which it began."""

from pathlib import Path

import pytest

from shared.frames import decode
from shared.record_format import RECORD_FORMAT, RECORD_FORMAT_OLDEST
from shared.settings import Settings
from shared.store import keys
from shared.store.keys import ResponseKey
from shared.store.owning import lease
from shared.store.owning.lease import Acquired
from shared.store.redis.client import RedisClient
from tests.record_formats import REQUESTS, answer, load_script, read
from tests.requests import accept, read_record
from tests.working import finish, leave_behind, restore_journal, working

EARLIER = range(RECORD_FORMAT_OLDEST, RECORD_FORMAT)
"""Each format before this one that is still replayed; `python -m tests.record_formats` saves its logs."""


def file_of(number: int) -> Path:
    return Path(__file__).with_name(f"record_format_{number}.json.gz")


async def set_format(redis: RedisClient, key: ResponseKey, number: int | None) -> None:
    """None: as the first version wrote it, without a number."""
    await redis.command("HDEL", keys.state(key), "format", "format_needed")
    if number is not None:
        await redis.command("HSET", keys.state(key), "format", number)


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("number", EARLIER)
async def test_a_log_of_an_earlier_format_goes_on_from_every_prefix(
    redis: RedisClient, settings: Settings, tmp_path: Path, number: int, name: str
) -> None:
    """What was sent stands, and what follows is what its first version would have sent."""
    logged = read(file_of(number))[name]
    whole = logged.log
    begun = 2 if number > 1 and logged.request.response.background else 1
    async with working(redis, settings, load_script(tmp_path), answer=answer) as worker:
        for length in range(begun, len(whole)):
            await redis.command("FLUSHALL")
            key = await leave_behind(redis, settings, worker, logged.request, whole[:length], born_with=begun)
            await set_format(redis, key, number if number > 1 else None)
            await restore_journal(redis, key, logged.journal)
            again = await finish(redis, worker, key)
            assert [e.frame for e in again[1:length]] == [e.frame for e in whole[1:length]], length
            assert [decode(e.frame) for e in again[1:-1]] == [decode(e.frame) for e in whole[1:-1]], length
            assert again[-1].frame.startswith(b"event: response.completed\n"), again[-1].frame


async def test_a_record_that_needs_a_later_version_waits_for_one_and_is_not_failed(
    redis: RedisClient, settings: Settings
) -> None:
    key = await accept(redis, settings)
    await set_format(redis, key, RECORD_FORMAT + 1)
    before = await redis.command("HGETALL", keys.state(key))
    async with working(redis, settings) as worker:
        await worker.ownership.start_response(str(key))
        assert worker.ownership.room() == settings.responses_in_flight_max
    assert await redis.command("HGETALL", keys.state(key)) == before
    assert await redis.command("ZSCORE", keys.ACTIVE, str(key)) is not None, "the sweepers ring for it again"


async def test_what_a_later_version_has_written_to_is_left_for_one(
    redis: RedisClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = await accept(redis, settings)
    with monkeypatch.context() as later:
        later.setattr(lease, "RECORD_FORMAT", RECORD_FORMAT + 1)
        acquired = await lease.acquire(redis, settings, key, "later")
    assert isinstance(acquired, Acquired)
    assert acquired.format == RECORD_FORMAT
    await lease.release(redis, settings, acquired.lease)
    assert await lease.acquire(redis, settings, key, "this one") == "newer"


async def test_a_record_of_a_format_that_nobody_replays_any_more_ends_with_a_reason(
    redis: RedisClient, settings: Settings
) -> None:
    key = await accept(redis, settings)
    await set_format(redis, key, 0)
    async with working(redis, settings) as worker:
        await finish(redis, worker, key)
    record = await read_record(redis, key)
    assert record is not None
    assert record.state.closed == "failed"
    assert b"too old to be continued" in record.snapshot
