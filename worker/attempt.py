"""One response under one lease: generate, call tools, generate again, close.

Owns the order of things within an attempt. Leases and their end are the runner's, bytes and
numbers the log writer's, items and events the reader's.
"""

import asyncio
import sys
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any, TypeVar

import msgspec

from shared import events as ev
from shared import lifecycle
from shared.context_length import TOO_LONG
from shared.events import StreamEvent
from shared.lifecycle import TerminalEvent
from shared.responses import McpCall, Response, ResponseError, Usage
from shared.store.closing import closing_of
from shared.store.lease import Lease
from shared.tool_calls import (
    ToolCall,
    ToolFailure,
    ToolListing,
    ToolOutput,
    ToolResult,
    ToolsListed,
    ToolTask,
    describe,
)
from worker import refusals
from worker.arguments import read_arguments
from worker.constraint import Unfulfillable, constraint_of
from worker.conversation import (
    approved_calls_in,
    build_conversation,
    call_message,
    listings_in,
    tool_message,
)
from worker.engine import EngineDead, FinishReason, Sampling, TokenLogprob, Unsupported
from worker.harmony import NEXT_TURN, STOP_TOKENS, ChatMessage, HarmonyMessage, to_wire
from worker.history import History, Record
from worker.hopeless import Hopeless
from worker.log_writer import LogWriter
from worker.measured import UnloggedTokens
from worker.offer import Offer, make_offer, mcp_servers, recipient_of
from worker.prompt import Prompt, TooLong, encode_message, fit
from worker.reader import Reader
from worker.resources import Resources
from worker.routing import FUNCTIONS, McpTarget
from worker.sampling import make_sampling
from worker.segments import CallApproved, ListingBegun, ListingEnded, ToolReturned
from worker.told_results import told_results
from worker.translator import RunningMcpCall, Translation
from worker.usage import Turn, usage_of

_REFUSALS_MAX = 3
"""So often in a row the model is told that a call was not made; after that the response fails."""
_REPLAYED_AT_ONCE_MAX = 128
"""So many logged tokens are read before it is another response's turn."""

_T = TypeVar("_T")


