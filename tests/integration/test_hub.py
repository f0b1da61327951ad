"""Following and polling on a real Valkey: what a reader holds, what a poll reads, that nothing is lost."""

import asyncio
import gc
import tracemalloc
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

import msgspec
import pytest
import pytest_asyncio

from api import folds, hub
from api.errors import NodeEnding
from api.folds import Folds
from api.hub import Hub, LogShorter
from api.offload import Offload
from shared import events as ev
from shared.events import StreamEvent
from shared.frames import decode, frame
from shared.lifecycle import fold
from shared.responses import Message, OutputText
from shared.settings import Settings
from shared.store import keys
from shared.store.keys import ResponseKey
from shared.store.log import archive, archiving, event_log
from shared.store.log.appender import Appender
from shared.store.log.response_log import Closing, NewEntry
from shared.store.owning.lease import Lease
from shared.store.redis.client import RedisClient
from shared.store.redis.insisting import insist
from tests.appending import append, append_through, begin
from tests.patience import PATIENCE_S, until

READERS = 20
FAT_BYTES = 240_000


@pytest_asyncio.fixture
async def appender(redis: RedisClient, settings: Settings) -> AsyncIterator[Appender]:
    appender = Appender(redis, settings)
    task = asyncio.create_task(appender.run())
    yield appender
    task.cancel()


@pytest_asyncio.fixture
async def node(redis: RedisClient, settings: Settings) -> AsyncIterator[Hub]:
    listener = RedisClient.connect_listener(settings.redis_url)
    node = Hub(redis, listener, settings)
    task = asyncio.create_task(node.run())
    yield node
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await listener.close()


def fat_draft(number: int) -> NewEntry:
    return NewEntry(f"event: x\ndata: {number:0{FAT_BYTES}}\n\n".encode())


CLOSING = Closing("completed", b"{}", 60)


async def read_rest(frames: AsyncGenerator[bytes, None]) -> bytes:
    async with asyncio.timeout(PATIENCE_S), aclosing(frames):
        return b"".join([some async for some in frames])


async def stored(redis: RedisClient, key: ResponseKey) -> bytes:
    whole: list[bytes] = []
    while True:
        page = await event_log.read(redis, key, len(whole) - 1)
        whole += [entry.frame for entry in page.entries]
        if not page.has_more:
            return b"".join(whole)


# --- what many readers take -------------------------------------------------------------------------


async def test_readers_that_come_together_leave_most_connections_to_other_calls(
    settings: Settings, redis: RedisClient
) -> None:
    """Connections are opened on demand, so their number shows how many were used at once."""
    held = await begin(redis, settings)
    await append(redis, settings, held, 1, [fat_draft(0)], CLOSING)
    whole = await stored(redis, held.key)
    client = RedisClient.connect(settings.redis_url, timeout_s=PATIENCE_S)
    listener = RedisClient.connect_listener(settings.redis_url)
    node = Hub(client, listener, settings)
    try:
        before = (await redis.command("CLIENT", "LIST")).count(b"\n")
        read = await asyncio.gather(*(read_rest(node.follow(held.key, -1)) for _ in range(200)))
        opened = (await redis.command("CLIENT", "LIST")).count(b"\n") - before
        assert set(read) == {whole}
        assert opened <= hub._READS_MAX + 1
    finally:
        await listener.close()
        await client.close()


# --- what a reader holds ----------------------------------------------------------------------------


@pytest.mark.parametrize("is_archived", [False, True])
async def test_stuck_readers_of_large_frames_hold_a_page_each_and_get_every_byte(
    redis: RedisClient, settings: Settings, appender: Appender, node: Hub, is_archived: bool
) -> None:
    held = await begin(redis, settings)
    for i in range(40):
        await append_through(appender, held, 1 + i, [fat_draft(i)])
    await append_through(appender, held, 41, [NewEntry(b"event: end\ndata: 0\n\n")], CLOSING)
    if is_archived:
        await archiving.archive_log(redis, held.key)
    gc.collect()
    tracemalloc.start()
    before_bytes = tracemalloc.get_traced_memory()[0]
    readers = [node.follow(held.key, -1) for _ in range(READERS)]
    begun = [await anext(reader) for reader in readers]
    for i, reader in enumerate(readers):
        begun[i] += await anext(reader)  # each is in the midst of large frames, and stays there
    sent_bytes = sum(map(len, begun))
    gc.collect()
    grown_bytes = tracemalloc.get_traced_memory()[0] - before_bytes - sent_bytes
    tracemalloc.stop()
    page_bytes = archive.CHUNK_BYTES if is_archived else event_log.PAGE_BYTES
    assert grown_bytes < READERS * page_bytes
    whole = await stored(redis, held.key)
    for start, reader in zip(begun, readers, strict=True):
        assert start + await read_rest(reader) == whole


