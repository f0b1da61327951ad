"""Redis comes back without the end of a log, as after a failover: its owner appends the same bytes again."""

from collections import deque

import pytest

from api.offload import Offload
from shared.events import ResponseCompleted, ResponseFailed, ResponseInProgress
from shared.frames import decode
from shared.responses import Response
from shared.settings import Settings
from shared.store import keys
from shared.store.keys import ResponseKey
from shared.store.log import closing, event_log
from shared.store.log.appender import Appender
from shared.store.log.closing import WholeAnswer
from shared.store.log.response_log import TailLost
from shared.store.owning import lease
from shared.store.owning.lease import Acquired, LeaseLost, Renewal
from shared.store.redis.client import RedisClient
from shared.store.tools import tool_journal
from shared.tool_calls import ToolListing
from tests.appending import append
from tests.patience import until
from tests.requests import accept, make_request
from worker.engines.scripted.engine import ScriptedEngine
from worker.engines.scripted.script import Script
from worker.ownership import Ownership
from worker.response import log_writer
from worker.response.history import History
from worker.response.log_writer import LogWriter
from worker.response.remote_tools import RemoteTools
from worker.response.resources import Resources


async def own(redis: RedisClient, settings: Settings, key: ResponseKey, owner: str = "a") -> Acquired:
    acquired = await lease.acquire(redis, settings, key, owner)
    assert isinstance(acquired, Acquired)
    return acquired


async def remember(redis: RedisClient, key: ResponseKey) -> dict[str, bytes]:
    """All of a response as it is now."""
    return {name: await redis.command("DUMP", name) for name in (keys.state(key), keys.log(key))}


async def go_back(redis: RedisClient, past: dict[str, bytes]) -> None:
    for name, dump in past.items():
        await redis.command("RESTORE", name, 60_000, dump, "REPLACE")


async def put_some(writer: LogWriter, response: Response, count: int) -> None:
    for token in range(count):
        await writer.put([ResponseInProgress(response)], (token,))
    await writer.flush()


async def test_what_redis_has_lost_is_appended_again_byte_for_byte(
    redis: RedisClient, settings: Settings, appender: Appender
) -> None:
    key = await accept(redis, settings)
    writer = LogWriter(appender, (await own(redis, settings, key)).lease, History(deque(), deque()))
    response = make_request("Hello").response
    await put_some(writer, response, 5)
    past = await remember(redis, key)
    await put_some(writer, response, 20)
    seen = (await event_log.read(redis, key, -1)).entries
    await go_back(redis, past)
    assert len((await event_log.read(redis, key, -1)).entries) == 6
    await put_some(writer, response, 1)
    entries = (await event_log.read(redis, key, -1)).entries
    assert entries[: len(seen)] == seen
    assert [entry.sequence_number for entry in entries] == list(range(len(seen) + 1))


async def test_an_answer_is_stored_only_beside_the_events_that_it_sums_up(
    redis: RedisClient, settings: Settings, appender: Appender
) -> None:
    """If they are lost, they are appended again first; whoever ends the response then closes that log."""
    key = await accept(redis, settings)
    writer = LogWriter(appender, (await own(redis, settings, key)).lease, History(deque(), deque()))
    response = make_request("Hello").response
    past = await remember(redis, key)
    await put_some(writer, response, 4)
    seen = (await event_log.read(redis, key, -1)).entries
    await go_back(redis, past)
    await writer.note_answer(WholeAnswer(response, writer.next).encode())
    assert (await event_log.read(redis, key, -1)).entries == seen
    assert await closing.cancel(redis, settings, key, "somebody", Offload().run) == "ended"
    page = await event_log.read(redis, key, -1)
    assert page.entries[:-1] == seen
    assert isinstance(decode(page.entries[-1].frame), ResponseCompleted)


async def test_more_than_is_kept_cannot_be_appended_again(
    redis: RedisClient, settings: Settings, appender: Appender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_writer, "_RECENT_MAX", 3)
    key = await accept(redis, settings)
    writer = LogWriter(appender, (await own(redis, settings, key)).lease, History(deque(), deque()))
    response = make_request("Hello").response
    past = await remember(redis, key)
    await put_some(writer, response, 4)
    await go_back(redis, past)
    with pytest.raises(TailLost):
        await put_some(writer, response, 1)
    assert len((await event_log.read(redis, key, -1)).entries) == 1


