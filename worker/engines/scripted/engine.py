"""The scripted engine: an `Engine` that plays a script as real Harmony tokens, at the script's pace.

Owns timing and the running requests; `scene.py` and `turn.py` decide what is said. It is not a language
model, and sees nothing but the prompt's tokens.
"""

import asyncio
import math
import sys
from collections.abc import Callable, Iterator, Sequence

from msgspec.structs import replace

from worker.engines.feed import Feed
from worker.engines.protocol import EngineDead, EngineFigures, Sampling, Sink, TokenChunk, TokenLogprob
from worker.engines.scripted.prompt import read_prompt
from worker.engines.scripted.scene import Pace, find_cue
from worker.engines.scripted.script import Script
from worker.engines.scripted.turn import Pieces, continue_turn
from worker.harmony.tokens import STOP_TOKENS

_TICK_S = 0.002
_TOKENS_BETWEEN_PAUSES = 32
"""After this many tokens without a wait, a generation yields to the loop's other tasks."""
_STEP_TOLERANCE = 0.001
"""The part of a step by which the clock may be behind when the step begins."""
_TOKENS_READ_AT_ONCE_MAX = 4_096
"""A longer prompt is read in a thread, so that no other request waits for it."""
_NOTHING_YET = TokenChunk(())
"""Comes while a performance still looks for its place."""


class ScriptedEngine:
    """Plays `script`. `pace` overrides the pace of every scene; `adapters` all say the same; `sequences_max`:
    how many generations it says it can run, 0 for any number."""

    context_tokens_max = 2**31 - 1
    names: Sequence[str] = ()

    def __init__(
        self,
        script: Script,
        *,
        pace: Pace | None = None,
        adapters: Sequence[str] = (),
        sequences_max: int = 0,
    ) -> None:
        self._sequences_max = sequences_max or sys.maxsize
        self._script, self._pace, self.adapters = script, pace, adapters
        self._metronome = _Metronome()
        self._is_started = False
        self._stopped = asyncio.Event()
        self._under_way: dict[str, Feed] = {}

    async def start(self) -> None:
        self._is_started = True
        self._stopped.clear()

    @property
    def requests_under_way(self) -> int:
        return len(self._under_way)

    def sequences_max(self) -> int:
        return self._sequences_max

    async def generate(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        sink: Sink,
        *,
        request_id: str,
        model: str = "default",
    ) -> None:
        """Plays what is left of the turn that the prompt calls for; see `Engine.generate`.

        If the prompt already contains the whole turn, yields one empty chunk. Raises EngineDead before
        `start` and after `stop`, ValueError if `max_tokens` is below 1 or `request_id` is in use.
        """
        feed = self._admit(request_id, sampling, sink)
        try:
            tokens = list(prompt)
            is_long = len(tokens) > _TOKENS_READ_AT_ONCE_MAX
            seen = await asyncio.to_thread(read_prompt, tokens) if is_long else read_prompt(tokens)
            cue = find_cue(self._script.scenes, seen)
            pace = self._pace or cue.scene.pace
            chunks = _cut(continue_turn(tokens, seen.turn_begin, cue), sampling, pace.chunk_tokens)
            performance = _Performance(chunks, sampling.top_logprobs, feed, _Timing(pace), self._metronome)
            performance.go_on()
            await feed.run(performance.go_on)
        finally:
            feed.close()
            del self._under_way[request_id]

    def figures(self) -> EngineFigures:
        running = sum(feed.has_begun for feed in self._under_way.values())
        return EngineFigures(running, len(self._under_way) - running)

    async def wait_until_dead(self) -> None:
        """Returns after `stop`; this engine never dies by itself."""
        await self._stopped.wait()

    async def stop(self) -> None:
        self._is_started = False
        self._stopped.set()
        for feed in self._under_way.values():
            feed.give(TokenChunk((), "abort"))
        self._metronome.stop()

    def _admit(self, request_id: str, sampling: Sampling, sink: Sink) -> Feed:
        if not self._is_started:
            raise EngineDead("the scripted engine is not running")
        if sampling.max_tokens < 1:
            raise ValueError(f"max_tokens is {sampling.max_tokens}; it must be at least 1")
        if request_id in self._under_way:
            raise ValueError(f"request_id {request_id!r} is in use")
        feed = self._under_way[request_id] = Feed(sink)
        return feed