async def test_stuck_readers_of_what_is_being_written_hold_their_buffer_and_get_every_byte(
    redis: RedisClient, settings: Settings, appender: Appender, node: Hub
) -> None:
    """With more small frames than the buffer takes, a reader gets the rest from the log."""
    narrow = settings.model_copy(update={"client_buffer_bytes_max": 50_000})
    node._settings = narrow
    held = await begin(redis, settings)
    reader = node.follow(held.key, -1)
    begun = await anext(reader)
    (attached,) = (reader for readers in node._readers.values() for reader in readers)
    last = 0
    held_bytes: list[int] = []
    for i in range(100):
        drafts = [NewEntry(b"event: x\ndata: %01000d\n\n" % (i * 10 + j)) for j in range(10)]
        await append_through(appender, held, last + 1, drafts)
        last += 10
        held_bytes.append(attached._messages_bytes)
    assert 0 < max(held_bytes) <= narrow.client_buffer_bytes_max
    await append_through(appender, held, last + 1, [NewEntry(b"event: end\ndata: 0\n\n")], CLOSING)
    assert begun + await read_rest(reader) == await stored(redis, held.key)


async def test_frames_leave_in_slices_and_a_stream_that_ends_ends_between_two_frames(
    redis: RedisClient, settings: Settings, appender: Appender, node: Hub
) -> None:
    held = await begin(redis, settings)
    drafts = [NewEntry(b"event: x\ndata: %0900d\n\n" % i) for i in range(600)]
    await append_through(appender, held, 1, drafts)
    reader = node.follow(held.key, 0)
    slices = [await anext(reader), await anext(reader)]
    assert all(hub._SLICE_BYTES / 2 < len(some) <= hub._SLICE_BYTES for some in slices)
    node.end_streams()
    with pytest.raises(NodeEnding):
        await anext(reader)
    seen = b"".join(slices)
    whole = await stored(redis, held.key)
    assert whole.partition(b"\n\n")[2].startswith(seen)
    assert seen.endswith(b"\n\n")


async def test_a_reader_that_is_ahead_of_a_log_that_closes_shorter_learns_so(
    redis: RedisClient, settings: Settings, appender: Appender, node: Hub
) -> None:
    held = await begin(redis, settings)
    ahead, at_the_end = node.follow(held.key, 7), node.follow(held.key, 2)
    reading = [asyncio.create_task(read_rest(frames)) for frames in (ahead, at_the_end)]
    await append_through(appender, held, 1, [NewEntry(b"event: x\ndata: 1\n\n")])
    closing = Closing("failed", b"{}", 60)
    await append(redis, settings, held, 2, [NewEntry(b"event: x\ndata: 2\n\n")], closing)
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(LogShorter, match=r"^2$"):
            await reading[0]
        assert await reading[1] == b""


async def test_a_reader_that_is_as_fast_as_the_writer_receives_everything_once(
    redis: RedisClient, settings: Settings, appender: Appender, node: Hub
) -> None:
    held = await begin(redis, settings)
    reading = [asyncio.create_task(read_rest(node.follow(held.key, after))) for after in (-1, 0, 7, 150)]
    for i in range(300):
        await append_through(appender, held, 1 + i, [NewEntry(b"event: x\ndata: %d\n\n" % i)])
    await append_through(appender, held, 301, [NewEntry(b"event: end\ndata: 0\n\n")], CLOSING)
    frames = [some + b"\n\n" for some in (await stored(redis, held.key)).split(b"\n\n")[:-1]]
    for after, task in zip((-1, 0, 7, 150), reading, strict=True):
        assert await task == b"".join(frames[after + 1 :])