async def test_an_owner_whose_acquiring_was_lost_mends_nothing_of_the_next_one(
    redis: RedisClient, settings: Settings, appender: Appender
) -> None:
    """Both have the same fencing token then."""
    key = await accept(redis, settings)
    past = await remember(redis, key)
    first, response = await own(redis, settings, key, "a"), make_request("Hello").response
    writer = LogWriter(appender, first.lease, History(deque(), deque()))
    await put_some(writer, response, 5)
    await go_back(redis, past)
    second = await own(redis, settings, key, "b")
    assert second.lease.fencing_token == first.lease.fencing_token
    await put_some(LogWriter(appender, second.lease, History(deque(), deque())), response, 2)
    before = (await event_log.read(redis, key, -1)).entries
    with pytest.raises(LeaseLost):
        await put_some(writer, response, 1)
    assert (await event_log.read(redis, key, -1)).entries == before


async def test_a_response_that_cannot_be_mended_fails_and_says_why(
    redis: RedisClient, settings: Settings, appender: Appender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_writer, "_RECENT_MAX", 1)
    engine = ScriptedEngine(Script.load(None))
    await engine.start()
    tools = RemoteTools(redis, settings)
    ownership = Ownership(Resources(settings, redis, appender, engine, tools, lambda: 1_763_769_700))
    ownership.start()
    try:
        key = await accept(redis, settings, make_request("Count slowly from 1 to 100"))
        await ownership.start_response(str(key))
        past = await remember(redis, key)
        await wait_for_entries(redis, key, 30)
        await go_back(redis, past)

        async def is_closed() -> bool:
            return (await event_log.read(redis, key, -1)).is_closed

        await until(is_closed)
    finally:
        await ownership.drain()
        await engine.stop()
    page = await event_log.read(redis, key, -1)
    last = decode(page.entries[-1].frame)
    assert isinstance(last, ResponseFailed)
    assert last.response.error is not None
    assert "lost with the server" in last.response.error.message
    beyond = await event_log.read(redis, key, 29)
    assert beyond.is_closed  # a reader that has seen more does not wait, and gets no number twice
    assert not beyond.entries


async def wait_for_entries(redis: RedisClient, key: ResponseKey, count: int) -> None:
    async def are_there() -> bool:
        return bool(await redis.command("XLEN", keys.log(key)) >= count)

    await until(are_there)


async def test_who_owns_a_response_again_after_a_failover_has_another_token(
    redis: RedisClient, settings: Settings, appender: Appender
) -> None:
    """What its earlier attempt has sent may still be under way, and would stand between its entries."""
    key = await accept(redis, settings)
    engine = ScriptedEngine(Script.load(None))
    await engine.start()
    ownership = Ownership(
        Resources(settings, redis, appender, engine, RemoteTools(redis, settings), lambda: 1_763_769_700)
    )
    ownership.start()
    try:
        past = await remember(redis, key)
        await ownership.start_response(str(key))
        first = lease.Lease(key, ownership.owner, 1)
        assert await redis.command("HGET", keys.state(key), "attempt") == b"1"
        await go_back(redis, past)
        await until(lambda: ownership.room() == settings.responses_in_flight_max)  # the loss is noticed
        await ownership.start_response(str(key))
        assert await redis.command("HGET", keys.state(key), "attempt") == b"2"
        with pytest.raises(LeaseLost):
            await append(redis, settings, first, 1, [])
    finally:
        await ownership.drain()
        await engine.stop()


async def test_an_earlier_owner_with_the_same_token_writes_nothing_though_its_place_is_free(
    redis: RedisClient, settings: Settings, appender: Appender
) -> None:
    """Its acquiring was lost in a failover; the log is as long as it takes it to be."""
    key = await accept(redis, settings)
    past = await remember(redis, key)
    first, response = await own(redis, settings, key, "a"), make_request("Hello").response
    await go_back(redis, past)
    second = await own(redis, settings, key, "b")
    assert second.lease.fencing_token == first.lease.fencing_token
    with pytest.raises(LeaseLost):
        await put_some(LogWriter(appender, first.lease, History(deque(), deque())), response, 1)
    task = ToolListing("code_interpreter")
    with pytest.raises(LeaseLost):
        await tool_journal.submit(redis, settings, first.lease, 0, task)
    assert await lease.renew_all(
        redis, [Renewal.of(settings, each) for each in (first.lease, second.lease)]
    ) == [(first.lease, "lost")]
    await put_some(LogWriter(appender, second.lease, History(deque(), deque())), response, 1)
    assert len((await event_log.read(redis, key, -1)).entries) == 2
