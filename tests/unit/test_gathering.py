"""Which tokens wait for the next one, and for how long: in virtual time."""

import asyncio
from collections import deque
from contextlib import ExitStack
from typing import cast

import pytest

from shared.events import OutputTextDelta, ResponseInProgress
from shared.frames import frame
from shared.store.log.appender import Appender
from tests.memory import MemoryLog, MemoryWrite, lease_of
from tests.requests import make_request
from tests.virtual_time import run_in_virtual_time
from worker.response.gathering import STREAMS_FULL, Gathering
from worker.response.history import History
from worker.response.log_writer import LogWriter

REQUEST = make_request()
OTHER = ResponseInProgress(REQUEST.response)
DELTA = OutputTextDelta(0, 0, "msg", "x")


class TimedLog(MemoryLog):
    """Knows when each entry came."""

    def __init__(self) -> None:
        super().__init__()
        self.came_s: list[float] = []

    def _write(self, write: MemoryWrite) -> Exception | None:
        self.came_s += [asyncio.get_running_loop().time()] * len(write.entries)
        return super()._write(write)


class Scene:
    """A worker with so many generations under way, and the writer of one of them."""

    def __init__(self, streams: int, budget_s: float = 0.025) -> None:
        self.gathering = Gathering(budget_s)
        self.log = TimedLog()
        self.writer = self.another(self.log)
        self._streams = ExitStack()
        for _ in range(streams):
            self._streams.enter_context(self.gathering.stream())

    def another(self, log: MemoryLog) -> LogWriter:
        history = History(deque(), deque())
        return LogWriter(cast("Appender", log), lease_of(REQUEST), history, gathering=self.gathering)

    def put_delta(self) -> None:
        self.writer.queue_delta(frame(DELTA, self.writer.next), 1)


def delays_ms(streams: int, interval_ms: int, deltas: int, budget_s: float = 0.025) -> list[int]:
    """Returns how long each delta took to the log. They come at an even pace, after another event."""

    async def run() -> list[int]:
        scene, now_s, made_s = Scene(streams, budget_s), asyncio.get_running_loop().time, []
        scene.writer.queue([OTHER])
        for _ in range(deltas):
            made_s.append(now_s())
            scene.put_delta()
            await asyncio.sleep(interval_ms / 1000)
        await asyncio.sleep(0.1)
        return [round(1000 * (came - made)) for came, made in zip(scene.log.came_s[1:], made_s, strict=True)]

    return run_in_virtual_time(run)


def test_alone_every_token_leaves_at_once() -> None:
    assert delays_ms(streams=1, interval_ms=10, deltas=6) == [0] * 6


def test_with_many_streams_every_second_token_waits_for_the_next_but_not_the_first() -> None:
    assert delays_ms(streams=STREAMS_FULL, interval_ms=10, deltas=6) == [0, 10, 0, 10, 0, 25]


def test_a_token_that_nothing_follows_waits_for_the_budget_at_most() -> None:
    assert max(delays_ms(streams=100, interval_ms=20, deltas=4, budget_s=0.03)) == 30


@pytest.mark.parametrize("interval_ms", [26, 40, 200])
def test_what_would_come_too_late_is_not_waited_for(interval_ms: int) -> None:
    assert delays_ms(streams=100, interval_ms=interval_ms, deltas=5) == [0] * 5


def test_the_window_grows_with_the_number_of_streams_up_to_the_budget() -> None:
    gathering, windows = Gathering(0.025), []
    with ExitStack() as streams:
        for _ in range(2 * STREAMS_FULL):
            streams.enter_context(gathering.stream())
            windows.append(gathering.window_s)
    assert windows == sorted(windows)
    assert (windows[0], windows[STREAMS_FULL - 1], windows[-1]) == (0.0, 0.025, 0.025)
    assert windows[STREAMS_FULL // 2] < 0.0135
    assert gathering.window_s == 0.0


def test_without_a_budget_no_token_waits() -> None:
    assert delays_ms(streams=100, interval_ms=5, deltas=6, budget_s=0) == [0] * 6


@pytest.mark.parametrize("end", ["event", "flush"])
def test_another_event_or_the_end_takes_along_what_is_held(end: str) -> None:
    async def run() -> list[bytes]:
        scene = Scene(STREAMS_FULL)
        for _ in range(2):
            scene.put_delta()
            await asyncio.sleep(0.005)
        assert len(scene.log.entries) == 1
        if end == "event":
            scene.writer.queue([OTHER])
        else:
            await scene.writer.flush()
        await asyncio.sleep(0)
        assert asyncio.get_running_loop().time() < 0.011
        return scene.log.frames

    frames = run_in_virtual_time(run)
    wanted = [frame(DELTA, 1), frame(DELTA, 2), *([frame(OTHER, 3)] if end == "event" else [])]
    assert frames == wanted


def test_one_timer_serves_all_writers_and_none_is_left_behind() -> None:
    async def run() -> None:
        scene, loop = Scene(STREAMS_FULL), asyncio.get_running_loop()
        logs = [MemoryLog() for _ in range(10)]
        writers = [scene.another(log) for log in logs]
        for _ in range(2):
            for writer in writers:
                writer.queue_delta(frame(DELTA, writer.next), 1)
            await asyncio.sleep(0.005)
        timers = [handle for handle in loop._scheduled if not handle.cancelled()]  # type: ignore[attr-defined]
        assert len(timers) == 1
        await asyncio.sleep(0.1)
        assert [len(log.entries) for log in logs] == [2] * 10
        assert not loop._scheduled  # type: ignore[attr-defined]

    run_in_virtual_time(run)
