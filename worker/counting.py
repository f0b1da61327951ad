"""Answers how many tokens a request has, beside the responses that are under way.

Owns how many counts are made at once and for how long; question and answer are `shared/store/token_count`'s.
"""

import asyncio
import logging

from shared.request_json import decode_request
from shared.responses import ResponseRequest
from shared.store import token_count
from shared.store.job_queue import bytes_of_large
from shared.store.redis_client import REDIS_AWAY, RedisClient
from worker.conversation import build_conversation, listings_in
from worker.harmony import HarmonyMessage
from worker.offer import make_offer
from worker.prompt import count
from worker.stepper import Stepper

_log = logging.getLogger(__name__)

_AT_ONCE_MAX = 4


class TokenCounter:
    def __init__(self, redis: RedisClient, stepper: Stepper) -> None:
        self._redis = redis
        self._stepper = stepper
        self._counts: dict[asyncio.Task[None], int] = {}
        self._places = asyncio.Semaphore(_AT_ONCE_MAX)

    async def count_input_tokens(self, name: str, request: str) -> None:
        """Handles a job. The tools of MCP servers that were not yet listed are not counted."""
        task = asyncio.create_task(self._answer(name, request))
        self._counts[task] = bytes_of_large(len(request.encode()))
        task.add_done_callback(self._counts.pop)

    @property
    def in_hand(self) -> int:
        """Questions that were taken and not yet answered."""
        return len(self._counts)

    @property
    def large_bytes(self) -> int:
        """What the large ones of them have."""
        return sum(self._counts.values())

    async def _answer(self, name: str, request: str) -> None:
        """The top of one count: whatever is wrong with it, nobody else is held up."""
        try:
            async with asyncio.timeout(token_count.ANSWER_WITHIN_S), self._places:
                await token_count.answer(self._redis, name, await self._count(request))
        except REDIS_AWAY as away:  # a timeout as well: nobody waits any more
            _log.warning("a count of tokens was given up: %s", away or type(away).__name__)
        except Exception:  # noqa: BLE001
            _log.exception("a count of tokens crashed")

    async def _count(self, request: str) -> int:
        size, stepper = len(request), self._stepper
        asked = await stepper.call(lambda: decode_request(request), size)
        return await stepper.run(count(await stepper.call(lambda: _conversation_of(asked), size)), size)

    async def stop(self) -> None:
        """Ends what is being counted; who asked gets no answer."""
        for task in self._counts:
            task.cancel()
        await asyncio.gather(*self._counts, return_exceptions=True)


def _conversation_of(request: ResponseRequest) -> list[HarmonyMessage]:
    listed = listings_in([*request.context, *request.input])
    return build_conversation(request, make_offer(request, listed))
