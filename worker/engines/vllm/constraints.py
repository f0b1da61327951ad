"""Holds requests to their constraints, where vLLM's scheduler has the grammars of its structured outputs.

Owns one automaton for each constrained request, and the exchange between the worker's process and vLLM's;
`turn_grammar.py` owns what a turn may say. When masks are made and applied, also for drafts of speculative
decoding, is vLLM's business (docs/adr/0036-constraints-in-the-scheduler.md). Uses names of vLLM that are not
public. Source: vllm/v1/structured_output/__init__.py, vllm/v1/core/sched/scheduler.py (0.32).
"""

import time
import weakref
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import takewhile
from typing import Any, cast

import msgspec
import torch
from vllm import SamplingParams
from vllm.config import VllmConfig
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.metrics.stats import SchedulerStats
from vllm.v1.request import Request, RequestStatus
from vllm.v1.structured_output import StructuredOutputManager

from worker.engines.protocol import Body, Constraint, Unfulfillable
from worker.engines.vllm.json_grammar import Compiled, JsonGrammars, JsonMatcher, grammars_of
from worker.engines.vllm.turn_grammar import FreeText, Json, Only, OutOfGrammar, TurnGrammar
from worker.harmony.tokens import CONTROL_TOKENS

REFUSAL = CONTROL_TOKENS[-1]
"""A reserved token, generated if a turn cannot continue; a stop token of every constrained turn."""
_KEY = "antiphon_turn"
_BODIES_MAX = 128
"""The number of different grammars that one request may use; far fewer than `JsonGrammars` keeps."""
_AT_ONCE_MAX = 16
"""Grammars requested at once, so that a request with many takes turns with the others."""
_COMPILING_MAX_S = 120.0
_TELL_EVERY_S = 0.25
_ANY_OBJECT = Body(True)
_NOTHING = Only(frozenset())
_DEAD_END = "The output cannot continue in a way that the response's format or tools allow."


class _Turn(msgspec.Struct, frozen=True):
    """What vLLM passes along with a request."""

    constraint: Constraint
    tokens: int
    """How many of the prompt's last tokens belong to the turn."""


def to_extra_args(constraint: Constraint | None, turn_tokens: int) -> dict[str, Any] | None:
    """Returns `SamplingParams.extra_args`, in types that can be sent between processes."""
    if constraint is None:
        return None
    return {_KEY: msgspec.to_builtins(_Turn(constraint, turn_tokens))}


def scheduler_name(*, is_async: bool) -> str:
    """Returns the name of the scheduler that vLLM is to create in its process."""
    chosen = AsyncTurnScheduler if is_async else TurnScheduler
    return f"{chosen.__module__}.{chosen.__qualname__}"


class _Constraining:
    """Gives each request that has a constraint its automaton, and tells now and then how full the engine is;
    the rest of a scheduler is vLLM's."""

    def __init__(
        self, vllm_config: VllmConfig, *, structured_output_manager: StructuredOutputManager, **options: Any
    ) -> None:
        super().__init__(  # type: ignore[call-arg]
            vllm_config=vllm_config, structured_output_manager=structured_output_manager, **options
        )
        size = vllm_config.model_config.get_vocab_size()
        structured_output_manager.backend = MaskMemory(size)
        self._grammars = grammars_of(size)
        self._drafts_max = vllm_config.num_speculative_tokens
        self._told_s = 0.0
        """When it was told how full the engine is."""

    def make_stats(self, *args: Any, **options: Any) -> SchedulerStats | None:
        """Returns vLLM's statistics of a step, or, if it makes none, now and then those that cost nothing."""
        stats: SchedulerStats | None = super().make_stats(*args, **options)  # type: ignore[misc]
        now_s = time.monotonic()
        if stats is not None or now_s < self._told_s + _TELL_EVERY_S:
            return stats
        self._told_s, scheduler = now_s, cast(Scheduler, self)
        running, waiting = scheduler.get_request_counts()
        usage = scheduler.kv_cache_manager.usage
        return SchedulerStats(num_running_reqs=running, num_waiting_reqs=waiting, kv_cache_usage=usage)

    def add_request(self, request: Request) -> None:
        constrain(request, self._grammars, self._drafts_max)
        super().add_request(request)  # type: ignore[misc]


