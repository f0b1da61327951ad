"""What a token costs a worker, in counts that do not depend on the machine."""

import asyncio
import gc
import sys
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, cast

import msgspec

from shared.record_format import RECORD_FORMAT
from shared.settings import Settings
from shared.store.log.appender import Appender
from shared.store.redis.client import RedisClient
from tests.memory import NOW_S, MemoryLog, MemoryTools, lease_of
from tests.patience import until
from tests.requests import make_request
from worker.engines.scripted.engine import ScriptedEngine
from worker.engines.scripted.scene import Pace
from worker.engines.scripted.script import Script
from worker.harmony.tokens import CHANNEL, MESSAGE, encode
from worker.response.attempt import run_attempt
from worker.response.gathering import Gathering
from worker.response.history import History, LoadedRecord, history_of
from worker.response.log_writer import LogWriter
from worker.response.resources import Resources
from worker.response.translator import Translation
from worker.response.turn_reader import TurnReader
from worker.response.usage import Turn

REQUEST = make_request()


async def test_the_garbage_collector_has_nothing_to_walk_in_the_text_of_an_open_item() -> None:
    log = MemoryLog()
    writer = LogWriter(cast("Appender", log), lease_of(REQUEST), History(deque(), deque()))
    reader = TurnReader(Translation(REQUEST.response.id, {}))
    reader.begin_turn(Turn(0))

    async def read(tokens: list[int]) -> None:
        for token in tokens:
            await writer.put(reader.read(token), (token,))
        await writer.flush()

    await read([CHANNEL, *encode("final"), MESSAGE, *encode("The")])
    tracked = count_tracked()
    await read(encode(" whole") * 1000)
    assert len(log.entries) > 1000
    assert count_tracked() - tracked < 50


def count_tracked() -> int:
    """Returns how many objects a full collection has to walk."""
    gc.collect()
    return len(gc.get_objects())


# --- calls ----------------------------------------------------------------------------------------

SEQUENCES, TOKENS = 32, 40
ROOT = Path(__file__).parents[2]
NOT_COUNTED = (
    *(str(ROOT / folder) for folder in ("tests", "shared/store", "worker/engines/scripted")),
    *(str(Path(asyncio.__file__).with_name(name)) for name in ("base_events.py", "events.py")),
)
"""The log in memory, the store, the engine that stands for a model, and the loop, which has no Python in a
worker."""


@contextmanager
def counted_calls() -> Iterator[Counter[str]]:
    """Counts the Python functions that are called meanwhile, those of the standard library too."""
    calls = Counter[str]()

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and not frame.f_code.co_filename.startswith(NOT_COUNTED):
            calls[frame.f_code.co_qualname] += 1

    sys.setprofile(note)
    try:
        yield calls
    finally:
        sys.setprofile(None)


async def calls_per_token(
    gathering: Gathering, question: str = "Repeat hello there 1000 times", summary: str | None = None
) -> tuple[float, float, Counter[str]]:
    """Returns Python calls and appends per event, while all sequences of a batch are in a text."""
    engine = ScriptedEngine(Script.load(None), pace=Pace(step_s=0.005))
    await engine.start()
    logs = [MemoryLog() for _ in range(SEQUENCES)]

    async def attempt(number: int, log: MemoryLog) -> None:
        request = make_request(question, reasoning={"summary": summary})
        named = msgspec.structs.replace(request.response, id=f"resp_0_{number:032x}")
        request = msgspec.structs.replace(request, response=named)
        resources = Resources(
            Settings(),
            cast("RedisClient", None),
            cast("Appender", log),
            engine,
            MemoryTools(),
            lambda: NOW_S,
            gathering=gathering,
        )
        await run_attempt(
            resources, lease_of(request), LoadedRecord(request, 100, RECORD_FORMAT), history_of([])
        )

    attempts = [asyncio.create_task(attempt(*each)) for each in enumerate(logs)]
    await until(lambda: min(len(log.entries) for log in logs) > 20)
    before = [(len(log.entries), len(log.usages)) for log in logs]
    reached, most = asyncio.Event(), [count + TOKENS for count, _ in before]
    with counted_calls() as calls:
        while not reached.is_set():
            await asyncio.sleep(0.05)
            if all(len(log.entries) >= enough for log, enough in zip(logs, most, strict=True)):
                reached.set()
    tokens = sum(len(log.entries) - was for log, (was, _) in zip(logs, before, strict=True))
    appends = sum(len(log.usages) - was for log, (_, was) in zip(logs, before, strict=True))
    for each in attempts:
        each.cancel()
    await asyncio.gather(*attempts, return_exceptions=True)
    await engine.stop()
    return calls.total() / tokens, appends / tokens, calls


async def test_a_token_of_text_costs_a_dozen_calls_from_the_engines_step_to_its_append() -> None:
    calls, appends, found = await calls_per_token(Gathering(0.0))
    assert calls < 7.5 + 3 * appends, found.most_common(30)
    assert sum(count for name, count in found.items() if name.startswith("Event.")) < 100, "nothing wakes"


async def test_with_many_generations_two_tokens_leave_in_one_append_for_fewer_calls() -> None:
    calls, appends, found = await calls_per_token(Gathering(0.5))
    assert appends < 0.75
    assert calls < 10, found.most_common(30)


async def test_a_token_of_reasoning_costs_a_few_calls_more_if_it_is_summarised_and_else_none() -> None:
    """One looks at each token, the others are its share of what the end of a sentence costs."""
    thinking = "Think for 1000 steps"
    plain, appends, _ = await calls_per_token(Gathering(0.0), thinking)
    assert plain < 7.5 + 3 * appends
    told, appends, found = await calls_per_token(Gathering(0.0), thinking, "concise")
    assert told < 12.5 + 3 * appends, found.most_common(30)
