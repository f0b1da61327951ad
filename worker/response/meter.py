"""Measures the responses and turns of a worker, for its metrics: how long what takes, and how it ends.

Owns the clock of each, and which turns are stalled. Nothing here is called for a token: a turn's tokens are
counted where they are kept, once a second and at its end.
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from shared import metrics
from shared.responses import Response

_LOOK_S = 1.0
STALL_S = 3.0
"""A turn that has begun to answer counts as stalled if it has no token for so long."""


class TurnPace:
    """One turn, while the engine generates it."""

    __slots__ = ("first_s", "generated", "is_stalled", "last_change_s", "prompt_tokens", "seen")

    def __init__(self, prompt_tokens: int, generated: Sequence[int]) -> None:
        """`generated`: the turn's tokens, which grow."""
        self.prompt_tokens = prompt_tokens
        self.generated = generated
        self.first_s: float | None = None
        """When the first token came (loop time); None: there is none, or an earlier owner generated it."""
        self.seen = 0
        self.last_change_s = 0.0
        self.is_stalled = False

    def begin(self, cached_tokens: int) -> None:
        """Called with the turn's first token. `cached_tokens`: of its prompt."""
        if self.first_s is None:
            self.first_s = self.last_change_s = asyncio.get_running_loop().time()
            metrics.PREFIX_LOOKED_UP.value += self.prompt_tokens
            metrics.PREFIX_FOUND.value += cached_tokens

    def look(self, now_s: float) -> None:
        """Notes whether it is stalled."""
        count = len(self.generated)
        if count != self.seen or self.first_s is None:
            self.seen, self.last_change_s, self.is_stalled = count, now_s, False
        elif not self.is_stalled and now_s - self.last_change_s >= STALL_S:
            self.is_stalled = True
            metrics.STALLS.inc()


class Meter:
    """What all responses of a worker are measured by."""

    def __init__(self) -> None:
        self._paces: set[TurnPace] = set()

    @property
    def generations(self) -> int:
        return len(self._paces)

    @property
    def stalled(self) -> int:
        return sum(pace.is_stalled for pace in self._paces)

    async def run(self) -> None:
        """Looks for stalled turns until cancelled."""
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(_LOOK_S)
            self.look(clock())

    def look(self, now_s: float) -> None:
        for pace in self._paces:
            pace.look(now_s)

    @contextmanager
    def turn(
        self, model: str, prompt_tokens: int, generated: Sequence[int], accepted_s: float | None
    ) -> Iterator[TurnPace]:
        """Measures a turn while the engine generates it.

        `accepted_s`: when its response was accepted (loop time), if this is the response's first token.
        """
        pace, label = TurnPace(prompt_tokens, generated), metrics.model_label(model)
        self._paces.add(pace)
        try:
            yield pace
        finally:
            self._paces.discard(pace)
            if pace.first_s is not None and accepted_s is not None:
                metrics.FIRST_TOKEN.labels(label).observe(max(0.0, pace.first_s - accepted_s))
        if pace.first_s is not None and len(generated) > 1:
            took_s = asyncio.get_running_loop().time() - pace.first_s
            metrics.PER_TOKEN.labels(label).observe(took_s / (len(generated) - 1))


def count_end(response: Response, accepted_s: float | None = None) -> None:
    """Counts a response that this worker has ended, and its tokens.

    `accepted_s`: when it was accepted (loop time), if it has come to an end of its own.
    """
    label = metrics.model_label(response.model)
    metrics.RESPONSES.labels(label, response.status).inc()
    if accepted_s is not None:
        took_s = asyncio.get_running_loop().time() - accepted_s
        metrics.REQUEST_DURATION.labels(label).observe(max(0.0, took_s))
    if response.usage is not None:
        read, written = response.usage.input_tokens_details, response.usage.output_tokens_details
        counts = {
            "input": response.usage.input_tokens,
            "cached": read.cached_tokens,
            "output": response.usage.output_tokens,
            "reasoning": written.reasoning_tokens,
        }
        for kind, count in counts.items():
            metrics.TOKENS.labels(label, kind).inc(count)