class TurnScheduler(_Constraining, Scheduler):  # type: ignore[misc]
    """For a step after the other."""


class AsyncTurnScheduler(_Constraining, AsyncScheduler):  # type: ignore[misc]
    """For steps that vLLM prepares while another runs."""


def constrain(request: Request, grammars: JsonGrammars, drafts_max: int) -> None:
    """Gives a request its automaton, if it has a constraint, and has it wait for its grammars.

    `drafts_max`: the number of tokens that vLLM may try at a time.
    """
    turn = _read_turn(request.sampling_params)
    if turn is not None:
        request.structured_output_request = TurnConstraint(turn, request, grammars, drafts_max)
        request.status = RequestStatus.WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR


def _read_turn(params: SamplingParams | None) -> _Turn | None:
    extra: Mapping[str, Any] = (params and params.extra_args) or {}
    return msgspec.convert(extra[_KEY], _Turn) if _KEY in extra else None


class MaskMemory:
    """Stands for a backend of vLLM's structured outputs, of which nothing is left but the masks' memory."""

    def __init__(self, vocabulary_size: int) -> None:
        self._vocabulary_size = vocabulary_size

    def allocate_token_bitmask(self, rows: int) -> torch.Tensor:
        return torch.full((rows, (self._vocabulary_size + 31) // 32), -1, dtype=torch.int32)

    def destroy(self) -> None:
        """Does nothing: the grammars are the process's."""


class TurnConstraint:
    """One request's automaton, in the form of a grammar of vLLM and of its request for one.

    It follows the request's tokens and fills masks. Nothing in a single request can make it raise.
    """

    reasoning_ended = True
    """vLLM's own idea of where reasoning ends has no part in this."""

    def __init__(self, turn: _Turn, request: Request, grammars: JsonGrammars, drafts_max: int) -> None:
        prompt = request.prompt_token_ids or []
        self._own: Sequence[int] = prompt[len(prompt) - turn.tokens :]
        """The turn's tokens in the prompt."""
        self._constraint = turn.constraint
        self._request: Any = weakref.proxy(request)
        self._drafts_max = drafts_max
        self._automaton: TurnGrammar[JsonMatcher] | None = None
        self._refusal: str | None = None
        try:
            self._made_of = _grammar_bodies_of(turn.constraint)
        except Unfulfillable as refusal:
            self._made_of, self._refusal = {}, str(refusal)
        self._preparation = _Preparation(self._made_of.values(), grammars)
        self._may_start = self.prepare()

    @property
    def grammar(self) -> "TurnConstraint | None":
        """None as long as the request has to wait."""
        self._may_start = self._may_start or self.prepare()
        return self if self._may_start else None

    def prepare(self) -> bool:
        """Returns whether the request may start: all its grammars have been compiled, or it is refused."""
        try:
            return self._refusal is not None or self._preparation.advance()
        except Unfulfillable as refusal:
            self._refusal = str(refusal)
            return True

    def accept_tokens(self, _request_id: str, tokens: Sequence[int]) -> bool:
        """Advances by tokens that vLLM has sampled, or tries; returns False if one does not fit."""
        if REFUSAL in tokens:
            self._request.stop_reason = self._refusal or _DEAD_END
            return True
        return all(self._accept(token) for token in tokens)

    def validate_tokens(self, tokens: Sequence[int]) -> list[int]:
        """Returns the first of these tokens, as far as they fit; changes nothing."""
        fitting = [*takewhile(self._accept, tokens)]
        self.rollback(len(fitting))
        return fitting

    def rollback(self, count: int) -> None:
        """Undoes the last tokens, which vLLM has only tried."""
        if self._automaton is not None:
            self._automaton.take_back(count)

    def fill_bitmask(self, masks: torch.Tensor, row: int) -> None:
        """Writes what may come next into a row of `masks` ([n, ids / 32] int32, lowest bit first)."""
        bits = masks[row].numpy().view("uint32")
        automaton = self._current()
        match _NOTHING if automaton is None else automaton.allowed():
            case Json(matcher):
                matcher.fill(masks, row)
                if not bits.any():  # a schema that no value satisfies, or none that begins like this
                    _set_only(bits, (REFUSAL,))
            case FreeText(end):
                bits[:] = _text_bits(32 * len(bits), end)
            case Only(tokens):
                _set_only(bits, tokens or (REFUSAL,))

    def is_terminated(self) -> bool:
        """Returns False: a turn that is over allows nothing, and not everything."""
        return False

    def _accept(self, token: int) -> bool:
        automaton = self._current()
        if automaton is None:
            return False
        try:
            automaton.accept(token)
        except OutOfGrammar:
            return False
        return True

    def _current(self) -> TurnGrammar[JsonMatcher] | None:
        """Returns the automaton, or None if the turn is refused."""
        if self._automaton is None and self._refusal is None:
            self._automaton = TurnGrammar(self._constraint, self._matcher_of, self._drafts_max)
            try:
                for token in self._own:
                    self._automaton.accept(token)
            except OutOfGrammar:
                self._refusal = _DEAD_END
        return self._automaton if self._refusal is None else None

    def _matcher_of(self, body: Body, end: int) -> JsonMatcher:
        return JsonMatcher(self._preparation.compiled[self._made_of[body]].result(), end)


class _Preparation:
    """Has a request's grammars compiled, a few at a time.

    Compiling takes from 20 ms to seconds, and a step that waited for it would delay every request's tokens.
    """

    def __init__(self, bodies: Iterable[Body], grammars: JsonGrammars) -> None:
        self.compiled: dict[Body, Compiled] = {}
        self._grammars = grammars
        self._missing = list(dict.fromkeys(bodies))
        self._latest: list[Compiled] = []
        self._deadline_s = time.monotonic() + _COMPILING_MAX_S

    def advance(self) -> bool:
        """Returns whether all have been compiled; if not, requests further ones. Raises Unfulfillable."""
        while all(grammar.done() for grammar in self._latest):
            for error in filter(None, (grammar.exception() for grammar in self._latest)):
                raise Unfulfillable(str(error))
            if not self._missing:
                return True
            bodies, self._missing = self._missing[:_AT_ONCE_MAX], self._missing[_AT_ONCE_MAX:]
            self._latest = [self._grammars.begin(body) for body in bodies]
            self.compiled |= zip(bodies, self._latest, strict=True)
        if time.monotonic() > self._deadline_s:
            raise Unfulfillable(f"The JSON schema takes more than {_COMPILING_MAX_S:.0f} s to compile")
        return False


def _grammar_bodies_of(constraint: Constraint) -> dict[Body, Body]:
    """Returns, for each JSON body of the turn, the body whose grammar it uses.

    Beyond `_BODIES_MAX` different bodies, those that are not strict share the grammar of any JSON object.
    Raises Unfulfillable if the strict ones alone exceed the limit.
    """
    bodies = [] if constraint.final is None else [constraint.final]
    bodies += [call.arguments for call in constraint.calls]
    different = [body for body in dict.fromkeys(bodies) if body.is_json]
    if len(different) <= _BODIES_MAX:
        return {body: body for body in different}
    first_of_all = sorted(different, key=lambda body: not (body.is_strict and body.schema))
    kept, others = first_of_all[: _BODIES_MAX - 1], first_of_all[_BODIES_MAX - 1 :]
    if others[0].is_strict and others[0].schema:
        raise Unfulfillable(
            f"At most {_BODIES_MAX - 1} different strict JSON schemas can be enforced in one request"
        )
    return {body: body for body in kept} | dict.fromkeys(others, _ANY_OBJECT)


def _set_only(bits: Any, tokens: Iterable[int]) -> None:
    """Sets a mask's row to exactly these tokens. `bits`: uint32 words of 32 ids each, lowest bit first."""
    bits[:] = 0
    for token in tokens:
        bits[token >> 5] |= 1 << (token & 31)


@lru_cache(maxsize=8)
def _text_bits(ids: int, end: int) -> Any:
    allowed = bytearray(b"\xff" * (ids // 8))
    for token in CONTROL_TOKENS:
        if token != end:
            allowed[token >> 3] &= ~(1 << (token & 7))
    return torch.frombuffer(allowed, dtype=torch.int32).numpy().view("uint32")
