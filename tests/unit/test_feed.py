"""How a generation's chunks reach its sink: in order, none while it catches up; and how its end is told."""

import asyncio

import pytest

from tests.patience import until
from worker.engines.feed import Feed
from worker.engines.protocol import TokenChunk, Verdict


class Slow:
    """Says what the next verdict is to be; waits to catch up until it is let go."""

    def __init__(self, verdict: Verdict = "more") -> None:
        self.verdict: Verdict = verdict
        self.taken: list[tuple[int, ...]] = []
        self.has_caught_up = asyncio.Event()

    def take(self, chunk: TokenChunk) -> Verdict:
        self.taken.append(chunk.token_ids)
        return self.verdict

    async def catch_up(self) -> None:
        await self.has_caught_up.wait()


async def test_what_is_given_while_the_sink_catches_up_comes_afterwards_in_order() -> None:
    sink, went_on = Slow("wait"), 0

    def go_on() -> None:
        nonlocal went_on
        went_on += 1

    feed = Feed(sink)
    running = asyncio.create_task(feed.run(go_on))
    for number in range(3):
        feed.give(TokenChunk((number,)))
    await asyncio.sleep(0)
    assert (sink.taken, feed.is_waiting) == ([(0,)], True)
    sink.verdict = "more"
    sink.has_caught_up.set()
    await until(lambda: went_on == 1)
    assert sink.taken == [(0,), (1,), (2,)]
    feed.give(TokenChunk((3,), "stop"))
    await running
    assert sink.taken[-1] == (3,)
    assert went_on == 1


async def test_nothing_is_taken_after_the_last_chunk_or_after_the_sink_has_stopped() -> None:
    for verdict, finish in (("stop", None), ("more", "length"), ("wait", "abort")):
        sink = Slow(verdict)  # type: ignore[arg-type]
        feed = Feed(sink)
        feed.give(TokenChunk((1,), finish))  # type: ignore[arg-type]
        feed.give(TokenChunk((2,)))
        await feed.run()
        assert sink.taken == [(1,)]


async def test_an_error_of_the_sink_or_of_the_engine_is_the_callers() -> None:
    class Broken(Slow):
        def take(self, chunk: TokenChunk) -> Verdict:
            raise ZeroDivisionError

    feed = Feed(Broken())
    feed.give(TokenChunk((1,)))
    with pytest.raises(ZeroDivisionError):
        await feed.run()
    feed = Feed(Slow())
    feed.fail(LookupError("of the engine"))
    feed.fail(ZeroDivisionError("too late"))
    with pytest.raises(LookupError):
        await feed.run()


async def test_an_engine_that_fails_while_the_sink_catches_up_has_failed() -> None:
    sink = Slow("wait")
    feed = Feed(sink)
    feed.give(TokenChunk((1,)))
    running = asyncio.create_task(feed.run())
    await asyncio.sleep(0)
    feed.fail(LookupError("of the engine"))
    sink.has_caught_up.set()
    with pytest.raises(LookupError):
        await running
