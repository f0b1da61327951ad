"""Enforces a turn's constraint in vLLM, as a logits processor for its first model runner.

Owns one automaton for each row of a batch, and the exchange between the worker's process and vLLM's.
`turn_grammar.py` owns what a turn may say. Source: vllm/v1/sample/logits_processor (0.32).
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec
import torch
from vllm import SamplingParams
from vllm.config import VllmConfig
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality

from worker.engines.protocol import Body, Constraint, Unfulfillable
from worker.engines.vllm.json_grammar import Compiled, JsonGrammars, JsonMatcher, apply_masks, grammars_of
from worker.engines.vllm.turn_grammar import FreeText, Json, Only, OutOfGrammar, TurnGrammar
from worker.harmony.tokens import CONTROL_TOKENS

PROCESSOR = "worker.engines.vllm.logits:TurnConstraints"
WORKER_EXTENSION = "worker.engines.vllm.logits.GrammarCompiling"
REFUSAL = CONTROL_TOKENS[-1]
"""A reserved token, generated if a turn cannot continue; a stop token of every constrained turn."""
_KEY = "antiphon_turn"
_REMEMBERED_MAX = 256
_BODIES_MAX = 128
"""The number of different grammars that one request may use; far fewer than `JsonGrammars` keeps."""
_AT_ONCE_MAX = 16
"""Grammars requested in one call, so that a request with many takes turns with the others."""
_ANY_OBJECT = Body(True)
_WAIT_FIRST_S, _WAIT_MOST_S, _WAIT_S = 0.02, 0.5, 120.0


class _Turn(msgspec.Struct, frozen=True):
    """What vLLM passes along with a request."""

    constraint: Constraint
    tokens: int
    """How many of the prompt's last tokens belong to the turn."""


# --- in the worker's process --------------------------------------------------------------------


def to_extra_args(constraint: Constraint | None, turn_tokens: int) -> dict[str, Any] | None:
    """Returns `SamplingParams.extra_args`, in types that can be sent between processes."""
    if constraint is None:
        return None
    return {_KEY: msgspec.to_builtins(_Turn(constraint, turn_tokens))}


class GrammarPreparation:
    """Has vLLM's processes compile a request's grammars before it is queued.

    Compiling takes from 20 ms to seconds, and a step that waited for it would delay every request's tokens.
    `call`: `AsyncLLM.collective_rpc`.
    """

    def __init__(self, call: Callable[..., Awaitable[Sequence[str | None]]]) -> None:
        self._call = call
        self._prepared: OrderedDict[Body, None] = OrderedDict()

    async def prepare(self, constraint: Constraint) -> None:
        """Returns when every grammar has been compiled. Raises Unfulfillable."""
        bodies = list(dict.fromkeys(_grammar_bodies_of(constraint).values()))
        missing = [body for body in bodies if body not in self._prepared]
        for start in range(0, len(missing), _AT_ONCE_MAX):
            await self._compile(missing[start : start + _AT_ONCE_MAX])
        for body in bodies:
            self._prepared[body] = None
            self._prepared.move_to_end(body)
        while len(self._prepared) > _REMEMBERED_MAX:
            self._prepared.popitem(last=False)

    async def _compile(self, bodies: list[Body]) -> None:
        args = (msgspec.to_builtins(bodies),)
        wait_s, waited_s = _WAIT_FIRST_S, 0.0
        while not all(states := [*await self._call("compile_json_grammars", args=args)]):
            if waited_s > _WAIT_S:
                raise Unfulfillable(f"The JSON schema takes more than {_WAIT_S:.0f} s to compile")
            await asyncio.sleep(wait_s)
            waited_s += wait_s
            wait_s = min(2 * wait_s, _WAIT_MOST_S)
        for state in states:
            if state != _COMPILED:
                raise Unfulfillable(state)


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


# --- in vLLM's processes ------------------------------------------------------------------------

_COMPILED = "compiled"


class GrammarCompiling:
    """Extends vLLM's workers with a call that compiles grammars (`worker_extension_cls`)."""

    model_config: Any

    def compile_json_grammars(self, bodies: list[dict[str, Any]]) -> str | None:
        """Returns at once: `compiled`, an error message, or None if the grammars are still being compiled."""
        grammars = grammars_of(self.model_config.get_vocab_size())
        compiled = [grammars.begin(body) for body in msgspec.convert(bodies, list[Body])]
        errors = [error for grammar in compiled if grammar.done() and (error := grammar.exception())]
        if errors:
            return str(errors[0])
        return _COMPILED if all(grammar.done() for grammar in compiled) else None


