"""Answers requests for servers' tools that belong to no response: those of token counts.

Owns how many are answered at a time, and for how long; `run_tool.py` makes the listings.
"""

import asyncio
import logging

import msgspec

from shared.settings import Settings
from shared.shares import Shares
from shared.store.records import server_secrets, token_count
from shared.store.records.token_count import ListingRequest
from shared.store.redis.client import RedisClient
from shared.store.redis.connections import REDIS_AWAY
from shared.tool_calls import ToolFailure, ToolListing, ToolsListed
from tool_runner import answers
from tool_runner.run_tool import Tools

_log = logging.getLogger(__name__)

_AT_ONCE_MAX = 16
"""Listings under way at a time; one tenant has at most its share of them."""
_UNREADABLE = "the request's secrets for its tool servers are sealed with a key that is not here"


class ListingRequests:
    def __init__(self, redis: RedisClient, settings: Settings, tools: Tools) -> None:
        self._redis = redis
        self._settings = settings
        self._tools = tools
        self._shares = Shares(_AT_ONCE_MAX, settings.tenant_share_max)
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, name: str, tenant: str, request: str) -> None:
        """Handles a job: begins to list the servers of a ListingRequest, given as JSON."""
        task = asyncio.create_task(self._answer(name, tenant, request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @property
    def pending(self) -> int:
        return len(self._tasks)

    async def close(self) -> None:
        """Cancels what is under way; the callers get no answer."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _answer(self, name: str, tenant: str, encoded: str) -> None:
        """The top of one request: logs every failure, so that none affects another request."""
        try:
            async with asyncio.timeout(token_count.LISTED_WITHIN_S):
                request = msgspec.json.decode(encoded, type=ListingRequest)
                listings = [self._list(tenant, server, request.secrets) for server in request.servers]
                await token_count.answer_listing(self._redis, name, await asyncio.gather(*listings))
        except REDIS_AWAY as away:  # includes the timeout: by then no caller is waiting
            _log.warning("listing for a count abandoned: %s", away)
        except Exception:  # noqa: BLE001  the top of one count: its failure must not affect the others
            _log.exception("listing for a count failed")

    async def _list(self, tenant: str, server: ToolListing, sealed: bytes) -> ToolsListed | ToolFailure:
        secrets = server_secrets.open_secrets(self._settings, sealed)
        if secrets is None:
            return answers.make_failure(answers.INTERNAL_ERROR, _UNREADABLE)
        mine = secrets.get(server.server_label)
        async with self._shares.turn(tenant):
            result = (await self._tools.run(server, mine, None, tenant=tenant)).result
        if isinstance(result, ToolsListed | ToolFailure):
            return result
        return answers.make_failure(answers.INTERNAL_ERROR, "the server listed no tools")
