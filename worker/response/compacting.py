"""Compacts a response's context: has the model summarise it, and keeps what must not be lost.

Owns how much may be left and what is kept whole; `summarising.py` reads the summary, `shared/compaction.py`
owns what becomes of it when it is read again (docs/adr/0051-a-compaction-is-a-turn.md).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import msgspec
from msgspec import UNSET

from shared import events as ev
from shared.compaction import Compacted, count_instructions
from shared.containers import last_container
from shared.context_length import TOO_LONG
from shared.ids import item_id
from shared.input_items import InputCompaction, InputItem, InputMessage
from shared.lifecycle import as_input, lasting
from shared.responses import Compaction, CompactionRules, ResponseRequest
from shared.store.owning.lease import Lease
from shared.waiting_calls import waiting_in
from worker.asking.conversation import as_read, build_conversation, render_items
from worker.harmony.tokens import ChatMessage, HarmonyMessage
from worker.response.generation import Generation
from worker.response.history import LoadedRecord
from worker.response.hopeless import Hopeless
from worker.response.preparation import Prepared, fit_into_context
from worker.response.prompt import Prompt, count
from worker.response.resources import Resources
from worker.response.summarising import SummaryReader, cut_text, excerpt
from worker.response.summary_pieces import cut
from worker.response.turn_reader import TurnReader

_T = TypeVar("_T")

_SUMMARY_TOKENS_MIN = 64
"""A summary may have as many, however much the calls take that wait."""
_THOUGHT_TOKENS_MAX = 2_048
"""How long the model may think about a summary."""
_HEADER_TOKENS_MAX = 16
_PIECES_PER_CONTEXT_MAX = 8
"""How much longer than its parts the reading of a conversation in pieces may get."""


@dataclass(frozen=True, slots=True)
class _ToSummarise:
    """What the model is asked, and what it is asked about."""

    items: Sequence[InputItem]
    said: Sequence[ChatMessage]
    asking: ChatMessage
    prompt: Prompt
    """Has all that was said; or its first piece, if that is too long."""
    later: Sequence[Sequence[ChatMessage]]
    """The other pieces; each is read with the summary of those before it."""
    waiting: list[InputItem]
    room: int
    """The tokens that may be left for the text of the summary and the messages that are kept."""
    summary_max: int


@dataclass(slots=True)
class Compactor:
    """Compacts the context of one attempt, as often as it is due. `seal` is given the item's output_index."""

    resources: Resources
    lease: Lease
    record: LoadedRecord
    rules: CompactionRules
    prepared: Prepared
    reader: TurnReader
    answering: Generation
    """The turns that are no compactions."""
    seal: Callable[[int, str], str]
    messages: list[HarmonyMessage] = field(default_factory=list)
    """The conversation as the last compaction left it; empty before the first."""
    messages_since: int = 0
    """The number of the reader's messages that it stands for."""
    _left: list[InputItem] | None = None
    """What the last compaction left of the items before it."""
    _items_since: int = 0
    """The number of the output's items that it stands for."""

    async def is_due(self, tokens: int) -> bool:
        """Returns True if a context of so many tokens is to be compacted: it is beyond the threshold, and so
        much of it can be compacted that this is worth a turn.

        That is more than a compaction may leave of a context at the threshold, and there is as much more than
        the last one has left, which may be a long message of the user's, or if that is less, twice as much.
        """
        threshold = self.rules.threshold
        if threshold is None or tokens <= threshold:
            return False
        head = [each for each in self.prepared.prompt.messages if not isinstance(each, ChatMessage)]
        said, left = tokens - await self._count(head), await self._count_left()
        growth = self.rules.growth_share
        growth_min = left if growth is None else min(left, growth * threshold)
        return said > self.rules.share_max * threshold and said > left + growth_min

    async def _count_left(self) -> int:
        """Returns the tokens that the last compaction has left, which may be an earlier response's."""
        request = self.record.request
        before = _up_to_compaction([*request.context, *request.input])
        items = self._left if self._left is not None else before
        return await self._tokens_of(items[count_instructions(items) :])

    async def compact_if_possible(self, *, in_pieces: bool = False) -> bool:
        """Compacts the context; returns False, having done nothing, if it leaves no room for a summary.
        `in_pieces`: it is then summarised in pieces, unless what is always kept is too long by itself."""
        try:
            question = await (self._ask_somehow() if in_pieces else self._ask())
        except Hopeless:
            return False
        await self._compact(question)
        return True

    async def prompt(self) -> Prompt:
        """Returns the prompt that goes on from a compaction. Raises Hopeless if it is too long."""
        prompt = await fit_into_context(self.resources, self.record, await self._conversation())
        self.messages, self.messages_since = prompt.messages, len(self.reader.messages)
        return prompt

    async def make_room(self) -> Prompt:
        """Compacts a context that is too long for the model; returns the prompt that goes on from it. Raises
        Hopeless, having done nothing, if what is always kept is too long by itself."""
        await self._compact(await self._ask_in_pieces())
        return await self.prompt()

    async def compact(self) -> None:
        """Compacts the context, however long it is. Raises Hopeless as `make_room` does."""
        await self._compact(await self._ask_somehow())

    async def _conversation(self) -> list[HarmonyMessage]:
        items = self._items()
        request = msgspec.structs.replace(self.record.request, context=items, input=[])
        prepared, form = self.prepared, self.record.format
        return await self._call(
            lambda: build_conversation(request, prepared.offer, prepared.unavailable, form)
        )

    def _items(self) -> list[InputItem]:
        """Returns all items of the context, those of the output included."""
        request, unshown = self.record.request, self.reader.translation.unshown
        before = self._left if self._left is not None else [*request.context, *request.input]
        output = [unshown.get(index, item) for index, item in enumerate(self.reader.items)]
        return [*before, *as_input(lasting(output[self._items_since :]))]

    async def _ask(self) -> _ToSummarise:
        items, messages = self._items(), await self._conversation()
        said = [message for message in messages if isinstance(message, ChatMessage)]
        waiting = waiting_in(items)
        tokens_max = max(int(self.rules.share_max * await self._count(said)), self.rules.tokens_min)
        room = tokens_max - await self._tokens_of([*waiting, _standing_in("")])
        last = await self._tokens_of(_last_of_user(items))
        summary_max = _summary_max(tokens_max, room, last)
        asking = self._asking(summary_max)
        reserved = _SUMMARY_TOKENS_MIN + _HEADER_TOKENS_MAX
        prompt = await fit_into_context(self.resources, self.record, [*messages, asking], reserved)
        return _ToSummarise(items, said, asking, prompt, (), waiting, room, summary_max)

    async def _ask_somehow(self) -> _ToSummarise:
        try:
            return await self._ask()
        except Hopeless:
            return await self._ask_in_pieces()

    async def _ask_in_pieces(self) -> _ToSummarise:
        """As `_ask`, for a context that is too long to be summarised at once: what is left of it has a share
        of the model's context, and leaves room for an answer. Raises Hopeless if nothing could."""
        items, messages = self._items(), await self._conversation()
        head = [message for message in messages if not isinstance(message, ChatMessage)]
        said = [message for message in messages if isinstance(message, ChatMessage)]
        waiting, context = waiting_in(items), self.resources.context_tokens_max
        standing, last = (
            await self._tokens_of([_standing_in("")]),
            await self._tokens_of(_last_of_user(items)),
        )
        begun = await self._count(head)
        held = await self._tokens_of(waiting) + standing
        free = context - begun - held
        tokens_max = max(int(self.rules.share_max * context), self.rules.tokens_min)
        room = min(tokens_max - held, free // 2)
        # Each piece is read with a summary, whatever share the last one may have: a longer one left no room.
        limits = (free - last) // 2, context // _PIECES_PER_CONTEXT_MAX
        summary_max = min(_summary_max(tokens_max, room, last), *limits)
        asking = self._asking(summary_max)
        answered = min(_THOUGHT_TOKENS_MAX + summary_max + _HEADER_TOKENS_MAX, context // 4)
        overhead = begun + standing + 2 * summary_max + await self._count([asking])
        size = context - overhead - answered
        if not said or summary_max < _SUMMARY_TOKENS_MIN or size < context // _PIECES_PER_CONTEXT_MAX:
            raise Hopeless(TOO_LONG)
        first, *later = await self.resources.stepper.run(cut(said, size), self.record.size)
        prompt = await fit_into_context(self.resources, self.record, [*head, *first, asking], answered)
        return _ToSummarise(items, first, asking, prompt, later, waiting, room, summary_max)

    def _asking(self, summary_max: int) -> ChatMessage:
        return ChatMessage("user", self.rules.prompt.replace("{tokens}", str(summary_max)))

    async def _compact(self, question: _ToSummarise) -> None:
        index = self.reader.translation.output_index
        id_ = item_id("cmp", self.record.request.response.id, index)
        await self.answering.put([ev.OutputItemAdded(index, Compaction(id_, ""))])
        generation, summary = await self._summarise(question, index, id_)
        kept = await self._kept(question, summary)
        container = last_container(question.items) or UNSET
        begun = count_instructions(question.items)
        compacted = Compacted(
            summary, kept, question.waiting, is_whole=True, instructions=begun, container_id=container
        )
        sealed = await self._call(lambda: self.seal(index, compacted.encode()))
        item = Compaction(id_, sealed)
        await generation.put([ev.OutputItemDone(index, item)])
        self.reader.take_item(item)
        self._left = compacted.in_place_of(InputCompaction(id=id_, encrypted_content=sealed))
        self._items_since = len(self.reader.items)

    async def _summarise(self, question: _ToSummarise, index: int, id_: str) -> tuple[Generation, str]:
        reports = self.record.request.dialect != "open-responses"  # which has no such event
        summarising = SummaryReader((index, id_), self.reader.turns, question.summary_max, reports)
        generation = Generation(
            self.resources,
            self.lease,
            replace(self.record, request=_to_summarise(self.record.request)),
            self.prepared.offer,
            summarising,
            self.answering.writer,
            self.answering.logged,
        )
        prompt, said = question.prompt, question.said
        head = [message for message in prompt.messages if not isinstance(message, ChatMessage)]
        summary = await self._run_turn(generation, summarising, prompt, said)
        for piece in question.later:
            if reports:  # what the turn has made must be in the log before the next one begins
                await generation.put([ev.CompactionCompacting(index, id_)])
            said = [*render_items([_standing_in(summary)]), *piece]
            prompt = await fit_into_context(self.resources, self.record, [*head, *said, question.asking])
            summary = await self._run_turn(generation, summarising, prompt, said)
        return generation, summary

    async def _run_turn(
        self, generation: Generation, summarising: SummaryReader, prompt: Prompt, said: Sequence[ChatMessage]
    ) -> str:
        """Has the model write a summary; returns it. `said`: what it is of."""
        read, summary_max = len(prompt.tokens), summarising.tokens_max
        left = self.resources.context_tokens_max - read
        budget = min(left, _THOUGHT_TOKENS_MAX + summary_max + _HEADER_TOKENS_MAX)
        generation.free_tokens_max = max(1, budget - summary_max - _HEADER_TOKENS_MAX)
        summarising.begin(read)
        await generation.run_turn(prompt.tokens, budget)
        text = summarising.text or excerpt(said, summary_max)
        return await self._call(lambda: cut_text(text, summary_max))

    async def _kept(self, question: _ToSummarise, summary: str) -> list[InputItem]:
        """Returns the instructions that the context begins with, the user's last message, and the newest
        messages for which there is room, as the model reads them."""
        items, is_full = question.items, False
        begin, last = count_instructions(items), _last_of_user(items)
        empty, standing = _standing_in(""), _standing_in(summary)
        room = question.room + await self._tokens_of([empty]) - await self._tokens_of([standing, *last])
        kept: list[InputMessage] = []
        for message in _candidates(items[begin:]):
            if not any(message is each for each in last):
                room -= 0 if is_full else await self._tokens_of([message])
                is_full = is_full or room < 0
                if is_full:
                    continue
            kept.append(message)
        instructions = [item for item in items[:begin] if isinstance(item, InputMessage)]
        return await self._call(lambda: list(map(as_read, [*instructions, *reversed(kept)])))

    async def _tokens_of(self, items: Sequence[InputItem]) -> int:
        """Returns the number of tokens that the model reads of items."""
        return await self._count(await self._call(lambda: render_items(items)))

    async def _count(self, messages: Sequence[HarmonyMessage]) -> int:
        return await self.resources.stepper.run(count(messages), self.record.size)

    async def _call(self, work: Callable[[], _T]) -> _T:
        """Runs work whose duration grows with the sizes of the request and of the output."""
        return await self.resources.stepper.call(work, self.record.size + self.answering.writer.told_bytes)


def _standing_in(summary: str) -> InputCompaction:
    return InputCompaction(encrypted_content="", summary=summary)


def _summary_max(tokens_max: int, room: int, last: int) -> int:
    """Returns how many tokens a summary may have. `last`: those of the user's last message."""
    summary_room = room - last if room - last >= _SUMMARY_TOKENS_MIN else room
    return max(min(tokens_max // 2, summary_room), _SUMMARY_TOKENS_MIN)


def _last_of_user(items: Sequence[InputItem]) -> list[InputItem]:
    """Returns the user's last message, if there is one."""
    for item in reversed(items):
        if isinstance(item, InputMessage) and item.role == "user":
            return [item]
    return []


def _up_to_compaction(items: Sequence[InputItem]) -> Sequence[InputItem]:
    """Returns the items up to the last compaction; none if there is none."""
    places = (place for place in reversed(range(len(items))) if isinstance(items[place], InputCompaction))
    return items[: next(places, -1) + 1]


def _candidates(items: Sequence[InputItem]) -> list[InputMessage]:
    """Returns the messages that may be kept, newest first: those since the last compaction, and the user's
    last one."""
    found: list[InputMessage] = []
    is_earlier = has_users = False
    for item in reversed(items):
        if isinstance(item, InputCompaction):
            is_earlier = True
        elif isinstance(item, InputMessage) and item.role != "assistant":
            is_users = item.role == "user"
            if not is_earlier or (is_users and not has_users):
                found.append(item)
            has_users = has_users or is_users
    return found


def _to_summarise(request: ResponseRequest) -> ResponseRequest:
    """Returns the request with which the engine is asked for a summary: plain text, without calls."""
    response = msgspec.structs.replace(request.response, tool_choice="none", text=None)
    return msgspec.structs.replace(request, response=response, include=[])
