"""What a worker does about a call until it has its result, by the second: reads, makes it again, gives up.

Redis answers the journal's scripts as each test says (`Journal`); what the scripts themselves do is tried on
a real one (`tests/integration/test_tool_outages.py`).
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import msgspec
import pytest

from shared.responses import McpProtocolError
from shared.settings import Settings
from shared.store.keys import ResponseKey
from shared.store.owning.lease import Lease, LeaseLost
from shared.store.redis.client import RedisClient
from shared.store.redis.scripts import ScriptCall
from shared.tool_calls import ToolCall, ToolFailure, ToolIntent, ToolOutput, ToolResult
from tests.virtual_time import run_in_virtual_time
from worker.response.call_patience import LOST, TIMED_OUT
from worker.response.remote_tools import RemoteTools

CLAIM_TTL_S, TIMEOUT_S, OUTAGE_MAX_S = 3.0, 60.0, 20.0  # so that a call is read each second
SETTINGS = Settings(
    tool_claim_ttl_s=CLAIM_TTL_S,
    tool_timeout_s=TIMEOUT_S,
    tool_progress_max_s=0.0,
    redis_outage_max_s=OUTAGE_MAX_S,
)
LEASE = Lease(ResponseKey("default", "resp_1"), "worker", 3)
INDEX = 2
TASK = ToolCall("wiki", "ask", "{}")
DONE = ToolOutput("It is 42.")

QUEUED = [b"queued", b"", 1]
RUNNING = [b"running", b"runner 7000", 1]
LAPSED = [b"lapsed", b"runner 7000", 1]
UNKNOWN = [b"unknown", b"", 1]
UNQUEUED = [b"unqueued", b"", 1]
UNBEGUN = [b"unbegun", b"runner -1", 1]
RETURNED = [b"returned", b"runner 0", 1]


def answered(result: ToolResult = DONE) -> list[Any]:
    return [b"result", msgspec.json.encode(result)]


@dataclass(frozen=True)
class Asked:
    at_s: float
    script: str
    given: dict[str, Any]


class Journal:
    """Stands where Redis does. `state`: how far every call is, as `read.lua` says it."""

    def __init__(self, state: list[Any]) -> None:
        self.state = state
        self.asked: list[Asked] = []
        self.read_together: list[int] = []
        self.replies: dict[str, list[Any]] = {}
        """By script: its next replies, in place of those of a call that goes as it should."""
        self.is_away = False
        self.answers_after_s = 0.0
        self.is_confirming = False
        self.becomes_when_confirmed: list[Any] | None = None

    async def run(self, call: ScriptCall) -> Any:
        (reply,) = await self.run_many([call])
        return reply

    async def run_many(self, calls: Sequence[ScriptCall]) -> list[Any]:
        name = calls[0].script.name.removeprefix("tools/")
        if name == "read":
            self.read_together.append(len(calls))
        replies = [self._answer(name, call) for call in calls]
        await asyncio.sleep(self.answers_after_s)
        return replies

    async def confirm(self) -> None:
        self.state = self.becomes_when_confirmed or self.state

    def _answer(self, name: str, call: ScriptCall) -> Any:
        given = dict(zip(call.script.args, call.args, strict=True))
        self.asked.append(Asked(asyncio.get_running_loop().time(), name, given))
        if self.is_away:
            raise ConnectionError("away")
        if replies := self.replies.get(name):
            return replies.pop(0)
        match name:
            case "read":
                return self.state
            case "submit":
                self.state = QUEUED if self.state is UNKNOWN else self.state
                return [b"queued"]
            case "retry":
                self.state = QUEUED
                return b"queued"
            case _:
                self.state = [b"result", given["result"]]
                return [b"stands", given["result"]]

    def times_of(self, script: str) -> list[float]:
        return [round(asked.at_s, 6) for asked in self.asked if asked.script == script]

    def only(self, script: str) -> Asked:
        (asked,) = [asked for asked in self.asked if asked.script == script]
        return asked

    def become(self, state: list[Any]) -> Callable[[RemoteTools], None]:
        return lambda _: setattr(self, "state", state)

    def answer_and_say_so(self, tools: RemoteTools) -> None:
        self.state = answered()
        tools.on_result(f"{LEASE.key} {INDEX}".encode())

    def go(self, _: RemoteTools) -> None:
        self.is_away = True

    def come_back(self, _: RemoteTools) -> None:
        self.is_away = False


Happening = tuple[float, Callable[[RemoteTools], None]]


def make_tools(journal: Journal) -> RemoteTools:
    return RemoteTools(cast("RedisClient", journal), SETTINGS)


def play(journal: Journal, *happenings: Happening, is_repeatable: bool = False) -> tuple[ToolResult, float]:
    """One call from its beginning; its result, and when it was there."""

    async def scene() -> tuple[ToolResult, float]:
        tools, loop = make_tools(journal), asyncio.get_running_loop()
        for at_s, happen in happenings:
            loop.call_at(at_s, happen, tools)
        result = await tools.call(LEASE, INDEX, TASK, is_repeatable=is_repeatable)
        return result, round(loop.time(), 6)

    return run_in_virtual_time(scene)


def code_of(result: ToolResult) -> int:
    assert isinstance(result, ToolFailure)
    assert isinstance(result.error, McpProtocolError)
    return result.error.code


# --- the way of a call that goes well -----------------------------------------------------------


def test_a_call_is_journaled_under_its_lease_and_what_the_journal_has_is_its_result() -> None:
    journal = Journal(answered())
    assert play(journal) == (DONE, 0.0)
    submitted = journal.only("submit").given
    assert (submitted["proof"], submitted["index"]) == (LEASE.proof, INDEX)
    assert msgspec.json.decode(submitted["intent"], type=ToolIntent) == ToolIntent(TASK, LEASE.fencing_token)


def test_a_result_is_read_as_soon_as_its_runner_says_so() -> None:
    journal = Journal(RUNNING)
    assert play(journal, (1.5, journal.answer_and_say_so)) == (DONE, 1.5)
    assert journal.times_of("read") == [0.0, 1.0, 1.5]


def test_a_result_that_nobody_announces_is_found_at_the_next_read() -> None:
    journal = Journal(RUNNING)
    assert play(journal, (2.5, journal.become(answered()))) == (DONE, 3.0)
    assert journal.times_of("read") == [0.0, 1.0, 2.0, 3.0]


def test_a_word_about_another_call_wakes_nobody() -> None:
    journal = Journal(RUNNING)

    def hear_of_another(tools: RemoteTools) -> None:
        tools.on_result(f"{LEASE.key} {INDEX + 1}".encode())

    play(journal, (0.5, hear_of_another), (0.7, journal.answer_and_say_so))
    assert journal.times_of("read") == [0.0, 0.7]


def test_a_word_that_comes_while_the_journal_is_read_is_not_lost() -> None:
    journal = Journal(RUNNING)
    journal.answers_after_s = 0.2
    # The submission takes until 0.2, the first read until 0.4.
    assert play(journal, (0.3, journal.answer_and_say_so)) == (DONE, 0.6)
    assert journal.times_of("read") == [0.2, 0.4]


def test_calls_that_wait_at_once_are_read_together() -> None:
    journal = Journal(answered())

    async def scene() -> None:
        tools = make_tools(journal)
        calls = [tools.call(LEASE, index, TASK, is_repeatable=False) for index in range(50)]
        assert await asyncio.gather(*calls) == [DONE] * 50

    run_in_virtual_time(scene)
    assert sum(journal.read_together) == 50
    assert len(journal.read_together) <= 2


def test_a_call_that_is_cancelled_is_read_no_more() -> None:
    journal = Journal(RUNNING)

    async def scene() -> None:
        tools = make_tools(journal)
        waiting = asyncio.create_task(tools.call(LEASE, INDEX, TASK, is_repeatable=False))
        asyncio.get_running_loop().call_at(2.5, waiting.cancel)
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await asyncio.sleep(10)

    run_in_virtual_time(scene)
    assert journal.times_of("read") == [0.0, 1.0, 2.0]


def test_the_end_of_an_earlier_attempt_takes_no_word_from_the_later_one() -> None:
    journal = Journal(RUNNING)

    async def scene() -> None:
        tools, loop = make_tools(journal), asyncio.get_running_loop()
        earlier, later = (
            asyncio.create_task(tools.call(LEASE, INDEX, TASK, is_repeatable=False)) for _ in range(2)
        )
        loop.call_at(0.3, earlier.cancel)
        loop.call_at(0.5, journal.answer_and_say_so, tools)
        assert await later == DONE
        assert loop.time() == 0.5

    run_in_virtual_time(scene)


# --- a call that a runner had -------------------------------------------------------------------


def test_a_lost_call_that_must_not_run_twice_is_given_up_once_redis_was_there_for_a_claim() -> None:
    journal = Journal(LAPSED)
    result, at_s = play(journal)
    assert (code_of(result), at_s) == (LOST, CLAIM_TTL_S)
    resolved = journal.only("resolve").given
    assert (resolved["proof"], resolved["index"]) == (LEASE.proof, INDEX)
    assert (resolved["judged"], resolved["lost_after_ms"]) == ("runner 7000", 3000)


def test_a_server_that_has_just_become_the_primary_is_no_witness() -> None:
    journal = Journal([b"lapsed", b"runner 7000", 0])
    assert play(journal, (30.0, journal.answer_and_say_so)) == (DONE, 30.0)
    assert journal.times_of("resolve") == []


def test_an_outage_begins_the_wait_for_a_lost_runner_anew() -> None:
    journal = Journal(LAPSED)
    result, at_s = play(journal, (1.5, journal.go), (3.5, journal.come_back))
    assert code_of(result) == LOST
    assert 3.5 + CLAIM_TTL_S <= at_s < 3.5 + CLAIM_TTL_S + 1.0


def test_a_single_refusal_begins_it_anew_too() -> None:
    journal = Journal(LAPSED)
    result, at_s = play(journal, (0.9, journal.go), (1.2, journal.come_back))
    assert code_of(result) == LOST
    assert 1.2 + CLAIM_TTL_S <= at_s < 1.2 + CLAIM_TTL_S + 1.0


def test_while_redis_answers_late_nobody_is_lost() -> None:
    journal = Journal(LAPSED)
    journal.answers_after_s = 2.0

    def answer_at_once(_: RemoteTools) -> None:
        journal.answers_after_s = 0.0

    result, at_s = play(journal, (20.0, answer_at_once))
    assert code_of(result) == LOST
    assert at_s == 19.0 + CLAIM_TTL_S  # when the last of the late answers came


def test_a_runner_that_renews_its_claim_after_the_outage_keeps_its_call() -> None:
    journal = Journal(LAPSED)
    happenings = [(1.5, journal.go), (3.5, journal.come_back), (5.0, journal.become(RUNNING))]
    assert play(journal, *happenings, (40.0, journal.answer_and_say_so)) == (DONE, 40.0)
    assert journal.times_of("resolve") == journal.times_of("retry") == []


@pytest.mark.parametrize(
    ("state", "is_repeatable", "at_s", "claim", "lost_after_ms"),
    [
        (LAPSED, True, CLAIM_TTL_S, "runner 7000", 3000),
        (UNQUEUED, False, CLAIM_TTL_S, "", 3000),
        (UNBEGUN, False, 0.0, "runner -1", 0),
        (RETURNED, True, 0.0, "runner 0", 0),
    ],
)
def test_a_call_that_may_be_made_again_is_queued_once(
    state: list[Any], is_repeatable: bool, at_s: float, claim: str, lost_after_ms: int
) -> None:
    journal = Journal(state)
    result, _ = play(journal, (10.0, journal.answer_and_say_so), is_repeatable=is_repeatable)
    assert result == DONE
    again = journal.only("retry")
    assert again.at_s == at_s
    assert (again.given["proof"], again.given["lost_claim"]) == (LEASE.proof, claim)
    assert again.given["lost_after_ms"] == lost_after_ms
    assert journal.times_of("resolve") == []


def test_a_call_that_came_back_begun_is_given_up_at_once_if_it_must_not_run_twice() -> None:
    journal = Journal(RETURNED)
    result, at_s = play(journal)
    assert (code_of(result), at_s) == (LOST, 0.0)
    assert journal.only("resolve").given["lost_after_ms"] == 0


def test_a_call_that_the_journal_has_forgotten_is_journaled_again_if_it_may_run_twice() -> None:
    journal = Journal(RUNNING)
    happenings = [(0.5, journal.become(UNKNOWN)), (10.0, journal.answer_and_say_so)]
    assert play(journal, *happenings, is_repeatable=True) == (DONE, 10.0)
    assert journal.times_of("submit") == [0.0, 3.0]
    assert journal.times_of("retry") == []


def test_a_call_that_the_journal_has_forgotten_and_must_not_run_twice_is_given_up() -> None:
    journal = Journal(RUNNING)
    result, at_s = play(journal, (0.5, journal.become(UNKNOWN)))
    assert (code_of(result), at_s) == (LOST, CLAIM_TTL_S)
    assert journal.times_of("submit") == [0.0]


# --- verdicts -----------------------------------------------------------------------------------


def test_a_call_is_given_up_after_its_time_and_a_grace() -> None:
    journal = Journal(RUNNING)
    result, at_s = play(journal)
    assert (code_of(result), at_s) == (TIMED_OUT, 66.0)  # the first read after 60 s and a grace of 5 s
    resolved = journal.only("resolve").given
    assert (resolved["judged"], resolved["lost_after_ms"]) == ("runner ", 0)


def test_the_time_of_an_outage_is_not_the_calls() -> None:
    journal = Journal(RUNNING)
    result, at_s = play(journal, (9.5, journal.go), (19.5, journal.come_back))
    assert code_of(result) == TIMED_OUT
    assert 74.0 <= at_s <= 76.0


def test_a_result_that_came_before_the_verdict_stands() -> None:
    journal = Journal(LAPSED)
    journal.replies["resolve"] = [[b"stands", msgspec.json.encode(DONE)]]
    assert play(journal) == (DONE, CLAIM_TTL_S)


def test_a_call_that_moved_on_before_the_verdict_has_all_its_time_again() -> None:
    journal = Journal(RUNNING)
    journal.replies["resolve"] = [[b"moved"]]
    result, at_s = play(journal)
    assert (code_of(result), at_s) == (TIMED_OUT, 132.0)
    assert journal.times_of("resolve") == [66.0, 132.0]


# --- Redis --------------------------------------------------------------------------------------


def test_a_call_is_journaled_again_until_redis_is_back() -> None:
    journal = Journal(UNKNOWN)
    journal.is_away = True
    happenings = [(10.0, journal.come_back), (15.0, journal.answer_and_say_so)]
    assert play(journal, *happenings) == (DONE, 15.0)
    assert journal.times_of("submit")[-1] == pytest.approx(10.0, abs=0.1)


@pytest.mark.parametrize("away_from_s", [0.0, 1.5])
def test_an_outage_that_takes_too_long_ends_the_wait(away_from_s: float) -> None:
    journal = Journal(RUNNING)
    journal.is_away = away_from_s == 0
    with pytest.raises(ConnectionError):
        play(journal, (away_from_s, journal.go))
    last_s = journal.asked[-1].at_s
    assert away_from_s + OUTAGE_MAX_S <= last_s < away_from_s + OUTAGE_MAX_S + 1.0


@pytest.mark.parametrize(
    ("script", "state", "fenced"),
    [
        ("submit", RUNNING, [b"fenced"]),
        ("resolve", RETURNED, [b"fenced"]),
        ("retry", UNBEGUN, b"fenced"),
    ],
)
def test_who_has_lost_the_lease_stops(script: str, state: list[Any], fenced: object) -> None:
    journal = Journal(state)
    journal.replies[script] = [fenced]
    with pytest.raises(LeaseLost):
        play(journal)
    assert journal.asked[-1].script == script


def test_a_result_counts_when_it_is_confirmed_and_still_there() -> None:
    journal = Journal(answered())
    journal.is_confirming = True
    # What answered first was a primary that had been replaced: the next one has no result yet.
    journal.becomes_when_confirmed = RUNNING

    def come_and_stay(tools: RemoteTools) -> None:
        journal.becomes_when_confirmed = None
        journal.answer_and_say_so(tools)

    assert play(journal, (4.5, come_and_stay)) == (DONE, 4.5)
    assert journal.times_of("read") == [0.0, 0.0, 1.0, 2.0, 3.0, 4.0, 4.5, 4.5]
