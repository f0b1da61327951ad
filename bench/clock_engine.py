"""An engine that tells the time: each token is the word of the moment at which it was due.

Owns the order that a message gives it and the steps; all generations of a phase get their tokens in one step,
as those of a batch do. `words.py` owns the words.
"""

import asyncio
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from bench import words
from bench.unlimited_engine import UnlimitedEngine
from worker.engines.feed import Feed
from worker.engines.protocol import Sampling, Sink, TokenChunk
from worker.engines.scripted.prompt import read_prompt
from worker.harmony.tokens import CHANNEL, MESSAGE, RETURN, encode

_ORDER = re.compile(r"from (\d+) to (\d+) ms, every (\d+) ms, in phase (\d+) of (\d+)")


@dataclass(frozen=True, slots=True)
class Order:
    """Says when to speak, in whole milliseconds of the machine's monotonic clock, which all processes share.

    With `begin_ms` == `end_ms`, it opens a message, and says nothing until its end.
    """

    begin_ms: int
    end_ms: int
    every_ms: int = 20
    phase: int = 0
    phases: int = 1

    @property
    def text(self) -> str:
        return (
            f"Tell the time from {self.begin_ms} to {self.end_ms} ms, every {self.every_ms} ms, "
            f"in phase {self.phase} of {self.phases}."
        )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError if the text gives no order."""
        found = _ORDER.search(text)
        if found is None:
            raise ValueError(f"no order for the clock: {text!r}")
        return cls(*map(int, found.groups()))

    @property
    def offset_ms(self) -> int:
        """Returns how long after a multiple of `every_ms` its steps are."""
        return self.every_ms * self.phase // self.phases


def next_step_ms(order: Order, now_ms: float) -> int:
    """Returns the time of the first step after `now_ms`; those that were missed are left out."""
    begun = math.floor((now_ms - order.offset_ms) / order.every_ms)
    return (begun + 1) * order.every_ms + order.offset_ms


class ClockEngine(UnlimitedEngine):
    """Says what the orders of its prompts ask for."""

    def __init__(self) -> None:
        self._beats: dict[tuple[int, int], _Beat] = {}
        self._opening = (CHANNEL, *encode("final"), MESSAGE)

    async def start(self) -> None:
        words.all_tokens()

    async def generate(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        sink: Sink,
        *,
        request_id: str,
        model: str = "default",
    ) -> None:
        order, feed = Order.parse(read_prompt(list(prompt)).user_text), Feed(sink)
        loop = asyncio.get_running_loop()
        feed.give(TokenChunk(self._opening))
        if order.begin_ms < order.end_ms:
            timer = loop.call_at(order.begin_ms / 1000, self._beat_of(order).add, feed)
        else:
            timer = loop.call_at(order.end_ms / 1000, _end, feed)
        ending = loop.call_at(order.end_ms / 1000, _end, feed)
        try:
            await feed.run()
        finally:
            timer.cancel()
            ending.cancel()
            feed.close()

    async def stop(self) -> None:
        for beat in self._beats.values():
            beat.stop()

    def _beat_of(self, order: Order) -> "_Beat":
        key = order.every_ms, order.offset_ms
        if key not in self._beats:
            self._beats[key] = _Beat(order)
        return self._beats[key]


def _end(feed: Feed) -> None:
    feed.give(TokenChunk((RETURN,), "stop"))


class _Beat:
    """The steps of one phase. One timer for all its generations."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._feeds: list[Feed] = []
        self._timer: asyncio.TimerHandle | None = None
        self._due_ms = 0
        self._tokens = words.all_tokens()

    def add(self, feed: Feed) -> None:
        self._feeds.append(feed)
        if self._timer is None:
            self._set_timer()

    def stop(self) -> None:
        self._feeds.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _set_timer(self) -> None:
        loop = asyncio.get_running_loop()
        self._due_ms = next_step_ms(self._order, max(self._due_ms, 1000 * loop.time()))
        self._timer = loop.call_at(self._due_ms / 1000, self._step)

    def _step(self) -> None:
        self._feeds = [feed for feed in self._feeds if not feed.is_over]
        chunk = TokenChunk((self._tokens[words.moment_of(self._due_ms)],))
        for feed in self._feeds:
            feed.give(chunk)
        self._timer = None
        if self._feeds:
            self._set_timer()
