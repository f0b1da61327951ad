"""The scripted engine: an `Engine` that plays a script as real Harmony tokens, at the script's pace.

Owns timing and the running requests; `scene.py` and `turn.py` decide what is said. It is not a language
model, and sees nothing but the prompt's tokens.
"""

import asyncio
import math
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import replace

from worker.engines.protocol import EngineDead, Sampling, TokenChunk, TokenLogprob
from worker.engines.scripted.prompt import read_prompt
from worker.engines.scripted.scene import Pace, find_cue
from worker.engines.scripted.script import Script
from worker.engines.scripted.turn import Pieces, continue_turn
from worker.harmony.tokens import STOP_TOKENS

_TICK_S = 0.002
_TOKENS_BETWEEN_PAUSES = 32
"""After this many tokens without a wait, a generation yields to the loop's other tasks."""
_TOKENS_READ_AT_ONCE_MAX = 4_096
"""A longer prompt is read in a thread, so that no other request waits for it."""
_NOTHING_YET = TokenChunk(())


class ScriptedEngine:
    """Plays `script`. `pace` overrides the pace of every scene."""

    context_tokens_max = 2**31 - 1

    def __init__(self, script: Script, *, pace: Pace | None = None) -> None:
        self._script, self._pace = script, pace
        self._metronome = _Metronome()
        self._is_started = False
        self._stopped = asyncio.Event()
        self._under_way: set[str] = set()

    async def start(self) -> None:
        self._is_started = True
        self._stopped.clear()

    @property
    def requests_under_way(self) -> int:
        return len(self._under_way)

    async def generate(
        self, prompt: Sequence[int], sampling: Sampling, *, request_id: str, model: str = "default"
    ) -> AsyncGenerator[TokenChunk, None]:
        """Yields the rest of the turn that the prompt calls for; see `Engine.generate`.

        If the prompt already contains the whole turn, yields one empty chunk. Raises EngineDead before
        `start` and after `stop`, ValueError if `max_tokens` is below 1 or `request_id` is in use.
        """
        self._admit(request_id, sampling)
        try:
            tokens = list(prompt)
            is_long = len(tokens) > _TOKENS_READ_AT_ONCE_MAX
            seen = await asyncio.to_thread(read_prompt, tokens) if is_long else read_prompt(tokens)
            cue = find_cue(self._script.scenes, seen)
            pace = self._pace or cue.scene.pace
            timing = _Timing(pace, self._metronome)
            for chunk in _cut(continue_turn(tokens, seen.turn_begin, cue), sampling, pace.chunk_tokens):
                await timing.wait_for(chunk)
                if not self._is_started:
                    yield TokenChunk((), "abort")
                    return
                if chunk is not _NOTHING_YET:
                    yield _measure(chunk, sampling.top_logprobs)
        finally:
            self._under_way.discard(request_id)

    async def wait_until_dead(self) -> None:
        """Returns after `stop`; this engine never dies by itself."""
        await self._stopped.wait()

    async def stop(self) -> None:
        self._is_started = False
        self._stopped.set()
        self._metronome.ring_all()

    def _admit(self, request_id: str, sampling: Sampling) -> None:
        if not self._is_started:
            raise EngineDead("the scripted engine is not running")
        if sampling.max_tokens < 1:
            raise ValueError(f"max_tokens is {sampling.max_tokens}; it must be at least 1")
        if request_id in self._under_way:
            raise ValueError(f"request_id {request_id!r} is in use")
        self._under_way.add(request_id)


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


class _Timing:
    """Decides when each token of one generation is due. A late reader gets everything that is due at once."""

    def __init__(self, pace: Pace, metronome: "_Metronome") -> None:
        self._metronome = metronome
        self._now_s = asyncio.get_running_loop().time
        self._begin_s = self._now_s() + pace.first_token_s
        self._per_token_s = 1 / pace.tokens_per_s if pace.tokens_per_s else 0.0
        self._sent = 0
        self._without_pause = 0

    async def wait_for(self, chunk: TokenChunk) -> None:
        """Returns when the chunk's last token is due; at times yields to other tasks."""
        if chunk is _NOTHING_YET:
            await asyncio.sleep(0)
            return
        self._sent += len(chunk.token_ids)
        self._without_pause += len(chunk.token_ids)
        due_s = self._begin_s + (self._sent - 1) * self._per_token_s
        if due_s > self._now_s():
            await self._metronome.wait_until(due_s)
        elif self._without_pause >= _TOKENS_BETWEEN_PAUSES:
            await asyncio.sleep(0)
        else:
            return
        self._without_pause = 0


class _Metronome:
    """Sets one timer per tick, however many generations are due in it."""

    def __init__(self) -> None:
        self._ticks: dict[int, asyncio.Event] = {}

    async def wait_until(self, due_s: float) -> None:
        """Returns at the first tick not before `due_s` (loop time), or on `ring_all`."""
        tick = math.ceil(due_s / _TICK_S)
        event = self._ticks.get(tick)
        if event is None:
            event = self._ticks[tick] = asyncio.Event()
            asyncio.get_running_loop().call_at(tick * _TICK_S, self._ring, tick)
        await event.wait()

    def ring_all(self) -> None:
        for tick in tuple(self._ticks):
            self._ring(tick)

    def _ring(self, tick: int) -> None:
        event = self._ticks.pop(tick, None)
        if event:
            event.set()
