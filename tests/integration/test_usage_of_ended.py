"""A cancelled or failed response reports its usage, whichever process closes it, and whichever workers ran
it."""

import msgspec
import pytest
from msgspec.structs import asdict

from api.offload import Offload
from shared import lifecycle
from shared.responses import InputTokensDetails, OutputTokensDetails, Response, ResponseError, Usage
from shared.settings import Settings
from shared.store import keys
from shared.store.keys import ResponseKey
from shared.store.log import closing, event_log
from shared.store.log.response_log import LogLimits, NewEntry, ResponseLog, write_now
from shared.store.owning import lease
from shared.store.owning.lease import Acquired
from shared.store.redis.client import RedisClient
from shared.usage import UsageSoFar
from tests.patience import until
from tests.requests import accept, make_request, read_record
from tests.working import Worker, finish, leave_behind, working

ENOUGH = 40
"""The number of tokens in the log when a response is closed."""


async def tokens_of(redis: RedisClient, key: ResponseKey) -> int:
    """What the log holds of the model's tokens."""
    page = await event_log.read(redis, key, -1, 5_000)
    return sum(len(entry.tokens) for entry in page.entries)


async def run_to_the_middle(redis: RedisClient, worker: Worker, key: ResponseKey) -> None:
    await worker.ownership.start_response(str(key))
    await until_more_than(redis, key, ENOUGH - 1)


async def until_more_than(redis: RedisClient, key: ResponseKey, tokens: int) -> None:
    async def has_more() -> bool:
        return await tokens_of(redis, key) > tokens

    await until(has_more)


async def snapshot_of(redis: RedisClient, key: ResponseKey) -> Response:
    record = await read_record(redis, key)
    assert record is not None
    assert record.state.closed
    return msgspec.json.decode(record.snapshot, type=Response)


def check(usage: Usage | None, at_least: int, at_most: int) -> None:
    """Tokens that have made no event yet may be counted: they were made."""
    assert usage is not None
    assert at_least <= usage.output_tokens <= at_most + 16
    assert usage.output_tokens_details.reasoning_tokens <= usage.output_tokens
    assert usage.input_tokens > 10
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens


async def test_a_response_that_the_api_cancels_says_what_it_has_used(
    redis: RedisClient, settings: Settings
) -> None:
    request = make_request("Count slowly to 100")
    async with working(redis, settings) as worker:
        key = await accept(redis, settings, request)
        await run_to_the_middle(redis, worker, key)
        assert await closing.cancel(redis, settings, key, "api", Offload().run) == "ended"
        ended = await snapshot_of(redis, key)
        assert (ended.status, ended.output) == ("cancelled", ())
        made = await tokens_of(redis, key)
        check(ended.usage, made, made)
        assert await redis.command("HGET", keys.state(key), "usage") is None


async def test_usage_is_exact_in_the_middle_of_a_long_text(redis: RedisClient, settings: Settings) -> None:
    """Longer than what is stored of the usage may be behind."""
    async with working(redis, settings) as worker:
        key = await accept(redis, settings, make_request("Count slowly to 1000"))
        await worker.ownership.start_response(str(key))
        await until_more_than(redis, key, 300)
        await closing.cancel(redis, settings, key, "api", Offload().run)
        usage = (await snapshot_of(redis, key)).usage
        assert usage is not None
        assert usage.output_tokens == await tokens_of(redis, key)


@pytest.mark.parametrize("covers", ["everything, as in the version before", "all but two entries"])
async def test_usage_is_completed_from_the_log(redis: RedisClient, settings: Settings, covers: str) -> None:
    key = await accept(redis, settings)
    acquired = await lease.acquire(redis, settings, key, "worker")
    assert isinstance(acquired, Acquired)
    usage = Usage(9, InputTokensDetails(), 4, OutputTokensDetails(3), 13)
    so_far = UsageSoFar(**asdict(usage), entries=2, is_reasoning=True)
    stored = msgspec.json.encode(usage if covers.startswith("everything") else so_far)
    entries = [NewEntry(b"event: x\ndata: {}\n\n", tokens) for tokens in ((1, 2, 3, 4), (5,), (6, 7))]
    log = ResponseLog(LogLimits.of(settings), key)
    await write_now(redis, log.append(acquired.lease.proof, 1, entries, stored))
    await closing.cancel(redis, settings, key, "api", Offload().run)
    more = 0 if covers.startswith("everything") else 3
    expected = Usage(9, InputTokensDetails(), 4 + more, OutputTokensDetails(3 + more), 13 + more)
    assert (await snapshot_of(redis, key)).usage == expected


async def test_what_a_dead_owner_has_made_is_counted_once_and_not_left_out(
    redis: RedisClient, settings: Settings
) -> None:
    request = make_request("Count slowly to 30")
    async with working(redis, settings) as worker:
        whole = await finish(redis, worker, await accept(redis, settings, request))
        half = len(whole) // 2
        await redis.command("FLUSHALL")
        key = await leave_behind(redis, settings, worker, request, whole[:half])
        before = await tokens_of(redis, key)
        await worker.ownership.start_response(str(key))
        await until_more_than(redis, key, before)
        await closing.cancel(redis, settings, key, "api", Offload().run)
        made = await tokens_of(redis, key)
        assert made > before
        check((await snapshot_of(redis, key)).usage, made, made)


async def test_a_response_that_is_given_up_says_what_its_owners_have_used(
    redis: RedisClient, settings: Settings
) -> None:
    async with working(redis, settings) as worker:
        key = await accept(redis, settings, make_request("Count slowly to 100"))
        await run_to_the_middle(redis, worker, key)
    await redis.command("HSET", keys.state(key), "deaths", settings.owners_lost_max)
    async with working(redis, settings) as worker:
        await finish(redis, worker, key)
    ended = await snapshot_of(redis, key)
    assert ended.status == "failed"
    made = await tokens_of(redis, key)
    check(ended.usage, ENOUGH, made)


@pytest.mark.parametrize("end", ["cancelled", "failed"])
async def test_a_response_for_which_nothing_was_made_has_no_usage(
    redis: RedisClient, settings: Settings, end: str
) -> None:
    key = await accept(redis, settings)
    if end == "cancelled":
        await closing.cancel(redis, settings, key, "api", Offload().run)
    else:
        error = ResponseError("server_error", "no")
        await closing.end_at_once(
            redis, settings, key, "api", lambda born: lifecycle.fail(born, error), Offload().run
        )
    ended = await snapshot_of(redis, key)
    assert (ended.status, ended.usage) == (end, None)
