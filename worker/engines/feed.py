"""Passes one generation's chunks from the steps of its engine to its sink.

Owns when a sink is given what, and how the end reaches the caller that waits for it. What the chunks are, and
when there is one, is the engine's.
"""

import asyncio
from collections import deque
from collections.abc import Callable

from worker.engines.protocol import Sink, TokenChunk


class Feed:
    """`give` and `fail` are for the engine's step and never raise; `run` is for the caller, who waits."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.has_begun = False
        """It was given something."""
        self.is_over = False
        """Nothing more is taken."""
        self.is_waiting = False
        """The sink catches up; what is given meanwhile is kept for it."""
        self._kept: deque[TokenChunk] = deque()
        self._failure: Exception | None = None
        self._changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def give(self, chunk: TokenChunk) -> None:
        if self.is_over:
            return
        self.has_begun = True
        if self.is_waiting:
            self._kept.append(chunk)
            return
        try:
            verdict = self._sink.take(chunk)
        except Exception as failure:  # noqa: BLE001  `run` raises it
            self.fail(failure)
            return
        if chunk.finish_reason is not None or verdict == "stop":
            self.close()
        elif verdict == "wait":
            self.is_waiting = True
            self._tell()

    def fail(self, failure: Exception) -> None:
        """Ends the generation with an error."""
        if not self.is_over:
            self._failure = failure
            self.close()

    def close(self) -> None:
        self.is_over = True
        self._tell()

    async def run(self, go_on: Callable[[], None] = lambda: None) -> None:
        """Returns when the generation is over. Raises what it failed with, or what the sink raises.

        `go_on` is called each time when the sink has caught up.
        """
        while True:
            await self._changed
            if self._failure is not None:
                raise self._failure
            if self.is_over:
                return
            await self._sink.catch_up()
            if self.is_over:
                continue
            self._changed = asyncio.get_running_loop().create_future()
            self.is_waiting = False
            while self._kept and not (self.is_waiting or self.is_over):
                self.give(self._kept.popleft())
            if not self.is_waiting:
                go_on()

    def _tell(self) -> None:
        if not self._changed.done():
            self._changed.set_result(None)