def _cut(pieces: Pieces, sampling: Sampling, chunk_tokens: int) -> Iterator[TokenChunk]:
    """Yields chunks of `chunk_tokens` tokens, up to a stop token or `max_tokens`; a stop token wins a tie."""
    stops = frozenset((*STOP_TOKENS, *sampling.stop_token_ids))
    tokens: list[int] = []
    left = sampling.max_tokens
    for piece in pieces:
        if not piece:
            yield _NOTHING_YET
        for token in piece:
            tokens.append(token)
            left -= 1
            if token in stops or left == 0:
                yield TokenChunk(tuple(tokens), "stop" if token in stops else "length")
                return
            if len(tokens) == chunk_tokens:
                yield TokenChunk(tuple(tokens))
                tokens.clear()
    yield TokenChunk(tuple(tokens), "stop")


def _measure(chunk: TokenChunk, top_logprobs: int | None) -> TokenChunk:
    """Adds log probabilities, if asked for: every token of a script has probability 1."""
    if top_logprobs is None:
        return chunk
    certain = (TokenLogprob(0.0, ((token, 0.0),) if top_logprobs else ()) for token in chunk.token_ids)
    return replace(chunk, logprobs=tuple(certain))


class _Performance:
    """Gives the chunks of one generation to its feed, each when it is due."""

    def __init__(
        self,
        chunks: Iterator[TokenChunk],
        top_logprobs: int | None,
        feed: Feed,
        timing: "_Timing",
        metronome: "_Metronome",
    ) -> None:
        self._chunks, self._top_logprobs, self._feed = chunks, top_logprobs, feed
        self._timing, self._metronome = timing, metronome
        self._loop = asyncio.get_running_loop()
        self._next: tuple[TokenChunk, float] | None = None
        """The next chunk, and when it is due."""

    def go_on(self) -> None:
        self._play(self._loop.time())

    def _play(self, now_s: float) -> None:
        """Gives what is due by `now_s`, and arranges for the rest."""
        try:
            self._give_what_is_due(now_s)
        except Exception as failure:  # noqa: BLE001  whoever waits for the generation raises it
            self._feed.fail(failure)

    def _give_what_is_due(self, now_s: float) -> None:
        feed, given = self._feed, 0
        while not (feed.is_over or feed.is_waiting):
            if given >= _TOKENS_BETWEEN_PAUSES:
                self._loop.call_soon(self.go_on)
                return
            if self._next is None:
                chunk = next(self._chunks)
                if chunk is _NOTHING_YET:
                    self._loop.call_soon(self.go_on)
                    return
                self._next = chunk, self._timing.due_s(len(chunk.token_ids), now_s)
            chunk, due_s = self._next
            if due_s > now_s:
                self._metronome.call_at(due_s, self._play)
                return
            self._next = None
            given += len(chunk.token_ids)
            feed.give(_measure(chunk, self._top_logprobs))


class _Timing:
    """Says when each chunk of one generation is due. One that is given late does not delay the next, except
    of steps: one that is missed is left out, as it is by a model that takes longer."""

    def __init__(self, pace: Pace) -> None:
        self._begin_s = asyncio.get_running_loop().time() + pace.first_token_s
        self._step_s = pace.step_s
        self._per_token_s = 1 / pace.tokens_per_s if pace.tokens_per_s else 0.0
        self._sent = 0

    def due_s(self, tokens: int, now_s: float) -> float:
        """Returns when the next chunk is due, in loop time: when its last token is."""
        self._sent += tokens
        if not self._step_s:
            return self._begin_s + (self._sent - 1) * self._per_token_s
        after_s = max(now_s, self._begin_s)
        return (math.floor(after_s / self._step_s + _STEP_TOLERANCE) + 1) * self._step_s


class _Metronome:
    """Sets one timer per tick, however many generations are due in it."""

    def __init__(self) -> None:
        self._ticks: dict[int, tuple[asyncio.TimerHandle, list[Callable[[float], None]]]] = {}

    def call_at(self, due_s: float, play: Callable[[float], None]) -> None:
        """Calls `play` with the time, at the first tick not before `due_s` (loop time)."""
        tick = math.ceil(due_s / _TICK_S)
        found = self._ticks.get(tick)
        if found is None:
            timer = asyncio.get_running_loop().call_at(tick * _TICK_S, self._ring, tick)
            found = self._ticks[tick] = timer, []
        found[1].append(play)

    def stop(self) -> None:
        """Forgets everything that is due."""
        for timer, _ in self._ticks.values():
            timer.cancel()
        self._ticks.clear()

    def _ring(self, tick: int) -> None:
        _, plays = self._ticks.pop(tick)
        now_s = max(tick * _TICK_S, asyncio.get_running_loop().time())  # the timer may be early or late
        for play in plays:
            play(now_s)
