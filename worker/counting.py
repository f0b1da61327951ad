"""Counts the input tokens of requests, concurrently with the responses in progress.

Owns how many counts run at once and how long each may take; how a count is requested and answered is
defined in `shared/store/records/token_count.py`.
"""

import asyncio
import logging

import msgspec

from shared.request_json import decode_request
from shared.responses import McpTool, ResponseRequest
from shared.store.job_queue import bytes_of_large
from shared.store.records import token_count
from shared.store.redis.client import RedisClient
from shared.store.redis.connections import REDIS_AWAY
from worker.asking.conversation import build_conversation, listings_in
from worker.asking.offer import make_offer
from worker.harmony.tokens import HarmonyMessage
from worker.response.prompt import count
from worker.response.stepper import Stepper

_log = logging.getLogger(__name__)

_AT_ONCE_MAX = 4


class TokenCounter:
    def __init__(self, redis: RedisClient, stepper: Stepper, python_tool: str) -> None:
        self._redis = redis
        self._stepper = stepper
        self._python_tool = python_tool
        self._counts: dict[asyncio.Task[None], int] = {}
        self._places = asyncio.Semaphore(_AT_ONCE_MAX)

    async def count_input_tokens(self, name: str, request: str, listed: str = "{}") -> None:
        """Handles a job: starts the count. `listed`: JSON, the tools of servers not listed in its context."""
        task = asyncio.create_task(self._answer(name, request, listed))
        self._counts[task] = bytes_of_large(len(request.encode()) + len(listed.encode()))
        task.add_done_callback(self._counts.pop)

    @property
    def pending(self) -> int:
        """The number of counts taken and not yet answered."""
        return len(self._counts)

    @property
    def large_bytes(self) -> int:
        """Total size of the pending requests that count as large."""
        return sum(self._counts.values())

    async def _answer(self, name: str, request: str, listed: str) -> None:
        """The top of one count: logs every failure, so that none affects another count."""
        try:
            async with asyncio.timeout(token_count.ANSWER_WITHIN_S), self._places:
                await token_count.answer(self._redis, name, await self._count(request, listed))
        except REDIS_AWAY as away:  # includes the timeout: by then no caller is waiting
            _log.warning("token count abandoned: %s", away)
        except Exception:  # noqa: BLE001  the top of one count: its failure must not affect the others
            _log.exception("token count failed")

    async def _count(self, request: str, listed: str) -> int:
        size, stepper = len(request) + len(listed), self._stepper
        asked = await stepper.call(lambda: decode_request(request), size)
        tools = await stepper.call(lambda: _decode_tools(listed), size)
        return await stepper.run(
            count(await stepper.call(lambda: self._conversation_of(asked, tools), size)), size
        )

    def _conversation_of(self, request: ResponseRequest, tools: "_Tools") -> list[HarmonyMessage]:
        listed = tools | listings_in([*request.context, *request.input])
        return build_conversation(request, make_offer(request, listed, python_tool=self._python_tool))

    async def stop(self) -> None:
        """Cancels the pending counts; their callers get no answer."""
        for task in self._counts:
            task.cancel()
        await asyncio.gather(*self._counts, return_exceptions=True)


_Tools = dict[str, tuple[McpTool, ...]]


def _decode_tools(listed: str) -> _Tools:
    return msgspec.json.decode(listed, type=_Tools)
