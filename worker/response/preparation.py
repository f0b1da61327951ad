"""Prepares what the model reads before its first token: lists tools, offers them, fits the prompt.

Owns the order of these steps and the listings' events. `asking/offer.py` owns which tools are offered,
`asking/conversation.py` how a request is rendered, `prompt.py` what may be dropped.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TypeVar

import msgspec

from shared.context_length import TOO_LONG
from shared.hosted_tools import MCP_CALL
from shared.responses import McpListTools, McpTool, ResponseRequest
from shared.tool_calls import ToolListing, ToolOutput, ToolResult, ToolsListed
from shared.web_search import Displays
from worker.asking.conversation import approved_calls_in, build_conversation, listings_in
from worker.asking.offer import McpServer, Offer, make_offer, mcp_servers, recipient_of
from worker.asking.routing import McpTarget, Routing
from worker.harmony.tokens import HarmonyMessage
from worker.response.calls import nothing_listed, too_much_listed
from worker.response.citations import displays_in
from worker.response.history import LoadedRecord
from worker.response.hopeless import Hopeless
from worker.response.listing import begin_listing, end_listing
from worker.response.log_writer import LogWriter
from worker.response.prompt import Prompt, TooLong, fit
from worker.response.resources import Resources
from worker.response.segments import CallApproved
from worker.response.tool_results import ToolResults

_T = TypeVar("_T")

_FORMAT_OF_ROOM = 5
"""The first format in which what is dropped from a prompt leaves room for an answer."""
_LISTINGS_AT_ONCE = 16
"""Listings of one response that are under way at a time."""


@dataclass(frozen=True, slots=True)
class Prepared:
    offer: Offer
    prompt: Prompt
    listings: tuple[McpListTools, ...]
    """Items already in the log, which begin the output."""
    approved: tuple[CallApproved, ...]
    """Calls to run before the model continues."""
    displays: Displays
    """What the browser has shown in the context."""
    unavailable: Mapping[str, str]
    """Why the tools of a server, by its label, could not be listed."""
    is_too_long: bool = False
    """The conversation leaves no room for an answer in the model's context, and is to be compacted first: the
    prompt has all its messages, and no tokens if it does not fit at all."""


@dataclass(slots=True)
class Preparation:
    resources: Resources
    record: LoadedRecord
    writer: LogWriter
    results: ToolResults

    async def run(self) -> Prepared:
        """Raises Hopeless if the prompt is too long and may not be compacted, and whatever the log writer and
        a tool call raise."""
        request = self.record.request
        items = [*request.context, *request.input]
        known = await self._call(lambda: listings_in(items))
        listings = await self._list_tools(known)
        listed = known | {each.server_label: each.tools for each in listings if each.error is None}
        unavailable = {each.server_label: each.error for each in listings if each.error is not None}
        settings = self.resources.settings
        begun_as = self.record.format
        offer = await self._call(
            lambda: make_offer(request, listed, settings.idempotent_tools, begun_as, settings.python_tool)
        )
        messages = await self._call(lambda: build_conversation(request, offer, unavailable, begun_as))
        prompt, is_too_long = await self._fit(messages)
        approved = await self._call(lambda: _approved_in(request, offer.routing))
        displays = await self._call(lambda: displays_in(items))
        return Prepared(offer, prompt, tuple(listings), approved, displays, unavailable, is_too_long)

    async def _fit(self, messages: list[HarmonyMessage]) -> tuple[Prompt, bool]:
        """Returns the prompt, and whether it is to be compacted first. If neither that nor dropping messages
        is allowed, or helps, an answer has what room there is. Raises Hopeless if there is none."""
        rules = self.record.request.compaction
        reserved = room_for_answer(
            self.resources, self.record, self.record.request.response.max_output_tokens
        )
        for room in dict.fromkeys((reserved, 1)):
            try:
                prompt = await fit_into_context(self.resources, self.record, messages, room)
            except Hopeless:
                if room == 1 and rules is None:
                    raise
            else:
                return prompt, rules is not None and room < reserved
        return Prompt([], messages), True

    async def _list_tools(self, known: Mapping[str, tuple[McpTool, ...]]) -> list[McpListTools]:
        """Lists the tools of each server that are not yet in the context: some at a time, in their order.

        A list with which all of them would take more than `context_bytes_max` is a failure: no later
        response could read it, and all of them are in the response's last event.
        """
        response_id = self.record.request.response.id
        servers = mcp_servers(self.record.request)
        unlisted = [server for server in servers if not server.hosted and server.label not in known]
        listings: list[McpListTools] = []
        left_bytes = bytes_max = self.resources.settings.context_bytes_max
        async with aclosing(self._ask(unlisted)) as asked:
            async for index, server, answer in asked:
                await self.writer.put(begin_listing(response_id, index, server.label))
                result = await answer
                if isinstance(result, ToolOutput):
                    result = nothing_listed()
                if isinstance(result, ToolsListed):
                    size_bytes = len(msgspec.json.encode(result))
                    if size_bytes > left_bytes:
                        result = too_much_listed(bytes_max)
                    else:
                        left_bytes -= size_bytes
                item, events = end_listing(response_id, index, server.label, result)
                await self.writer.put(events)
                listings.append(item)
        return listings

    async def _ask(
        self, servers: Sequence[McpServer]
    ) -> AsyncGenerator[tuple[int, McpServer, asyncio.Task[ToolResult]], None]:
        """Yields each server with its place and its listing, which is under way with those of the next
        ones."""
        asked: deque[asyncio.Task[ToolResult]] = deque()
        try:
            for index, server in enumerate(servers):
                for place in range(index + len(asked), min(index + _LISTINGS_AT_ONCE, len(servers))):
                    task = ToolListing(servers[place].label, servers[place].url)
                    listing = self.results.get(place, task, is_repeatable=True)
                    asked.append(asyncio.create_task(listing))
                yield index, server, asked[0]
                asked.popleft()
        finally:
            for unused in asked:
                unused.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    async def _call(self, work: Callable[[], _T]) -> _T:
        """Runs work whose duration grows with the request's size."""
        return await self.resources.stepper.call(work, self.record.size)