# --- what is written past a reader's task -------------------------------------------------------------


class Client:
    """Takes frames from the reader's task, and directly while it is free."""

    def __init__(self) -> None:
        self.is_free = True
        self.received = b""
        self.direct: list[bytes] = []

    def write(self, frames: bytes) -> None:
        self.direct.append(frames)
        self.received += frames

    async def follow(self, node: Hub, key: ResponseKey) -> None:
        async with aclosing(node.follow(key, -1, self)) as frames:
            async for some in frames:
                self.received += some


@dataclass
class Served:
    redis: RedisClient
    held: Lease
    client: Client

    async def store(self, number: int) -> bytes:
        """Puts an event into the log without telling anybody; returns its frame."""
        event = b"event: x\nid: %d\ndata: {}\n\n" % number
        await self.redis.command("XADD", keys.log(self.held.key), f"{number + 1}-0", "e", event)
        return event

    async def publish(self, first: int, *frames: bytes) -> None:
        header = b"%d %d 0\n" % (first, first + len(frames))
        await self.redis.command("PUBLISH", keys.live(self.held.key), header + b"".join(frames))

    async def has_everything(self) -> bool:
        whole = await stored(self.redis, self.held.key)
        return len(self.client.received) >= len(whole)


@asynccontextmanager
async def served_directly(redis: RedisClient, settings: Settings, node: Hub) -> AsyncIterator[Served]:
    """A client that has the first event, and whose reader waits for the next one."""
    held = await begin(redis, settings)
    client = Client()
    following = asyncio.create_task(client.follow(node, held.key))
    await until(lambda: any(each.is_waiting for readers in node._readers.values() for each in readers))
    try:
        yield Served(redis, held, client)
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def test_a_message_that_is_the_next_one_is_written_without_the_readers_task(
    redis: RedisClient, settings: Settings, node: Hub
) -> None:
    async with served_directly(redis, settings, node) as served:
        event = await served.store(1)
        await served.publish(1, event)
        await until(lambda: served.client.direct == [event])


async def test_a_message_after_a_gap_waits_for_what_the_log_has_before_it(
    redis: RedisClient, settings: Settings, node: Hub
) -> None:
    async with served_directly(redis, settings, node) as served:
        await served.store(1)
        await served.publish(2, await served.store(2))
        await until(served.has_everything)
        assert served.client.received == await stored(redis, served.held.key)
        assert served.client.direct == []


async def test_of_a_message_that_overlaps_only_what_is_new_is_sent(
    redis: RedisClient, settings: Settings, node: Hub
) -> None:
    async with served_directly(redis, settings, node) as served:
        first = await served.store(1)
        await served.publish(1, first)
        await until(lambda: served.client.direct == [first])
        await served.publish(1, first, await served.store(2))
        await until(served.has_everything)
        assert served.client.received == await stored(redis, served.held.key)


async def test_nothing_is_written_to_a_client_for_whom_something_waits(
    redis: RedisClient, settings: Settings, node: Hub
) -> None:
    async with served_directly(redis, settings, node) as served:
        served.client.is_free = False
        await served.publish(1, await served.store(1))
        await until(served.has_everything)
        assert served.client.direct == []
        assert served.client.received == await stored(redis, served.held.key)


# --- what a poll reads ------------------------------------------------------------------------------


class CountingClient(RedisClient):
    """Counts the scripts that it runs."""

    runs = 0

    async def run(self, *arguments: object) -> object:
        self.runs += 1
        return await super().run(*arguments)  # type: ignore[arg-type]


@pytest_asyncio.fixture
async def counting(settings: Settings) -> AsyncIterator[CountingClient]:
    client = CountingClient.connect(settings.redis_url, timeout_s=PATIENCE_S)
    yield client
    await client.close()


def opening() -> list[StreamEvent]:
    message = Message(id="msg_1", status="in_progress", role="assistant", content=())
    return [ev.OutputItemAdded(0, message), ev.ContentPartAdded(0, 0, "msg_1", OutputText(""))]


def words(first: int, count: int) -> list[StreamEvent]:
    return [ev.OutputTextDelta(0, 0, "msg_1", f"word {i} ") for i in range(first, first + count)]


