"""One attempt at one response, under one lease: generate, answer the call, generate again, close.

Owns the order of these steps. `worker/ownership.py` owns leases, the log writer bytes and sequence numbers,
the turn reader items and events, and `generation.py` a single turn.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import msgspec

from shared import events as ev
from shared import lifecycle
from shared.lifecycle import TerminalEvent
from shared.responses import Response
from shared.store.log.closing import closing_of
from shared.store.owning.lease import Lease
from shared.tool_calls import ToolFailure, ToolOutput, ToolsListed, describe
from worker.asking.conversation import call_message, tool_message
from worker.harmony.signatures import FUNCTIONS
from worker.harmony.tokens import NEXT_TURN, ChatMessage, to_wire
from worker.response import calls
from worker.response.call_items import CallStyle
from worker.response.calls import Refuse, Run, Tally
from worker.response.compacting import Compactor
from worker.response.generation import Generation
from worker.response.history import History, LoadedRecord
from worker.response.hopeless import Hopeless
from worker.response.log_writer import LogWriter
from worker.response.preparation import Preparation, Prepared, fit_into_context
from worker.response.prompt import encode_message
from worker.response.reasoning_items import EVENTS, TEXT_ALONE, ReasoningStyle
from worker.response.resources import Resources
from worker.response.sealed_reasoning import compaction_sealer_of, sealer_of
from worker.response.segments import ToolReturned
from worker.response.tool_results import ToolResults
from worker.response.translator import RunningCall, Translation
from worker.response.turn_reader import (
    AskClient,
    CallTool,
    Nothing,
    Pending,
    ReportSpent,
    ReportUnknown,
    ReportUnreadable,
    TurnReader,
)
from worker.response.unshown import pack_unshown
from worker.response.usage import Turn, usage_of, usage_so_far

_T = TypeVar("_T")


async def run_attempt(resources: Resources, lease: Lease, record: LoadedRecord, history: History) -> None:
    """Drives one response from its request to its terminal event.

    `history` is replayed first: the same prompt, logged tokens, logged results. Then generation continues.

    Raises LeaseLost (stop quietly), EngineDead (end the worker), REDIS_AWAY (the lease will lapse), Hopeless
    (fail the response with its error; every event is in the log by then), and TailLost and Diverged (fail the
    response; Diverged means a bug, or an engine whose output cannot be reproduced).
    """
    request, turns = record.request, list[Turn]()
    results = ToolResults(resources.tools, lease, history)
    count = partial(usage_so_far, turns, with_turns=request.enable_response_messages)
    seal = sealer_of(record, lease.key.tenant, resources.settings, history.frames)
    seal_compaction = compaction_sealer_of(record, lease.key.tenant, resources.settings, history.frames)
    writer = LogWriter(resources.appender, lease, history, record.format, count, resources.gathering)
    begun = msgspec.structs.replace(request.response, status="in_progress")
    try:
        await writer.put([ev.ResponseInProgress(begun)])
        prepared = await Preparation(resources, record, writer, results).run()
        style = CallStyle.of(request, record.format)
        reader = TurnReader(
            Translation(
                begun.id,
                prepared.offer.routing,
                len(prepared.listings),
                style=style,
                reasoning=_reasoning_style_of(record, seal),
                displays=prepared.displays,
            ),
            begun.parallel_tool_calls,
            list(prepared.listings),
            turns,
        )
        generation = Generation(resources, lease, record, prepared.offer, reader, writer, history.tokens)
        tally = Tally(min(begun.max_tool_calls or 2**31, resources.settings.tool_calls_max))
        compactor = None
        if request.compaction is not None and seal_compaction is not None:
            compactor = Compactor(
                resources,
                lease,
                record,
                request.compaction,
                prepared,
                reader,
                writer,
                history.tokens,
                seal_compaction,
            )
        attempt = Attempt(
            resources, lease, record, prepared, reader, generation, writer, results, tally, compactor
        )
        await attempt.run()
    except Hopeless:
        await writer.flush()
        raise


def _reasoning_style_of(record: LoadedRecord, seal: Callable[[int, str], str] | None) -> ReasoningStyle:
    """In a record of an earlier format, reasoning has nothing but its text."""
    if record.format < 3:
        return TEXT_ALONE
    request = record.request
    return ReasoningStyle((request.response.reasoning or {}).get("summary"), seal, EVENTS[request.dialect])


@dataclass(slots=True)
class Attempt:
    """The loop over turns, once everything is prepared."""

    resources: Resources
    lease: Lease
    record: LoadedRecord
    prepared: Prepared
    reader: TurnReader
    generation: Generation
    writer: LogWriter
    results: ToolResults
    tally: Tally
    compactor: Compactor | None
    """None if the context is never compacted."""

    async def run(self) -> None:
        if self.compactor is not None and self.compactor.rules.threshold is None:
            await self.compactor.compact()
            return await self._close(is_cut=False)
        prompt = self.prepared.prompt.tokens + await self._run_approved_calls()
        answer: list[int] | None = []
        while answer is not None:
            prompt = await self._keep_within_context(prompt)
            budget = min(self.resources.context_tokens_max - len(prompt), self._tokens_left)
            if budget <= 0:
                return await self._close(is_cut=True)
            turn = Turn(len(prompt), tool_output=len(answer))
            self.reader.begin_turn(turn, are_calls_spent=self._are_calls_spent)
            generated, is_cut = await self.generation.run_turn(prompt, budget)
            if is_cut:
                return await self._close(is_cut=True)
            answer = await self._answer(self.reader.pending)
            if self._awaits_client:
                answer = None
            prompt += generated + (answer or [])
            prompt = await self._compact_if_due(prompt, goes_on=answer is not None)
        return await self._close(is_cut=False)

    async def _compact_if_due(self, prompt: list[int], *, goes_on: bool) -> list[int]:
        """Compacts the context, if it has grown beyond the request's threshold; returns what the model reads
        then."""
        compactor = self.compactor
        if compactor is None or not compactor.is_due(len(prompt)):
            return prompt
        has_compacted = await compactor.compact_if_possible()
        return await compactor.prompt() if has_compacted and goes_on else prompt

    async def _keep_within_context(self, prompt: list[int]) -> list[int]:
        """Returns the prompt, fitted again if tools' answers have made it too long for the context.

        The new prompt leaves room for an answer. A record of an earlier format is not fitted again: it is cut
        off there. Raises Hopeless.
        """
        is_spent = self._tokens_left <= 0  # then the response ends in any case
        tokens_max = self.resources.context_tokens_max
        if len(prompt) < tokens_max or is_spent or self.record.format == 1:
            return prompt
        reserved = max(1, min(self.resources.settings.answer_tokens_reserved, tokens_max // 2))
        before, since = self.prepared.prompt.messages, 0
        if self.compactor is not None and self.compactor.messages:
            before, since = self.compactor.messages, self.compactor.messages_since
        messages = [*before, *self.reader.messages[since:]]
        return (await fit_into_context(self.resources, self.record, messages, reserved)).tokens

    @property
    def _tokens_left(self) -> int:
        """The number of tokens that the request still allows, reasoning included."""
        limit = self.record.request.response.max_output_tokens or sys.maxsize
        return limit - sum(turn.output for turn in self.reader.turns if not turn.is_compaction)

    @property
    def _awaits_client(self) -> bool:
        """True if the model cannot be asked again before the client has run a call. A record of an earlier
        format asks it all the same, if a call that runs here came after the client's."""
        return self.record.format > 2 and self.reader.awaits_client

    # --- calls ----------------------------------------------------------------------------------

    @property
    def _are_calls_spent(self) -> bool:
        """Always False for a record of an earlier format: there, a call beyond the limit has an item that
        fails."""
        return self.tally.is_spent and self.record.format > 1

    async def _run_approved_calls(self) -> list[int]:
        """Runs the calls that the client has approved; returns the tokens of the calls and their answers."""
        tokens: list[int] = []
        for approved in self.prepared.approved:
            call = call_message(approved.target.recipient, approved.written)
            self.reader.messages.append(call)
            # The prompt already ends with the start of an assistant message.
            tokens += (await self._encode(call))[len(NEXT_TURN) :]
            pending: Pending = ReportSpent(approved.target)
            if not self._are_calls_spent:
                await self.writer.put(self.reader.advance(approved))
                pending = self.reader.pending
            tokens += await self._answer(pending) or []
        return tokens

    async def _answer(self, pending: Pending) -> list[int] | None:
        """Returns the tokens of the answer that the model waits for, or None if the response ends here."""
        match pending:
            case CallTool(call):
                result, index = await self._result_of(call), self.reader.translation.output_index
                events = self.reader.advance(ToolReturned(result))
                unshown = self.reader.translation.unshown.get(index)
                record = b"" if unshown is None else pack_unshown(index, unshown)
                await self.writer.put(events, token_record=record)
                text = result.output if isinstance(result, ToolOutput) else describe(result.error)
                return await self._answer_with(call.target.recipient, text)
            case ReportSpent(target):
                refusal = calls.refuse_spent(self.tally)
                self.tally = self.tally.after(refusal)
                return await self._answer_with(target.recipient, describe(refusal.failure.error))
            case ReportUnknown(recipient):
                self.tally = self.tally.after_complaint(calls.complain_of_unknown(recipient))
                text = calls.describe_unknown(recipient, self.prepared.offer.routing)
                return await self._answer_with(recipient or FUNCTIONS, text)
            case ReportUnreadable(called, reason):
                self.tally = self.tally.after_complaint(calls.complain_of_unreadable(called.recipient))
                return await self._answer_with(called.recipient, calls.describe_unreadable(reason))
            case AskClient() | Nothing():
                return None

    async def _result_of(self, call: RunningCall) -> ToolOutput | ToolFailure:
        decision = calls.decide(call, self.tally, self.prepared.offer.routing)
        self.tally = self.tally.after(decision)
        match decision:
            case Refuse(failure):
                return failure
            case Run(task, is_repeatable):
                index = self.reader.translation.output_index
                result = await self.results.get(index, task, is_repeatable=is_repeatable)
                if isinstance(result, ToolsListed):
                    return calls.listed_for_a_call()
                return calls.hold(call.target, result)

    async def _answer_with(self, recipient: str, text: str) -> list[int]:
        """Appends the answer to the last call, on that call's channel; returns its tokens."""
        message = tool_message(recipient, text, self.reader.messages[-1].channel)
        self.reader.messages.append(message)
        return await self._encode(message) + NEXT_TURN

    async def _encode(self, message: ChatMessage) -> list[int]:
        return await self.resources.stepper.run(encode_message(message), len(message.text))

    # --- the end --------------------------------------------------------------------------------

    async def _close(self, *, is_cut: bool) -> None:
        request = self.record.request
        response = await self._call(self._final_response)
        usage = usage_of(self.reader.turns, with_turns=request.enable_response_messages)
        event: TerminalEvent = (
            lifecycle.cut_short(response, usage, "max_output_tokens")
            if is_cut
            else lifecycle.complete(response, usage, self.resources.now_s())
        )
        settings, tenant = self.resources.settings, self.lease.key.tenant
        unshown = self.reader.translation.unshown
        closing = await self._call(lambda: closing_of(event, tenant, settings, request.input, unshown))
        await self.writer.close(event, closing)

    def _final_response(self) -> Response:
        request, wanted = self.record.request, dict[str, Any]()
        if request.enable_response_messages:
            read, is_exact = self.prepared.prompt.messages, self.record.format > 4
            wanted["input_messages"] = [to_wire(message, has_formats_last=is_exact) for message in read]
            wanted["output_messages"] = [to_wire(message) for message in self.reader.messages]
        return msgspec.structs.replace(request.response, output=tuple(self.reader.items), **wanted)

    async def _call(self, work: Callable[[], _T]) -> _T:
        """Runs work whose duration grows with the request's size."""
        return await self.resources.stepper.call(work, self.record.size)
