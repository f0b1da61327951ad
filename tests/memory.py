"""Runs an attempt without Redis: its log and its tools are in memory, everything else is the worker's own.

Owns what stands where the appender and the tool runners do. The log keeps to the rules of the real one
(`tests/integration/test_log.py` has those): entries follow each other without a gap, none follows the end.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import msgspec

from shared.events import StreamEvent
from shared.frames import decode
from shared.record_format import RECORD_FORMAT
from shared.responses import ResponseRequest
from shared.settings import Settings
from shared.store.keys import ResponseKey
from shared.store.log.appender import Appender
from shared.store.log.event_log import Entry
from shared.store.log.response_log import Closing, NewEntry, TailLost
from shared.store.owning.lease import Lease, LeaseLost
from shared.store.redis.client import RedisClient
from shared.tool_calls import ToolCall, ToolListing, ToolOutput, ToolResult, ToolTask
from worker.engines.protocol import Engine
from worker.engines.scripted.engine import ScriptedEngine
from worker.engines.scripted.script import Script
from worker.response.attempt import run_attempt
from worker.response.history import LoadedRecord, history_of
from worker.response.resources import Resources
from worker.response.stepper import Stepper

NOW_S = 1_763_769_700


@dataclass(frozen=True, slots=True)
class MemoryWrite:
    """What `ResponseLog` would make of the same arguments."""

    key: ResponseKey
    first: int
    entries: Sequence[NewEntry]
    closing: Closing | None = None
    usage: bytes = b""


class MemoryLog:
    """One response's log after entry 0; stands where the appender and the log that it makes writes for do.
    Appends take a turn of the loop."""

    def __init__(self, entries: Sequence[Entry] = ()) -> None:
        self.entries = [NewEntry(entry.frame, entry.tokens, entry.token_record) for entry in entries]
        self.closing: Closing | None = None
        self.answered = b""
        """What closes the log if somebody else ends the response."""
        self.usages: list[bytes] = []
        """The usage passed with each append."""
        self.ends: list[int] = []
        """The number of the log's entries after each append."""
        self.is_held = False
        """Set to hold back every write until `let_go`, as if Redis were slow."""
        self.failure: Exception | None = None
        """The error with which the next append fails."""
        self._held: list[Callable[[], None]] = []

    def log_of(self, key: ResponseKey) -> "MemoryLog":
        self._key = key
        return self

    def append(self, token: str, first: int, entries: Sequence[NewEntry], usage: bytes = b"") -> MemoryWrite:
        return MemoryWrite(self._key, first, entries, usage=usage)

    def close(self, token: str, first: int, entries: Sequence[NewEntry], closing: Closing) -> MemoryWrite:
        return MemoryWrite(self._key, first, entries, closing)

    def answer(self, token: str, first: int, answered: bytes) -> tuple[int, bytes]:
        return first, answered

    async def write(self, answer: tuple[int, bytes]) -> None:
        first, answered = answer
        if (tail := len(self.entries) + 1) < first:
            raise TailLost(self._key, first, tail)
        self.answered = answered

    def send(self, make: Callable[[], MemoryWrite], on_outcome: Callable[[Exception | None], None]) -> None:
        def take(write: MemoryWrite) -> None:
            on_outcome(self._write(write))

        if self.is_held:
            self._held.append(partial(take, make()))  # a slow Redis has been sent it
        else:
            asyncio.get_running_loop().call_soon(lambda: take(make()))

    def let_go(self) -> None:
        self.is_held = False
        held, self._held = self._held, []
        for write in held:
            write()

    def lose(self, count: int) -> None:
        """Drops the last entries, as a failover does."""
        del self.entries[len(self.entries) - count :]

    def _write(self, write: MemoryWrite) -> Exception | None:
        failure, self.failure = self.failure, None
        if failure is not None:
            return failure
        if self.closing is not None:
            return LeaseLost("closed")
        tail = len(self.entries) + 1
        if write.first > tail:
            return TailLost(write.key, write.first, tail)
        assert write.first == tail, "an entry would stand there twice"
        self.entries += write.entries
        self.closing = write.closing
        self.usages.append(write.usage)
        self.ends.append(write.first + len(write.entries))
        return None

    @property
    def frames(self) -> list[bytes]:
        return [entry.frame for entry in self.entries]

    @property
    def events(self) -> list[StreamEvent]:
        return [decode(frame) for frame in self.frames]

    def read(self) -> list[Entry]:
        return [Entry(n, e.frame, e.tokens, e.token_record) for n, e in enumerate(self.entries, 1)]


def calculate(task: ToolTask) -> ToolResult:
    assert isinstance(task, ToolCall)
    code = msgspec.json.decode(task.arguments).get("code")
    return ToolOutput(f"{eval(code)}\n" if code is not None else f"{task.name} ran")


@dataclass
class MemoryTools:
    """Answers every call at once, and records the calls."""

    answer: Callable[[ToolTask], ToolResult] = calculate
    asked: list[ToolCall | ToolListing] = field(default_factory=list)
    repeatable: list[bool] = field(default_factory=list)

    async def call(self, _lease: Lease, _index: int, task: ToolTask, *, is_repeatable: bool) -> ToolResult:
        self.asked.append(task)
        self.repeatable.append(is_repeatable)
        await asyncio.sleep(0)
        return self.answer(task)


def lease_of(request: ResponseRequest) -> Lease:
    return Lease(ResponseKey("default", request.response.id), "worker", 1)


async def attempt(
    request: ResponseRequest,
    *,
    log: MemoryLog | None = None,
    tools: MemoryTools | None = None,
    script: str | None = None,
    engine: Engine | None = None,
    settings: Settings | None = None,
    record_format: int = RECORD_FORMAT,
) -> MemoryLog:
    """Runs one attempt to its end; the log that it leaves. Raises what `run_attempt` does.

    `log`: what earlier attempts have left.
    """
    log, engine = log or MemoryLog(), engine or ScriptedEngine(read_script(script))
    stepper = Stepper()
    resources = Resources(
        settings or Settings(),
        cast("RedisClient", None),  # an attempt uses Redis only through its log and its tools
        cast("Appender", log),
        engine,
        tools or MemoryTools(),
        lambda: NOW_S,
        stepper,
    )
    await engine.start()
    record = LoadedRecord(request, len(msgspec.json.encode(request)), record_format)
    try:
        await run_attempt(resources, lease_of(request), record, history_of(log.read()))
    finally:
        await engine.stop()
        stepper.close()
    return log


def read_script(text: str | None) -> Script:
    return Script.load(None) if text is None else Script.parse(text)