async def write(appender: Appender, held: Lease, first: int, events: list[StreamEvent]) -> int:
    """Returns the number of the next event."""
    drafts = [NewEntry(frame(event, first + i)) for i, event in enumerate(events)]
    await append_through(appender, held, first, drafts)
    return first + len(drafts)


async def told_by_the_whole_log(redis: RedisClient, key: ResponseKey) -> bytes:
    frames = (await stored(redis, key)).split(b"\n\n")[:-1]
    return msgspec.json.encode(fold(decode(some + b"\n\n") for some in frames))


async def test_a_poll_returns_the_whole_response_and_reads_only_what_is_new(
    redis: RedisClient, settings: Settings, appender: Appender, counting: CountingClient
) -> None:
    held = await begin(redis, settings)
    kept = Folds(counting, Offload())
    following = await write(appender, held, 1, opening() + words(0, 4_000))
    assert await kept.read(held.key) == await told_by_the_whole_log(redis, held.key)
    first_runs = counting.runs
    assert first_runs > 3  # pages
    for more in (0, 1, 5):
        following = await write(appender, held, following, words(following, more))
        assert await kept.read(held.key) == await told_by_the_whole_log(redis, held.key)
    assert counting.runs == first_runs + 3


async def test_polls_of_one_moment_share_one_reading_and_a_later_one_sees_what_came_since(
    redis: RedisClient, settings: Settings, appender: Appender, counting: CountingClient
) -> None:
    held = await begin(redis, settings)
    kept = Folds(counting, Offload())
    following = await write(appender, held, 1, opening() + words(0, 10))
    told = await asyncio.gather(*(kept.read(held.key) for _ in range(50)))
    assert set(told) == {await told_by_the_whole_log(redis, held.key)}
    assert counting.runs <= 2  # that of the first, and one for all who came while it was under way
    await write(appender, held, following, words(10, 1))
    assert b"word 10 " in await kept.read(held.key)


async def test_a_poll_that_is_broken_off_leaves_the_next_one_whole(
    redis: RedisClient, settings: Settings, appender: Appender
) -> None:
    held = await begin(redis, settings)
    kept = Folds(redis, Offload())
    await write(appender, held, 1, opening() + words(0, 4_000))
    impatient = asyncio.create_task(kept.read(held.key))
    waiting = asyncio.create_task(kept.read(held.key))
    async with asyncio.timeout(PATIENCE_S):
        while not kept._folds.get(held.key) or not kept._folds[held.key].following:
            await asyncio.sleep(0)
    impatient.cancel()
    assert await waiting == await told_by_the_whole_log(redis, held.key)
    with pytest.raises(asyncio.CancelledError):
        await impatient


async def test_while_redis_is_away_all_polls_of_one_response_fail_within_one_wait(
    redis: RedisClient, settings: Settings
) -> None:
    held = await begin(redis, settings)
    impatient = RedisClient.connect(settings.redis_url, timeout_s=0.2)
    kept = Folds(impatient, Offload())
    await redis.command("CLIENT", "PAUSE", 4_000, "ALL")  # less than thirty waits, and far more than one
    polls = [kept.read(held.key) for _ in range(30)]
    assert {type(told) for told in await asyncio.gather(*polls, return_exceptions=True)} == {TimeoutError}
    await redis.command("PING")  # the pause is over
    told = await insist(lambda: kept.read(held.key), PATIENCE_S)
    assert told == await told_by_the_whole_log(redis, held.key)
    await impatient.close()


async def test_folds_are_bounded_in_number_and_bytes_and_leave_with_their_response(
    redis: RedisClient, settings: Settings, appender: Appender, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Folds(redis, Offload())
    held = [await begin(redis, settings) for _ in range(6)]
    monkeypatch.setattr(folds, "FOLDS_MAX", 4)
    for each in held:
        await kept.read(each.key)
    assert list(kept._folds) == [each.key for each in held[2:]]
    monkeypatch.setattr(folds, "FOLDS_BYTES_MAX", 1)
    await kept.read(held[3].key)
    assert list(kept._folds) == [held[3].key]
    await append_through(appender, held[3], 1, [], CLOSING)
    await kept.read(held[3].key)
    assert not kept._folds
    assert await kept.read(ResponseKey("default", "resp_none")) == b""
    assert not kept._folds
