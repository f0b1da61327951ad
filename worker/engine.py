"""What the worker asks of a model: token ids in, token ids out. Holds no engine itself.

`engines/scripted.py` plays scripts, `engines/vllm.py` runs GPT-OSS; both keep the same promises,
and one contract test holds them to it.
"""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

FinishReason = Literal["stop", "length", "abort"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to choose tokens. `max_tokens` counts generated tokens, the stop token included."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    stop_token_ids: tuple[int, ...] = ()


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


class EngineDead(Exception):
    """The engine cannot generate any more; the worker ends, so that others take over."""


class Engine(Protocol):
    async def start(self) -> None:
        """Loads what is needed; afterwards `generate` may be called any number of times at once."""

    def generate(
        self, prompt: Sequence[int], sampling: Sampling, *, request_id: str
    ) -> AsyncGenerator[TokenChunk, None]:
        """Continues `prompt`. Closing the generator frees the request. Raises EngineDead."""

    async def stop(self) -> None:
        """Frees everything; generations under way end with `abort`."""