def room_for_answer(resources: Resources, record: LoadedRecord, tokens_left: int | None) -> int:
    """Returns how many tokens of the context a prompt leaves free if the request lets it be made shorter, by
    dropping the oldest messages or by a compaction; otherwise, and in earlier records, 1.

    `tokens_left`: what the request still allows.
    """
    request, settings = record.request, resources.settings
    if request.response.truncation == "auto" and record.format >= _FORMAT_OF_ROOM:
        wanted = settings.answer_tokens_reserved
    else:
        wanted = (request.compaction and request.compaction.answer_tokens) or 1
    return max(1, min(wanted, resources.context_tokens_max // 2, tokens_left or wanted))


async def fit_into_context(
    resources: Resources, record: LoadedRecord, messages: Sequence[HarmonyMessage], reserved: int = 1
) -> Prompt:
    """Returns a prompt that leaves `reserved` tokens of the context free.

    Drops the oldest messages if `truncation` is `auto`. Raises Hopeless if the prompt is still too long.
    """
    may_drop = record.request.response.truncation == "auto"
    steps = fit(messages, resources.context_tokens_max - reserved, may_drop=may_drop)
    try:
        return await resources.stepper.run(steps, record.size)
    except TooLong:
        raise Hopeless(TOO_LONG) from None


def _approved_in(request: ResponseRequest, offered: Routing) -> tuple[CallApproved, ...]:
    """Returns the calls that the client has approved, with targets even for tools not offered now.

    Each becomes an `mcp_call`, as the request to approve it was MCP's.
    """
    approved = []
    for label, name, written, request_id in approved_calls_in(request):
        recipient = recipient_of(label, name)
        found = offered.get(recipient)
        if not isinstance(found, McpTarget) or found.name != name:
            found = McpTarget(recipient, label, name)
        approved.append(CallApproved(replace(found, item_type=MCP_CALL), written, request_id))
    return tuple(approved)
