"""Logs recorded before an engine's step was a function call (ADR 33): today's worker makes the same bytes."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from shared.settings import Settings
from shared.store.log.event_log import Entry
from shared.store.redis.client import RedisClient
from tests.record_formats import Logged
from tests.recorded_logs import CASES, SCRIPT, answerer, read, settings_of
from tests.requests import accept
from tests.working import finish, leave_behind, restore_journal, working
from worker.engines.scripted.engine import ScriptedEngine
from worker.engines.scripted.scene import Pace
from worker.engines.scripted.script import Script
from worker.response.gathering import STREAMS_FULL

FORMAT = 2
"""The record format of the logs."""
SMALL = 40
"""Of a log with more entries, only each sixteenth of its deltas is a place to die."""


def places(logged: Logged) -> list[int]:
    """The lengths that a dead owner leaves behind: all, or all beside events that are no deltas."""
    log, begun = logged.log, 2 if logged.request.response.background else 1
    end = len(log) - 1 if b"event: error\n" in log[-2].frame else len(log)  # both are in one append
    if len(log) <= SMALL:
        return list(range(begun, end))
    deltas = [b".delta\n" in entry.frame for entry in log]
    return [i for i in range(begun, end) if i % 16 == 0 or i == begun or not all(deltas[i - 1 : i + 1])]


def find_difference(again: Sequence[Entry], logged: Logged, *, is_cancelled: bool) -> str:
    """Describes the first difference, if there is one.

    What a response that fails has used is counted beside its log, and a dead owner's count is not left
    behind; a cancelled response goes on, as nobody cancels it here.
    """
    *events, last = logged.log
    for number, entry in enumerate(events):
        if number >= len(again) or again[number] != entry:
            return f"{number}: {again[number : number + 1]} in place of {entry}"
    is_failed = b"event: response.failed\n" in last.frame
    ending = without_usage if is_failed else bytes
    if is_cancelled or (len(again) == len(logged.log) and ending(again[-1].frame) == ending(last.frame)):
        return ""
    return f"the end is {again[-1].frame!r} in place of {last.frame!r}"


def without_usage(frame: bytes) -> bytes:
    head, _, data = frame.partition(b"\ndata: ")
    event: dict[str, Any] = json.loads(data)
    event["response"].pop("usage")
    return head + json.dumps(event).encode()


@pytest.mark.parametrize("name", CASES)
async def test_a_recorded_log_is_continued_to_the_same_bytes_wherever_its_owner_died(
    redis: RedisClient, settings: Settings, name: str
) -> None:
    """Also where it had only begun: that is a whole run."""
    case = CASES[name]
    chosen = settings_of(case, settings)
    is_cancelled = bool(case.cancel_after)
    engine = ScriptedEngine(Script.load(SCRIPT), pace=Pace() if is_cancelled else None)
    async with working(redis, chosen, engine=engine, answer=answerer(case)) as worker:
        for logged in read()[name]:
            for length in places(logged):
                await redis.command("FLUSHALL")
                key = await leave_behind(
                    redis, chosen, worker, logged.request, logged.log[:length], record_format=FORMAT
                )
                await restore_journal(redis, key, logged.journal)
                again = await finish(redis, worker, key)
                assert not find_difference(again, logged, is_cancelled=is_cancelled), length


async def count(redis: RedisClient, command: str) -> int:
    stats = await redis.command("INFO", "commandstats")
    return int(stats.get(f"cmdstat_{command}", {"calls": 0})["calls"])


async def test_logs_recorded_one_by_one_are_the_same_beside_each_other_while_tokens_are_gathered(
    redis: RedisClient, settings: Settings
) -> None:
    """All at once, in steps of the engine that are shorter than a token may wait for the next one."""
    plain = [name for name, case in CASES.items() if not (case.settings or case.answer_words)]
    recorded = read()
    logs = [(logged, bool(CASES[name].cancel_after)) for name in plain for logged in recorded[name]]
    assert len(logs) > STREAMS_FULL
    engine = ScriptedEngine(Script.load(SCRIPT), pace=Pace(step_s=0.005))
    messages, entries = await count(redis, "publish"), await count(redis, "xadd")
    async with working(redis, settings, engine=engine, answer=answerer(CASES["python"])) as worker:

        async def run(logged: Logged, is_cancelled: bool) -> str:
            again = await finish(
                redis, worker, await accept(redis, settings, logged.request, record_format=FORMAT)
            )
            return find_difference(again, logged, is_cancelled=is_cancelled)

        differences = await asyncio.gather(*(run(*each) for each in logs))
    assert not any(differences), list(filter(None, differences))
    messages, entries = await count(redis, "publish") - messages, await count(redis, "xadd") - entries
    assert messages < 0.9 * entries, "tokens were gathered"
