"""What the worker asks of a model: token ids in, token ids out. Holds no engine itself.

`engines/scripted.py` plays scripts, `engines/vllm.py` runs GPT-OSS; both keep the same promises,
and one contract test holds them to it.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

FinishReason = Literal["stop", "length", "abort"]


@dataclass(frozen=True, slots=True)
class Body:
    """What the text of a message must be. `schema`: JSON text of a JSON schema; None with `is_json`: any
    JSON object."""

    is_json: bool = False
    schema: str | None = None
    is_strict: bool = True
    """False: what of the schema cannot be enforced may be left out; True: then the request fails."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call that may be made: the header's tokens, up to and with `<|message|>`, and its arguments."""

    recipient: str
    header: tuple[int, ...]
    arguments: Body


@dataclass(frozen=True, slots=True)
class Constraint:
    """A turn: any reasoning, then one of `calls`, or a final message if `final` says what it must be."""

    calls: tuple[Call, ...] = ()
    final: Body | None = Body()
    """None: the turn must end with a call."""
    free_tokens_max: int | None = None
    """So many of the turn's tokens may be spent before the call's or the final message's header begins:
    then reasoning is ended, so that there is room for the answer. None: any number."""


class Unfulfillable(Exception):
    """No turn can be what the request asks for; the reason is for the client to read."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to choose tokens. `max_tokens` counts generated tokens, the stop token included."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Token id -> what is added to its logit."""
    seed: int | None = None
    stop_token_ids: tuple[int, ...] = ()
    top_logprobs: int | None = None
    """If set, return each token's log probability and those of the N most likely alternatives."""
    constraint: Constraint | None = None
    """What the turn may say; None: anything."""
    turn_tokens: int = 0
    """So many of the prompt's last tokens are the turn's own, said by an earlier attempt: a constraint
    counts from before them."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Natural logarithms, of the model's own distribution: before temperature and constraint."""

    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    """(token id, logprob) of the most likely tokens at this position, most likely first."""


@dataclass(frozen=True, slots=True)
class TokenChunk:
    """Newly generated token ids, any number of them, in order; each token comes exactly once.

    The token that ended the generation is included. `finish_reason` is set on the last chunk only:
    `stop` (a stop token), `length` (`max_tokens` or the context is used up), `abort`.
    """

    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None = None
    cached_tokens: int = 0
    """How many of the prompt's tokens were in a prefix cache; the same on every chunk."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """One for each token if the sampling asks for them, else none."""


class EngineUnavailable(Exception):
    """The engine cannot be made or started as it is configured; the reason is for the operator."""


class EngineDead(Exception):
    """The engine cannot generate any more; the worker ends, so that others take over."""


class Unsupported(Exception):
    """The engine cannot do what a sampling asks for; the reason is for the client to read."""


class Engine(Protocol):
    context_tokens_max: int
    """Prompt and generated tokens together, of one request; known after `start`."""

    async def start(self) -> None:
        """Loads what is needed; afterwards `generate` may be called any number of times at once.

        Raises EngineUnavailable.
        """

    def generate(
        self, prompt: Sequence[int], sampling: Sampling, *, request_id: str, model: str = "default"
    ) -> AsyncGenerator[TokenChunk, None]:
        """Continues `prompt`. `model` may name an adapter; any other name means the model itself.

        Closing the generator frees the request. Raises EngineDead, Unsupported.
        """

    async def wait_until_dead(self) -> None:
        """Returns when the engine has died by itself, also while nothing is generated."""

    async def stop(self) -> None:
        """Frees everything; generations under way end with `abort`."""
