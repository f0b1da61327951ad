"""One turn of the model: its tokens come from the log as far as that reaches, then from the engine.

Owns the path of a token into events and the log, and when a turn ends. The engine calls `take` within its
step; nothing wakes for a token (docs/adr/0033-a-step-is-a-function-call.md). `turn_reader.py` owns what the
tokens mean, `attempt.py` how a turn is answered.
"""

import asyncio
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Protocol

from shared import events as ev
from shared.events import StreamEvent
from shared.responses import ResponseError
from shared.store.owning.lease import Lease
from shared.tracer import Span
from shared.traces import NOTHING
from worker.asking.constraint import constraint_of
from worker.asking.offer import Offer
from worker.asking.sampling import make_sampling
from worker.engines.protocol import (
    EngineDead,
    FinishReason,
    Sampling,
    TokenChunk,
    TokenLogprob,
    Unfulfillable,
    Unsupported,
    Verdict,
)
from worker.harmony.tokens import STOP_TOKENS
from worker.response.history import LoadedRecord
from worker.response.hopeless import Hopeless
from worker.response.log_writer import LogWriter
from worker.response.meter import TurnPace
from worker.response.resources import Resources
from worker.response.spans import FIRST_TOKEN, traced_turn
from worker.response.token_record import LoggedToken, UnloggedTokens
from worker.response.usage import Turn

_REPLAYED_AT_ONCE_MAX = 128
"""A replay yields to other tasks after this many logged tokens."""


class TokenReader(Protocol):
    """Reads the tokens of a turn: of an answer (`turn_reader.py`) or a summary (`summarising.py`)."""

    @property
    def turns(self) -> list[Turn]: ...

    @property
    def has_called(self) -> bool: ...

    @property
    def is_turn_over(self) -> bool: ...

    def read(self, token: int, logprob: TokenLogprob | None = None) -> list[StreamEvent]: ...

    def read_text(self, token: int, number: int) -> bytes | None: ...

    def end(self) -> list[StreamEvent]: ...


