"""The states of all calls of a worker are read together, with one round trip in flight at a time."""

import asyncio
from collections.abc import Sequence

from shared.store.keys import ResponseKey
from shared.store.tools.tool_journal import CallState
from tests.patience import until
from worker.response.call_watch import CallPlace, CallWatch

KEY = ResponseKey("default", "resp_1")
TTL_S = 2.0


class Journal:
    """Answers with the index as the claim; waits while it is held."""

    def __init__(self) -> None:
        self.readings: list[list[int]] = []
        self.failure: Exception | None = None
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def read(self, calls: Sequence[CallPlace]) -> list[CallState]:
        self.readings.append([index for _, index in calls])
        await self.may_answer.wait()
        if self.failure is not None:
            raise self.failure
        return [CallState("running", claim=str(index)) for _, index in calls]


async def test_what_is_asked_while_a_reading_is_under_way_goes_together_in_the_next() -> None:
    journal = Journal()
    watch = CallWatch(journal.read, TTL_S)
    journal.may_answer.clear()
    looks = [asyncio.create_task(watch.read(KEY, 0))]
    await until(lambda: journal.readings == [[0]])
    looks += [asyncio.create_task(watch.read(KEY, index)) for index in range(1, 5)]
    await asyncio.sleep(0)
    journal.may_answer.set()
    states = await asyncio.gather(*looks)
    assert [state.claim for state in states] == ["0", "1", "2", "3", "4"]
    assert journal.readings == [[0], [1, 2, 3, 4]]


async def test_one_who_no_longer_waits_takes_nothing_from_the_others() -> None:
    journal = Journal()
    watch = CallWatch(journal.read, TTL_S)
    journal.may_answer.clear()
    gone, waiting = (asyncio.create_task(watch.read(KEY, index)) for index in range(2))
    await until(lambda: len(journal.readings) == 1)
    gone.cancel()
    journal.may_answer.set()
    assert (await waiting).claim == "1"


async def test_a_failed_reading_fails_all_who_asked_and_redis_is_not_steady() -> None:
    journal = Journal()
    watch = CallWatch(journal.read, TTL_S)
    journal.failure = ConnectionError("away")
    looks = [asyncio.create_task(watch.read(KEY, index)) for index in range(3)]
    assert [str(each) for each in await asyncio.gather(*looks, return_exceptions=True)] == ["away"] * 3
    assert not watch.is_steady
    journal.failure = None
    assert (await watch.read(KEY, 7)).claim == "7"


async def test_a_round_trip_that_nobody_waits_for_any_more_ends_with_the_watch() -> None:
    journal = Journal()
    watch = CallWatch(journal.read, TTL_S)
    journal.may_answer.clear()
    before = asyncio.all_tasks()
    asking = asyncio.create_task(watch.read(KEY, 0))
    await until(lambda: journal.readings == [[0]])
    asking.cancel()
    await asyncio.wait([asking])
    await watch.close()
    assert asyncio.all_tasks() == before
    await watch.close()