class TurnConstraints(LogitsProcessor):  # type: ignore[misc]
    """Masks the rows that have a constraint. Nothing in a single request can make it raise."""

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Raises ValueError for a turn that cannot be read."""
        _read_turn(sampling_params)

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        self._vocabulary_size = vllm_config.model_config.get_vocab_size()
        self._grammars = grammars_of(self._vocabulary_size)
        self._device = device
        self._is_pin_memory = is_pin_memory
        self._rows: dict[int, _Row] = {}

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        if batch_update is None:
            return
        rows = self._rows
        for index in batch_update.removed:
            rows.pop(index, None)
        for index, params, prompt, output in batch_update.added:
            rows.pop(index, None)
            turn = _read_turn(params)
            if turn is not None:
                own = (prompt or [])[len(prompt or ()) - turn.tokens :]
                rows[index] = _Row(turn.constraint, own, output, self._grammars)
        for source, target, direction in batch_update.moved:
            moved, replaced = rows.pop(source, None), rows.pop(target, None)
            if moved is not None:
                rows[target] = moved
            if replaced is not None and direction is MoveDirectionality.SWAP:
                rows[source] = replaced

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        if not self._rows:
            return logits
        rows = sorted(self._rows)
        # New memory each time (PyTorch caches it): the device may still be reading the last step's.
        shape = rows[-1] + 1, (self._vocabulary_size + 31) // 32
        masks = torch.empty(shape, dtype=torch.int32, pin_memory=self._is_pin_memory)
        self._fill(masks, rows)
        apply_masks(logits, masks.to(self._device, non_blocking=True), rows)
        return logits

    def _fill(self, masks: torch.Tensor, rows: Sequence[int]) -> None:
        bits = masks.numpy().view("uint32")
        matchers: dict[int, JsonMatcher] = {}
        for row in rows:
            match self._rows[row].allowed():
                case Json(matcher):
                    matchers[row] = matcher
                case FreeText(end):
                    bits[row] = _text_bits(self._vocabulary_size, end)
                case Only(tokens):
                    _set_only(bits[row], tokens or (REFUSAL,))
        if matchers:
            self._grammars.fill(list(matchers.values()), masks, list(matchers))
        for row in matchers:
            if not bits[row].any():  # a schema that no value satisfies, or none that begins like this
                _set_only(bits[row], (REFUSAL,))


class _Row:
    """One request's automaton, which catches up with the request's tokens on demand."""

    def __init__(
        self, constraint: Constraint, own: Sequence[int], output: list[int], grammars: JsonGrammars
    ) -> None:
        """`own`: the turn's tokens in the prompt; `output`: vLLM's list of output tokens, which grows."""
        self._constraint = constraint
        self._own = own
        self._output = output
        self._grammar: TurnGrammar[JsonMatcher] | None = None
        self._read = 0
        self._is_refused = False
        self._compiled: dict[Body, Compiled] = {}
        try:
            bodies = _grammar_bodies_of(constraint)
            self._compiled = {body: grammars.begin(made_of) for body, made_of in bodies.items()}
        except Unfulfillable:
            self._is_refused = True

    def allowed(self) -> Only | FreeText | Json[JsonMatcher]:
        try:
            return self._catch_up().allowed()
        except (OutOfGrammar, Unfulfillable):
            self._is_refused = True
            return Only(frozenset())

    def _catch_up(self) -> TurnGrammar[JsonMatcher]:
        if self._is_refused:
            raise OutOfGrammar("the turn was refused before")
        if self._grammar is None or self._read > len(self._output):  # vLLM removed tokens
            self._grammar, self._read = TurnGrammar(self._constraint, self._matcher_of), 0
            for token in self._own:
                self._grammar.accept(token)
        for token in self._output[self._read :]:
            self._grammar.accept(token)
            self._read += 1
        return self._grammar

    def _matcher_of(self, body: Body, end: int) -> JsonMatcher:
        return JsonMatcher(self._compiled[body].result(), end)


def _read_turn(params: SamplingParams) -> _Turn | None:
    extra: Mapping[str, Any] = params.extra_args or {}
    try:
        return msgspec.convert(extra[_KEY], _Turn) if _KEY in extra else None
    except msgspec.ValidationError as error:
        raise ValueError(f"extra_args.{_KEY}: {error}") from error


def _set_only(bits: Any, tokens: Iterable[int]) -> None:
    """Sets a mask's row to exactly these tokens. `bits`: uint32 words of 32 ids each, lowest bit first."""
    bits[:] = 0
    for token in tokens:
        bits[token >> 5] |= 1 << (token & 31)


@lru_cache(maxsize=8)
def _text_bits(vocabulary_size: int, end: int) -> Any:
    allowed = bytearray(b"\xff" * ((vocabulary_size + 31) // 32 * 4))
    for token in CONTROL_TOKENS:
        if token != end:
            allowed[token >> 3] &= ~(1 << (token & 7))
    return torch.frombuffer(allowed, dtype=torch.int32).numpy().view("uint32")