@dataclass(slots=True)
class Generation:
    """Runs the model's turns in one attempt, one after the other."""

    resources: Resources
    lease: Lease
    record: LoadedRecord
    offer: Offer
    reader: TokenReader
    writer: LogWriter
    logged: deque[LoggedToken]
    """Tokens logged by earlier attempts; emptied as they are replayed."""
    free_tokens_max: int | None = None
    """After so many tokens of reasoning a turn comes to its answer; None: as the request demands."""
    _generated: list[int] = field(default_factory=list)
    """The tokens of the turn so far."""
    _finish: FinishReason | None = None
    """How the turn has ended, once it has."""
    _unlogged: UnloggedTokens = field(default_factory=UnloggedTokens)
    _pace: TurnPace = field(default_factory=lambda: TurnPace(0, ()))
    has_generated: bool = False
    """Part of a turn has come from the engine, not from the log."""
    _span: Span = NOTHING
    """That of the turn."""

    async def run_turn(self, prompt: list[int], budget: int) -> tuple[list[int], bool]:
        """Runs a turn that the reader has begun.

        Returns its tokens, at most `budget`, and whether that limit cut it off. Raises EngineDead, Hopeless,
        and whatever `LogWriter.put` raises.
        """
        with traced_turn(self.record.request.response.model, self.reader.turns[-1]) as self._span:
            return await self._run_turn(prompt, budget)

    async def _run_turn(self, prompt: list[int], budget: int) -> tuple[list[int], bool]:
        self._generated, self._finish = [], None
        await self._replay(budget)
        finish = self._finish_of_replay(budget)
        if finish is None:
            try:
                finish = await self._continue(prompt, budget)
            except (Unfulfillable, Unsupported) as refusal:
                raise Hopeless(ResponseError("invalid_prompt", str(refusal))) from refusal
        if not self.reader.is_turn_over:
            self._queue(self.reader.end())
        return self._generated, finish == "length"

    async def put(self, events: list[StreamEvent], record: bytes = b"") -> None:
        """Puts events into the log that follow from the end of a turn, with those of its tokens that made no
        event: whoever replays it must know that it has ended, and how. `record`: the entry's token record."""
        tokens, token_record = self._unlogged.take(with_logprobs=False)
        await self.writer.put(events, tokens, record or token_record)

    async def _replay(self, budget: int) -> None:
        """Takes the turn's tokens from the log, as far as they reach, yielding to other tasks at times."""
        while self.logged and self._finish_of_replay(budget) is None:
            token = self.logged.popleft()
            if token.cached_tokens:
                self._note_cached(token.cached_tokens)
            self._generated.append(token.id)
            self._read(token.id, token.logprob)
            if len(self._generated) % _REPLAYED_AT_ONCE_MAX == 0:
                await asyncio.sleep(0)

    def _note_cached(self, cached_tokens: int) -> None:
        """Records, at a turn's first token, how many of its prompt's tokens were in a cache."""
        self.reader.turns[-1].cached = cached_tokens
        self._unlogged.begin_turn(cached_tokens)

    def _finish_of_replay(self, budget: int) -> FinishReason | None:
        """Returns how a replayed turn ended, or None if it continues after these tokens."""
        if self.reader.is_turn_over or (self._generated and self._generated[-1] in STOP_TOKENS):
            return "stop"
        return "length" if len(self._generated) >= budget else None

    async def _continue(self, prompt: list[int], budget: int) -> FinishReason:
        """Generates the rest of the turn with the engine; returns how it ended."""
        sampling = await self._sampling(budget, len(self._generated))
        self.has_generated = True
        model, resources = self.record.request.response.model, self.resources
        is_first = len(self.reader.turns) == 1 and not self._generated
        accepted_s = self.record.accepted_s if is_first else None
        measured = resources.meter.turn(model, len(prompt), self._generated, accepted_s)
        with resources.gathering.stream(), measured as self._pace:
            await resources.engine.generate(
                prompt + self._generated,
                sampling,
                self,
                request_id=f"{self.lease.key}:{self.lease.fencing_token}:{len(self.reader.turns)}",
                model=model,
            )
        if self._finish is None or self._finish == "abort":
            raise EngineDead("the engine ended a generation without finishing it")
        return self._finish

    def take(self, chunk: TokenChunk) -> Verdict:
        """Passes new tokens to the reader, and their events to the log.

        A token that only continues a text becomes a frame at once; any other, and one that follows a token
        which has made no event yet, goes the whole way over segments and events. A replay goes that way with
        every token, and compares the bytes.
        """
        reader, writer, unlogged, generated = self.reader, self.writer, self._unlogged, self._generated
        if not generated:
            self._note_cached(chunk.cached_tokens)
            self._pace.begin(chunk.cached_tokens)
            self._span.happen(FIRST_TOKEN)
        logprobs, is_ahead = chunk.logprobs, False
        for place, token in enumerate(chunk.token_ids):
            generated.append(token)
            if not (logprobs or unlogged.ids):
                made = reader.read_text(token, writer.next)
                if made is not None:
                    is_ahead = writer.queue_delta(made, token)
                    continue
            is_ahead = self._read(token, logprobs[place] if logprobs else None)
            if reader.is_turn_over:
                self._finish = "stop"
                return "stop"
        if chunk.finish_reason is not None:
            is_whole = chunk.finish_reason == "length" and generated[-1] in STOP_TOKENS
            self._finish = "stop" if is_whole else chunk.finish_reason
        return "wait" if is_ahead else "more"

    async def catch_up(self) -> None:
        """Returns when Redis has everything that was queued."""
        await self.writer.flush()

    def _read(self, token: int, logprob: TokenLogprob | None) -> bool:
        """Passes a token to the reader, and what events come of it to the log. Returns what `queue` does."""
        self._unlogged.add(token, logprob)
        return self._queue(self.reader.read(token, logprob))

    def _queue(self, events: list[StreamEvent]) -> bool:
        """Queues events together with the tokens that made them, and those before that made none."""
        if not events:
            return False
        has_logprobs = any(isinstance(event, ev.OutputTextDelta) and event.logprobs for event in events)
        return self.writer.queue(events, *self._unlogged.take(with_logprobs=has_logprobs))

    async def _sampling(self, budget: int, generated: int) -> Sampling:
        """Returns the rest of the turn's sampling. `budget`: tokens for the whole turn; `generated`: how many
        of them there are already."""
        request, settings = self.record.request, self.resources.settings
        has_called = self.reader.has_called
        constraint = await self.resources.stepper.call(
            lambda: constraint_of(
                request,
                self.offer,
                has_called=has_called,
                budget=budget,
                reserved=settings.answer_tokens_reserved,
            ),
            self.record.size,
        )
        if constraint is not None and self.free_tokens_max is not None:
            constraint = replace(constraint, free_tokens_max=self.free_tokens_max)
        made = sum(turn.output for turn in self.reader.turns)
        return make_sampling(
            request, constraint, max_tokens=budget - generated, made=made, turn_tokens=generated
        )
