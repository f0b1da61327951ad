"""How a response's events get into its log: in order, once, and again if Redis has lost some."""

import asyncio
from collections import deque
from typing import cast

import pytest

from shared.events import ResponseInProgress
from shared.frames import frame
from shared.record_format import RECORD_FORMAT
from shared.store.log.appender import Appender
from shared.store.log.event_log import Entry
from shared.store.log.response_log import TailLost
from shared.store.owning.lease import LeaseLost
from tests.memory import MemoryLog, lease_of
from tests.patience import until
from tests.requests import make_request
from worker.response import log_writer
from worker.response.history import Diverged, History, history_of
from worker.response.log_writer import LogWriter

REQUEST = make_request()
EVENT = ResponseInProgress(REQUEST.response)


def writer_to(
    log: MemoryLog, history: History | None = None, record_format: int = RECORD_FORMAT
) -> LogWriter:
    history = history or History(deque(), deque())
    return LogWriter(cast("Appender", log), lease_of(REQUEST), history, record_format)


async def test_what_is_put_while_an_append_is_under_way_leaves_together_in_the_next() -> None:
    log = MemoryLog()
    writer = writer_to(log)
    log.is_held = True
    for token in range(6):
        await writer.put([EVENT], (token,))
    log.let_go()
    await writer.flush()
    assert log.frames == [frame(EVENT, number) for number in range(1, 7)]
    assert [entry.tokens for entry in log.entries] == [(token,) for token in range(6)]
    assert len(log.usages) == 2


async def test_tokens_stand_with_the_first_of_the_events_that_they_made() -> None:
    log = MemoryLog()
    writer = writer_to(log)
    await writer.put([EVENT, EVENT], (1, 2), b"about")
    await writer.flush()
    assert [(entry.tokens, entry.token_record) for entry in log.entries] == [((1, 2), b"about"), ((), b"")]


async def test_what_a_failover_took_back_is_appended_again_under_the_same_numbers() -> None:
    log = MemoryLog()
    writer = writer_to(log)
    for token in range(5):
        await writer.put([EVENT], (token,))
        await writer.flush()
    before = list(log.entries)
    log.lose(3)
    await writer.put([EVENT], (5,))
    await writer.flush()
    assert log.entries[:5] == before
    assert log.frames[5:] == [frame(EVENT, 6)]


async def test_more_than_is_kept_is_lost_for_good_and_the_writer_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(log_writer, "_RECENT_MAX", 2)
    log = MemoryLog()
    writer = writer_to(log)
    for token in range(5):
        await writer.put([EVENT], (token,))
        await writer.flush()
    log.lose(3)
    await writer.put([EVENT])
    with pytest.raises(TailLost):
        await writer.flush()


async def test_a_failed_append_fails_everything_that_comes_after_it() -> None:
    log = MemoryLog()
    log.failure = LeaseLost("stale")
    writer = writer_to(log)
    await writer.put([EVENT])
    with pytest.raises(LeaseLost):
        await writer.flush()
    with pytest.raises(LeaseLost):
        await writer.put([EVENT])
    assert log.entries == []


async def test_a_model_that_is_far_ahead_of_redis_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_writer, "_WAITING_MAX", 3)
    log = MemoryLog()
    log.is_held = True
    writer = writer_to(log)
    made = 0

    async def make() -> None:
        nonlocal made
        for _ in range(20):
            await writer.put([EVENT])
            made += 1

    making = asyncio.create_task(make())
    await until(lambda: made == 4)
    for _ in range(50):
        await asyncio.sleep(0)
    assert made == 4
    log.let_go()
    await making
    await writer.flush()
    assert len(log.entries) == 20


def logged(*frames: bytes) -> History:
    return history_of(Entry(number, each, ()) for number, each in enumerate(frames, 1))


async def test_what_is_in_the_log_is_compared_and_not_written_again() -> None:
    log = MemoryLog()
    writer = writer_to(log, logged(frame(EVENT, 1)))
    await writer.put([EVENT])
    await writer.flush()
    assert log.usages == []
    with pytest.raises(Diverged):
        await writer_to(log, logged(frame(EVENT, 2))).put([EVENT])


async def test_an_older_record_is_compared_by_what_its_events_say() -> None:
    spaced = frame(EVENT, 1).replace(b'","', b'", "')
    assert spaced != frame(EVENT, 1)
    await writer_to(MemoryLog(), logged(spaced), record_format=1).put([EVENT])
    with pytest.raises(Diverged):
        await writer_to(MemoryLog(), logged(spaced)).put([EVENT])


async def test_an_end_before_the_end_of_the_log_is_another_story() -> None:
    writer = writer_to(MemoryLog(), logged(frame(EVENT, 1), frame(EVENT, 2)))
    await writer.put([EVENT])
    with pytest.raises(Diverged, match="1 entries beyond"):
        await writer.close(frame(EVENT, 2), None)  # type: ignore[arg-type]
