"""One attempt at one response, under one lease: generate, answer the call, generate again, close.

Owns the order of these steps. `worker/ownership.py` owns leases, the log writer bytes and sequence numbers,
the turn reader items and events, and `generation.py` a single turn.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import msgspec

from shared import events as ev
from shared import traces
from shared.context_length import TOO_LONG
from shared.in_turn import UnmadeCall
from shared.responses import ResponseError
from shared.service_tiers import served_tier
from shared.store.job_queue import bytes_of_large
from shared.store.log.unshown import pack_unshown
from shared.store.owning.giving_way import give_way
from shared.store.owning.lease import Lease
from shared.tool_calls import ToolFailure, ToolOutput, ToolsListed, describe
from worker.asking.constraint import find_missing
from worker.asking.conversation import call_message, tool_message
from worker.asking.joined_calls import FORMAT_OF_JOINED_CALLS, join_calls
from worker.harmony.tokens import NEXT_TURN, ChatMessage
from worker.response import calls
from worker.response.call_items import CallStyle
from worker.response.calls import Refuse, Run, Tally
from worker.response.calls_together import under_way
from worker.response.compacting import Compactor
from worker.response.ending import Ending
from worker.response.generation import Generation
from worker.response.history import History, LoadedRecord
from worker.response.hopeless import Hopeless
from worker.response.log_writer import LogWriter
from worker.response.preparation import Preparation, Prepared, fit_into_context, room_for_answer
from worker.response.prompt import encode_message
from worker.response.reasoning_items import EVENTS, TEXT_ALONE, ReasoningStyle
from worker.response.resources import Resources
from worker.response.running_call import RunningCall
from worker.response.sealed_reasoning import compaction_sealer_of, sealer_of
from worker.response.segments import CallApproved, ToolReturned
from worker.response.tool_results import ToolResults
from worker.response.translator import Translation
from worker.response.turn_notes import Unmade
from worker.response.turn_reader import (
    Awaited,
    CallTool,
    Report,
    ReportSpent,
    ReportUnknown,
    ReportUnreadable,
    TurnReader,
)
from worker.response.usage import Turn, usage_so_far


async def run_attempt(resources: Resources, lease: Lease, record: LoadedRecord, history: History) -> None:
    """Drives one response from its request to its terminal event.

    `history` is replayed first: the same prompt, logged tokens, logged results. Then generation continues.

    Raises LeaseLost (stop quietly), EngineDead (end the worker), REDIS_AWAY (the lease will lapse), Hopeless
    (fail the response with its error; every event is in the log by then), and TailLost and Diverged (fail the
    response; Diverged means a bug, or an engine whose output cannot be reproduced).
    """
    request, turns = record.request, list[Turn]()
    logged_bytes = sum(map(len, history.frames))
    results = await resources.stepper.call(lambda: ToolResults(resources.tools, lease, history), logged_bytes)
    count = partial(usage_so_far, turns, with_turns=request.enable_response_messages)
    seal = sealer_of(record, lease.key.tenant, resources.settings, history.frames)
    seal_compaction = compaction_sealer_of(record, lease.key.tenant, resources.settings, history.frames)
    writer = LogWriter(resources.appender, lease, history, record.format, count, resources.gathering)
    begun = msgspec.structs.replace(request.response, status="in_progress")
    try:
        await writer.put([ev.ResponseInProgress(begun)])
        with traces.span("prompt"):
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
                generation,
                seal_compaction,
            )
        ending = Ending(resources, lease, record, reader, writer, prepared.prompt.messages)
        attempt = Attempt(
            resources, lease, record, prepared, reader, generation, writer, results, tally, compactor, ending
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
    ending: Ending

    async def run(self) -> None:
        if self.compactor is not None and self.compactor.rules.threshold is None:
            await self.compactor.compact()
            return await self.ending.close(is_cut=False)
        await self._make_room_if_needed()
        prompt = self.prepared.prompt.tokens + await self._run_approved_calls()
        self._check_choice()
        answer: list[int] = []
        while True:
            prompt = await self._keep_within_context(prompt)
            budget = min(self.resources.context_tokens_max - len(prompt), self._tokens_left)
            if budget <= 0:
                return await self.ending.close(is_cut=True)
            turn = Turn(len(prompt), tool_output=len(answer))
            self.reader.begin_turn(turn, calls_left=self._calls_left)
            begin = self.reader.translation.output_index
            generated, is_cut = await self.generation.run_turn(prompt, budget)
            self._note_turn(begin, self.reader.awaited)
            awaited, is_over = self.reader.awaited, is_cut or self._awaits_client
            if is_over:  # the calls that are written are made all the same
                awaited = [each for each in awaited if isinstance(each.answer, CallTool)]
            if self.reader.translation.running or self.reader.is_turn_over:  # it goes on after the results
                del generated[self.reader.tokens_said :]
            answer = await self._answer(awaited)
            prompt = prompt + generated + answer
            if is_over or not awaited:
                await self._compact_at_end(prompt, is_cut=is_cut)
                return await self.ending.close(is_cut=is_cut)
            prompt = await self._compact_if_due(prompt)
            if any(isinstance(each.answer, CallTool) for each in awaited):  # the turn is in the log
                await self._give_way()

    def _check_choice(self) -> None:
        """Raises Hopeless before the first token if none of the tools that the model may call is there."""
        prepared = self.prepared
        missing = find_missing(self.record.request, prepared.offer, prepared.unavailable.keys())
        if missing is not None and not self.generation.logged:
            raise Hopeless(ResponseError("invalid_prompt", missing))

    async def _give_way(self) -> None:
        """Hands a `flex` response over while others wait for its place, or for its bytes. An attempt that has
        made no turn yet keeps it, so that each makes one. Raises LeaseLost."""
        tier = self.record.request.response.service_tier
        if served_tier(tier) != "flex" or not self.generation.has_generated:
            return
        room = self.resources.room()
        if room.count_max <= 0 or bytes_of_large(self.record.size):
            await self.writer.flush()
            await give_way(self.resources.redis, self.resources.settings, self.lease, tier, room)

    def _note_turn(self, begin: int, awaited: Sequence[Awaited]) -> None:
        """Notes how the calls of a turn stand, whose first item has the output_index `begin`."""
        made, unmade = list[int](), list[Unmade]()
        for each in awaited:
            if isinstance(each.answer, CallTool):
                made.append(each.answer.call.index)
            else:
                recipient = "" if each.answer == ReportUnknown("") else each.recipient
                call = UnmadeCall(recipient, each.written, self._describe(each.answer))
                unmade.append(Unmade(each.place, each.has_item, call))
        self.ending.notes.add(begin, self.reader.translation.output_index, made, unmade)

    async def _compact_if_due(self, prompt: list[int]) -> list[int]:
        """Compacts the context, if it has grown beyond the request's threshold; returns what the model reads
        then."""
        compactor = self.compactor
        if compactor is None or not await compactor.is_due(len(prompt)):
            return prompt
        is_earlier = compactor.rules.growth_share is None  # a record of then goes on with what room there is
        has_compacted = await compactor.compact_if_possible(in_pieces=not is_earlier)
        return (await compactor.prompt()).tokens if has_compacted else prompt

    async def _compact_at_end(self, prompt: list[int], *, is_cut: bool) -> None:
        """The same after the last turn. Whoever ends the response meanwhile leaves it its answer."""
        compactor = self.compactor
        if compactor is None or not await compactor.is_due(len(prompt)):
            return
        await self.ending.note_answer(is_cut=is_cut)
        await compactor.compact_if_possible()

    async def _make_room_if_needed(self) -> None:
        """Compacts what leaves no room for an answer. Raises Hopeless if it cannot be read at all then."""
        if not self.prepared.is_too_long:
            return
        if self.compactor is None:
            raise Hopeless(TOO_LONG)
        try:
            prompt = await self.compactor.make_room()
        except Hopeless:
            if not self.prepared.prompt.tokens:
                raise
            return  # the answer has what room there is
        self.prepared, self.ending.read = replace(self.prepared, prompt=prompt), prompt.messages

    async def _keep_within_context(self, prompt: list[int]) -> list[int]:
        """Returns the prompt, fitted again if tools' answers have made it too long for the context, or if it
        may lose its oldest messages and leaves no room for an answer.

        The new prompt leaves that room; if the request asks for compactions, it is made of one. A
        record of an earlier format is not fitted again: it is cut off there. Raises Hopeless.
        """
        is_spent = self._tokens_left <= 0  # then the response ends in any case
        tokens_max = self.resources.context_tokens_max
        is_readable = len(prompt) < tokens_max
        may_drop = self.record.request.response.truncation == "auto"
        room = room_for_answer(self.resources, self.record, self._tokens_left) if may_drop else 1
        if len(prompt) + room <= tokens_max or is_spent or self.record.format == 1:
            return prompt
        reserved = max(1, min(self.resources.settings.answer_tokens_reserved, tokens_max // 2))
        before, since = self.prepared.prompt.messages, 0
        if self.compactor is not None and self.compactor.messages:
            before, since = self.compactor.messages, self.compactor.messages_since
        said = self.reader.messages[since:]
        if self.record.format >= FORMAT_OF_JOINED_CALLS:
            said = join_calls(said)
        messages = [*before, *said]
        try:
            return (await fit_into_context(self.resources, self.record, messages, reserved)).tokens
        except Hopeless:
            if is_readable:
                return prompt  # the answer has what room there is
            if self.compactor is None:
                raise
            return (await self.compactor.make_room()).tokens

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
    def _calls_left(self) -> int:
        """The number of further calls that leave an item. In a record of the first format, each does, and one
        beyond the limit fails."""
        return self.tally.left if self.record.format > 1 else sys.maxsize

    async def _run_approved_calls(self) -> list[int]:
        """Runs the calls that the client has approved; returns the tokens of the calls and their answers.

        They are made together; in a record of an earlier format, one after the other.
        """
        approved, tokens = self.prepared.approved, list[int]()
        size = len(approved) if self.record.format >= FORMAT_OF_JOINED_CALLS else 1
        for begin in range(0, len(approved), max(size, 1)):
            tokens += await self._run_together(approved[begin : begin + size])
        return tokens

    async def _run_together(self, approved: Sequence[CallApproved]) -> list[int]:
        said = join_calls([call_message(each.target.recipient, each.written) for each in approved])
        awaited, tokens, left = list[Awaited](), list[int](), self._calls_left
        begin = self.reader.translation.output_index
        for call, message in zip(approved, said, strict=True):
            self.reader.messages.append(message)
            tokens += await self._encode(message)
            answer: CallTool | ReportSpent = ReportSpent(call.target)
            if left > 0:
                await self.writer.put(self.reader.advance(call))
                answer = CallTool(self.reader.translation.running[-1])
                left -= isinstance(self._decide(answer.call, self.tally), Run)
            awaited.append(Awaited(answer, message.channel))
        end = self.reader.translation.output_index
        self.ending.notes.add(begin, end, range(begin, end))
        # The prompt already ends with the start of an assistant message.
        return tokens[len(NEXT_TURN) :] + await self._answer(awaited)

    async def _answer(self, awaited: Sequence[Awaited]) -> list[int]:
        """Makes the calls of a turn; returns the tokens of the answers that the model waits for, in the order
        of its calls."""
        if not awaited:
            return []
        decided = self._decide_all(awaited)
        running = [each.answer.call for each in awaited if isinstance(each.answer, CallTool)]
        tokens = list[int]()

        async def make(call: RunningCall) -> ToolOutput | ToolFailure:
            return await self._result_of(call, decided[call.index])

        async with under_way(running, make) as results:
            for each in awaited:
                if isinstance(each.answer, CallTool):
                    text = await self._finish(await results[each.answer.call.index])
                else:
                    text = self._describe(each.answer)
                message = tool_message(each.recipient, text, each.channel)
                self.reader.messages.append(message)
                tokens += await self._encode(message)
        return tokens + NEXT_TURN

    def _decide_all(self, awaited: Iterable[Awaited]) -> dict[int, Run | Refuse]:
        """Decides which calls of a turn are made, by their indices. Raises Hopeless."""
        decided, complaints, tally = dict[int, Run | Refuse](), list[str](), self.tally
        for each in awaited:
            match each.answer:
                case CallTool(call):
                    decision = decided[call.index] = self._decide(call, tally)
                    if isinstance(decision, Run):
                        tally = tally.after(decision)
                    elif decision.complaint is not None:
                        complaints.append(decision.complaint)
                case ReportSpent():
                    complaints.append(calls.complain_of_spent(tally))
                case ReportUnknown(recipient):
                    complaints.append(calls.complain_of_unknown(recipient))
                case ReportUnreadable(called):
                    complaints.append(calls.complain_of_unreadable(called.recipient))
        self.tally = self.tally.after_turn(tally.made - self.tally.made, complaints)
        return decided

    def _decide(self, call: RunningCall, tally: Tally) -> Run | Refuse:
        return calls.decide(call, tally, self.prepared.offer.routing)

    def _describe(self, report: Report) -> str:
        """Returns what the model reads of a call that is not made."""
        match report:
            case ReportSpent():
                return describe(calls.refuse_spent(self.tally).failure.error)
            case ReportUnknown(recipient):
                return calls.describe_unknown(recipient, self.prepared.offer.routing)
            case ReportUnreadable(_, reason):
                return calls.describe_unreadable(reason)

    async def _result_of(self, call: RunningCall, decision: Run | Refuse) -> ToolOutput | ToolFailure:
        match decision:
            case Refuse(failure):
                return failure
            case Run(task, is_repeatable):
                result = await self.results.get(call.index, task, is_repeatable=is_repeatable)
                if isinstance(result, ToolsListed):
                    return calls.listed_for_a_call()
                return calls.hold(call.target, result)

    async def _finish(self, result: ToolOutput | ToolFailure) -> str:
        """Ends the first of the running calls; returns what the model reads."""
        index = self.reader.translation.running[0].index
        *announced, done = self.reader.advance(ToolReturned(result))
        unshown = self.reader.translation.unshown.get(index)
        record = b"" if unshown is None else pack_unshown(index, unshown)
        if announced:
            await self.generation.put(announced)
        await self.generation.put([done], record)
        return result.output if isinstance(result, ToolOutput) else describe(result.error)

    async def _encode(self, message: ChatMessage) -> list[int]:
        return await self.resources.stepper.run(encode_message(message), len(message.text))
