"""When a call whose result has not come is waited for, made again, or given up."""

from typing import Any

import pytest

from shared.responses import McpProtocolError
from shared.store.tools.tool_journal import CallState
from shared.tool_calls import ToolOutput
from worker.response.call_patience import (
    LOST,
    TIMED_OUT,
    Answered,
    CallPatience,
    GiveUp,
    KeepWaiting,
    MakeAgain,
    Outlook,
)

TIMEOUT_S, RUN_MAX_S, GRACE_S, CLAIM_TTL_S = 60.0, 90.0, 5.0, 2.0


def patience(*, is_repeatable: bool = False) -> CallPatience:
    return CallPatience(TIMEOUT_S, RUN_MAX_S, CLAIM_TTL_S, is_repeatable=is_repeatable, now_s=0.0)


def judge(state: CallState, *, is_repeatable: bool = False, is_steady: bool = True) -> Outlook:
    return patience(is_repeatable=is_repeatable).judge(state, 1.0, is_steady=is_steady)


def code_of(outlook: Outlook) -> int:
    assert isinstance(outlook, GiveUp)
    assert isinstance(outlook.failure.error, McpProtocolError)
    return outlook.failure.error.code


def test_a_result_counts_whatever_else_is_known() -> None:
    result = ToolOutput("56088")
    for state in (CallState("answered", result), CallState("lapsed", result, "runner 7")):
        assert judge(state) == Answered(result)


@pytest.mark.parametrize("standing", ["queued", "running", "answered"])
def test_a_call_that_somebody_is_at_is_waited_for(standing: Any) -> None:
    assert judge(CallState(standing, claim="runner 7")) == KeepWaiting()


@pytest.mark.parametrize("standing", ["lapsed", "unknown", "unqueued"])
@pytest.mark.parametrize(("worker_sees", "redis_was"), [(False, True), (True, False)])
def test_a_claim_that_may_have_lapsed_in_an_outage_is_waited_for(
    standing: Any, worker_sees: bool, redis_was: bool
) -> None:
    state = CallState(standing, claim="runner 7", is_steady=redis_was)
    assert judge(state, is_repeatable=True, is_steady=worker_sees) == KeepWaiting()


@pytest.mark.parametrize(
    ("standing", "is_repeatable", "lost_after_s"),
    [
        ("unbegun", False, 0.0),
        ("unqueued", False, CLAIM_TTL_S),
        ("returned", True, 0.0),
        ("lapsed", True, CLAIM_TTL_S),
        ("unknown", True, CLAIM_TTL_S),
    ],
)
def test_a_lost_call_is_made_again_if_it_never_ran_or_may_run_twice(
    standing: Any, is_repeatable: bool, lost_after_s: float
) -> None:
    state = CallState(standing, claim="runner 7")
    assert judge(state, is_repeatable=is_repeatable) == MakeAgain(lost_after_s)


@pytest.mark.parametrize(("standing", "lost_after_s"), [("lapsed", CLAIM_TTL_S), ("returned", 0.0)])
def test_of_any_other_lost_call_the_outcome_is_unknown(standing: Any, lost_after_s: float) -> None:
    verdict = judge(CallState(standing, claim="runner 7"))
    assert code_of(verdict) == LOST
    assert isinstance(verdict, GiveUp)
    assert (verdict.judged, verdict.lost_after_s) == ("runner 7", lost_after_s)


def test_a_call_is_given_up_when_its_time_and_a_grace_are_over() -> None:
    waiting, state = patience(), CallState("running", claim="runner 7")
    assert waiting.judge(state, 10.0, is_steady=True) == KeepWaiting()
    end_s = 10.0 + RUN_MAX_S + GRACE_S  # a runner has all of it, from when it took the call
    assert waiting.judge(state, end_s, is_steady=True) == KeepWaiting()
    verdict = waiting.judge(state, end_s + 0.1, is_steady=True)
    assert code_of(verdict) == TIMED_OUT
    assert isinstance(verdict, GiveUp)
    assert verdict.judged == "runner "  # whatever claim of this runner there is by then


def test_a_call_that_nobody_took_is_given_up_too() -> None:
    verdict = patience().judge(CallState("queued"), TIMEOUT_S + GRACE_S + 0.1, is_steady=True)
    assert code_of(verdict) == TIMED_OUT
    assert isinstance(verdict, GiveUp)
    assert verdict.judged == ""


def test_another_runner_has_its_own_time() -> None:
    waiting = patience()
    waiting.judge(CallState("running", claim="one 7"), 1.0, is_steady=True)
    later_s = TIMEOUT_S + GRACE_S
    assert waiting.judge(CallState("running", claim="two 9"), later_s, is_steady=True) == KeepWaiting()
    assert waiting.judge(CallState("running", claim="two 9"), 2 * later_s, is_steady=True) == KeepWaiting()


def test_the_time_that_redis_was_away_is_not_the_calls() -> None:
    waiting, state = patience(), CallState("queued")
    waiting.excuse(30.0)
    assert waiting.judge(state, TIMEOUT_S + GRACE_S + 29.9, is_steady=True) == KeepWaiting()
    assert code_of(waiting.judge(state, TIMEOUT_S + GRACE_S + 30.1, is_steady=True)) == TIMED_OUT
