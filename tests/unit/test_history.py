"""What an attempt reads before it begins: the record, and what earlier attempts have put into the log."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, cast

import msgspec
import pytest
import pytest_asyncio

from shared.events import ResponseInProgress, ResponseQueued
from shared.frames import frame
from shared.store.keys import ResponseKey
from shared.store.owning.lease import Acquired, Lease, LeaseLost
from shared.store.redis.client import RedisClient
from shared.store.redis.scripts import ScriptCall
from tests.requests import make_request
from worker.response.history import LoadedRecord, Unloadable, load_record, read_history
from worker.response.stepper import SHORT_BYTES_MAX, Stepper

REQUEST = make_request()
KEY = ResponseKey("default", REQUEST.response.id)
ACQUIRED = Acquired(Lease(KEY, "worker", 1), 1, 0, 2)

BEGUN = ResponseInProgress(REQUEST.response)


class Redis:
    """Answers each command with the next reply; raises it if it is an exception."""

    def __init__(self, *replies: Any) -> None:
        self._replies = list(replies)
        self.firsts: list[Any] = []
        """Of each page of the log: the number of the entry from which on it was read."""

    def _next(self) -> Any:
        reply = self._replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def command(self, *_: object) -> Any:
        return self._next()

    async def run(self, call: ScriptCall) -> Any:
        self.firsts.append(dict(zip(call.script.args, call.args, strict=True))["first"])
        return self._next()


def as_client(redis: Redis) -> RedisClient:
    return cast("RedisClient", redis)


AWAY, TIME = ConnectionError("away"), [b"1763769700", b"0"]


# --- the record ---------------------------------------------------------------------------------


@pytest_asyncio.fixture
async def load() -> AsyncIterator[Callable[..., Any]]:
    stepper = Stepper()

    async def load_from(*replies: Any) -> LoadedRecord:
        return await load_record(as_client(Redis(*replies)), stepper, ACQUIRED)

    yield load_from
    stepper.close()


@pytest.mark.parametrize("text", ["Hello", "word " * SHORT_BYTES_MAX])
async def test_a_record_is_the_request_that_was_accepted(load: Callable[..., Any], text: str) -> None:
    request = make_request(text)
    stored = msgspec.json.encode(request)
    assert await load(stored) == LoadedRecord(request, len(stored), ACQUIRED.format)


async def test_a_record_is_asked_for_once_more_after_an_outage(load: Callable[..., Any]) -> None:
    stored = msgspec.json.encode(REQUEST)
    assert (await load(AWAY, TIME, stored)).request == REQUEST


async def test_a_record_that_never_comes_though_redis_answers_cannot_be_loaded(
    load: Callable[..., Any],
) -> None:
    with pytest.raises(Unloadable):
        await load(AWAY, TIME, AWAY, TIME)


@pytest.mark.parametrize("replies", [(AWAY, AWAY), (AWAY, TIME, AWAY, AWAY)])
async def test_an_outage_is_not_the_records_fault(
    load: Callable[..., Any], replies: Sequence[object]
) -> None:
    with pytest.raises(ConnectionError):
        await load(*replies)


@pytest.mark.parametrize("replies", [(None,), (AWAY, TIME, None)])
async def test_a_record_that_is_gone_is_nobodys_any_more(
    load: Callable[..., Any], replies: Sequence[object]
) -> None:
    with pytest.raises(LeaseLost):
        await load(*replies)


@pytest.mark.parametrize("stored", [b"{", b"{}", b'{"response": 1, "input": []}'])
async def test_a_record_that_this_version_does_not_write_cannot_be_loaded(
    load: Callable[..., Any], stored: bytes
) -> None:
    with pytest.raises(Unloadable, match="decoded"):
        await load(stored)


# --- the log ------------------------------------------------------------------------------------


def page(*frames: bytes, has_more: bool = False, is_closed: bool = False) -> list[Any]:
    """As `read.lua` says it: each frame with one token, its length."""
    columns = [column for each in frames for column in (each, len(each).to_bytes(4, "little"), b"")]
    return [b"log", int(is_closed), int(has_more), *columns]


async def test_a_history_has_every_page_of_what_workers_have_written() -> None:
    frames = [frame(BEGUN, number) for number in range(1, 6)]
    redis = Redis(page(*frames[:2], has_more=True), page(*frames[2:4], has_more=True), page(frames[4]))
    history = await read_history(as_client(redis), Stepper(), KEY)
    assert list(history.frames) == frames
    assert [token.id for token in history.tokens] == [len(each) for each in frames]
    assert history.first == 1
    assert redis.firsts == [1, 3, 5]  # entry 0 is the API's


async def test_what_the_api_wrote_of_a_background_response_is_not_a_workers() -> None:
    queued, begun = frame(ResponseQueued(REQUEST.response), 1), frame(BEGUN, 2)
    history = await read_history(as_client(Redis(page(queued, begun))), Stepper(), KEY)
    assert (list(history.frames), history.first) == ([begun], 2)


async def test_a_log_that_nobody_has_written_to_has_no_history() -> None:
    history = await read_history(as_client(Redis(page())), Stepper(), KEY)
    assert (list(history.frames), list(history.tokens), history.first) == ([], [], 1)


@pytest.mark.parametrize(
    "replies",
    [
        [page(frame(BEGUN, 1), is_closed=True)],
        [page(frame(BEGUN, 1), has_more=True), page(is_closed=True)],
        [[b"missing"]],
        [[b"beyond", 1]],
    ],
)
async def test_a_log_that_is_closed_or_gone_is_not_continued(replies: list[Any]) -> None:
    with pytest.raises(LeaseLost):
        await read_history(as_client(Redis(*replies)), Stepper(), KEY)
