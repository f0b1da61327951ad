"""Questions asked together: who is in which, and what each caller gets."""

import asyncio
from collections.abc import Sequence

from shared.store.redis.together import Together
from tests.patience import PATIENCE_S


class Answering:
    """Answers each subject with its double, when it is told to."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.may_answer = asyncio.Event()
        self.failure: Exception | None = None

    async def ask(self, subjects: Sequence[int]) -> list[int]:
        self.asked.append(list(subjects))
        await self.may_answer.wait()
        if self.failure is not None:
            raise self.failure
        return [2 * subject for subject in subjects]


async def begin(together: Together[int, int], *subjects: int) -> list["asyncio.Task[int]"]:
    tasks = [asyncio.create_task(together.ask(subject)) for subject in subjects]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return tasks


async def test_those_who_come_together_are_asked_for_together_and_later_ones_in_the_next_question() -> None:
    answering = Answering()
    together = Together(answering.ask, 3)
    first = await begin(together, 1, 2)
    others = await begin(together, *range(3, 10))
    assert answering.asked == [[1, 2]]
    others[1].cancel()
    answering.may_answer.set()
    async with asyncio.timeout(PATIENCE_S):
        assert await asyncio.gather(*first) == [2, 4]
        answers = await asyncio.gather(*others, return_exceptions=True)
    assert [answer for answer in answers if isinstance(answer, int)] == [6, 10, 12, 14, 16, 18]
    assert answering.asked == [[1, 2], [3, 5], [6, 7, 8], [9]]
    assert await together.ask(10) == 20


async def test_a_question_that_fails_fails_for_all_who_wait_and_for_nobody_after_them() -> None:
    answering = Answering()
    together = Together(answering.ask, 2)
    waiting = await begin(together, *range(7))
    answering.failure = ConnectionError("away")
    answering.may_answer.set()
    async with asyncio.timeout(PATIENCE_S):
        assert {type(each) for each in await asyncio.gather(*waiting, return_exceptions=True)} == {
            ConnectionError
        }
    answering.failure = None
    assert len(answering.asked) == 1
    assert await together.ask(1) == 2
