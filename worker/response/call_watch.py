"""Looks at tool calls in the journal, all of a worker's in one round trip, and notes whether Redis is steady.

Owns the looking; what a call's standing means is `remote_tools`' business.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from shared.store.keys import ResponseKey
from shared.store.tools.tool_journal import CallState


class Steadiness:
    """For how long Redis has answered without a break. Pure: it is told of each answer, and when it came."""

    def __init__(self, break_s: float) -> None:
        """An answer that took longer, or came that long after the one before was heard, ends a break."""
        self._break_s = break_s
        self._since_s = self._heard_s = float("-inf")

    def answered(self, sent_s: float, heard_s: float) -> None:
        if heard_s - sent_s > self._break_s or sent_s - self._heard_s > self._break_s:
            self._since_s = heard_s
        self._heard_s = heard_s

    def failed(self) -> None:
        """The next answer begins anew."""
        self._heard_s = float("-inf")

    @property
    def lasted_s(self) -> float:
        """Up to the last answer; 0 while there is none."""
        return max(0.0, self._heard_s - self._since_s) if self._heard_s > self._since_s else 0.0


CallPlace = tuple[ResponseKey, int]
"""Response, and the index of the call in it."""
ReadStates = Callable[[Sequence[CallPlace]], Awaitable[list[CallState]]]
"""Reads how far calls are, in one round trip."""
_Asked = tuple[CallPlace, asyncio.Future[CallState]]


class CallWatch:
    """`look` may be called by any number of calls at once: what is asked while a look is under way goes
    together in the next. Raises what Redis raised."""

    def __init__(self, read: ReadStates, claim_ttl_s: float) -> None:
        self._read = read
        self._claim_ttl_s = claim_ttl_s
        self._clock = asyncio.get_running_loop().time
        self._asked: list[_Asked] = []
        self._looking: asyncio.Task[None] | None = None
        self._steadiness = Steadiness(claim_ttl_s / 2)

    @property
    def look_every_s(self) -> float:
        """Often enough that one call alone shows whether Redis answers steadily."""
        return self._claim_ttl_s / 3

    @property
    def is_steady(self) -> bool:
        """Redis has answered for as long as a claim lasts: whoever lives could have renewed his."""
        return self._steadiness.lasted_s >= self._claim_ttl_s

    async def look(self, key: ResponseKey, call_index: int) -> CallState:
        answer: asyncio.Future[CallState] = asyncio.get_running_loop().create_future()
        self._asked.append(((key, call_index), answer))
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
        return await answer

    async def _look(self) -> None:
        try:
            while self._asked:
                asked, self._asked = self._asked, []
                await self._answer(asked)
        finally:
            self._looking = None

    async def _answer(self, asked: list[_Asked]) -> None:
        sent_s = self._clock()
        try:
            states = await self._read([call for call, _ in asked])
        except Exception as error:  # noqa: BLE001  whatever it is, it is the asking call's to handle
            self._steadiness.failed()
            for _, answer in asked:
                if not answer.done():
                    answer.set_exception(error)
            return
        self._steadiness.answered(sent_s, self._clock())
        for (_, answer), state in zip(asked, states, strict=True):
            if not answer.done():
                answer.set_result(state)
