"""Asks one question for many callers that come together, so that a crowd waits as one of them would.

Owns who is asked for with whom; what is asked, and what the answers mean, is the caller's.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
A = TypeVar("A")


class Together(Generic[T, A]):
    """Callers who come while a question is under way are in the next one. If one fails, all who wait fail."""

    def __init__(self, ask: Callable[[Sequence[T]], Awaitable[Sequence[A]]], at_once_max: int) -> None:
        """`ask` takes at most `at_once_max` subjects and returns an answer for each."""
        self._ask = ask
        self._at_once_max = at_once_max
        self._waiting: list[tuple[T, asyncio.Future[A]]] = []
        self._asking: asyncio.Task[None] | None = None

    async def ask(self, subject: T) -> A:
        """Returns the answer for one subject; raises what the question raised."""
        answer: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        self._waiting.append((subject, answer))
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask_all())
        return await answer

    async def _ask_all(self) -> None:
        try:
            while self._waiting:
                asked = [each for each in self._waiting[: self._at_once_max] if not each[1].done()]
                del self._waiting[: self._at_once_max]
                if asked:
                    await self._ask_for(asked)
        finally:
            self._asking = None

    async def _ask_for(self, asked: list[tuple[T, asyncio.Future[A]]]) -> None:
        try:
            answers = await self._ask([subject for subject, _ in asked])
        except Exception as failure:  # noqa: BLE001  passed on to all who wait
            waiting, self._waiting = self._waiting, []
            for _, answer in (*asked, *waiting):
                if not answer.done():
                    answer.set_exception(failure)
            return
        for (_, answer), found in zip(asked, answers, strict=True):
            if not answer.done():
                answer.set_result(found)
