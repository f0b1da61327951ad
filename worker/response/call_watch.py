"""Reads the state of tool calls from the journal, a whole worker's in one round trip.

Owns the reading, and for how long Redis has answered steadily. `call_patience.py` decides what a state means.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from shared.store.keys import ResponseKey
from shared.store.tools.tool_journal import CallState


class Steadiness:
    """Measures for how long Redis has answered without a break. Pure: takes the times of each answer."""

    def __init__(self, break_s: float) -> None:
        """`break_s`: a request that takes longer, or follows the last answer after longer, ends a break."""
        self._break_s = break_s
        self._since_s = self._answered_s = float("-inf")

    def answered(self, sent_s: float, answered_s: float) -> None:
        if answered_s - sent_s > self._break_s or sent_s - self._answered_s > self._break_s:
            self._since_s = answered_s
        self._answered_s = answered_s

    def failed(self) -> None:
        """Starts a break, which ends with the next answer."""
        self._answered_s = float("-inf")

    @property
    def lasted_s(self) -> float:
        """Seconds from the end of the last break to the last answer; 0 within a break."""
        return max(0.0, self._answered_s - self._since_s) if self._answered_s > self._since_s else 0.0


CallPlace = tuple[ResponseKey, int]
"""A response, and the index of a call in it."""
ReadStates = Callable[[Sequence[CallPlace]], Awaitable[list[CallState]]]
"""Reads the states of calls in one round trip."""
_Asked = tuple[CallPlace, asyncio.Future[CallState]]


class CallWatch:
    """Batches concurrent reads: what is asked for while one round trip is in flight goes into the next."""

    def __init__(self, read_states: ReadStates, claim_ttl_s: float) -> None:
        self._read_states = read_states
        self._claim_ttl_s = claim_ttl_s
        self._clock = asyncio.get_running_loop().time
        self._asked: list[_Asked] = []
        self._reading: asyncio.Task[None] | None = None
        self._steadiness = Steadiness(claim_ttl_s / 2)

    @property
    def poll_interval_s(self) -> float:
        """Short enough that polling a single call shows whether Redis answers steadily."""
        return self._claim_ttl_s / 3

    @property
    def is_steady(self) -> bool:
        """Redis has answered for as long as a claim lasts: any living runner could have renewed its claim."""
        return self._steadiness.lasted_s >= self._claim_ttl_s

    async def read(self, key: ResponseKey, call_index: int) -> CallState:
        """Returns the state of a call. Raises whatever the round trip raised."""
        answer: asyncio.Future[CallState] = asyncio.get_running_loop().create_future()
        self._asked.append(((key, call_index), answer))
        if self._reading is None:
            self._reading = asyncio.create_task(self._answer_all())
        return await answer

    async def close(self) -> None:
        """Ends a round trip in flight; those who asked must be gone."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])

    async def _answer_all(self) -> None:
        try:
            while self._asked:
                asked, self._asked = self._asked, []
                await self._answer(asked)
        finally:
            self._reading = None

    async def _answer(self, asked: list[_Asked]) -> None:
        sent_s = self._clock()
        try:
            states = await self._read_states([call for call, _ in asked])
        except Exception as error:  # noqa: BLE001  passed on to the callers that wait for it
            self._steadiness.failed()
            for _, answer in asked:
                if not answer.done():
                    answer.set_exception(error)
            return
        self._steadiness.answered(sent_s, self._clock())
        for (_, answer), state in zip(asked, states, strict=True):
            if not answer.done():
                answer.set_result(state)