class Attempt:
    """Drives one response from its request to its terminal event.

    `run` raises LeaseLost (stop quietly), EngineDead (the worker must end), REDIS_AWAY (the lease
    will lapse), Hopeless (the response must be failed with its reason), Diverged (so must it, and there
    is a bug or an engine that does not repeat itself).
    """

    def __init__(self, resources: Resources, lease: Lease, record: Record, history: History) -> None:
        """`history` is replayed first: same prompt, logged tokens, results as told; then it goes on."""
        self._resources = resources
        self._lease = lease
        self._logged_tokens = history.tokens
        self._told = told_results(history.frames)
        self._request, self._size = record.request, record.size
        self._items = [*self._request.context, *self._request.input]
        self._writer = LogWriter(resources.appender, lease, history, record.format, self._count)
        self._reader = Reader(Translation(self._request.response.id, {}, record_format=record.format))
        self._offer = Offer({}, {}, {})
        self._unlogged = UnloggedTokens()
        self._tool_calls = 0
        asked = self._request.response.max_tool_calls
        self._calls_max = min(asked or 2**31, resources.settings.tool_calls_max)
        self._refusals = 0
        of_engine = resources.engine.context_tokens_max
        self._context_tokens_max = min(resources.settings.context_tokens_max, of_engine)

    async def run(self) -> None:
        await self._begin()
        begin = await self._fit(await self._prepare())
        messages, prompt = begin.messages, begin.tokens
        prompt += await self._run_approved_calls()
        tool_output = 0
        while True:
            prompt = await self._keep_within(messages, prompt)
            budget = min(self._context_tokens_max - len(prompt), self._tokens_left)
            if budget <= 0:
                return await self._end(messages, is_cut=True)
            generated, is_cut = await self._generate(prompt, budget, tool_output)
            if is_cut:
                return await self._end(messages, is_cut=True)
            answer = await self._answer_call()
            if answer is None:
                return await self._end(messages, is_cut=False)
            prompt += generated + answer
            tool_output = len(answer)

    async def settle(self) -> None:
        """Everything told so far is in the log."""
        await self._writer.settle()

    # --- before the first token -----------------------------------------------------------------

    async def _begin(self) -> None:
        response = msgspec.structs.replace(self._request.response, status="in_progress")
        await self._writer.put([ev.ResponseInProgress(response)])

    async def _prepare(self) -> list[HarmonyMessage]:
        """Lists tools, decides what is offered, and builds what the model reads first."""
        listed = await self._call(lambda: listings_in(self._items))
        unavailable: dict[str, str] = {}
        for server in mcp_servers(self._request):
            if server.is_trained or server.label in listed:
                continue
            match await self._list_tools(server.label, server.url):
                case ToolsListed(tools):
                    listed[server.label] = tools
                case ToolFailure(error):
                    unavailable[server.label] = describe(error)
        idempotent = self._resources.settings.idempotent_tools
        offer = await self._call(lambda: make_offer(self._request, listed, idempotent))
        self._offer = offer
        self._reader.translation = replace(self._reader.translation, routing=offer.routing)
        self._reader.parallel_calls = self._request.response.parallel_tool_calls
        return await self._call(lambda: build_conversation(self._request, offer, unavailable))

    async def _list_tools(self, label: str, url: str | None) -> ToolsListed | ToolFailure:
        await self._writer.put(self._reader.advance(ListingBegun(label)))
        result = await self._result_of(ToolListing(label, url), is_repeatable=True)
        if isinstance(result, ToolOutput):
            result = refusals.nothing_listed()
        await self._writer.put(self._reader.advance(ListingEnded(result)))
        return result

    async def _fit(self, messages: list[HarmonyMessage], reserved: int = 1) -> Prompt:
        """What is told to the model, and its tokens; `reserved` are left. Too long: an error, or with
        `truncation: auto` without its oldest messages."""
        may_drop = self._request.response.truncation == "auto"
        steps = fit(messages, self._context_tokens_max - reserved, may_drop=may_drop)
        try:
            return await self._resources.stepper.run(steps, self._size)
        except TooLong:
            raise Hopeless(TOO_LONG) from None

    async def _keep_within(self, messages: list[HarmonyMessage], prompt: list[int]) -> list[int]:
        """The prompt; one that tools' answers have made too long, as `_fit` decides, with room for an answer.
        A response of an earlier format is cut there."""
        is_spent = self._tokens_left <= 0  # which ends it in any case
        if len(prompt) < self._context_tokens_max or is_spent or self._reader.translation.record_format == 1:
            return prompt
        reserved = min(self._resources.settings.answer_tokens_reserved, self._context_tokens_max // 2)
        return (await self._fit([*messages, *self._reader.messages], max(reserved, 1))).tokens

    async def _call(self, work: Callable[[], _T]) -> _T:
        """Work that takes the longer the longer the request is."""
        return await self._resources.stepper.call(work, self._size)

    async def _encode(self, message: ChatMessage) -> list[int]:
        steps = encode_message(message)
        return await self._resources.stepper.run(steps, len(message.text))

    async def _run_approved_calls(self) -> list[int]:
        """Calls that the client has approved run first; tokens of the calls and their answers."""
        tokens: list[int] = []
        for label, name, arguments, request_id in await self._call(lambda: approved_calls_in(self._items)):
            call = call_message(recipient_of(label, name), arguments)
            self._reader.messages.append(call)
            if self._are_calls_spent:
                answer: list[int] | None = await self._refuse_beyond(McpTarget(label, name))
            else:
                approved = CallApproved(McpTarget(label, name), arguments, request_id)
                await self._writer.put(self._reader.advance(approved))
                answer = await self._answer_call()
            # The prompt ends with the start of the assistant's message already.
            tokens += (await self._encode(call))[len(NEXT_TURN) :] + (answer or [])
        return tokens

    # --- turns ----------------------------------------------------------------------------------

    @property
    def _tokens_left(self) -> int:
        """Of those that the request allows to be made."""
        limit = self._request.response.max_output_tokens or sys.maxsize
        return limit - sum(turn.output for turn in self._reader.turns)

    async def _generate(self, prompt: list[int], budget: int, tool_output: int) -> tuple[list[int], bool]:
        """One turn of the model: its tokens, and whether it was cut by the budget."""
        turn = Turn(len(prompt), tool_output)
        self._reader.begin_turn(turn, are_calls_spent=self._are_calls_spent)
        generated: list[int] = []
        await self._replay(generated, budget)
        finish = self._finish_of(generated, budget)
        if finish is None:
            try:
                finish = await self._continue(prompt, generated, budget)
            except (Unfulfillable, Unsupported) as refusal:
                raise Hopeless(ResponseError("invalid_prompt", str(refusal))) from refusal
        if not self._reader.is_waiting:
            await self._put(self._reader.end())
        return generated, finish == "length"

    async def _replay(self, generated: list[int], budget: int) -> None:
        """Takes the turn's tokens out of the log, as far as they reach; nothing in it waits by itself."""
        while self._logged_tokens and self._finish_of(generated, budget) is None:
            token = self._logged_tokens.popleft()
            if token.cached_tokens:
                self._note_cached(token.cached_tokens)
            await self._read((token.id,), (token.logprob,) if token.logprob else (), generated)
            if len(generated) % _REPLAYED_AT_ONCE_MAX == 0:
                await asyncio.sleep(0)

    def _note_cached(self, cached_tokens: int) -> None:
        """A turn begins: so many of its prompt's tokens were in a cache."""
        self._reader.turns[-1].cached = cached_tokens
        self._unlogged.begin_turn(cached_tokens)

    def _finish_of(self, generated: list[int], budget: int) -> FinishReason | None:
        """How a turn with these tokens ended, for one that is replayed; None: it goes on."""
        if self._reader.is_waiting or (generated and generated[-1] in STOP_TOKENS):
            return "stop"
        return "length" if len(generated) >= budget else None

    async def _continue(self, prompt: list[int], generated: list[int], budget: int) -> FinishReason:
        """Has the engine go on from here."""
        chunks = self._resources.engine.generate(
            prompt + generated,
            await self._sampling(budget, len(generated)),
            request_id=f"{self._lease.key}:{self._lease.fencing_token}:{len(self._reader.turns)}",
            model=self._request.response.model,
        )
        finish: FinishReason | None = None
        async with aclosing(chunks):
            async for chunk in chunks:
                if not generated:
                    self._note_cached(chunk.cached_tokens)
                await self._read(chunk.token_ids, chunk.logprobs, generated)
                finish = "stop" if self._reader.is_waiting else chunk.finish_reason
                if finish is not None:
                    break
        if finish is None or finish == "abort":
            raise EngineDead("the engine ended a generation without finishing it")
        return finish

    async def _read(
        self, token_ids: tuple[int, ...], logprobs: tuple[TokenLogprob, ...], generated: list[int]
    ) -> None:
        """`logprobs`: one for each token, or none."""
        for place, token in enumerate(token_ids):
            generated.append(token)
            logprob = logprobs[place] if logprobs else None
            self._unlogged.add(token, logprob)
            events = self._reader.read(token, logprob)
            if events:
                await self._put(events)
            if self._reader.is_waiting:
                return

    async def _put(self, events: list[StreamEvent]) -> None:
        """With the tokens that made them, and those before that made none."""
        if events:
            told = any(isinstance(event, ev.OutputTextDelta) and event.logprobs for event in events)
            await self._writer.put(events, *self._unlogged.take(with_logprobs=told))

    async def _sampling(self, budget: int, said: int) -> Sampling:
        """`budget`: of the whole turn; `said`: so many of its tokens an earlier attempt has made."""
        reserved = self._resources.settings.answer_tokens_reserved
        has_called = self._reader.has_called
        constraint = await self._call(
            lambda: constraint_of(
                self._request, self._offer, has_called=has_called, budget=budget, reserved=reserved
            )
        )
        made = sum(turn.output for turn in self._reader.turns)
        return make_sampling(self._request, constraint, max_tokens=budget - said, made=made, turn_tokens=said)

    # --- tools ----------------------------------------------------------------------------------

    async def _answer_call(self) -> list[int] | None:
        """Tokens that answer the call the model waits for; None when it waits for nobody here."""
        running = self._reader.translation.open_item
        if isinstance(running, RunningMcpCall):
            call = running.item
            recipient = recipient_of(call.server_label, call.name)
            result = await self._run_tool(recipient, call)
            await self._writer.put(self._reader.advance(ToolReturned(result)))
            text = result.output if isinstance(result, ToolOutput) else describe(result.error)
            return await self._tell(recipient, text)
        if self._reader.refused is not None:
            return await self._refuse_beyond(self._reader.refused)
        if self._reader.unknown_recipient is not None:
            return await self._refuse_call(self._reader.unknown_recipient)
        return None

    async def _refuse_call(self, recipient: str) -> list[int]:
        """Tells the model that nothing was run. `recipient`: "" if it named none that could be read."""
        if not recipient:
            self._refuse("The model kept making calls that name no tool.")
        else:
            self._refuse(f"The model kept calling {recipient!r}, which does not exist.")
        text = refusals.describe_unknown(recipient, self._reader.translation.routing)
        return await self._tell(recipient or FUNCTIONS, text)

    @property
    def _are_calls_spent(self) -> bool:
        """In a response of an earlier format, the call beyond the limit has an item, and fails."""
        return self._tool_calls >= self._calls_max and self._reader.translation.record_format > 1

    async def _refuse_beyond(self, target: McpTarget) -> list[int]:
        """A call beyond the limit is no item: it was never made. The model is told."""
        self._refuse(f"The model kept calling tools after {self._calls_max} calls.")
        text = describe(refusals.beyond(self._calls_max).error)
        return await self._tell(recipient_of(target.server_label, target.name), text)

    async def _tell(self, recipient: str, text: str) -> list[int]:
        """Answers the call that was said last, on its channel."""
        message = tool_message(recipient, text, self._reader.messages[-1].channel)
        self._reader.messages.append(message)
        return await self._encode(message) + NEXT_TURN

    def _refuse(self, reason: str) -> None:
        self._refusals += 1
        if self._refusals > _REFUSALS_MAX:
            raise Hopeless(ResponseError("server_error", reason))

    async def _run_tool(self, recipient: str, call: McpCall) -> ToolOutput | ToolFailure:
        if self._tool_calls >= self._calls_max:
            self._refuse(f"The model kept calling tools after {self._calls_max} calls.")
            return refusals.beyond(self._calls_max)
        label = call.server_label
        if recipient not in self._reader.translation.routing:  # approved, but not offered this time
            return refusals.not_offered()
        arguments = read_arguments(label, call.arguments)
        if arguments is None:
            self._refuse(f"The model kept calling {recipient!r} with arguments that are not a JSON object.")
            return refusals.not_an_object()
        self._tool_calls += 1
        self._refusals = 0
        url = next((s.url for s in mcp_servers(self._request) if s.label == label), None)
        target = self._reader.translation.routing.get(recipient)
        is_repeatable = isinstance(target, McpTarget) and target.is_repeatable
        result = await self._result_of(
            ToolCall(label, call.name, arguments, url), is_repeatable=is_repeatable
        )
        if isinstance(result, ToolsListed):
            return refusals.listed_for_a_call()
        return result

    async def _result_of(self, task: ToolTask, *, is_repeatable: bool) -> ToolResult:
        """What the log tells of the call that is open counts; the tool runner is asked for any other."""
        index = self._reader.translation.output_index
        if (told := self._told.pop(index, None)) is not None:
            return told
        return await self._resources.tools.call(self._lease, index, task, is_repeatable=is_repeatable)

    # --- the end --------------------------------------------------------------------------------

    async def _end(self, messages: list[HarmonyMessage], *, is_cut: bool) -> None:
        response = await self._call(lambda: self._final_response(messages))
        event: TerminalEvent = (
            lifecycle.cut_short(response, self._usage(), "max_output_tokens")
            if is_cut
            else lifecycle.complete(response, self._usage(), self._resources.now_s())
        )
        settings, tenant = self._resources.settings, self._lease.key.tenant
        closing = await self._call(lambda: closing_of(event, tenant, settings, self._request.input))
        await self._writer.close(event, closing)

    def _count(self) -> bytes:
        """For whoever ends the response in this attempt's place; nothing while no token was made."""
        is_begun = any(turn.output for turn in self._reader.turns)
        return msgspec.json.encode(self._usage()) if is_begun else b""

    def _usage(self) -> Usage:
        return usage_of(self._reader.turns, with_turns=self._request.enable_response_messages)

    def _final_response(self, messages: list[HarmonyMessage]) -> Response:
        wanted: dict[str, Any] = {}
        if self._request.enable_response_messages:
            wanted["input_messages"] = [to_wire(message) for message in messages]
            wanted["output_messages"] = [to_wire(message) for message in self._reader.messages]
        return msgspec.structs.replace(self._request.response, output=tuple(self._reader.items), **wanted)
