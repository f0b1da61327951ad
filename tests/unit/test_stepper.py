"""Long work is done in slices, in turn, off the loop; short work at once."""

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from worker.response import stepper
from worker.response.stepper import SHORT_BYTES_MAX, Stepper, Steps

LONG = SHORT_BYTES_MAX + 1


@pytest.fixture
async def one(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stepper]:
    """With slices of one step each."""
    monkeypatch.setattr(stepper, "_SLICE_S", 0.0)
    made = Stepper()
    yield made
    made.close()


def steps(name: str, count: int, done: list[str]) -> Steps[str]:
    for _ in range(count):
        done.append(name)
        yield
    return name


async def test_two_long_works_take_turns(one: Stepper) -> None:
    done: list[str] = []
    gate = threading.Event()
    held = asyncio.create_task(one.call(gate.wait, LONG))  # so that both stand in the queue
    await asyncio.sleep(0)
    works = [asyncio.create_task(one.run(steps(name, 5, done), LONG)) for name in "ab"]
    await asyncio.sleep(0)
    gate.set()
    assert await asyncio.gather(*works) == ["a", "b"]
    await held
    assert done == ["a", "b"] * 5


async def test_short_work_is_done_before_anybody_else_has_a_turn(one: Stepper) -> None:
    threads: list[int] = []

    def work() -> Steps[int]:
        threads.append(threading.get_ident())
        return 7
        yield

    assert await one.run(work(), 10) == 7
    assert await one.call(lambda: 8, 10) == 8
    assert threads == [threading.get_ident()]


async def test_work_that_was_thought_short_goes_on_off_the_loop(one: Stepper) -> None:
    threads: list[int] = []

    def work() -> Steps[None]:
        for _ in range(3):
            threads.append(threading.get_ident())
            yield

    await one.run(work(), 10)
    assert threads[0] == threading.get_ident()
    assert threading.get_ident() not in threads[1:]


async def test_what_a_step_raises_is_raised_to_its_caller(one: Stepper) -> None:
    def work() -> Steps[None]:
        yield
        raise ValueError("too long")

    for size in (10, LONG):
        with pytest.raises(ValueError, match="too long"):
            await one.run(work(), size)


async def test_cancelled_work_takes_no_further_slice(one: Stepper) -> None:
    done: list[str] = []
    gate = threading.Event()

    def work() -> Steps[None]:
        for _ in range(1_000):
            done.append("step")
            gate.wait()
            yield

    working = asyncio.create_task(one.run(work(), LONG))
    while not done:
        await asyncio.sleep(0)
    working.cancel()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await working
    await one.call(lambda: None, LONG)  # whatever was under way has ended
    assert len(done) < 1_000
